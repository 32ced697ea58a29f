//! A worker: one thread, one single-threaded runtime, its own listening sockets, connections and counters. Workers share nothing that a
//! request writes to; what they read in common is reached through one pointer.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::FutureExt;
use hyper_util::server::conn::auto;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;

use crate::Limits;
use crate::access_log::AccessLog;
use crate::connection::{self, ClientConnection, Spoken};
use crate::head::ClientFacts;
use crate::metrics::{Metrics, WorkerMetrics};
use crate::table::Table;
use crate::upstream::Upstreams;

/// Between two looks for expired idle connections.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How long accepting pauses when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Told at every change of pools.
pub(crate) type ChangeSignal = watch::Receiver<u64>;

/// What all workers read.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) table: ArcSwap<Table>,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: Option<AccessLog>,
}

/// The life of the gateway, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Everything is served.
    Serving,
    /// Everything is served, but clients are asked to come back on another connection.
    LameDuck,
    /// Nothing new is accepted; what is under way is finished.
    Draining,
    /// What is left is dropped.
    Cut,
}

/// Spawns on the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// The state of one worker's thread.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) upstreams: Upstreams,
    pub(crate) changed: ChangeSignal,
    pub(crate) phase: watch::Receiver<Phase>,
    random: RefCell<SmallRng>,
    builders: [auto::Builder<LocalExecutor>; 3],
    open: Cell<usize>,
    slot_freed: Notify,
}

/// A place among [`Limits::connections_max`].
#[derive(Debug)]
pub(crate) struct Slot(Rc<Worker>);

impl Slot {
    fn take(worker: &Rc<Worker>) -> Self {
        worker.open.set(worker.open.get() + 1);
        worker.metrics().connections.fetch_add(1, Ordering::Relaxed);
        worker.metrics().connections_total.fetch_add(1, Ordering::Relaxed);
        Self(worker.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.metrics().connections.fetch_sub(1, Ordering::Relaxed);
        self.0.slot_freed.notify_waiters();
    }
}

/// The listening sockets of one worker.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) http: std::net::TcpListener,
    pub(crate) https: std::net::TcpListener,
}

/// Runs a worker on the current thread until it has drained or is cut.
pub(crate) fn run(
    index: usize,
    shared: Arc<Shared>,
    listeners: Listeners,
    changed: ChangeSignal,
    phase: watch::Receiver<Phase>,
) -> io::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let limits = shared.limits.clone();
        let worker = Rc::new(Worker {
            index,
            upstreams: Upstreams::new(limits.clone()),
            changed,
            phase,
            random: RefCell::new(SmallRng::from_os_rng()),
            builders: [Spoken::Http1, Spoken::Http2, Spoken::Either]
                .map(|spoken| connection::builder(&limits, spoken)),
            open: Cell::new(0),
            slot_freed: Notify::new(),
            shared,
        });
        let http = TcpListener::from_std(listeners.http)?;
        let https = TcpListener::from_std(listeners.https)?;
        let acceptor = TlsAcceptor::from(worker.shared.tls.clone());
        tokio::task::spawn_local(sweep(worker.clone()));
        let plain = tokio::task::spawn_local(accept(worker.clone(), http, None));
        let secure = tokio::task::spawn_local(accept(worker.clone(), https, Some(acceptor)));
        let drained = async {
            let _ = plain.await;
            let _ = secure.await;
            worker.wait_until(|open| open == 0).await;
        };
        let mut phase = worker.phase.clone();
        tokio::select! {
            () = drained => {}
            _ = phase.wait_for(|phase| *phase == Phase::Cut) => {}
        }
        Ok(())
    })
}

impl Worker {
    pub(crate) fn metrics(&self) -> &WorkerMetrics {
        self.shared.metrics.worker(self.index)
    }

    pub(crate) fn random<T>(&self) -> T
    where
        rand::distr::StandardUniform: rand::distr::Distribution<T>,
    {
        self.random.borrow_mut().random()
    }

    pub(crate) fn is_leaving(&self) -> bool {
        *self.phase.borrow() > Phase::Serving
    }

    pub(crate) fn builder(&self, spoken: Spoken) -> &auto::Builder<LocalExecutor> {
        let [http1, http2, either] = &self.builders;
        match spoken {
            Spoken::Http1 => http1,
            Spoken::Http2 => http2,
            Spoken::Either => either,
        }
    }

    async fn wait_until(&self, wanted: impl Fn(usize) -> bool) {
        while !wanted(self.open.get()) {
            self.slot_freed.notified().await;
        }
    }
}

async fn sweep(worker: Rc<Worker>) {
    let mut changed = worker.changed.clone();
    loop {
        if let Ok(Err(_)) = tokio::time::timeout(SWEEP_INTERVAL, changed.changed()).await {
            return;
        }
        worker.upstreams.sweep();
    }
}

/// Accepts until draining begins, then what already waits in the listen queue, then closes the socket.
async fn accept(worker: Rc<Worker>, listener: TcpListener, acceptor: Option<TlsAcceptor>) {
    let mut phase = worker.phase.clone();
    let connections_max = worker.shared.limits.connections_max;
    loop {
        if worker.open.get() >= connections_max {
            worker.metrics().connection_limit_hits.fetch_add(1, Ordering::Relaxed);
            worker.wait_until(|open| open < connections_max).await;
        }
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= Phase::Draining) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => begin(&worker, stream, peer, acceptor.as_ref()),
            Err(error) => pause_after(&error).await,
        }
    }
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        begin(&worker, stream, peer, acceptor.as_ref());
    }
}

/// A connection that died in the listen queue is nobody's problem; running out of descriptors would make the loop spin.
async fn pause_after(error: &io::Error) {
    let died = matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset);
    if !died {
        tracing::warn!(%error, "cannot accept connections; new clients wait in the listen queue");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

fn begin(worker: &Rc<Worker>, stream: TcpStream, peer: std::net::SocketAddr, acceptor: Option<&TlsAcceptor>) {
    let Ok(local) = stream.local_addr() else { return };
    let _ = stream.set_nodelay(true);
    let client = ClientFacts { peer, local, secure: acceptor.is_some() };
    let connection = Rc::new(ClientConnection::new(client, Slot::take(worker)));
    let (worker, acceptor) = (worker.clone(), acceptor.cloned());
    tokio::task::spawn_local(async move {
        let Some(acceptor) = acceptor else {
            return connection::serve(worker, connection, stream, Spoken::Either).await;
        };
        let handshake = tokio::time::timeout(worker.shared.limits.handshake_timeout, acceptor.accept(stream));
        // A failed handshake is told to the client by its alert; there is nobody else to tell.
        let Ok(Ok(stream)) = handshake.await else { return };
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let spoken = if http2 { Spoken::Http2 } else { Spoken::Http1 };
        connection::serve(worker, connection, stream, spoken).await;
    });
}
