//! How long to wait before a dead role is started again: pure.

use std::time::Duration;

/// A run of at least this long was a success: what comes after it begins anew.
const SUCCESS_MIN: Duration = Duration::from_secs(10);
const WAIT_FIRST_MS: u64 = 100;
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The exits of one role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Restarts {
    in_a_row: u32,
}

impl Restarts {
    /// How often the role ended soon after its start, without a longer run in between.
    pub(super) fn in_a_row(self) -> u32 {
        self.in_a_row
    }

    /// The wait after a run of that length: none after the first exit, then 100 ms doubling to 10 s.
    pub(super) fn after_exit(&mut self, ran_for: Duration) -> Duration {
        self.in_a_row = if ran_for >= SUCCESS_MIN { 1 } else { self.in_a_row.saturating_add(1) };
        match self.in_a_row {
            0 | 1 => Duration::ZERO,
            more => Duration::from_millis(WAIT_FIRST_MS << (more - 2).min(10)).min(WAIT_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_then_waits_grow_to_a_limit_and_a_long_run_resets_them() {
        let mut restarts = Restarts::default();
        let short = Duration::from_millis(5);
        let waits: Vec<u128> = (0..10).map(|_| restarts.after_exit(short).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(restarts.in_a_row(), 10);
        assert_eq!(restarts.after_exit(SUCCESS_MIN), Duration::ZERO);
        assert_eq!(restarts.after_exit(short), Duration::from_millis(100));
    }
}
