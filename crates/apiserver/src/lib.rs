//! The embedded Kubernetes-compatible API server: the protocol and the storage of Kubernetes in one process, so that unmodified
//! kubectl, Helm and client libraries work against a laptop.
//!
//! It is not a database with handlers per kind: what a Service is, how it is validated and printed, is known by `fairway-objects`, and
//! everything here is generic over its registry. It runs nothing either: controllers and node agents are clients as any other.
//!
//! ```text
//! connection ─► http: TLS, route, query, form ─► auth: who, may they ─► rest: the verbs ─┬─► objects (pure): decode … validate
//!                                                                                        └─► store: order, disk, logs ─► watchers
//! ```
//!
//! - [`store`]: one writer, one total order, answers after the sync, persistent maps for readers, logs for watchers.
//! - `rest`: the verbs. A write is prepared beside the traffic and only compared, allocated and stored in the writer.
//! - [`auth`]: certificates, service-account tokens, roles.
//! - [`http`]: the protocol without objects.
//!
//! Start it with [`Server::bind`] and [`Server::serve`], or [`run`] for both.

mod admit;
mod allocations;
pub mod auth;
mod boot;
mod catalog;
mod definitions;
mod discovery;
pub mod http;
mod marks;
mod metrics;
mod rest;
mod server;
pub mod store;
mod upkeep;

use std::future::Future;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use fairway_objects::Status;
use fairway_objects::allocate::Ranges;
pub use fairway_objects::gateway_api;
use fairway_objects::registry::Registry;
use ipnet::{IpNet, Ipv4Net};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub use crate::http::listen::{TlsError, TlsFiles};
use crate::server::{Api, Front, IN_FLIGHT_MAX};
use crate::store::{CommitError, OpenError, Store};

/// What a server needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where objects are kept; made when absent.
    pub state_dir: PathBuf,
    /// The cluster's run directory: node agents listen at `<run_dir>/nodes/<node>/kubelet.sock`.
    pub run_dir: PathBuf,
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// Where pods and clients reach this server: the endpoint of the Service `default/kubernetes`.
    pub advertise: SocketAddr,
    /// Cluster addresses of Services; the first is this server's own.
    pub service_range: Ipv4Net,
    /// Range of cluster addresses of the other family, in a cluster with both.
    pub secondary_service_range: Option<IpNet>,
    /// Node ports of Services.
    pub node_port_range: RangeInclusive<u16>,
    /// Certificate, key and authority. The authority also goes to every namespace as `kube-root-ca.crt`.
    pub tls: TlsFiles,
    /// The EC P-256 private key (PKCS #8 PEM) that signs service-account tokens.
    pub service_account_key: PathBuf,
    /// Definitions of custom resources that are made when they are not there.
    pub definitions: Vec<Value>,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state directory.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The key of service-account tokens.
    #[error("cannot use the service-account key {path}: {reason}; pods could not prove who they are")]
    Key {
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// An address.
    #[error(
        "cannot listen on {address}: {source}; another server may be there, choose another address or stop it"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The first objects.
    #[error("cannot make the cluster's first objects: {reason}")]
    Boot {
        /// Why.
        reason: String,
    },
}

/// A server that listens and has its first objects, but does not answer yet.
pub struct Server {
    api: Arc<Api>,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    tls: rustls::ServerConfig,
}

/// Binds and serves until `shutdown` is ready.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
    Server::bind(config).await?.serve(shutdown).await;
    Ok(())
}

impl Server {
    /// Opens the store, makes the first objects, listens. Clients that connect from now on wait for [`Server::serve`].
    pub async fn bind(config: Config) -> Result<Self, Error> {
        Self::bind_with(config, store::Options::default()).await
    }

    /// The same with other limits of the store, or another clock.
    pub async fn bind_with(config: Config, options: store::Options) -> Result<Self, Error> {
        let tls = crate::http::listen::tls(&config.tls)?;
        let authority = &config.tls.client_authority;
        let unreadable =
            |reason: String| TlsError::File { what: "the client authority", path: authority.clone(), reason };
        let authority_pem =
            std::fs::read_to_string(authority).map_err(|error| unreadable(error.to_string()))?;
        let key = |reason: String| Error::Key { path: config.service_account_key.clone(), reason };
        let key_pem = std::fs::read(&config.service_account_key).map_err(|error| key(error.to_string()))?;
        let keys = auth::token::Keys::from_pem(&key_pem).map_err(|error| key(error.to_string()))?;
        let mut listeners = Vec::new();
        for address in &config.listen {
            let listener = TcpListener::bind(address).await;
            listeners.push(listener.map_err(|source| Error::Listen { address: *address, source })?);
        }
        let store = Store::open_with(&config.state_dir, options)?;
        let addresses: Vec<SocketAddr> =
            listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let mut advertise = config.advertise;
        if advertise.port() == 0 {
            advertise.set_port(addresses.first().map_or(0, SocketAddr::port));
        }
        let api = Arc::new(Api {
            store,
            catalog: ArcSwap::from_pointee(catalog::Catalog::new(Arc::clone(Registry::builtin()))),
            refreshing: Mutex::default(),
            catalogs: watch::Sender::new(0),
            definitions: config.definitions,
            ranges: Ranges {
                service: config.service_range.into(),
                secondary: config.secondary_service_range,
                node_ports: config.node_port_range,
            },
            keys,
            rbac: marks::Made::default(),
            configured: marks::Made::default(),
            webhooks: admit::Connections::default(),
            authority_pem,
            advertise,
            run_dir: config.run_dir,
            metrics: metrics::Metrics::default(),
            pulses: rest::watch::pulse::Pulses::default(),
            slots: Semaphore::new(IN_FLIGHT_MAX),
            stop: CancellationToken::new(),
        });
        let failed = |error| Error::Boot {
            reason: match error {
                CommitError::Refused(Status { message, .. }) => message,
                CommitError::NotStored(error) => error.to_string(),
            },
        };
        api.boot().await.map_err(failed)?;
        api.boot_definitions().await.map_err(failed)?;
        Ok(Self { api, listeners, addresses, tls })
    }

    /// Where it listens, with the ports that the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Answers until `shutdown` is ready; then ends watches, finishes what is under way and closes the store.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) {
        let stop = self.api.stop.clone();
        let trigger = stop.clone();
        let waiting = tokio::spawn(async move {
            shutdown.await;
            trigger.cancel();
        });
        let upkeep = tokio::spawn(upkeep::run(Arc::clone(&self.api)));
        let definitions = tokio::spawn(definitions::run(Arc::clone(&self.api)));
        let pulses = tokio::spawn(upkeep::look_at_watches(Arc::clone(&self.api)));
        crate::http::listen::serve(self.listeners, self.tls, Arc::new(Front(Arc::clone(&self.api))), stop)
            .await;
        waiting.abort();
        let _ = tokio::join!(upkeep, pulses, definitions);
        self.api.store.close().await;
    }
}

/// A name for something new that nothing else has. From the generator of the thread: asking the system each time is two calls a request.
pub(crate) fn random_uid() -> uuid::Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}
