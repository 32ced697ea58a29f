//! Stopping, with its three parts kept apart: the [`Trigger`] says "stop", a [`Shutdown`] is waited on by tasks that must end, and
//! a [`Hold`] keeps the process open while work that must not be cut (requests under way) is finished.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Says "stop" once, then waits for the holds.
#[derive(Debug)]
pub struct Trigger {
    token: CancellationToken,
    holds: TaskTracker,
}

/// Waits for "stop". Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown {
    token: CancellationToken,
    holds: TaskTracker,
}

/// Keeps [`Trigger::stop`] waiting until it is dropped.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "held for its Drop")] TaskTrackerToken);

/// A trigger and what waits on it.
pub fn channel() -> (Trigger, Shutdown) {
    let token = CancellationToken::new();
    let holds = TaskTracker::new();
    (Trigger { token: token.clone(), holds: holds.clone() }, Shutdown { token, holds })
}

impl Trigger {
    /// Tells every [`Shutdown`] and waits until no [`Hold`] is left or `grace` is over; false when holds were left.
    pub async fn stop(self, grace: std::time::Duration) -> bool {
        self.token.cancel();
        self.holds.close();
        tokio::time::timeout(grace, self.holds.wait()).await.is_ok()
    }
}

impl Shutdown {
    /// Ready when "stop" was said.
    pub fn requested(&self) -> impl Future<Output = ()> + Send + 'static {
        self.token.clone().cancelled_owned()
    }

    /// Whether "stop" was said already.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Work that [`Trigger::stop`] waits for.
    pub fn hold(&self) -> Hold {
        Hold(self.holds.token())
    }

    /// The future's result, or `None` when "stop" came first; the future is then dropped.
    pub async fn unless_requested<F: Future>(&self, work: F) -> Option<F::Output> {
        self.token.run_until_cancelled(work).await
    }
}

/// A shutdown that SIGTERM or SIGINT requests; the trigger fires by itself.
pub fn on_signals() -> std::io::Result<Shutdown> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (trigger, shutdown) = channel();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        trigger.token.cancel();
    });
    Ok(shutdown)
}
