//! What to do next with a pod: a pure function of its object, what is known of its containers, and the time.
//!
//! The shell ([`crate::agent`]) carries the actions out, folds what happened into [`Observed`] with the transitions below, and asks again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// First delay between two starts of a container that ends by itself; it doubles with every start.
const CRASH_DELAY_FIRST: SignedDuration = SignedDuration::from_secs(10);
/// The longest delay, for crashes and image pulls.
const DELAY_MAX: SignedDuration = SignedDuration::from_mins(5);
/// A container that ran this long starts with no delay again.
const CRASH_FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_mins(10);
/// Grace of pods whose object is gone already (deleted by force).
const GONE_GRACE: SignedDuration = SignedDuration::from_secs(1);
/// Grace when the object names none.
const GRACE_DEFAULT_SECS: i64 = 30;

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
    /// `Completed`, `Error`, `StartError`, `ContainerStatusUnknown`.
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
    /// Init containers and containers by name (names are unique over both).
    pub containers: BTreeMap<String, Observation>,
    /// The object is gone from the API server.
    pub gone: bool,
    /// Its address.
    pub ip: Option<IpAddr>,
    /// When this node took it.
    pub start_time: Timestamp,
}

/// Why a container is stopped; for the event and for what comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    Deleted,
    Unhealthy(String),
    DeadlineExceeded,
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
            started: false,
            ready: false,
            unhealthy: None,
            image_id: String::new(),
        }
    }

    /// An attempt begins.
    pub(crate) fn begin(&mut self, attempt: u32) {
        if let State::Ended(ended) = &self.state {
            self.crashes = if ran_long(ended) { 1 } else { self.crashes.saturating_add(1) };
            self.last = Some(ended.clone());
        }
        self.attempt = attempt;
        self.state = State::Starting;
        self.unhealthy = None;
        (self.started, self.ready) = (false, false);
    }

    /// The attempt runs; the flags say whether it has no probes to wait for.
    pub(crate) fn run(&mut self, started_at: Timestamp, started: bool, ready: bool) {
        self.state = State::Running { started_at };
        self.pull_failures = 0;
        (self.started, self.ready) = (started, ready);
    }

    /// The attempt is over.
    pub(crate) fn end(&mut self, ended: Ended) {
        self.attempt = ended.attempt;
        self.state = State::Ended(ended);
        (self.started, self.ready) = (false, false);
        self.unhealthy = None;
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
        let crashes = if ran_long(ended) { 0 } else { self.crashes };
        later(ended.finished_at, crash_delay(crashes))
    }
}

fn ran_long(ended: &Ended) -> bool {
    ended.finished_at.duration_since(ended.started_at) >= CRASH_FORGOTTEN_AFTER
}

/// No delay before the first restart, then 10 s, doubled up to five minutes.
pub(crate) fn crash_delay(crashes: u32) -> SignedDuration {
    match crashes {
        0 => SignedDuration::ZERO,
        n => doubled(CRASH_DELAY_FIRST, n - 1),
    }
}

/// The delay after that many failed image look-ups in a row.
pub(crate) fn pull_delay(failures: u32) -> SignedDuration {
    doubled(CRASH_DELAY_FIRST, failures.saturating_sub(1))
}

fn doubled(first: SignedDuration, times: u32) -> SignedDuration {
    first.checked_mul(1 << times.min(10)).map_or(DELAY_MAX, |delay| delay.min(DELAY_MAX))
}

/// A time that much later; the end of time when there is none.
pub(crate) fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Whether a container that ended like this is started again.
pub(crate) fn restarts(policy: RestartPolicy, exit_code: i32) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit_code != 0,
        RestartPolicy::Never => false,
    }
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// The policy of a pod.
pub(crate) fn restart_policy(spec: &PodSpec) -> RestartPolicy {
    match spec.restart_policy.as_deref() {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

/// An init container that keeps running beside the others (KEP-753).
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The init containers.
pub(crate) fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// Why a pod failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFailure {
    pub reason: &'static str,
    pub message: String,
}

/// `activeDeadlineSeconds`.
pub(crate) fn deadline(spec: &PodSpec, observed: &Observed) -> Option<Timestamp> {
    Some(later(observed.start_time, SignedDuration::from_secs(spec.active_deadline_seconds?)))
}

/// Whether the deadline has passed.
pub(crate) fn failure(spec: &PodSpec, observed: &Observed, now: Timestamp) -> Option<PodFailure> {
    deadline(spec, observed).filter(|at| *at <= now)?;
    let message = "Pod was active on the node longer than the specified deadline".to_owned();
    Some(PodFailure { reason: "DeadlineExceeded", message })
}

/// How far the init containers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InitProgress {
    /// All done: the pod's own containers may run.
    Done,
    /// Not yet.
    Running,
    /// One failed and is not restarted.
    Failed,
}

/// How far the init containers are. Once a container of the pod proper was started they count as done.
pub(crate) fn init_progress(spec: &PodSpec, observed: &Observed) -> InitProgress {
    let policy = restart_policy(spec);
    let touched = |container: &Container| {
        observed
            .containers
            .get(&container.name)
            .is_some_and(|seen| seen.attempt > 0 || !matches!(seen.state, State::Waiting { .. }))
    };
    if spec.containers.iter().any(touched) {
        return InitProgress::Done;
    }
    for container in init_containers(spec) {
        let Some(seen) = observed.containers.get(&container.name) else { return InitProgress::Running };
        match &seen.state {
            _ if is_sidecar(container) => {
                if !(seen.is_alive() && seen.started) {
                    return InitProgress::Running;
                }
            }
            State::Ended(ended) if ended.exit_code == 0 => {}
            State::Ended(_) if policy == RestartPolicy::Never => return InitProgress::Failed,
            _ => return InitProgress::Running,
        }
    }
    InitProgress::Done
}

/// Whether every container of the pod proper has ended for good.
pub(crate) fn is_complete(spec: &PodSpec, observed: &Observed) -> bool {
    let policy = restart_policy(spec);
    let over = |container: &Container| match observed.containers.get(&container.name).map(|seen| &seen.state)
    {
        Some(State::Ended(ended)) => !restarts(policy, ended.exit_code),
        _ => false,
    };
    init_progress(spec, observed) == InitProgress::Failed || spec.containers.iter().all(over)
}

/// The next actions. Asking again without anything having happened gives the same answer, so the shell marks what it began
/// (`Starting`, `Stopping`, `Removing`) before it asks again.
pub(crate) fn reconcile(pod: &Pod, observed: &Observed, now: Timestamp) -> Plan {
    let Some(spec) = &pod.spec else { return Plan::default() };
    let mut plan = Plan::default();
    if pod.metadata.deletion_timestamp.is_some() || observed.gone {
        take_down(pod, spec, observed, StopReason::Deleted, &mut plan);
        let empty = matches!(observed.sandbox, Sandbox::Removed | Sandbox::Absent { .. });
        if empty && plan.actions.is_empty() && !any_alive(observed) {
            plan.actions.push(Action::Finish);
        }
        return plan;
    }
    if failure(spec, observed, now).is_some() {
        take_down(pod, spec, observed, StopReason::DeadlineExceeded, &mut plan);
        return plan;
    }
    plan.due(deadline(spec, observed), now);
    if is_complete(spec, observed) {
        take_down(pod, spec, observed, StopReason::Finished, &mut plan);
        return plan;
    }
    match observed.sandbox {
        Sandbox::Absent { retry_at } => {
            if plan.due(retry_at, now) {
                plan.actions.push(Action::StartSandbox);
            }
        }
        Sandbox::Ready => run_containers(spec, observed, now, &mut plan),
        Sandbox::Starting | Sandbox::Removing | Sandbox::Removed => {}
    }
    plan
}

fn any_alive(observed: &Observed) -> bool {
    observed.containers.values().any(|seen| seen.is_alive() || seen.state == State::Starting)
}

/// Seconds between SIGTERM and SIGKILL.
fn grace(pod: &Pod, spec: &PodSpec, observed: &Observed) -> SignedDuration {
    match (pod.metadata.deletion_timestamp.is_some(), observed.gone) {
        (false, true) => GONE_GRACE,
        _ => {
            let secs = pod.metadata.deletion_grace_period_seconds.or(spec.termination_grace_period_seconds);
            SignedDuration::from_secs(secs.unwrap_or(GRACE_DEFAULT_SECS).max(0))
        }
    }
}

/// Stops the containers, sidecars last and in reverse order, then removes the sandbox.
fn take_down(pod: &Pod, spec: &PodSpec, observed: &Observed, reason: StopReason, plan: &mut Plan) {
    let grace = grace(pod, spec, observed);
    let alive =
        |container: &&Container| observed.containers.get(&container.name).is_some_and(Observation::is_alive);
    let stop = |container: &Container, plan: &mut Plan| {
        if let Some(State::Running { .. }) = observed.containers.get(&container.name).map(|seen| &seen.state)
        {
            plan.actions.push(Action::StopContainer {
                name: container.name.clone(),
                grace,
                reason: reason.clone(),
            });
        }
    };
    let ordinary: Vec<&Container> = spec
        .containers
        .iter()
        .chain(init_containers(spec).iter().filter(|container| !is_sidecar(container)))
        .collect();
    if ordinary.iter().any(alive) {
        ordinary.into_iter().for_each(|container| stop(container, plan));
        return;
    }
    if let Some(last) = init_containers(spec).iter().rev().find(alive) {
        return stop(last, plan);
    }
    if observed.sandbox == Sandbox::Ready && !any_alive(observed) {
        plan.actions.push(Action::RemoveSandbox);
    }
}

fn run_containers(spec: &PodSpec, observed: &Observed, now: Timestamp, plan: &mut Plan) {
    let policy = restart_policy(spec);
    let initialized = init_progress(spec, observed) == InitProgress::Done;
    for container in init_containers(spec) {
        let Some(seen) = observed.containers.get(&container.name) else { continue };
        let policy = match (is_sidecar(container), policy) {
            (true, _) => RestartPolicy::Always,
            (false, RestartPolicy::Never) => RestartPolicy::Never,
            // Under Always, too: an init container that succeeded is not started again.
            (false, RestartPolicy::Always | RestartPolicy::OnFailure) => RestartPolicy::OnFailure,
        };
        if initialized && !is_sidecar(container) {
            continue;
        }
        keep_running(spec, container, seen, policy, now, plan);
        let passed = match &seen.state {
            State::Ended(ended) => ended.exit_code == 0 && !is_sidecar(container),
            _ => is_sidecar(container) && seen.is_alive() && seen.started,
        };
        if !passed && !initialized {
            return;
        }
    }
    for container in &spec.containers {
        if let Some(seen) = observed.containers.get(&container.name) {
            keep_running(spec, container, seen, policy, now, plan);
        }
    }
}

fn keep_running(
    spec: &PodSpec,
    container: &Container,
    seen: &Observation,
    policy: RestartPolicy,
    now: Timestamp,
    plan: &mut Plan,
) {
    let name = container.name.clone();
    match &seen.state {
        State::Waiting { retry_at, .. } => {
            if plan.due(*retry_at, now) {
                plan.actions.push(Action::StartContainer { name, attempt: seen.attempt });
            }
        }
        State::Ended(ended) if restarts(policy, ended.exit_code) => {
            if plan.due(Some(seen.restart_at(ended)), now) {
                plan.actions.push(Action::StartContainer { name, attempt: seen.attempt + 1 });
            }
        }
        State::Running { .. } => {
            if let Some(unhealthy) = &seen.unhealthy {
                let secs = unhealthy
                    .grace_secs
                    .or(spec.termination_grace_period_seconds)
                    .unwrap_or(GRACE_DEFAULT_SECS);
                let reason = StopReason::Unhealthy(unhealthy.message.clone());
                plan.actions.push(Action::StopContainer {
                    name,
                    grace: SignedDuration::from_secs(secs.max(0)),
                    reason,
                });
            }
        }
        State::Ended(_) | State::Starting | State::Stopping { .. } => {}
    }
}

#[cfg(test)]
mod tests;
