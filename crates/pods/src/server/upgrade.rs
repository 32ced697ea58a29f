//! From a request to a connection that is the client's and ours: WebSocket (RFC 6455) or SPDY/3.1, as the client asks.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::{Body, Refused};

/// The protocols over SPDY that the client offers; the answer names the one that was taken.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What would have been taken.
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";
/// Bytes of one WebSocket message from a client.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Bytes read at once.
const READ_BYTES: usize = 32 << 10;

/// The other side of a WebSocket upgrade.
pub(super) type WebSocket = WebSocketStream<TokioIo<Upgraded>>;
/// The bare connection after a SPDY upgrade.
pub(super) type Raw = TokioIo<Upgraded>;

/// An upgrade that was agreed on.
pub(super) enum Agreed {
    /// Messages.
    WebSocket(&'static str, OnUpgrade),
    /// SPDY frames on the bare connection.
    Spdy(&'static str, OnUpgrade),
}

/// Takes the upgrade that the request asks for, with the first protocol of ours that it offers; the answer to send before.
pub(super) fn accept(
    mut request: Request<Incoming>,
    over_websocket: &[&'static str],
    over_spdy: &[&'static str],
) -> Result<(Response<Body>, Agreed), Refused> {
    let upgrade = hyper::upgrade::on(&mut request);
    let headers = request.headers();
    if !lists(headers, header::CONNECTION, "upgrade") {
        return Err(Refused::new(StatusCode::BAD_REQUEST, "Upgrade request required"));
    }
    if lists(headers, header::UPGRADE, "websocket") {
        let (answer, protocol) = websocket_answer(headers, over_websocket)?;
        return Ok((answer, Agreed::WebSocket(protocol, upgrade)));
    }
    if !lists(headers, header::UPGRADE, SPDY) {
        return Err(Refused::new(StatusCode::BAD_REQUEST, "Upgrade request required"));
    }
    let offered = words(headers, STREAM_PROTOCOL);
    let protocol = negotiate(&offered, over_spdy).ok_or_else(|| {
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            offered.join(" "),
            over_spdy.join(" ")
        );
        Refused::new(StatusCode::FORBIDDEN, message).with(ACCEPTED_PROTOCOLS, over_spdy)
    })?;
    let mut answer = switching(SPDY);
    answer.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    Ok((answer, Agreed::Spdy(protocol, upgrade)))
}

/// The first of ours that is offered. A client that offers nothing speaks the oldest.
fn negotiate(offered: &[String], spoken: &[&'static str]) -> Option<&'static str> {
    if offered.is_empty() {
        return spoken.last().copied();
    }
    spoken.iter().find(|protocol| offered.iter().any(|offer| offer == *protocol)).copied()
}

fn words(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let words = values.flat_map(|value| value.split(',')).map(str::trim);
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn lists(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    words(headers, name).iter().any(|known| known.eq_ignore_ascii_case(word))
}

fn switching(to: &'static str) -> Response<Body> {
    let mut response = Response::new(Empty::<Bytes>::new().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static(to));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response
}

/// The handshake of RFC 6455, clause 4.2.
fn websocket_answer(
    headers: &HeaderMap,
    spoken: &[&'static str],
) -> Result<(Response<Body>, &'static str), Refused> {
    let bad = |message: &str| Refused::new(StatusCode::BAD_REQUEST, message);
    let offered = words(headers, header::SEC_WEBSOCKET_PROTOCOL);
    let protocol = negotiate(&offered, spoken).ok_or_else(|| {
        bad(&format!("none of the offered WebSocket protocols is spoken here: {}", spoken.join(", ")))
    })?;
    let key =
        headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("the WebSocket handshake has no key"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| bad("the WebSocket key is broken"))?;
    let mut answer = switching("websocket");
    answer.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if !offered.is_empty() {
        answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok((answer, protocol))
}

/// The WebSocket once the answer was sent; none when the client went away before.
pub(super) async fn websocket(upgrade: OnUpgrade) -> Option<WebSocket> {
    let upgraded = upgrade.await.ok()?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    Some(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await)
}

/// The bare connection once the answer was sent, in two halves.
pub(super) async fn raw(upgrade: OnUpgrade) -> Option<(ReadHalf<Raw>, WriteHalf<Raw>)> {
    Some(tokio::io::split(TokioIo::new(upgrade.await.ok()?)))
}

/// Reads what is there into `buffer`; none at the end. Nothing is lost when it is given up half-way.
pub(super) async fn read(half: &mut ReadHalf<Raw>, buffer: &mut BytesMut) -> Option<()> {
    buffer.reserve(READ_BYTES);
    match half.read_buf(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(()),
    }
}

/// Sends until nobody has anything to send any more, then says that this was all.
pub(super) async fn write(mut half: WriteHalf<Raw>, mut queue: mpsc::Receiver<Bytes>) {
    while let Some(bytes) = queue.recv().await {
        if half.write_all(&bytes).await.is_err() || half.flush().await.is_err() {
            return;
        }
    }
    let _ = half.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_common_protocol_is_taken() {
        struct Case {
            name: &'static str,
            offered: &'static [&'static str],
            want: Option<&'static str>,
        }
        const SPOKEN: &[&str] = &["v4", "v3", "v1"];
        let cases = [
            Case { name: "in our order", offered: &["v1", "v3"], want: Some("v3") },
            Case { name: "unknown ones are passed over", offered: &["v9", "v1"], want: Some("v1") },
            Case { name: "nothing is the oldest", offered: &[], want: Some("v1") },
            Case { name: "nothing in common", offered: &["v9"], want: None },
        ];
        for case in cases {
            let offered: Vec<String> = case.offered.iter().map(|&offer| offer.to_owned()).collect();
            assert_eq!(negotiate(&offered, SPOKEN), case.want, "{}", case.name);
        }
    }
}
