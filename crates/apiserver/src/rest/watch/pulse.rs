//! Whether the clients of open watches read. A watch has no queue that could overflow: it falls behind in the log. But one whose client has
//! stopped reading holds a connection, and at the end of history it has lost events; it is hung up on, so that the client starts anew.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::store::Log;

/// How long a client may not take what it is sent.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Between two looks.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// The state of one watch that others may look at.
pub(crate) struct Pulse {
    began: Instant,
    /// When the last piece was handed to the connection, in milliseconds after `began` and plus one; 0 while the watch waits for events.
    handed_over: AtomicU64,
    /// The position in the log.
    at: AtomicU64,
    log: Arc<Log>,
    hang_up: CancellationToken,
}

impl Pulse {
    /// The connection has room again: it asks for the next piece.
    pub(super) fn asked(&self) {
        self.handed_over.store(0, Ordering::Relaxed);
    }

    /// The connection has something to send.
    pub(super) fn handed_over(&self, at: u64) {
        self.at.store(at, Ordering::Relaxed);
        self.handed_over.store(self.now_ms() + 1, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// Why this watch is to be ended, if it is.
    fn lost(&self, now_ms: u64) -> Option<&'static str> {
        let since = self.handed_over.load(Ordering::Relaxed).checked_sub(1)?;
        if u128::from(now_ms.saturating_sub(since)) >= STALL_MAX.as_millis() {
            return Some("its client has not read for too long");
        }
        let lost = self.log.after(self.at.load(Ordering::Relaxed), 0).is_err();
        lost.then_some("its client has not read, and what it would read next is no longer kept")
    }
}

/// Every open watch.
#[derive(Default)]
pub(crate) struct Pulses {
    open: Mutex<Vec<Weak<Pulse>>>,
    dropped: AtomicU64,
}

impl Pulses {
    /// One watch more; `hang_up` ends its connection.
    pub(super) fn begin(&self, log: Arc<Log>, hang_up: CancellationToken) -> Arc<Pulse> {
        let (handed_over, at) = (AtomicU64::new(0), AtomicU64::new(0));
        let pulse = Arc::new(Pulse { began: Instant::now(), handed_over, at, log, hang_up });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&pulse));
        pulse
    }

    /// Watches that were hung up on.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Hangs up on clients that do not read, and forgets watches that ended.
    pub(crate) fn look(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|pulse| {
            let Some(pulse) = pulse.upgrade() else { return false };
            let Some(reason) = pulse.lost(pulse.now_ms()) else { return true };
            tracing::warn!(reason, "hung up on a watch");
            self.dropped.fetch_add(1, Ordering::Relaxed);
            pulse.hang_up.cancel();
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::store::{Collection, Store};

    #[tokio::test]
    async fn only_a_client_that_does_not_take_what_it_is_sent_is_lost() {
        let directory = TempDir::new().unwrap();
        let log = Store::open(directory.path()).unwrap().log(&Collection::new("", "pods"));
        let pulses = Pulses::default();
        let hang_up = CancellationToken::new();
        let pulse = pulses.begin(log, hang_up.clone());
        let late = u64::try_from(STALL_MAX.as_millis()).unwrap() + 1;
        assert_eq!(pulse.lost(late * 10), None, "nothing to send");
        pulse.handed_over(7);
        assert_eq!(pulse.lost(0), None, "just handed over");
        assert!(pulse.lost(late).is_some_and(|reason| reason.contains("too long")));
        pulse.asked();
        assert_eq!(pulse.lost(late * 10), None);
        pulses.look();
        assert_eq!((pulses.dropped(), hang_up.is_cancelled()), (0, false));
        drop(pulse);
        pulses.look();
        assert!(pulses.open.lock().unwrap().is_empty());
    }
}
