//! Writes gathered until other tasks had their turn.
//!
//! A change wakes every watch of its resource. Over HTTP/2 many of them share a connection, and the connection's task would run after each:
//! one TLS record and one system call for every event. Here a flush goes to the back of the scheduler's queue once, so what the other
//! streams have by then leaves together. On an idle server that costs nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream takes no more than this before it is written.
const BYTES_MAX: usize = 64 << 10;

/// A stream whose flushes wait for one turn.
#[derive(Debug)]
pub(super) struct Gather<S> {
    inner: S,
    pending: BytesMut,
    /// The turn was waited for; what is pending may go.
    waited: bool,
}

impl<S> Gather<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, pending: BytesMut::new(), waited: false }
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.pending))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.pending.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        if self.pending.len() >= BYTES_MAX {
            ready!(self.poll_drain(cx))?;
        }
        self.pending.extend_from_slice(from);
        Poll::Ready(Ok(from.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.waited && !self.pending.is_empty() {
            self.waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.waited = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_written_during_the_turn_leaves_together() {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let mut gather = Gather::new(far);
        gather.write_all(b"one ").await.unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut gather).poll_flush(&mut cx).is_pending(), "the others' turn");
        gather.write_all(b"two").await.unwrap();
        assert!(Pin::new(&mut gather).poll_flush(&mut cx).is_ready());
        let mut read = [0; 16];
        let len = near.read(&mut read).await.unwrap();
        assert_eq!(&read[..len], b"one two");
    }

    #[tokio::test]
    async fn nothing_is_lost_or_kept_without_bound_when_the_reader_is_slow() {
        let (mut near, far) = tokio::io::duplex(1000);
        let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let want = sent.clone();
        let writer = tokio::spawn(async move {
            let mut gather = Gather::new(far);
            for piece in sent.chunks(9000) {
                gather.write_all(piece).await.unwrap();
                assert!(gather.pending.len() < BYTES_MAX + 9000);
            }
            gather.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        near.read_to_end(&mut got).await.unwrap();
        writer.await.unwrap();
        assert!(got == want, "{} of {} bytes", got.len(), want.len());
    }
}
