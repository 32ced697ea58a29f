//! How long requests may take, all of them together.

use std::time::Duration;

use fairway_toolbox::duration;
use fairway_toolbox::probe::{Outcome, Result as Answered};

use super::{ExpectError, Mismatch};
use crate::document::raw;

/// How long it may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyExpect {
    min: Option<Duration>,
    p50: Option<Duration>,
    p99: Option<Duration>,
    max: Option<Duration>,
    first_chunk: Option<Duration>,
}

impl LatencyExpect {
    pub(super) fn parse(raw: &raw::Latency) -> Result<Self, ExpectError> {
        let time = |field: &str, text: &Option<String>| {
            let parsed = text.as_deref().map(duration::parse).transpose();
            parsed.map_err(|error| {
                let given = text.clone().unwrap_or_default();
                ExpectError::value(format!("latency.{field}"), given, error.to_string())
            })
        };
        Ok(Self {
            min: time("min", &raw.min)?,
            p50: time("p50", &raw.p50)?,
            p99: time("p99", &raw.p99)?,
            max: time("max", &raw.max)?,
            first_chunk: time("first_chunk", &raw.first_chunk)?,
        })
    }

    pub(super) fn judge(&self, outcomes: &[Outcome]) -> Vec<Mismatch> {
        let mut sorted: Vec<u64> = outcomes.iter().map(|outcome| outcome.latency_us).collect();
        sorted.sort_unstable();
        let at = |rank: usize| sorted.get(rank.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0);
        let first_chunks = outcomes.iter().filter_map(|outcome| match &outcome.result {
            Answered::Http(answer) => answer.first_chunk_us,
            Answered::Raw(_) | Answered::Dns(_) | Answered::Failed(_) => None,
        });
        let slowest_chunk = first_chunks.max().unwrap_or(0);
        let mut mismatches = Vec::new();
        let render = |us: u64| duration::render(Duration::from_micros(us));
        let mut bound = |name: &str, limit: Option<Duration>, us: u64, at_most: bool| {
            let Some(limit) = limit else { return };
            let took = Duration::from_micros(us);
            let (fine, word) = if at_most { (took <= limit, "most") } else { (took >= limit, "least") };
            if !fine {
                mismatches
                    .push(Mismatch::new(format!("{name} at {word} {}", duration::render(limit)), render(us)));
            }
        };
        bound("every latency", self.min, at(0), false);
        bound("half of the latencies", self.p50, at(sorted.len() / 2), true);
        bound("99% of the latencies", self.p99, at(sorted.len() * 99 / 100), true);
        bound("every latency", self.max, at(usize::MAX), true);
        bound("the first piece of the body after", self.first_chunk, slowest_chunk, true);
        mismatches
    }
}
