//! What to do next with a pod: a pure function of its object, what is known of its containers, and the time.
//!
//! The shell ([`crate::agent`]) carries the actions out, folds what happened into [`Observed`] with the transitions below, and asks again.

mod decide;
mod policy;
mod rejection;

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

pub(crate) use decide::{InitProgress, grace_left, init_progress, is_complete, reconcile, was_touched};
pub(crate) use policy::{
    Part, RestartPolicy, common, crash_delay, ephemeral_names, find, init_containers, later, pull_delay,
    restart_policy, restarts, setup_delay, sidecars,
};
pub(crate) use rejection::{failure, rejection};

/// The pod's own namespaces and its PID 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// Not there (yet, or PID 1 died); may be tried from that time on.
    Absent { retry_at: Option<Timestamp> },
    /// Being made.
    Starting,
    /// Containers can be started.
    Ready,
    /// Being taken down.
    Removing,
    /// Everything of it is gone.
    Removed,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub exit_code: i32,
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    pub message: Option<String>,
    /// Which attempt it was.
    pub attempt: u32,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not started; the reason is shown to the user.
    Waiting { reason: &'static str, message: Option<String>, retry_at: Option<Timestamp> },
    /// A start is under way.
    Starting,
    /// It runs.
    Running { started_at: Timestamp },
    /// It runs and was told to stop.
    Stopping { started_at: Timestamp },
    /// It does not run any more.
    Ended(Ended),
}

/// What is known of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    pub state: State,
    /// The restart count: the number of the attempt that `state` is about.
    pub attempt: u32,
    /// The attempt before.
    pub last: Option<Ended>,
    /// Starts in a row that count for the delay of the next.
    pub crashes: u32,
    /// Failed image look-ups in a row.
    pub pull_failures: u32,
    /// Other attempts in a row that did not come to a start.
    pub setup_failures: u32,
    /// Its postStart hook is under way: it does not count as running yet, and the containers after it wait.
    pub hook_pending: bool,
    /// The startup probe passed (or there is none). Meaningful while running.
    pub started: bool,
    /// The readiness probe says so (or there is none). Meaningful while running.
    pub ready: bool,
    /// A probe asks for the container's end, with that message and grace.
    pub unhealthy: Option<Unhealthy>,
    /// The image that runs.
    pub image_id: String,
}

/// A failed liveness or startup probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unhealthy {
    /// For the event.
    pub message: String,
    /// The probe's own terminationGracePeriodSeconds.
    pub grace_secs: Option<i64>,
}

/// What is known of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    pub sandbox: Sandbox,
    /// Containers of all three lists by name (names are unique over them).
    pub containers: BTreeMap<String, Observation>,
    /// All init containers were through in this sandbox.
    pub initialized: bool,
    /// This node stopped the pod for good.
    pub failure: Option<PodFailure>,
    /// The object is gone from the API server.
    pub gone: bool,
    /// Its address.
    pub ip: Option<IpAddr>,
    /// When this node took it.
    pub start_time: Timestamp,
}

/// Why a pod failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFailure {
    /// `DeadlineExceeded`, `Evicted`, `SysctlForbidden`.
    pub reason: String,
    pub message: String,
}

/// Why a container is stopped; for the event and for what comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    Deleted,
    Unhealthy(String),
    /// The pod failed as a whole.
    Failed,
    /// Sidecars when the pod's own containers are done.
    Finished,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    StartSandbox,
    StartContainer {
        name: String,
        attempt: u32,
    },
    StopContainer {
        name: String,
        grace: SignedDuration,
        reason: StopReason,
    },
    RemoveSandbox,
    /// Nothing of the pod is left here: the object can go.
    Finish,
}

/// Actions, and when to ask again if nothing happens before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub actions: Vec<Action>,
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    /// Whether that time has come; when not, it is a time to wake.
    fn due(&mut self, at: Option<Timestamp>, now: Timestamp) -> bool {
        match at {
            Some(at) if at > now => {
                self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
                false
            }
            _ => true,
        }
    }
}

impl Observation {
    /// A container that was never started.
    pub(crate) fn new(waiting: &'static str) -> Self {
        Self {
            state: State::Waiting { reason: waiting, message: None, retry_at: None },
            attempt: 0,
            last: None,
            crashes: 0,
            pull_failures: 0,
            setup_failures: 0,
            hook_pending: false,
            started: false,
            ready: false,
            unhealthy: None,
            image_id: String::new(),
        }
    }

    /// An attempt begins.
    pub(crate) fn begin(&mut self, attempt: u32) {
        if let State::Ended(ended) = &self.state {
            self.crashes = if policy::ran_long(ended) { 1 } else { self.crashes.saturating_add(1) };
            self.last = Some(ended.clone());
        }
        self.attempt = attempt;
        self.state = State::Starting;
        self.unhealthy = None;
        self.hook_pending = false;
        (self.started, self.ready) = (false, false);
    }

    /// The attempt runs; the flags say whether it has no probes to wait for.
    pub(crate) fn run(&mut self, started_at: Timestamp, started: bool, ready: bool) {
        self.state = State::Running { started_at };
        (self.pull_failures, self.setup_failures) = (0, 0);
        (self.started, self.ready) = (started, ready);
    }

    /// The attempt is over.
    pub(crate) fn end(&mut self, ended: Ended) {
        self.attempt = ended.attempt;
        self.state = State::Ended(ended);
        (self.started, self.ready) = (false, false);
        self.unhealthy = None;
        self.hook_pending = false;
    }

    /// An init container that was through runs again, in a new sandbox.
    pub(crate) fn run_again(&mut self) {
        if let State::Ended(ended) = &self.state {
            self.last = Some(ended.clone());
            self.attempt = self.attempt.saturating_add(1);
            self.state = State::Waiting { reason: "PodInitializing", message: None, retry_at: None };
        }
    }

    /// The attempt did not come to a start.
    pub(crate) fn wait(&mut self, reason: &'static str, message: String, retry_at: Timestamp) {
        self.state = State::Waiting { reason, message: Some(message), retry_at: Some(retry_at) };
    }

    /// Whether there is a process.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Stopping { .. })
    }

    /// When an ended container may start again.
    pub(crate) fn restart_at(&self, ended: &Ended) -> Timestamp {
        let crashes = if policy::ran_long(ended) { 0 } else { self.crashes };
        later(ended.finished_at, crash_delay(crashes))
    }
}

#[cfg(test)]
mod tests;
