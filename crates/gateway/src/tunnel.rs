//! Connections that switched to another protocol (WebSocket): bytes copied both ways until the endpoint ended or nothing moved for too long.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::exchange::Exchange;

/// Bytes read at once in each direction; a tunnel holds two of these.
const BUFFER_BYTES: usize = 8 * 1024;

/// Runs until it ends by itself. The endpoint leaving its pools does not end it.
pub(crate) fn spawn(mut exchange: Exchange, client: OnUpgrade, endpoint: OnUpgrade, idle_timeout: Duration) {
    tokio::task::spawn_local(async move {
        let (Ok(client), Ok(endpoint)) = (client.await, endpoint.await) else { return };
        let sent = copy_both(TokioIo::new(client), TokioIo::new(endpoint), idle_timeout).await;
        exchange.sent(sent);
    });
}

/// Bytes that went from the endpoint to the client.
async fn copy_both<C, E>(client: C, endpoint: E, idle_timeout: Duration) -> u64
where
    C: AsyncRead + AsyncWrite,
    E: AsyncRead + AsyncWrite,
{
    let (client_read, client_write) = tokio::io::split(client);
    let (endpoint_read, endpoint_write) = tokio::io::split(endpoint);
    let moved_at = Cell::new(Instant::now());
    let sent = Cell::new(0);
    let (up, down) = (Cell::new(0), &sent);
    // A client that says no more may still listen; when the endpoint ends, nobody is left to talk to (nginx does the same).
    let upwards = async {
        if copy(client_read, endpoint_write, &moved_at, &up).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = upwards => {}
        _ = copy(endpoint_read, client_write, &moved_at, down) => {}
        () = idle(&moved_at, idle_timeout) => {}
    }
    sent.get()
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved_at: &Cell<Instant>,
    total: &Cell<u64>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        moved_at.set(Instant::now());
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return to.shutdown().await;
        };
        to.write_all(bytes).await?;
        to.flush().await?;
        total.set(total.get() + count as u64);
        moved_at.set(Instant::now());
    }
}

async fn idle(moved_at: &Cell<Instant>, timeout: Duration) {
    loop {
        let deadline = moved_at.get() + timeout;
        if deadline <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(deadline).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_go_both_ways_half_closes_pass_and_silence_ends_it() {
        let (mut client, near) = tokio::io::duplex(64);
        let (mut endpoint, far) = tokio::io::duplex(64);
        let copied = async { copy_both(near, far, Duration::from_secs(60)).await };
        let talk = async {
            client.write_all(b"ping").await.unwrap();
            client.shutdown().await.unwrap();
            let mut got = String::new();
            endpoint.read_to_string(&mut got).await.unwrap();
            endpoint.write_all(b"pong!").await.unwrap();
            let mut back = [0; 5];
            client.read_exact(&mut back).await.unwrap();
            (got, back)
        };
        let started = Instant::now();
        let (sent, (got, back)) = tokio::join!(copied, talk);
        assert_eq!((sent, got.as_str(), &back), (5, "ping", b"pong!"));
        assert_eq!(started.elapsed().as_secs(), 60, "the endpoint never closed: the idle limit did");
    }
}
