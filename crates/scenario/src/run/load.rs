//! Background requests: a probe that runs while other steps are done, and what its outcomes come to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fairway_toolbox::probe::{Outcome, Plan, Result as Answered};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::cluster::Cluster;
use super::origin::{Origin, OriginError};
use crate::expect::{Mismatch, ProbeExpect, Tolerance, Window, judge, without_tolerated};

/// Outcomes that one load may come to; at the default pace that is half an hour.
const OUTCOMES_MAX: usize = 100_000;
/// The most of each body that is kept.
const BODY_BYTES_MAX: usize = 4 << 10;

/// Requests in the background. Dropping it ends them.
pub(super) struct Load {
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    counts: watch::Receiver<Counts>,
    windows: Vec<Window>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), OriginError>>,
    timeout: Duration,
}

/// How far a load has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    answered: u64,
    failed: u64,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Load {
    /// Returns when the first outcome is there: what comes after this step meets requests under way.
    pub(super) async fn start(cluster: &Cluster, origin: &Origin, plan: &Plan) -> Result<Self, OriginError> {
        let mut running = origin.start(cluster, plan).await?;
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let (progress, counts) = watch::channel(Counts::default());
        let (stop, mut stopped) = oneshot::channel::<()>();
        let kept = outcomes.clone();
        let task = tokio::spawn(async move {
            let mut is_stopped = false;
            loop {
                let next = tokio::select! {
                    next = running.next() => next?,
                    _ = &mut stopped, if !is_stopped => {
                        is_stopped = true;
                        running.stop();
                        continue;
                    }
                };
                let Some(outcome) = next else { return Ok(()) };
                let failed = outcome.failure().is_some();
                let mut kept = lock(&kept);
                if kept.len() >= OUTCOMES_MAX {
                    let detail = format!("more than {OUTCOMES_MAX} requests in one load; lower its rate");
                    return Err(std::io::Error::other(detail).into());
                }
                kept.push(trimmed(outcome));
                drop(kept);
                progress.send_modify(|counts| {
                    let count = if failed { &mut counts.failed } else { &mut counts.answered };
                    *count += 1;
                });
            }
        });
        let timeout = Duration::from_millis(plan.timeout_ms);
        let mut load = Self { outcomes, counts, windows: Vec::new(), stop: Some(stop), task, timeout };
        load.observe(1, timeout + Duration::from_secs(5)).await?;
        Ok(load)
    }

    /// Waits for so many more outcomes of any kind.
    async fn observe(&mut self, outcomes: u64, within: Duration) -> Result<(), OriginError> {
        let reached = self.counts.wait_for(|counts| counts.answered + counts.failed >= outcomes);
        let reached = tokio::time::timeout(within, reached).await.map(|counts| counts.is_ok());
        match reached {
            Ok(true) => Ok(()),
            // The task has ended before: its own error says why.
            Ok(false) => match (&mut self.task).await {
                Ok(Err(error)) => Err(error),
                _ => Err(std::io::Error::other("the probe has ended by itself").into()),
            },
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }

    /// Waits until so many more were answered and so many more failed.
    pub(super) async fn go_on(
        &mut self,
        answered: u64,
        failed: u64,
        within: Duration,
    ) -> Result<(), Mismatch> {
        let begin = *self.counts.borrow();
        let reached = self.counts.wait_for(|counts| {
            counts.answered - begin.answered >= answered && counts.failed - begin.failed >= failed
        });
        let ended = match tokio::time::timeout(within, reached).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => "the probe has ended",
            Err(_) => "the time is over",
        };
        let now = *self.counts.borrow();
        let found = format!(
            "{} answered, {} failed: {ended}",
            now.answered - begin.answered,
            now.failed - begin.failed
        );
        Err(Mismatch::new(format!("{answered} more answered, {failed} more failed"), found))
    }

    /// From now on requests may meet this, and only this.
    pub(super) fn tolerate(&mut self, tolerance: Tolerance) {
        let now = now_us();
        if let Some(last) = self.windows.last_mut() {
            last.to_us = now;
        }
        self.windows.push(Window { from_us: now, to_us: u64::MAX, tolerance });
    }

    /// Ends the requests, waits for those under way, and judges all of them.
    pub(super) async fn finish(mut self, expect: &ProbeExpect) -> Result<Vec<Mismatch>, OriginError> {
        if let Some(stop) = self.stop.take() {
            // The task may have ended with an error, which comes next.
            let _ = stop.send(());
        }
        let limit = self.timeout + Duration::from_secs(10);
        let ended = tokio::time::timeout(limit, &mut self.task).await;
        let late = || std::io::Error::new(std::io::ErrorKind::TimedOut, "it did not end");
        ended.map_err(|_| late())?.map_err(std::io::Error::other)??;
        let mut outcomes = std::mem::take(&mut *lock(&self.outcomes));
        outcomes.sort_by_key(|outcome| outcome.sequence);
        let judged = without_tolerated(&outcomes, &self.windows);
        let mut mismatches = judge(expect, &judged);
        let excused = outcomes.len() - judged.len();
        if !mismatches.is_empty() {
            let note = format!("{} requests in all, {excused} of them tolerated", outcomes.len());
            mismatches.push(Mismatch::new("(of the whole load)", note));
        }
        Ok(mismatches)
    }
}

/// A panic elsewhere does not make outcomes worse.
fn lock(outcomes: &Mutex<Vec<Outcome>>) -> MutexGuard<'_, Vec<Outcome>> {
    outcomes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bodies are kept only as far as anybody looks at them.
fn trimmed(mut outcome: Outcome) -> Outcome {
    if let Answered::Http(answer) = &mut outcome.result
        && answer.body.len() > BODY_BYTES_MAX
    {
        let end = (0..=BODY_BYTES_MAX).rev().find(|&at| answer.body.is_char_boundary(at)).unwrap_or(0);
        answer.body.truncate(end);
    }
    outcome
}

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
