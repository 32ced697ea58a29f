//! The role `fairway dns`: watches → zone → sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fairway_ingest::index::ServiceIndex;
use fairway_kit::admin::{self, Readiness};
use fairway_kit::watch::{ObjectKey, Watched, watch};
use fairway_kit::{ClientError, ClientSource, Shutdown, connect, shutdown};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher;
use prometheus_client::registry::Registry;

use crate::forward::Forwarder;
use crate::server::{Serving, Sockets};
use crate::zone::{Settings, Zone};

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Config {
    /// The API server.
    pub client: ClientSource,
    /// The zone.
    pub zone: Settings,
    /// Where queries come in, UDP and TCP.
    pub listen: SocketAddr,
    /// Servers for other names, in order.
    pub upstreams: Vec<SocketAddr>,
    /// Threads that serve, each with its own sockets.
    pub workers: usize,
    /// `/health`, `/ready` and `/metrics` are served on each of these.
    pub admin: Vec<SocketAddr>,
    /// After SIGTERM the server answers for this long, until nobody sends it queries any more.
    pub lame_duck: Duration,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No API client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An address cannot be bound.
    #[error(
        "cannot listen on {address} ({purpose}): {source}; is another DNS server running here, or the right to bind the port missing?"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What for.
        purpose: &'static str,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a worker thread: {source}")]
    Thread {
        /// What the kernel says.
        source: std::io::Error,
    },
}

/// Serves until shutdown and the lame-duck time after it.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let client = connect(&config.client, "fairway-dns").await?;
    let mut registry = Registry::default();
    let forwarder = Forwarder::new(config.upstreams.clone());
    let serving = Arc::new(Serving::new(Zone::new(config.zone.clone()), forwarder, &mut registry));
    let (trigger, traffic) = shutdown::channel();
    let readiness = Readiness::default();
    let registry = Arc::new(registry);
    for address in &config.admin {
        let served = admin::serve(*address, readiness.clone(), registry.clone(), traffic.clone()).await;
        served.map_err(|source| Error::Bind { address: *address, purpose: "health and metrics", source })?;
    }
    let workers = start_workers(&config, &serving, &traffic)?;
    let watches = traffic.clone();
    shutdown.unless_requested(follow(client, &serving, &readiness, watches)).await;
    readiness.set(false);
    tokio::time::sleep(config.lame_duck).await;
    trigger.stop(Duration::from_secs(1)).await;
    for worker in workers {
        let _ = tokio::task::spawn_blocking(move || worker.join()).await;
    }
    Ok(())
}

fn start_workers(
    config: &Config,
    serving: &Arc<Serving>,
    traffic: &Shutdown,
) -> Result<Vec<std::thread::JoinHandle<()>>, Error> {
    let mut workers = Vec::new();
    for number in 0..config.workers.max(1) {
        let failed = |source| Error::Bind { address: config.listen, purpose: "queries", source };
        let sockets = Sockets::bind(config.listen).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| Error::Thread { source })?;
        let (serving, traffic) = (serving.clone(), traffic.clone());
        let work = move || {
            if let Err(error) = runtime.block_on(sockets.serve(serving, traffic)) {
                tracing::error!(%error, "a DNS worker ended");
            }
        };
        let thread = std::thread::Builder::new().name(format!("dns-{number}")).spawn(work);
        workers.push(thread.map_err(|source| Error::Thread { source })?);
    }
    Ok(workers)
}

/// Keeps the zone what the API server says. Never ends by itself: while the API server is away the last zone is served.
async fn follow(client: kube::Client, serving: &Serving, readiness: &Readiness, watches: Shutdown) {
    let mut services: Watched<Service> =
        watch(Api::all(client.clone()), watcher::Config::default(), watches.clone());
    let mut slices: Watched<EndpointSlice> =
        watch(Api::all(client.clone()), watcher::Config::default(), watches.clone());
    let mut namespaces: Watched<Namespace> = watch(Api::all(client), watcher::Config::default(), watches);
    services.synced().await;
    slices.synced().await;
    namespaces.synced().await;
    let mut index = ServiceIndex::<ObjectKey>::default();
    let mut zone = Zone::clone(&serving.zone.load());
    loop {
        zone.set_namespaces(namespaces.snapshot().objects.keys().map(|key| &*key.name));
        for change in index.update(&services.snapshot().objects, &slices.snapshot().objects) {
            for diagnostic in &change.diagnostics {
                tracing::warn!(%diagnostic, "object used in part");
            }
            match &change.service {
                None => zone.remove(&change.key),
                Some(service) => {
                    if let Err(error) = zone.insert(service) {
                        tracing::warn!(service = %change.key, %error, "Service has no DNS name");
                    }
                }
            }
        }
        serving.zone.store(Arc::new(zone.clone()));
        readiness.set(true);
        tokio::select! {
            () = services.changed() => {}
            () = slices.changed() => {}
            () = namespaces.changed() => {}
        }
    }
}
