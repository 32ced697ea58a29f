//! The HTTP server: one request, one behaviour, one answer that says who gave it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::State;
use super::behaviour::{self, Action, Behaviour};
use super::{grpc, websocket};

/// The most of a request's body that is described in the answer.
const DESCRIBED_BYTES_MAX: usize = 64 << 10;
/// `/bytes` sends pieces of so many bytes.
const PIECE_BYTES: usize = 16 << 10;
/// A client that sends no complete header for so long is let go.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// What a stop leaves a connection for its first request.
const FIRST_REQUEST_WAIT: Duration = Duration::from_millis(300);

/// Any answer's body.
pub(super) type Body = UnsyncBoxBody<Bytes, BodyError>;
/// Why a body breaks off.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What is known of a connection before its first request.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) client: SocketAddr,
    pub(super) local: SocketAddr,
    /// The name that the client asked for in its TLS handshake (SNI).
    pub(super) server_name: Option<String>,
    pub(super) tls: bool,
    pub(super) http2_only: bool,
}

/// A body of text.
pub(super) fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Serves one connection until it ends, or until what is under way is done once `finish` is said.
pub(super) async fn serve<S>(stream: S, connection: Connection, state: Arc<State>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    if connection.http2_only {
        builder = builder.http2_only();
    }
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let finish = state.finish.clone();
    let facts = Arc::new(connection);
    let asked = CancellationToken::new();
    let asking = asked.clone();
    let service = service_fn(move |request| {
        asking.cancel();
        let (facts, state) = (facts.clone(), state.clone());
        async move { Ok::<_, Infallible>(answer(request, &facts, &state).await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = finish.cancelled() => None,
    };
    let ended = match ended {
        // It was accepted, so its first request is on the way and gets an answer.
        None if !asked.is_cancelled() => tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = asked.cancelled() => None,
            () = tokio::time::sleep(FIRST_REQUEST_WAIT) => None,
        },
        ended => ended,
    };
    if ended.is_none() {
        connection.as_mut().graceful_shutdown();
        // A connection that breaks is the client's to report.
        let _ = connection.await;
    }
}

async fn answer(
    mut request: Request<Incoming>,
    connection: &Connection,
    state: &Arc<State>,
) -> Response<Body> {
    let described = describe(&request, connection, state);
    if grpc::is_call(request.headers()) {
        return grpc::answer(request, state, described).await;
    }
    let behaviour =
        behaviour::parse(request.method(), request.uri().path(), request.uri().query().unwrap_or(""));
    let Behaviour { delay, status, headers, action } = match behaviour {
        Ok(behaviour) => behaviour,
        Err(error) => return with_status(StatusCode::BAD_REQUEST, text(format!("{error}\n"))),
    };
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let mut response = match action {
        Action::Describe => with_body(request, described, status).await,
        Action::Echo => echo(request, status),
        Action::Bytes(length) => with_status(status, bytes(length)),
        Action::Stream { chunks, every } => {
            with_status(status, stream(state.identity.pod.clone(), chunks, every))
        }
        Action::Ready => {
            let ready = if state.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            with_json(ready, &json!({ "ready": state.is_ready(), "pod": state.identity.pod }))
        }
        Action::SetReady(ready) => {
            state.ready.store(ready, Ordering::Release);
            with_json(status, &json!({ "ready": ready, "pod": state.identity.pod }))
        }
        Action::Exit(code) => {
            // A second request for it finds the first one on its way.
            let _ = state.exit.try_send(code);
            with_json(status, &json!({ "exit": code, "pod": state.identity.pod }))
        }
        Action::Abort => with_status(status, abort()),
        Action::WebSocket => {
            websocket::upgrade(&mut request, described.to_string(), state.finish.clone(), &state.connections)
        }
    };
    if let Ok(pod) = HeaderValue::try_from(&state.identity.pod) {
        response.headers_mut().insert("x-pod", pod);
    }
    response.headers_mut().extend(headers);
    response
}

/// Who answers, and everything about the request that a proxy on the way may have changed.
fn describe(request: &Request<Incoming>, connection: &Connection, state: &State) -> Value {
    let identity = state.identity.reached_at(connection.local.ip());
    let uri = request.uri();
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let host = uri.authority().map(|authority| authority.as_str()).or(host);
    let protocol = match request.version() {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    let mut described = json!(identity);
    if let (Some(fields), Value::Object(more)) = (
        described.as_object_mut(),
        json!({
            "protocol": protocol,
            "method": request.method().as_str(),
            "host": host,
            "path": uri.path(),
            "query": uri.query(),
            "headers": header_map(request.headers()),
            "client": connection.client,
            "tls": connection.tls,
            "sni": connection.server_name,
        }),
    ) {
        fields.extend(more);
    }
    described
}

/// Header names to values; values of a repeated header are joined as RFC 9110 §5.3 has it.
fn header_map(headers: &HeaderMap) -> serde_json::Map<String, Value> {
    let joined = |name| {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        values.join(", ")
    };
    headers.keys().map(|name| (name.as_str().to_owned(), Value::String(joined(name)))).collect()
}

async fn with_body(request: Request<Incoming>, mut described: Value, status: StatusCode) -> Response<Body> {
    match Limited::new(request.into_body(), DESCRIBED_BYTES_MAX).collect().await {
        Ok(collected) => {
            let body = collected.to_bytes();
            if let Some(fields) = described.as_object_mut().filter(|_| !body.is_empty()) {
                fields.insert("body".into(), json!(String::from_utf8_lossy(&body)));
            }
            with_json(status, &described)
        }
        Err(_) => with_status(
            StatusCode::PAYLOAD_TOO_LARGE,
            text(format!("a body is described up to {DESCRIBED_BYTES_MAX} bytes; POST it to /echo\n")),
        ),
    }
}

fn echo(request: Request<Incoming>, status: StatusCode) -> Response<Body> {
    let kind = request.headers().get(header::CONTENT_TYPE).cloned();
    let mut response = Response::new(request.into_body().map_err(BodyError::from).boxed_unsync());
    *response.status_mut() = status;
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

fn bytes(length: u64) -> Body {
    let piece = Bytes::from_static(&[b'.'; PIECE_BYTES]);
    let pieces = futures::stream::unfold(length, move |left| {
        let size = left.min(PIECE_BYTES as u64);
        let frame = Ok(Frame::data(piece.slice(..usize::try_from(size).unwrap_or(0))));
        std::future::ready((size > 0).then_some((frame, left - size)))
    });
    StreamBody::new(pieces).boxed_unsync()
}

fn stream(pod: String, chunks: u32, every: Duration) -> Body {
    let lines = futures::stream::unfold((0, pod), move |(sent, pod)| async move {
        if sent >= chunks {
            return None;
        }
        if sent > 0 {
            tokio::time::sleep(every).await;
        }
        let line = json!({ "pod": pod, "chunk": sent });
        Some((Ok(Frame::data(Bytes::from(format!("{line}\n")))), (sent + 1, pod)))
    });
    StreamBody::new(lines).boxed_unsync()
}

fn abort() -> Body {
    let pieces = futures::stream::unfold(false, |begun| async move {
        if !begun {
            return Some((Ok(Frame::data(Bytes::from_static(b"half an ans"))), true));
        }
        // Pending once: what is there so far is sent.
        tokio::task::yield_now().await;
        Some((Err("cut on request".into()), true))
    });
    StreamBody::new(pieces).boxed_unsync()
}

fn with_status(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn with_json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = with_status(status, text(format!("{value}\n")));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
