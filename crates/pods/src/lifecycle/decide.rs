//! The next actions.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::policy::{Part, ephemeral_names, init_containers, later, restarts, sidecars};
use super::rejection::{deadline, failure};
use super::{Action, Observation, Observed, Plan, Sandbox, State, StopReason};

/// Grace of pods whose object is gone already (deleted by force).
const GONE_GRACE: SignedDuration = SignedDuration::from_secs(1);
/// Grace when the object names none.
const GRACE_DEFAULT_SECS: i64 = 30;
/// What a container gets at least when others used up the pod's grace, as kubelet grants it.
const GRACE_LEAST: SignedDuration = SignedDuration::from_secs(2);

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

/// Whether a container of the pod proper was ever started: the pod has been initialized at least once.
pub(crate) fn was_touched(spec: &PodSpec, observed: &Observed) -> bool {
    let touched = |seen: &Observation| seen.attempt > 0 || !matches!(seen.state, State::Waiting { .. });
    spec.containers.iter().filter_map(|container| observed.containers.get(&container.name)).any(touched)
}

/// How far the init containers are in this sandbox.
pub(crate) fn init_progress(spec: &PodSpec, observed: &Observed) -> InitProgress {
    if observed.initialized {
        return InitProgress::Done;
    }
    for container in init_containers(spec) {
        let Some(seen) = observed.containers.get(&container.name) else { return InitProgress::Running };
        let part = Part::of_init(container);
        match &seen.state {
            _ if has_passed(part, seen) => {}
            State::Ended(ended) if !restarts(spec, part, container, ended.exit_code) => {
                return InitProgress::Failed;
            }
            _ => return InitProgress::Running,
        }
    }
    InitProgress::Done
}

/// Whether the next init container may start.
fn has_passed(part: Part, seen: &Observation) -> bool {
    match (&seen.state, part) {
        (_, Part::Sidecar) => seen.is_alive() && seen.started,
        (State::Ended(ended), _) => ended.exit_code == 0,
        _ => false,
    }
}

/// Whether every container of the pod proper has ended for good.
pub(crate) fn is_complete(spec: &PodSpec, observed: &Observed) -> bool {
    let over = |container: &Container| match observed.containers.get(&container.name).map(|seen| &seen.state)
    {
        Some(State::Ended(ended)) => !restarts(spec, Part::Main, container, ended.exit_code),
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
        take_down(pod, spec, observed, now, StopReason::Deleted, &mut plan);
        let empty = matches!(observed.sandbox, Sandbox::Removed | Sandbox::Absent { .. });
        if empty && plan.actions.is_empty() && !any_alive(observed) {
            plan.actions.push(Action::Finish);
        }
        return plan;
    }
    if failure(spec, observed, now).is_some() {
        take_down(pod, spec, observed, now, StopReason::Failed, &mut plan);
        return plan;
    }
    plan.due(deadline(spec, observed), now);
    if is_complete(spec, observed) {
        take_down(pod, spec, observed, now, StopReason::Finished, &mut plan);
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

/// Time between SIGTERM and SIGKILL, if asked now. The grace of a deletion is one for the whole pod: it ends at the deletion timestamp,
/// also for sidecars that are stopped later and for an agent that was away meanwhile.
pub(crate) fn grace_left(pod: &Pod, observed: &Observed, now: Timestamp) -> SignedDuration {
    let meta = &pod.metadata;
    let of_spec = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let secs = meta.deletion_grace_period_seconds.or(of_spec).unwrap_or(GRACE_DEFAULT_SECS);
    let whole = SignedDuration::from_secs(secs.max(0));
    match &meta.deletion_timestamp {
        _ if observed.gone => GONE_GRACE.min(whole),
        None => whole,
        Some(_) if whole.is_zero() => whole,
        Some(at) => {
            // The timestamp has no fraction: the time that was cut off is given back.
            let left = later(at.0, SignedDuration::from_secs(1)).duration_since(now);
            whole.min(left.max(GRACE_LEAST))
        }
    }
}

/// Stops the containers, sidecars last and in reverse order, then removes the sandbox.
fn take_down(
    pod: &Pod,
    spec: &PodSpec,
    observed: &Observed,
    now: Timestamp,
    reason: StopReason,
    plan: &mut Plan,
) {
    let grace = grace_left(pod, observed, now);
    let alive = |name: &str| observed.containers.get(name).is_some_and(Observation::is_alive);
    let stop = |name: &str, plan: &mut Plan| {
        if let Some(State::Running { .. }) = observed.containers.get(name).map(|seen| &seen.state) {
            plan.actions.push(Action::StopContainer { name: name.to_owned(), grace, reason: reason.clone() });
        }
    };
    let initial = init_containers(spec).iter().filter(|container| Part::of_init(container) == Part::Init);
    let names = spec.containers.iter().chain(initial).map(|container| container.name.as_str());
    let ordinary: Vec<&str> = names.chain(ephemeral_names(spec)).collect();
    if ordinary.iter().any(|name| alive(name)) {
        ordinary.into_iter().for_each(|name| stop(name, plan));
        return;
    }
    if let Some(last) = sidecars(spec).rev().find(|container| alive(&container.name)) {
        return stop(&last.name, plan);
    }
    if observed.sandbox == Sandbox::Ready && !any_alive(observed) {
        plan.actions.push(Action::RemoveSandbox);
    }
}

fn run_containers(spec: &PodSpec, observed: &Observed, now: Timestamp, plan: &mut Plan) {
    for name in ephemeral_names(spec) {
        if let Some(seen) = observed.containers.get(name) {
            keep_running(
                spec,
                (Part::Ephemeral, &Container { name: name.to_owned(), ..Container::default() }),
                seen,
                now,
                plan,
            );
        }
    }
    let initialized = init_progress(spec, observed) == InitProgress::Done;
    for container in init_containers(spec) {
        let Some(seen) = observed.containers.get(&container.name) else { continue };
        let part = Part::of_init(container);
        if initialized && part == Part::Init {
            continue;
        }
        keep_running(spec, (part, container), seen, now, plan);
        if !initialized && !has_passed(part, seen) {
            return;
        }
    }
    for container in &spec.containers {
        let Some(seen) = observed.containers.get(&container.name) else { continue };
        let planned = plan.actions.len();
        keep_running(spec, (Part::Main, container), seen, now, plan);
        // The next one waits for the postStart hook; not for a container that cannot be started for now.
        let hooked = container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some());
        let comes_up = seen.state == State::Starting || plan.actions.len() > planned;
        if seen.hook_pending || (hooked && comes_up) {
            return;
        }
    }
}

fn keep_running(
    spec: &PodSpec,
    (part, container): (Part, &Container),
    seen: &Observation,
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
        State::Ended(ended) if restarts(spec, part, container, ended.exit_code) => {
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
