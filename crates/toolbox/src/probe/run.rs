//! Doing a plan: how often, how many at a time, until when.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::failure::{Failure, Phase};
use super::outcome::{Outcome, Result as Answered};
use super::plan::{CONCURRENCY_MAX, Plan, Target};
use super::{http, raw};
use crate::resolver::Resolver;

/// Outcomes that wait to be written; more make the requests wait.
const OUTCOMES_MAX: usize = 1024;

/// What all workers of a plan share.
struct Work {
    plan: Plan,
    target: Result<Prepared, Failure>,
    resolver: Resolver,
    next: AtomicU64,
    begin: Instant,
    stop: CancellationToken,
}

enum Prepared {
    Http(Box<http::Prepared>),
    Other,
}

/// Starts the plan in this network namespace. The receiver ends when the plan does. `stop` ends it early: no further request is
/// started, those under way are finished.
pub fn run(plan: Plan, stop: CancellationToken) -> mpsc::Receiver<Outcome> {
    let (outcomes, receiver) = mpsc::channel(OUTCOMES_MAX);
    let target = match &plan.target {
        Target::Http(target) => http::prepare(target).map(|prepared| Prepared::Http(Box::new(prepared))),
        Target::Tcp(_) | Target::Udp(_) | Target::Resolve(_) => Ok(Prepared::Other),
    };
    let resolver = Resolver::read(&plan.resolver);
    let concurrency = plan.pace.concurrency.clamp(1, CONCURRENCY_MAX);
    let work =
        Arc::new(Work { plan, target, resolver, next: AtomicU64::new(0), begin: Instant::now(), stop });
    tokio::spawn(async move {
        let mut workers = JoinSet::new();
        for _ in 0..concurrency {
            workers.spawn(worker(work.clone(), outcomes.clone()));
        }
        while workers.join_next().await.is_some() {}
    });
    receiver
}

/// One request after the other; the workers share the numbering, and through it the pace.
async fn worker(work: Arc<Work>, outcomes: mpsc::Sender<Outcome>) {
    let mut connection = None;
    loop {
        let Some(sequence) = work.claim() else { return };
        if let Some(due) = work.due(sequence) {
            let due = tokio::time::Instant::from_std(due);
            if work.stop.run_until_cancelled(tokio::time::sleep_until(due)).await.is_none() {
                return;
            }
        }
        let outcome = work.once(sequence, &mut connection).await;
        if outcomes.send(outcome).await.is_err() {
            return;
        }
    }
}

impl Work {
    /// The number of the next request, unless a limit is met.
    fn claim(&self) -> Option<u64> {
        let pace = &self.plan.pace;
        let over = pace.duration_ms.is_some_and(|limit| self.begin.elapsed() >= Duration::from_millis(limit));
        if over || self.stop.is_cancelled() {
            return None;
        }
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        pace.count.is_none_or(|count| sequence < count).then_some(sequence)
    }

    /// When a request of an even pace starts.
    fn due(&self, sequence: u64) -> Option<Instant> {
        let rate = f64::from(self.plan.pace.rate_per_second.filter(|&rate| rate > 0)?);
        self.begin.checked_add(Duration::try_from_secs_f64(sequence as f64 / rate).ok()?)
    }

    async fn once(&self, sequence: u64, connection: &mut Option<http::Connected>) -> Outcome {
        let started_us = micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let begin = Instant::now();
        let (mut address, mut phase) = (None, Phase::Resolve);
        let limit = Duration::from_millis(self.plan.timeout_ms);
        let asked = self.ask(connection, begin, &mut address, &mut phase);
        let result = match tokio::time::timeout(limit, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(failure)) => Answered::Failed(failure),
            Err(_) => Answered::Failed(Failure::timed_out(phase)),
        };
        if matches!(result, Answered::Failed(_)) {
            *connection = None;
        }
        Outcome { sequence, started_us, latency_us: micros(begin.elapsed()), address, result }
    }

    async fn ask(
        &self,
        connection: &mut Option<http::Connected>,
        begin: Instant,
        address: &mut Option<SocketAddr>,
        phase: &mut Phase,
    ) -> Result<Answered, Failure> {
        let prepared = self.target.as_ref().map_err(Clone::clone)?;
        match (&self.plan.target, prepared) {
            (Target::Http(target), Prepared::Http(prepared)) => {
                let reused = connection.take().filter(http::Connected::is_open);
                let mut connected = match reused {
                    Some(open) => open,
                    None => prepared.connect(&self.resolver, address, phase).await?,
                };
                *address = Some(connected.address);
                let answer = prepared.ask(&mut connected, begin, phase).await?;
                *connection = target.reuse_connection.then_some(connected);
                Ok(Answered::Http(Box::new(answer)))
            }
            (Target::Tcp(target), _) => {
                raw::tcp(target, &self.resolver, address, phase).await.map(Answered::Raw)
            }
            (Target::Udp(target), _) => {
                raw::udp(target, &self.resolver, address, phase).await.map(Answered::Raw)
            }
            (Target::Resolve(target), _) => {
                let resolver = match target.server {
                    Some(server) => self.resolver.clone().with_server(server),
                    None => self.resolver.clone(),
                };
                Ok(Answered::Dns(resolver.lookup_text(&target.name, &target.record_type).await?))
            }
            (Target::Http(_), Prepared::Other) => Err(Failure::invalid("not an HTTP target")),
        }
    }
}

/// Whole microseconds.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
