//! Background requests: what they may meet while something is being broken on purpose.

use std::time::Duration;

use fairway_toolbox::probe::{FailureClass, Outcome, Result as Answered};
use serde::de::IntoDeserializer;
use serde::{Deserialize, de};

use super::ExpectError;

/// What background requests may meet from some moment on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tolerance {
    /// Failures that are fine.
    pub errors: Vec<FailureClass>,
    /// HTTP statuses that are fine.
    pub statuses: Vec<u16>,
    /// … if they come so soon.
    pub within: Option<Duration>,
}

impl Tolerance {
    pub(crate) fn parse(
        errors: &[String],
        statuses: &[u16],
        within: Option<Duration>,
    ) -> Result<Self, ExpectError> {
        let errors = errors.iter().map(|name| class(name)).collect::<Result<_, _>>()?;
        Ok(Self { errors, statuses: statuses.to_vec(), within })
    }

    fn accepts(&self, outcome: &Outcome) -> bool {
        let soon = self.within.is_none_or(|limit| u128::from(outcome.latency_us) <= limit.as_micros());
        soon && match &outcome.result {
            Answered::Failed(failure) => self.errors.contains(&failure.class),
            Answered::Http(answer) => self.statuses.contains(&answer.status),
            Answered::Raw(_) | Answered::Dns(_) => false,
        }
    }
}

/// The name of a class of failures, as reports and files have it.
pub(crate) fn class(name: &str) -> Result<FailureClass, ExpectError> {
    let parsed: Result<FailureClass, de::value::Error> = FailureClass::deserialize(name.into_deserializer());
    let known = "refused, timed-out, reset, unreachable, no-name, dns-failed, tls, protocol or invalid";
    parsed.map_err(|_| ExpectError::value("error", name, known))
}

/// The name of a class of failures.
pub(crate) fn class_name(class: FailureClass) -> String {
    serde_json::to_value(class).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A tolerance and the time that it holds for, in microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// From here …
    pub from_us: u64,
    /// … up to the begin of the next one.
    pub to_us: u64,
    /// What is fine.
    pub tolerance: Tolerance,
}

/// The outcomes that have to be judged: all but those that were under way within a window and met what it tolerates.
pub fn without_tolerated(outcomes: &[Outcome], windows: &[Window]) -> Vec<Outcome> {
    let excused = |outcome: &Outcome| {
        let end_us = outcome.started_us.saturating_add(outcome.latency_us);
        windows.iter().any(|window| {
            outcome.started_us < window.to_us && end_us >= window.from_us && window.tolerance.accepts(outcome)
        })
    };
    outcomes.iter().filter(|outcome| !excused(outcome)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use fairway_toolbox::probe::{Failure, Phase};

    use super::*;

    fn failed(started_us: u64, latency_us: u64, class: FailureClass) -> Outcome {
        let failure = Failure { class, phase: Phase::Connect, detail: String::new() };
        Outcome { sequence: 0, started_us, latency_us, address: None, result: Answered::Failed(failure) }
    }

    #[test]
    fn only_what_a_window_tolerates_is_excused() {
        let tolerance = Tolerance {
            errors: vec![FailureClass::Refused],
            statuses: vec![],
            within: Some(Duration::from_micros(50)),
        };
        let windows = [Window { from_us: 100, to_us: 200, tolerance }];
        let cases = [
            ("before", failed(10, 20, FailureClass::Refused), false),
            ("reaches into it", failed(90, 20, FailureClass::Refused), true),
            ("inside", failed(150, 20, FailureClass::Refused), true),
            ("inside, too late", failed(150, 60, FailureClass::Refused), false),
            ("inside, another failure", failed(150, 20, FailureClass::TimedOut), false),
            ("reaches out of it", failed(199, 20, FailureClass::Refused), true),
            ("after", failed(200, 20, FailureClass::Refused), false),
        ];
        for (name, outcome, excused) in cases {
            assert_eq!(without_tolerated(&[outcome], &windows).is_empty(), excused, "{name}");
        }
    }

    #[test]
    fn classes_are_known_by_the_names_that_reports_show() {
        for name in [
            "refused",
            "timed-out",
            "reset",
            "unreachable",
            "no-name",
            "dns-failed",
            "tls",
            "protocol",
            "invalid",
        ] {
            assert_eq!(class_name(class(name).unwrap()), name);
        }
        assert!(class("timeout").is_err());
    }
}
