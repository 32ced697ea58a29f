//! TCP and UDP without a protocol on top: who answers, and what came.

use std::sync::Arc;

use serde_json::json;
use tokio::io::{AsyncWriteExt, copy, split};
use tokio::net::{TcpStream, UdpSocket};

use super::State;
use super::http::Connection;

/// The longest datagram that is read; longer ones are cut.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// One line of JSON that says who answers, then every byte back until the client closes its half.
pub(super) async fn echo(stream: TcpStream, connection: &Connection, state: &State) {
    let mut banner = json!(state.identity.reached_at(connection.local.ip()));
    if let Some(fields) = banner.as_object_mut() {
        fields.insert("client".into(), json!(connection.client));
    }
    let (mut reader, mut writer) = split(stream);
    if writer.write_all(format!("{banner}\n").as_bytes()).await.is_ok() {
        // The client's going away is its business.
        let _ = copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    }
}

/// For every datagram one of JSON: who answers, from where it came, what it said.
pub(super) async fn answer_datagrams(socket: UdpSocket, state: Arc<State>) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        // An error here is the ICMP answer to an earlier datagram of ours.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let received = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        let mut answer = json!(state.identity);
        if let Some(fields) = answer.as_object_mut() {
            let peer = std::net::SocketAddr::new(client.ip().to_canonical(), client.port());
            fields.insert("client".into(), json!(peer));
            fields.insert("received".into(), json!(received));
        }
        let _ = socket.send_to(answer.to_string().as_bytes(), client).await;
    }
}
