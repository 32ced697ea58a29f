//! Connections of one worker to endpoints: made, kept idle, reused, closed.

mod stream;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::Limits;
use crate::body::RequestBody;
use crate::failure::Failure;
use crate::pool::Endpoint;
use crate::worker::{ChangeSignal, LocalExecutor};
use stream::SharedStream;

/// A connection that serves one exchange.
#[derive(Debug)]
pub(crate) enum Lease {
    /// Nobody else uses it until it is released.
    Http1(Http1),
    /// A handle to one that others use too.
    Http2(
        #[expect(dead_code, reason = "held so that the connection outlives its place among the kept ones")]
        http2::SendRequest<RequestBody>,
    ),
}

/// An HTTP/1.1 connection.
#[derive(Debug)]
pub(crate) struct Http1 {
    pub(crate) sender: http1::SendRequest<RequestBody>,
    endpoint: Arc<Endpoint>,
    stream: Arc<TcpStream>,
    /// Whether it served a request before: its endpoint may have closed it meanwhile.
    pub(crate) reused: bool,
}

/// What is kept for one endpoint.
#[derive(Debug)]
struct Kept {
    endpoint: Arc<Endpoint>,
    idle: Vec<(Http1, Instant)>,
    http2: Option<(http2::SendRequest<RequestBody>, Cell<Instant>)>,
}

/// All connections of a worker.
#[derive(Debug)]
pub(crate) struct Upstreams {
    kept: RefCell<HashMap<SocketAddr, Kept>>,
    limits: Limits,
}

impl Upstreams {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { kept: RefCell::default(), limits }
    }

    /// An idle HTTP/1.1 connection. With `checked` the socket is asked whether the endpoint closed it: for requests that cannot
    /// be sent again.
    pub(crate) fn idle(&self, endpoint: &Arc<Endpoint>, checked: bool) -> Option<Http1> {
        let mut kept = self.kept.borrow_mut();
        let idle = &mut kept.get_mut(&endpoint.address)?.idle;
        let mut busy = Vec::new();
        let mut found = None;
        while let Some((mut connection, since)) = idle.pop() {
            if connection.sender.is_closed() || (checked && connection.is_closed_by_peer()) {
                continue;
            }
            if !connection.sender.is_ready() {
                // Its last request body is still being taken: it comes back, or expires.
                busy.push((connection, since));
                continue;
            }
            connection.reused = true;
            found = Some(connection);
            break;
        }
        idle.extend(busy);
        found
    }

    /// The shared HTTP/2 connection, when there is one that takes requests.
    pub(crate) fn http2(&self, endpoint: &Arc<Endpoint>) -> Option<http2::SendRequest<RequestBody>> {
        let kept = self.kept.borrow();
        let (sender, used_at) = kept.get(&endpoint.address)?.http2.as_ref()?;
        used_at.set(Instant::now());
        (!sender.is_closed()).then(|| sender.clone())
    }

    /// Makes an HTTP/1.1 connection.
    pub(crate) async fn connect_http1(
        &self,
        endpoint: &Arc<Endpoint>,
        changed: &ChangeSignal,
    ) -> Result<Http1, Failure> {
        let stream = Arc::new(self.connect(endpoint, changed).await?);
        let io = TokioIo::new(SharedStream(stream.clone()));
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(self.limits.header_bytes_max * 2)
            .max_header_size(self.limits.header_bytes_max)
            .max_headers(self.limits.headers_max)
            .handshake(io)
            .await
            .map_err(|_| Failure::ConnectRefused)?;
        tokio::task::spawn_local(async move {
            // Errors reach whoever waits for a response; between requests they only mean that the connection is gone.
            let _ = connection.with_upgrades().await;
        });
        Ok(Http1 { sender, endpoint: endpoint.clone(), stream, reused: false })
    }

    /// Makes the shared HTTP/2 connection.
    pub(crate) async fn connect_http2(
        &self,
        endpoint: &Arc<Endpoint>,
        changed: &ChangeSignal,
    ) -> Result<http2::SendRequest<RequestBody>, Failure> {
        let stream = self.connect(endpoint, changed).await?;
        let (sender, connection) = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .initial_stream_window_size(self.limits.stream_window_bytes)
            .initial_connection_window_size(self.limits.connection_window_bytes)
            .max_header_list_size(u32::try_from(self.limits.header_bytes_max).unwrap_or(u32::MAX))
            .max_send_buf_size(self.limits.stream_window_bytes as usize)
            .keep_alive_interval(self.limits.upstream_timeout)
            .keep_alive_timeout(self.limits.connect_timeout)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Failure::ConnectRefused)?;
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        let mut kept = self.kept.borrow_mut();
        let entry = kept.entry(endpoint.address).or_insert_with(|| Kept::new(endpoint));
        entry.endpoint = endpoint.clone();
        entry.http2 = Some((sender.clone(), Cell::new(Instant::now())));
        Ok(sender)
    }

    /// Connects, and gives up at once when the endpoint leaves its pools meanwhile: a pod that is gone does not even refuse.
    async fn connect(&self, endpoint: &Arc<Endpoint>, changed: &ChangeSignal) -> Result<TcpStream, Failure> {
        let mut changed = changed.clone();
        changed.mark_unchanged();
        let attempt = tokio::time::timeout(self.limits.connect_timeout, TcpStream::connect(endpoint.address));
        tokio::pin!(attempt);
        let stream = loop {
            if endpoint.has_left() {
                return Err(Failure::LeftPool);
            }
            tokio::select! {
                biased;
                done = &mut attempt => break done,
                changed = changed.changed() => {
                    if changed.is_err() {
                        break attempt.await;
                    }
                }
            }
        };
        let stream = stream.map_err(|_| Failure::ConnectTimeout)?.map_err(|_| Failure::ConnectRefused)?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    /// Takes a connection back after its exchange.
    pub(crate) fn release(&self, lease: Lease) {
        let Lease::Http1(connection) = lease else { return };
        if connection.endpoint.has_left() || connection.sender.is_closed() {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        let endpoint = connection.endpoint.clone();
        let entry = kept.entry(endpoint.address).or_insert_with(|| Kept::new(&endpoint));
        if !Arc::ptr_eq(&entry.endpoint, &endpoint) {
            *entry = Kept::new(&endpoint);
        }
        if entry.idle.len() < self.limits.idle_upstreams_max {
            entry.idle.push((connection, Instant::now()));
        }
    }

    /// Closes the idle connections to an endpoint: one of them turned out to be dead, so the others are suspect.
    pub(crate) fn forget(&self, endpoint: &Endpoint) {
        self.kept.borrow_mut().remove(&endpoint.address);
    }

    /// Closes what expired and what leads to endpoints that left. Called regularly and at every change of endpoints.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let fresh = |since: Instant| now.duration_since(since) < self.limits.upstream_idle_timeout;
        self.kept.borrow_mut().retain(|_, kept| {
            if kept.endpoint.has_left() {
                return false;
            }
            kept.idle.retain(|(connection, since)| fresh(*since) && !connection.sender.is_closed());
            // Requests hold handles of their own: dropping ours closes the connection after the last of them.
            kept.http2 = kept.http2.take().filter(|(sender, used)| fresh(used.get()) && !sender.is_closed());
            !kept.idle.is_empty() || kept.http2.is_some()
        });
    }
}

impl Kept {
    fn new(endpoint: &Arc<Endpoint>) -> Self {
        Self { endpoint: endpoint.clone(), idle: Vec::new(), http2: None }
    }
}

impl Http1 {
    /// Whether the socket has an end, an error or unasked bytes waiting.
    fn is_closed_by_peer(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = socket2::SockRef::from(&*self.stream).peek(&mut byte);
        !matches!(peeked, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}
