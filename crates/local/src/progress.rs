//! What happens while a cluster starts, runs and stops, as events. The command line prints them; a detached supervisor sends them to
//! its parent as JSON, one a line.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Something that a user waiting at the terminal wants to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the command began.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The kinds of [`Event`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum EventKind {
    /// A step is done.
    Done {
        /// The step, in words.
        step: String,
    },
    /// Leftovers of a run that did not end well were removed.
    Cleaned {
        /// What, in words.
        what: String,
    },
    /// A role ended by itself and is started again.
    Restarted {
        /// Which role, as in the name of its log.
        role: String,
        /// How it ended.
        reason: String,
        /// After how many milliseconds it is started again.
        after_ms: u64,
    },
    /// Everything is up.
    Ready(Summary),
    /// Something that makes a part of the cluster not work as expected.
    Warning {
        /// What, and what to do.
        text: String,
    },
    /// Stopping began.
    Stopping,
    /// Everything was removed.
    Stopped,
    /// It could not be started; nothing is left.
    Failed {
        /// One a problem.
        problems: Vec<String>,
    },
}

/// What to use the cluster with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The cluster.
    pub name: String,
    /// The API server's URL.
    pub api: String,
    /// The administrator's kubeconfig.
    pub kubeconfig: String,
    /// Node names and addresses.
    pub nodes: Vec<(String, String)>,
    /// The address of cluster DNS.
    pub dns: String,
    /// The load-balancer address of the gateway, once it has one.
    pub gateway: Option<String>,
}

/// Sends events to whoever waits. Cheap to clone.
#[derive(Clone)]
pub struct Reporter {
    since: Instant,
    sink: Arc<dyn Fn(Event) + Send + Sync>,
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter").field("since", &self.since).finish_non_exhaustive()
    }
}

impl Reporter {
    /// Times count from now.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { since: Instant::now(), sink: Arc::new(sink) }
    }

    /// Writes each event as a line of JSON to standard output: for [`crate::up_detached`]. When the reader is gone the lines are lost.
    pub fn json_lines() -> Self {
        Self::new(|event| {
            if let Ok(line) = serde_json::to_string(&event) {
                let mut output = std::io::stdout().lock();
                let _ = writeln!(output, "{line}").and_then(|()| output.flush());
            }
        })
    }

    /// Tells why the command failed: the last event of a supervisor that could not start.
    pub fn failed(&self, error: &Error) {
        self.report(EventKind::Failed { problems: error.problems() });
    }

    /// An event of another process, with its own time.
    pub(crate) fn pass_on(&self, event: Event) {
        (self.sink)(event);
    }

    pub(crate) fn report(&self, kind: EventKind) {
        let at_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        (self.sink)(Event { at_ms, kind });
    }

    pub(crate) fn done(&self, step: impl Into<String>) {
        self.report(EventKind::Done { step: step.into() });
    }
}
