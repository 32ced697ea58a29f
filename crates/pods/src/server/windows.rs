//! How much a SPDY client lets us send (clause 2.6.8).
//!
//! The library that kubectl is built with neither counts windows nor ever makes room in one, so a server that insists on them stops for
//! good after 64 KiB. A client that does count says so with its settings or its first WINDOW_UPDATE; from then on it is obeyed. One that
//! does not is slowed down by its connection alone.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::spdy::{StreamId, WINDOW_BYTES};

/// Room in one window.
#[derive(Clone, Debug)]
struct Window(Arc<Semaphore>);

impl Window {
    /// As much as a peer could ever take that does not count.
    fn unlimited() -> Self {
        Self(Arc::new(Semaphore::new(Semaphore::MAX_PERMITS / 2)))
    }

    fn shrink_to(&self, bytes: u32) {
        let left = self.0.available_permits();
        self.0.forget_permits(left.saturating_sub(bytes as usize));
    }

    fn grow(&self, bytes: u32) {
        let room = (Semaphore::MAX_PERMITS / 2).saturating_sub(self.0.available_permits());
        self.0.add_permits(room.min(bytes as usize));
    }
}

/// Room on one stream, which shares the room of the connection.
#[derive(Clone, Debug)]
pub(super) struct Credit {
    stream: Window,
    all: Window,
}

impl Credit {
    /// Waits until something may be sent, and says how much of `wanted` bytes; 0 when the stream is over. Nothing is taken when it is
    /// given up half-way.
    pub(super) async fn take(&self, wanted: usize) -> usize {
        let (Ok(one), Ok(of_all)) = (self.stream.0.acquire().await, self.all.0.acquire().await) else {
            return 0;
        };
        let room = self.stream.0.available_permits().min(self.all.0.available_permits());
        let more = u32::try_from(room.min(wanted.saturating_sub(1))).unwrap_or(u32::MAX);
        one.forget();
        of_all.forget();
        // Another stream may be faster with the room that all share; then the byte that is sure has to do.
        let Ok(of_all) = self.all.0.try_acquire_many(more) else { return 1 };
        let Ok(of_stream) = self.stream.0.try_acquire_many(more) else { return 1 };
        of_all.forget();
        of_stream.forget();
        more as usize + 1
    }
}

/// The windows of one client.
#[derive(Debug)]
pub(super) struct Windows {
    all: Window,
    streams: HashMap<StreamId, Window>,
    /// Of new streams, once the client counts.
    initial_bytes: Option<u32>,
    all_counted: bool,
}

impl Default for Windows {
    fn default() -> Self {
        Self { all: Window::unlimited(), streams: HashMap::new(), initial_bytes: None, all_counted: false }
    }
}

impl Windows {
    /// A stream begins.
    pub(super) fn open(&mut self, stream: StreamId) -> Credit {
        let window = Window::unlimited();
        if let Some(bytes) = self.initial_bytes {
            window.shrink_to(bytes);
        }
        self.streams.insert(stream, window.clone());
        Credit { stream: window, all: self.all.clone() }
    }

    /// A stream is over; who waits for room on it waits no longer.
    pub(super) fn close(&mut self, stream: StreamId) {
        if let Some(window) = self.streams.remove(&stream) {
            window.0.close();
        }
    }

    /// The client said how much fits into the window of a stream.
    pub(super) fn initial(&mut self, bytes: u32) {
        self.initial_bytes = Some(bytes);
        for window in self.streams.values() {
            window.shrink_to(bytes);
        }
    }

    /// The client made room on a stream; 0 is all of them.
    pub(super) fn grow(&mut self, stream: StreamId, bytes: u32) {
        if stream == 0 {
            if !std::mem::replace(&mut self.all_counted, true) {
                self.all.shrink_to(WINDOW_BYTES);
            }
            return self.all.grow(bytes);
        }
        if self.initial_bytes.is_none() {
            self.initial(WINDOW_BYTES);
        }
        if let Some(window) = self.streams.get(&stream) {
            window.grow(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_count_gets_all_there_is() {
        let credit = Windows::default().open(1);
        for _ in 0..100 {
            assert_eq!(credit.take(1 << 20).await, 1 << 20);
        }
    }

    #[tokio::test]
    async fn a_client_that_counts_is_obeyed() {
        let mut windows = Windows::default();
        windows.initial(10);
        let credit = windows.open(1);
        assert_eq!(credit.take(7).await, 7);
        assert_eq!(credit.take(7).await, 3);
        assert_eq!(credit.take(7).now_or_never(), None, "no room is left");
        windows.grow(1, 5);
        assert_eq!(credit.take(7).await, 5);
        windows.grow(0, 1);
        windows.grow(1, 100_000);
        assert_eq!(
            credit.take(100_000).await,
            WINDOW_BYTES as usize + 1,
            "what all streams share is counted, too"
        );
        assert_eq!(credit.take(1).now_or_never(), None);
        windows.grow(0, 50_000);
        assert_eq!(
            credit.take(100_000).await,
            100_000 - WINDOW_BYTES as usize - 1,
            "nothing is lost of the stream's own"
        );
        assert_eq!(credit.take(1).now_or_never(), None);
        windows.close(1);
        assert_eq!(credit.take(1).await, 0, "a stream that is over waits for nothing");
    }
}
