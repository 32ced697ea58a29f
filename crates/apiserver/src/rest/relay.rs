//! Two upgraded connections, copied into each other without reading what they carry.
//!
//! The server's side (an agent, a pod) says when it is over, and the client gets all of it: a client that stops listening, or sends into a
//! connection whose other end has said its last word, must not cost anybody what is still under way.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// Bytes read at once.
const CHUNK_BYTES: usize = 32 << 10;
/// How long a client may take to leave after everything was sent to it. Closing before would take from it what it did not read yet.
const LEAVE_MAX: Duration = Duration::from_secs(10);

/// Copies both ways until the server's side ended, once both upgrades are made.
pub(super) fn upgraded(client: OnUpgrade, server: OnUpgrade, stop: CancellationToken) {
    tokio::spawn(async move {
        let Ok((client, server)) = tokio::try_join!(client, server) else { return };
        tokio::select! {
            () = copy(TokioIo::new(client), TokioIo::new(server)) => {}
            () = stop.cancelled() => {}
        }
    });
}

async fn copy<C, S>(client: C, server: S)
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let upward = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut heard = true;
        while let Ok(count @ 1..) = from_client.read(&mut chunk).await {
            let bytes = chunk.get(..count).unwrap_or_default();
            // Read on even if nobody listens: the client may be stuck in sending before it reads the end.
            heard = heard && to_server.write_all(bytes).await.is_ok() && to_server.flush().await.is_ok();
        }
        let _ = to_server.shutdown().await;
    };
    let downward = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = from_server.read(&mut chunk).await {
            let bytes = chunk.get(..count).unwrap_or_default();
            if to_client.write_all(bytes).await.is_err() || to_client.flush().await.is_err() {
                // Nobody is there any more to go on for.
                return;
            }
        }
        let _ = to_client.shutdown().await;
    };
    tokio::pin!(upward, downward);
    let mut client_left = false;
    loop {
        tokio::select! {
            () = &mut upward, if !client_left => client_left = true,
            () = &mut downward => break,
        }
    }
    if !client_left {
        let _ = tokio::time::timeout(LEAVE_MAX, upward).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_still_sends_gets_all_that_was_said() {
        let (mut user, client) = tokio::io::duplex(64);
        let (server, mut pod) = tokio::io::duplex(1 << 20);
        let relay = tokio::spawn(copy(client, server));
        let said = vec![b'x'; 500_000];
        pod.write_all(&said).await.unwrap();
        drop(pod);
        // Goes nowhere, and the reading comes after it.
        user.write_all(&[0; 1000]).await.unwrap();
        let mut heard = Vec::new();
        user.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard.len(), said.len());
        drop(user);
        relay.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_said_all_hears_the_rest() {
        let (mut user, client) = tokio::io::duplex(64);
        let (server, mut pod) = tokio::io::duplex(64);
        let relay = tokio::spawn(copy(client, server));
        user.write_all(b"question").await.unwrap();
        user.shutdown().await.unwrap();
        let mut question = Vec::new();
        pod.read_to_end(&mut question).await.unwrap();
        pod.write_all(b"answer").await.unwrap();
        drop(pod);
        let mut answer = Vec::new();
        user.read_to_end(&mut answer).await.unwrap();
        assert_eq!((question.as_slice(), answer.as_slice()), (b"question".as_slice(), b"answer".as_slice()));
        relay.await.unwrap();
    }
}
