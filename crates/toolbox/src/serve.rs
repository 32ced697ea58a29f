//! The echo servers: listeners, the state they share, and the drain.

mod behaviour;
mod grpc;
mod http;
mod raw;
mod tls;
mod websocket;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::identity::{Identity, Surroundings};

/// Connections served at the same time; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 4096;

/// What to listen on and how to stop.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// HTTP/1.1 and HTTP/2 with prior knowledge, WebSocket on `/ws`, gRPC by content type.
    pub(crate) http: Vec<u16>,
    /// HTTP/2 with prior knowledge only (also gRPC).
    pub(crate) http2: Vec<u16>,
    /// The same as `http`, inside TLS.
    pub(crate) tls: Vec<u16>,
    /// A line that says who answers, then every byte back.
    pub(crate) tcp: Vec<u16>,
    /// For every datagram one that says who answers and what came.
    pub(crate) udp: Vec<u16>,
    /// Only this address; every address when absent.
    pub(crate) address: Option<IpAddr>,
    /// Certificate and key in PEM; self-signed for the pod's name when absent.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    /// After SIGTERM: go on accepting for so long (not ready) …
    pub(crate) drain: Duration,
    /// … then finish what is under way for at most so long.
    pub(crate) grace: Duration,
    /// What `/ready` says at first.
    pub(crate) ready: bool,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// A port cannot be opened.
    #[error("port {port} cannot be opened: {source}")]
    Listen {
        /// The port.
        port: u16,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("the certificate cannot be used: {detail}")]
    Certificate {
        /// Which file and why.
        detail: String,
    },
    /// Signals cannot be caught.
    #[error("signals cannot be caught: {0}")]
    Signals(#[source] std::io::Error),
}

/// What all listeners share.
#[derive(Debug)]
struct State {
    identity: Identity,
    ready: AtomicBool,
    draining: AtomicBool,
    exit: mpsc::Sender<u8>,
    slots: Arc<Semaphore>,
    /// Says that nothing more is waited for: what the kernel has accepted is taken, then listeners close.
    closing: CancellationToken,
    /// Says that connections should end when what is under way is done.
    finish: CancellationToken,
    /// The connections that a stop waits for.
    connections: TaskTracker,
}

impl State {
    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.draining.load(Ordering::Acquire)
    }
}

/// How a stream listener treats what it accepts.
#[derive(Clone)]
enum Protocol {
    Http { http2_only: bool },
    Tls(tokio_rustls::TlsAcceptor),
    Raw,
}

/// Serves until SIGTERM, SIGINT or `/exit`.
pub(crate) async fn serve(settings: Settings) -> Result<ExitCode, ServeError> {
    let (exit, mut exits) = mpsc::channel(1);
    let state = Arc::new(State {
        identity: Identity::of(&Surroundings::read()),
        ready: AtomicBool::new(settings.ready),
        draining: AtomicBool::new(false),
        exit,
        slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        closing: CancellationToken::new(),
        finish: CancellationToken::new(),
        connections: TaskTracker::new(),
    });
    let mut listeners = listen(&settings, &state).await?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let code = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        code = exits.recv() => code,
    };
    state.draining.store(true, Ordering::Release);
    let orderly = async {
        if code.is_none() {
            tokio::time::sleep(settings.drain).await;
        }
        state.closing.cancel();
        while listeners.join_next().await.is_some() {}
        state.finish.cancel();
        state.connections.close();
        tokio::time::timeout(settings.grace, state.connections.wait()).await
    };
    tokio::select! {
        _ = orderly => {}
        // Whoever asks twice wants it at once.
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(ExitCode::from(code.unwrap_or(0)))
}

/// Opens every port before the first answer is given, so that a port in use stops the start.
async fn listen(settings: &Settings, state: &Arc<State>) -> Result<JoinSet<()>, ServeError> {
    let mut streams = Vec::new();
    for &port in &settings.http {
        streams.push((bind_tcp(settings.address, port).await?, Protocol::Http { http2_only: false }));
    }
    for &port in &settings.http2 {
        streams.push((bind_tcp(settings.address, port).await?, Protocol::Http { http2_only: true }));
    }
    if !settings.tls.is_empty() {
        let acceptor = tls::acceptor(settings.certificate.as_ref(), &state.identity.pod)?;
        for &port in &settings.tls {
            streams.push((bind_tcp(settings.address, port).await?, Protocol::Tls(acceptor.clone())));
        }
    }
    for &port in &settings.tcp {
        streams.push((bind_tcp(settings.address, port).await?, Protocol::Raw));
    }
    let mut datagrams = Vec::new();
    for &port in &settings.udp {
        datagrams.push(bind_udp(settings.address, port).await?);
    }
    let mut listeners = JoinSet::new();
    for (listener, protocol) in streams {
        listeners.spawn(accept(listener, protocol, state.clone()));
    }
    for socket in datagrams {
        let (state, closing) = (state.clone(), state.closing.clone());
        listeners.spawn(async move {
            closing.run_until_cancelled(raw::answer_datagrams(socket, state)).await;
        });
    }
    Ok(listeners)
}

/// Dual-stack where the namespace has IPv6, else IPv4 only.
fn candidates(address: Option<IpAddr>, port: u16) -> Vec<SocketAddr> {
    let everywhere = || vec![Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    let addresses = address.map_or_else(everywhere, |address| vec![address]);
    addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect()
}

async fn bind_tcp(address: Option<IpAddr>, port: u16) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(candidates(address, port).as_slice()).await;
    bound.map_err(|source| ServeError::Listen { port, source })
}

async fn bind_udp(address: Option<IpAddr>, port: u16) -> Result<UdpSocket, ServeError> {
    let bound = UdpSocket::bind(candidates(address, port).as_slice()).await;
    bound.map_err(|source| ServeError::Listen { port, source })
}

async fn accept(listener: TcpListener, protocol: Protocol, state: Arc<State>) {
    let serve = |stream, client, slot| {
        let (protocol, state) = (protocol.clone(), state.clone());
        state.connections.clone().spawn(async move {
            serve_connection(stream, client, protocol, state).await;
            drop(slot);
        });
    };
    let accepting = async {
        loop {
            let Ok(slot) = state.slots.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, client)) => serve(stream, client, Some(slot)),
                // Out of descriptors, mostly: leave time for connections to end.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    state.closing.run_until_cancelled(accepting).await;
    // What the kernel has accepted meanwhile has an open connection: closing the listener would reset it.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, client)) = listener.accept() {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            serve(stream, client, state.slots.clone().try_acquire_owned().ok());
        }
    }
}

async fn serve_connection(stream: TcpStream, client: SocketAddr, protocol: Protocol, state: Arc<State>) {
    // Small answers must not wait for an acknowledgement; an error here means that the peer is gone already.
    let _ = stream.set_nodelay(true);
    let Ok(local) = stream.local_addr() else { return };
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let mut facts = http::Connection { client, local, server_name: None, tls: false, http2_only: false };
    match protocol {
        Protocol::Raw => raw::echo(stream, &facts, &state).await,
        Protocol::Http { http2_only } => {
            facts.http2_only = http2_only;
            http::serve(stream, facts, state).await;
        }
        Protocol::Tls(acceptor) => {
            let handshake = tokio::time::timeout(tls::HANDSHAKE_TIMEOUT, acceptor.accept(stream));
            let Ok(Ok(stream)) = handshake.await else { return };
            let (_, session) = stream.get_ref();
            facts.server_name = session.server_name().map(str::to_owned);
            facts.http2_only = session.alpn_protocol() == Some(b"h2");
            facts.tls = true;
            http::serve(stream, facts, state).await;
        }
    }
}
