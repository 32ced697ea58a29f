//! `/ws`: the first message says who answers, then every message comes back (RFC 6455).

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

use futures::{SinkExt, StreamExt};

use super::http::Body;

/// The longest message that is echoed.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Whether the request asks for a WebSocket (RFC 6455 §4.2.1).
fn accept_key(headers: &HeaderMap) -> Option<String> {
    let lists = |name, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    let asked = lists(header::UPGRADE, "websocket") && lists(header::CONNECTION, "upgrade");
    let version = headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|value| value == "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    (asked && version).then(|| derive_accept_key(key.as_bytes()))
}

/// Answers the handshake; the session runs as a task of its own that ends with `finish`.
pub(super) fn upgrade(
    request: &mut Request<Incoming>,
    greeting: String,
    finish: CancellationToken,
    tasks: &tokio_util::task::TaskTracker,
) -> Response<Body> {
    let Some(key) = accept_key(request.headers()).and_then(|key| HeaderValue::try_from(key).ok()) else {
        let mut response = Response::new(super::http::text("this path wants a WebSocket (RFC 6455)\n"));
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        return response;
    };
    let upgraded = hyper::upgrade::on(request);
    tasks.spawn(async move {
        if let Ok(connection) = upgraded.await {
            session(TokioIo::new(connection), greeting, finish).await;
        }
    });
    let mut response = Response::new(super::http::text(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    response
}

async fn session(io: TokioIo<hyper::upgrade::Upgraded>, greeting: String, finish: CancellationToken) {
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(MESSAGE_BYTES_MAX);
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    if socket.send(Message::text(greeting)).await.is_err() {
        return;
    }
    while let Some(next) = finish.run_until_cancelled(socket.next()).await {
        match next {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_))) => {}
            Some(Err(_)) | None => return,
        }
    }
    // Draining: the client is told and reconnects elsewhere (RFC 6455 §7.4.1, 1001 going away).
    let _ = socket.close(None).await;
}
