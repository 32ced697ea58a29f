//! All workers together: started, given new tables, stopped.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{oneshot, watch};

use crate::access_log::AccessLog;
use crate::certificates::{Resolver, self_signed, server_config};
use crate::control::{Compiler, Update};
use crate::metrics::Metrics;
use crate::worker::{self, Listeners, Phase, Shared};
use crate::{Config, Limits};

/// Connections that may wait for a worker to accept them.
const LISTEN_QUEUE: i32 = 4096;

/// Why the proxy could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}; give another address with --http or --https")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// No default certificate could be made.
    #[error("cannot make the default certificate: {0}")]
    DefaultCertificate(rcgen::Error),
    /// TLS could not be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(rustls::Error),
    /// A thread could not be started.
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
}

/// The running proxy.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    resolver: Arc<Resolver>,
    phase: watch::Sender<Phase>,
    changed: watch::Sender<u64>,
    ended: Vec<oneshot::Receiver<()>>,
    http: SocketAddr,
    https: SocketAddr,
    workers: usize,
}

impl Gateway {
    /// Binds both addresses (port 0 takes a free one) and starts the workers. They answer 404 until there is a table.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let workers = config.workers.get();
        let default = self_signed().map_err(StartError::DefaultCertificate)?;
        let resolver = Arc::new(Resolver::new(default));
        let tls = server_config(resolver.clone()).map_err(StartError::Tls)?;
        let access_log =
            config.access_log.then(AccessLog::to_stdout).transpose().map_err(StartError::Thread)?;
        let limits: Limits = config.limits.clone();
        let metrics = Arc::new(Metrics::new(workers));
        let table = ArcSwap::default();
        let shared = Arc::new(Shared { table, tls: Arc::new(tls), limits, metrics, access_log });
        let (phase, phases) = watch::channel(Phase::Serving);
        let (changed, changes) = watch::channel(0);
        let http = listen(config.http, workers)?;
        let https = listen(config.https, workers)?;
        let mut gateway = Self {
            shared,
            resolver,
            phase,
            changed,
            ended: Vec::with_capacity(workers),
            http: http.address,
            https: https.address,
            workers,
        };
        for (index, (http, https)) in http.sockets.into_iter().zip(https.sockets).enumerate() {
            let (ended, wait) = oneshot::channel();
            let (shared, changes, phases) = (gateway.shared.clone(), changes.clone(), phases.clone());
            std::thread::Builder::new()
                .name(format!("gateway-{index}"))
                .spawn(move || {
                    let listeners = Listeners { http, https };
                    if let Err(error) = worker::run(index, shared, listeners, changes, phases) {
                        tracing::error!(index, %error, "a worker could not start; its share of connections is lost");
                    }
                    let _ = ended.send(());
                })
                .map_err(StartError::Thread)?;
            gateway.ended.push(wait);
        }
        Ok(gateway)
    }

    /// Where plain HTTP is served.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where TLS is served.
    pub fn https(&self) -> SocketAddr {
        self.https
    }

    /// A compiler for the tables of this gateway. There should be one.
    pub fn compiler(&self) -> Compiler {
        Compiler::new(self.workers, self.shared.metrics.clone())
    }

    /// Puts an update in force.
    pub fn publish(&self, update: Update) {
        if let Some(certificates) = update.certificates {
            self.resolver.replace(certificates);
        }
        if let Some(table) = update.table {
            self.shared.table.store(table);
        }
        if update.pools_replaced {
            self.pools_replaced();
        }
    }

    /// Lets workers close what leads to endpoints that left.
    pub(crate) fn pools_replaced(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    /// Adds the counters to a registry.
    pub fn register_metrics(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.shared.metrics.clone()));
    }

    /// Stops: for `lame_duck` everything is served and HTTP/1 clients are asked to reconnect elsewhere, then nothing new is accepted and
    /// what is under way has `drain`; the rest is cut. True when nothing had to be.
    pub async fn stop(self, lame_duck: Duration, drain: Duration) -> bool {
        let Self { phase, ended, .. } = self;
        let _ = phase.send(Phase::LameDuck);
        tokio::time::sleep(lame_duck).await;
        let _ = phase.send(Phase::Draining);
        let mut all = futures::future::join_all(ended);
        if tokio::time::timeout(drain, &mut all).await.is_ok() {
            return true;
        }
        let _ = phase.send(Phase::Cut);
        all.await;
        false
    }
}

/// One socket per worker on one address: the kernel spreads connections over them.
struct Listening {
    address: SocketAddr,
    sockets: Vec<std::net::TcpListener>,
}

fn listen(address: SocketAddr, workers: usize) -> Result<Listening, StartError> {
    let failed = |source| StartError::Listen { address, source };
    let first = socket(address).map_err(failed)?;
    let address = first.local_addr().map_err(failed)?;
    let others = (1..workers).map(|_| socket(address));
    let sockets: io::Result<Vec<_>> = std::iter::once(Ok(first)).chain(others).collect();
    Ok(Listening { address, sockets: sockets.map_err(failed)? })
}

fn socket(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(LISTEN_QUEUE)?;
    Ok(socket.into())
}
