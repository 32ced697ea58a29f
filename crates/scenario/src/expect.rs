//! What has to come of a step, and whether it did. Pure: outcomes in, mismatches out.

mod command;
mod latency;
mod loops;
mod matcher;
mod pods;
mod probe;

pub(crate) use command::excerpt;
pub use command::{CommandExpect, CommandResult};
pub use latency::LatencyExpect;
pub use loops::{Tolerance, Window, without_tolerated};
pub use matcher::{Matcher, at_path};
pub use pods::PodsExpect;
pub use probe::{ProbeExpect, judge};

/// One way in which what came is not what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// What was expected.
    pub expected: String,
    /// What came.
    pub found: String,
}

impl Mismatch {
    /// A mismatch.
    pub fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { expected: expected.into(), found: found.into() }
    }
}

/// Why an expectation makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpectError {
    /// A value that is not understood.
    #[error("expect.{field}: {given} is not {expected}")]
    Value {
        /// The field.
        field: String,
        /// What was written.
        given: String,
        /// What could have been.
        expected: String,
    },
    /// A regular expression that is none.
    #[error("expect.{field}: {detail}")]
    Regex {
        /// The field.
        field: String,
        /// What the regex crate says.
        detail: String,
    },
}

impl ExpectError {
    fn value(field: impl Into<String>, given: impl ToString, expected: impl Into<String>) -> Self {
        Self::Value { field: field.into(), given: given.to_string(), expected: expected.into() }
    }
}
