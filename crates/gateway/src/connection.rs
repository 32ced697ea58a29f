//! One client connection: protocol, requests one after the other or side by side, and its end.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::Limits;
use crate::client_stream::ClientStream;
use crate::head::ClientFacts;
use crate::proxy;
use crate::worker::{LocalExecutor, Phase, Slot, Worker};

/// What its requests share.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    client: ClientFacts,
    active: Cell<u32>,
    idle_since: Cell<Instant>,
    http2: Cell<bool>,
    _slot: Slot,
}

impl ClientConnection {
    pub(crate) fn new(client: ClientFacts, slot: Slot) -> Self {
        let idle_since = Cell::new(Instant::now());
        Self { client, active: Cell::new(0), idle_since, http2: Cell::new(false), _slot: slot }
    }

    pub(crate) fn client(&self) -> &ClientFacts {
        &self.client
    }

    pub(crate) fn request_began(&self) {
        self.active.set(self.active.get() + 1);
    }

    pub(crate) fn request_ended(&self) {
        self.active.set(self.active.get().saturating_sub(1));
        self.idle_since.set(Instant::now());
    }

    /// Notes what it speaks.
    pub(crate) fn speaks(&self, version: http::Version) {
        self.http2.set(version == http::Version::HTTP_2);
    }

    /// HTTP/2 can be told to go elsewhere at any time and loses nothing; HTTP/1.1 is told with its next response
    /// ([`proxy::serve`]) and closed only when draining begins.
    fn must_say_goodbye(&self, phase: Phase) -> bool {
        match phase {
            Phase::Serving => false,
            Phase::LameDuck => self.http2.get(),
            Phase::Draining | Phase::Cut => true,
        }
    }
}

/// What a connection may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// ALPN chose HTTP/1.1, or the client has no ALPN.
    Http1,
    /// ALPN chose HTTP/2.
    Http2,
    /// Without TLS: told by the first bytes.
    Either,
}

/// The codecs with their limits.
pub(crate) fn builder(limits: &Limits, spoken: Spoken) -> auto::Builder<LocalExecutor> {
    let mut builder = auto::Builder::new(LocalExecutor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.headers_max)
        .max_buf_size(limits.header_bytes_max);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.streams_max)
        .max_pending_accept_reset_streams(limits.resets_max)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_send_buf_size(limits.stream_window_bytes as usize)
        .keep_alive_interval(limits.client_idle_timeout)
        .keep_alive_timeout(limits.handshake_timeout);
    match spoken {
        Spoken::Http1 => builder.http1_only(),
        Spoken::Http2 => builder.http2_only(),
        Spoken::Either => builder,
    }
}

/// Serves until the client leaves, is silent for too long, or the worker stops.
pub(crate) async fn serve<S>(worker: Rc<Worker>, connection: Rc<ClientConnection>, stream: S, spoken: Spoken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let (worker, connection) = (worker.clone(), connection.clone());
        async move { Ok::<_, Infallible>(proxy::serve(worker, connection, request).await) }
    });
    let limits = &worker.shared.limits;
    let stream = TokioIo::new(ClientStream::new(stream, limits.client_send_timeout));
    let serving = worker.builder(spoken).serve_connection_with_upgrades(stream, service);
    let idle = tokio::time::sleep(limits.client_idle_timeout);
    tokio::pin!(serving, idle);
    let mut phase = worker.phase.clone();
    let mut said_goodbye = false;
    loop {
        let now = *phase.borrow_and_update();
        if !said_goodbye && connection.must_say_goodbye(now) {
            serving.as_mut().graceful_shutdown();
            said_goodbye = true;
        }
        tokio::select! {
            biased;
            // How it ended is told by the exchanges; a client that sends nonsense is answered by the codec.
            _ = serving.as_mut() => return,
            changed = phase.changed() => if changed.is_err() { return },
            () = idle.as_mut() => {
                let deadline = connection.idle_since.get() + limits.client_idle_timeout;
                if connection.active.get() == 0 && deadline <= Instant::now() {
                    if said_goodbye {
                        return;
                    }
                    serving.as_mut().graceful_shutdown();
                    said_goodbye = true;
                }
                idle.as_mut().reset(deadline.max(Instant::now() + limits.handshake_timeout));
            }
        }
    }
}
