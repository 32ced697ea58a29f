//! Bodies on their way through: a frame at a time, pulled by whoever writes it out, so a slow reader slows the sender down.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::exchange::Exchange;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The client's connection or chunking broke.
    #[error("the client's body broke off: {0}")]
    Client(hyper::Error),
    /// Longer than allowed.
    #[error("the client's body is too long")]
    TooLarge,
    /// The endpoint's connection broke.
    #[error("the endpoint's body broke off: {0}")]
    Upstream(hyper::Error),
    /// The endpoint stopped sending.
    #[error("the endpoint stopped sending")]
    UpstreamTimeout,
}

/// Where a request body comes from, and what has become of it so far.
#[derive(Debug)]
pub(crate) struct RequestSource {
    incoming: RefCell<Incoming>,
    bytes_max: Option<u64>,
    bytes: Cell<u64>,
    progressed_at: Cell<Instant>,
    state: Cell<SourceState>,
}

/// What a request body is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SourceState {
    /// Nobody waits for the client.
    Flowing,
    /// The endpoint would take more than the client has sent.
    WaitingForClient,
    /// The client broke it off.
    Broken,
    /// It is longer than allowed.
    TooLarge,
}

impl RequestSource {
    pub(crate) fn new(incoming: Incoming, bytes_max: Option<u64>) -> Self {
        Self {
            incoming: RefCell::new(incoming),
            bytes_max,
            bytes: Cell::new(0),
            progressed_at: Cell::new(Instant::now()),
            state: Cell::new(SourceState::Flowing),
        }
    }

    /// Body bytes taken from the client.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// When the client's bytes last moved.
    pub(crate) fn progressed_at(&self) -> Instant {
        self.progressed_at.get()
    }

    pub(crate) fn state(&self) -> SourceState {
        self.state.get()
    }

    fn account(&self, frame: &Frame<Bytes>) -> Result<(), BodyError> {
        let bytes = self.bytes.get() + frame.data_ref().map_or(0, |data| data.remaining() as u64);
        self.bytes.set(bytes);
        self.progressed_at.set(Instant::now());
        if self.bytes_max.is_some_and(|max| bytes > max) {
            self.state.set(SourceState::TooLarge);
            return Err(BodyError::TooLarge);
        }
        self.state.set(SourceState::Flowing);
        Ok(())
    }
}

/// A request body as an upstream connection takes it. Clones share the source: a request that was not sent can be sent elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct RequestBody(pub(crate) Rc<RequestSource>);

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let source = &self.0;
        match Pin::new(&mut *source.incoming.borrow_mut()).poll_frame(context) {
            Poll::Pending => {
                source.state.set(SourceState::WaitingForClient);
                Poll::Pending
            }
            Poll::Ready(None) => {
                source.progressed_at.set(Instant::now());
                source.state.set(SourceState::Flowing);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(source.account(&frame).map(|()| frame))),
            Poll::Ready(Some(Err(error))) => {
                source.state.set(SourceState::Broken);
                Poll::Ready(Some(Err(BodyError::Client(error))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.incoming.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.incoming.borrow().size_hint()
    }
}

/// What a client gets.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// Our own answer; the exchange ends when it is handed over, or is somebody else's to end.
    Own(Bytes, Option<Exchange>),
    /// The endpoint's.
    Streamed(Box<Streamed>),
}

/// An endpoint's body under way.
#[derive(Debug)]
pub(crate) struct Streamed {
    incoming: Incoming,
    exchange: Exchange,
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    pub(crate) fn own(bytes: Bytes, exchange: Exchange) -> Self {
        Self::Own(bytes, Some(exchange))
    }

    /// The end of a head after which the connection speaks another protocol.
    pub(crate) fn none() -> Self {
        Self::Own(Bytes::new(), None)
    }

    /// Streams; `timeout` is the longest silence of the endpoint.
    pub(crate) fn streamed(incoming: Incoming, mut exchange: Exchange, timeout: Duration) -> Self {
        if incoming.is_end_stream() {
            exchange.upstream_done();
        }
        Self::Streamed(Box::new(Streamed { incoming, exchange, timeout, timer: None }))
    }
}

impl Streamed {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Pending => {
                // The timer runs only while we wait for the endpoint: a client that reads slowly does not poll at all.
                let timeout = self.timeout;
                let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                if std::future::Future::poll(timer.as_mut(), context).is_ready() {
                    self.exchange.broken();
                    return Poll::Ready(Some(Err(BodyError::UpstreamTimeout)));
                }
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.timer = None;
                self.exchange.sent(frame.data_ref().map_or(0, |data| data.remaining() as u64));
                if self.incoming.is_end_stream() {
                    self.exchange.upstream_done();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.exchange.upstream_done();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.exchange.broken();
                Poll::Ready(Some(Err(BodyError::Upstream(error))))
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(bytes, _) if bytes.is_empty() => Poll::Ready(None),
            Self::Own(bytes, exchange) => {
                if let Some(exchange) = exchange {
                    exchange.sent(bytes.len() as u64);
                }
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))))
            }
            Self::Streamed(streamed) => streamed.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes, _) => bytes.is_empty(),
            Self::Streamed(streamed) => streamed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes, _) => SizeHint::with_exact(bytes.len() as u64),
            Self::Streamed(streamed) => streamed.incoming.size_hint(),
        }
    }
}
