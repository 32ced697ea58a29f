//! The client's side of a WebSocket (RFC 6455 §4.1).

use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Response, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::failure::{Failure, Phase};

/// Adds the headers that ask for the upgrade.
pub(super) fn ask(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    if let Ok(key) = HeaderValue::try_from(generate_key()) {
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
    }
}

/// Reads the greeting, sends every message and awaits an answer to each; then closes.
pub(super) async fn converse(
    mut response: Response<Incoming>,
    messages: &[String],
) -> Result<(String, Vec<String>), Failure> {
    if !response.headers().contains_key(header::SEC_WEBSOCKET_ACCEPT) {
        return Err(Failure::protocol(Phase::Request, "101 without Sec-WebSocket-Accept"));
    }
    let upgraded =
        hyper::upgrade::on(&mut response).await.map_err(|error| Failure::of(Phase::Request, &error))?;
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
    let greeting = next(&mut socket).await?;
    let mut answers = Vec::with_capacity(messages.len());
    for message in messages {
        socket.send(Message::text(message.clone())).await.map_err(|error| failed(&error))?;
        answers.push(next(&mut socket).await?);
    }
    // The answer is complete; a peer that is gone before the close frame does not change it.
    let _ = socket.close(None).await;
    Ok((greeting, answers))
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn next(socket: &mut Socket) -> Result<String, Failure> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
            Some(Ok(Message::Binary(bytes))) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) | None => {
                let error = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                return Err(Failure::of(Phase::Read, &error));
            }
            Some(Err(error)) => return Err(failed(&error)),
        }
    }
}

fn failed(error: &Error) -> Failure {
    match error {
        Error::Io(io) => Failure::of(Phase::Read, io),
        other => Failure::of(Phase::Read, other),
    }
}
