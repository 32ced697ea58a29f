//! The channel protocol over WebSocket (`v4.channel.k8s.io`, `v5.channel.k8s.io`): the first byte of a binary message is the channel.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::{Body, Refused};

/// The channel protocol, best first. The versions differ in half-close only, which v5 has.
pub(super) const CHANNELS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Bytes of one message from a client.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const RESIZE: u8 = 4;
/// v5: the channel in the next byte gets no more.
pub(super) const CLOSE: u8 = 255;

/// The other side of an upgrade.
pub(super) type Channels = WebSocketStream<TokioIo<Upgraded>>;

/// Checks the handshake (RFC 6455 §4.2.1) and takes the first of `spoken` that the client offers; gives the answer, that protocol and,
/// once the answer was sent, the connection.
pub(super) fn accept(
    mut request: Request<Incoming>,
    spoken: &[&'static str],
) -> Result<(Response<Body>, &'static str, impl Future<Output = Option<Channels>> + use<>), Refused> {
    let bad = |message: &str| Refused::new(StatusCode::BAD_REQUEST, message);
    let headers = request.headers();
    let says = |name: header::HeaderName, word: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    if !says(header::UPGRADE, "websocket") || !says(header::CONNECTION, "upgrade") {
        return Err(bad("a WebSocket upgrade is needed: unable to upgrade streaming request"));
    }
    let protocol = spoken.iter().find(|protocol| says(header::SEC_WEBSOCKET_PROTOCOL, protocol));
    let protocol = *protocol.ok_or_else(|| {
        bad(&format!("none of the offered WebSocket protocols is spoken here: {}", spoken.join(", ")))
    })?;
    let key =
        headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("the WebSocket handshake has no key"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| bad("the WebSocket key is broken"))?;
    let mut response = Response::new(Empty::<Bytes>::new().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    let upgrade = hyper::upgrade::on(&mut request);
    let connection = async {
        let upgraded = upgrade.await.ok()?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        Some(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await)
    };
    Ok((response, protocol, connection))
}

/// A message for a channel.
pub(super) fn frame(channel: u8, bytes: &[u8]) -> tokio_tungstenite::tungstenite::Message {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    tokio_tungstenite::tungstenite::Message::Binary(message.into())
}

/// The frame that ends a connection as it should: kubectl takes an end without a code for a failure (it reports "close 1005").
pub(super) fn normal_end() -> tokio_tungstenite::tungstenite::Message {
    use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
    tokio_tungstenite::tungstenite::Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    }))
}
