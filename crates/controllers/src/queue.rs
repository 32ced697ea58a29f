//! The work queue: each key once, never twice at the same time, with back-off for what fails.
//!
//! Pure: the caller says what time it is and waits as [`Queue::next_due`] says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// First wait after a failure; doubles up to [`BACKOFF_MAX`].
pub const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// Longest wait between two attempts on one key.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How work on a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Done,
    /// As it should be until then.
    DoneUntil(Duration),
    /// To be tried again, later and later.
    Failed,
}

/// See the module. It holds at most one entry a key, so it is as bounded as the keys are.
#[derive(Debug)]
pub struct Queue<T> {
    ready: VecDeque<T>,
    queued: BTreeSet<T>,
    active: BTreeSet<T>,
    waiting: BTreeSet<(Instant, T)>,
    due: BTreeMap<T, Instant>,
    failures: BTreeMap<T, u32>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            queued: BTreeSet::new(),
            active: BTreeSet::new(),
            waiting: BTreeSet::new(),
            due: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }
}

impl<T: Ord + Clone> Queue<T> {
    /// Something happened to `key`. If it waits for its turn already, nothing changes; if it is being worked on, it gets another
    /// turn afterwards. A key that waits after a failure gets its turn now: what changed may be what was missing.
    pub fn add(&mut self, key: T) {
        self.cancel(&key);
        if self.queued.insert(key.clone()) && !self.active.contains(&key) {
            self.ready.push_back(key);
        }
    }

    /// The next key to work on; [`Queue::finish`] must follow.
    pub fn take(&mut self, now: Instant) -> Option<T> {
        while let Some((_, key)) = self.waiting.first().filter(|(due, _)| *due <= now).cloned() {
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.active.insert(key.clone());
        Some(key)
    }

    /// Work on `key` ended.
    pub fn finish(&mut self, key: T, outcome: Outcome, now: Instant) {
        self.active.remove(&key);
        let again = self.queued.contains(&key);
        let wait = match outcome {
            Outcome::Done => {
                self.failures.remove(&key);
                None
            }
            Outcome::DoneUntil(wait) => {
                self.failures.remove(&key);
                Some(wait)
            }
            Outcome::Failed => {
                let failures = self.failures.entry(key.clone()).or_default();
                let wait = BACKOFF_MIN.saturating_mul(1 << (*failures).min(12)).min(BACKOFF_MAX);
                *failures = failures.saturating_add(1);
                Some(wait)
            }
        };
        match (again, wait) {
            // A conflict is told by an event that arrived meanwhile: try with that at once, but only the first few times.
            (true, Some(wait)) if outcome == Outcome::Failed && wait > BACKOFF_MIN.saturating_mul(8) => {
                self.queued.remove(&key);
                self.wait(key, now + wait);
            }
            (true, _) => self.ready.push_back(key),
            (false, Some(wait)) => self.wait(key, now + wait),
            (false, None) => {}
        }
    }

    /// When [`Queue::take`] has something again without [`Queue::add`].
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    fn wait(&mut self, key: T, due: Instant) {
        self.cancel(&key);
        self.due.insert(key.clone(), due);
        self.waiting.insert((due, key));
    }

    fn cancel(&mut self, key: &T) {
        if let Some(due) = self.due.remove(key) {
            self.waiting.remove(&(due, key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_is_one_turn_and_an_event_during_work_is_another() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add("a");
        queue.add("b");
        queue.add("a");
        assert_eq!(queue.take(now), Some("a"));
        queue.add("a");
        assert_eq!((queue.take(now), queue.take(now)), (Some("b"), None));
        queue.finish("a", Outcome::Done, now);
        assert_eq!(queue.take(now), Some("a"));
        queue.finish("a", Outcome::Done, now);
        assert_eq!((queue.take(now), queue.next_due()), (None, None));
    }

    #[test]
    fn failures_wait_longer_and_longer_and_success_forgets_them() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..16 {
            assert_eq!(queue.take(now), Some("a"));
            queue.finish("a", Outcome::Failed, now);
            let due = queue.next_due().unwrap();
            waits.push(due - now);
            assert_eq!(queue.take(now), None);
            now = due;
        }
        assert_eq!((waits[0], waits[1], waits[15]), (at(10), at(20), BACKOFF_MAX));
        assert_eq!(queue.take(now), Some("a"));
        queue.finish("a", Outcome::Done, now);
        queue.add("a");
        queue.take(now);
        queue.finish("a", Outcome::Failed, now);
        assert_eq!(queue.next_due(), Some(now + at(10)));
    }

    #[test]
    fn an_event_cuts_a_wait_short_and_what_is_due_comes_by_itself() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add("a");
        queue.take(now);
        queue.finish("a", Outcome::DoneUntil(at(500)), now);
        assert_eq!(queue.take(now + at(499)), None);
        queue.add("a");
        assert_eq!(queue.take(now), Some("a"));
        queue.finish("a", Outcome::DoneUntil(at(500)), now);
        assert_eq!(queue.take(now + at(500)), Some("a"));
    }

    #[test]
    fn events_of_its_own_failures_do_not_make_a_hot_loop() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.add("a");
        let mut turns = 0;
        let end = now + Duration::from_secs(10);
        while now < end {
            while let Some(key) = queue.take(now) {
                turns += 1;
                // Reporting the failure is itself an event.
                if turns % 2 == 0 {
                    now += at(1);
                }
                queue.add(key);
                queue.finish(key, Outcome::Failed, now);
            }
            now = queue.next_due().unwrap();
        }
        assert!(turns < 30, "{turns} turns in 10 s");
    }
}
