//! `pod.status` as a pure function of the pod and what is known of it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::net::IpAddr;

use crate::lifecycle::{
    Ended, InitProgress, Observation, Observed, RestartPolicy, Sandbox, State, failure, init_containers,
    init_progress, is_sidecar, restart_policy, restarts,
};

/// The status to publish. `previous` is the one published before (or found): conditions keep their transition time while their status
/// stays, and conditions of others (readiness gates, the scheduler's) are kept as they are.
pub(crate) fn compute(
    pod: &Pod,
    observed: &Observed,
    previous: &PodStatus,
    host_ip: IpAddr,
    now: Timestamp,
) -> PodStatus {
    let spec = pod.spec.clone().unwrap_or_default();
    let failed = failure(&spec, observed, now);
    let phase = if failed.is_some() { "Failed" } else { phase(pod, &spec, observed) };
    let done = matches!(phase, "Succeeded" | "Failed");
    let statuses = |containers: &[Container]| -> Vec<ContainerStatus> {
        let policy = restart_policy(&spec);
        containers
            .iter()
            .filter_map(|container| {
                Some(container_status(pod, container, observed.containers.get(&container.name)?, policy, now))
            })
            .collect()
    };
    let ip = observed.ip.map(|ip| ip.to_string());
    PodStatus {
        phase: Some(phase.to_owned()),
        reason: failed.as_ref().map(|failed| failed.reason.to_owned()),
        message: failed.map(|failed| failed.message),
        conditions: Some(conditions(pod, &spec, observed, previous, done, now)),
        container_statuses: Some(statuses(&spec.containers)),
        init_container_statuses: spec.init_containers.as_deref().map(statuses),
        host_ip: Some(host_ip.to_string()),
        host_ips: Some(vec![HostIP { ip: host_ip.to_string() }]),
        pod_ips: ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: ip,
        start_time: Some(seconds(observed.start_time)),
        qos_class: previous.qos_class.clone(),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

fn phase(pod: &Pod, spec: &PodSpec, observed: &Observed) -> &'static str {
    let policy = restart_policy(spec);
    match init_progress(spec, observed) {
        InitProgress::Failed => return "Failed",
        InitProgress::Running => return "Pending",
        InitProgress::Done => {}
    }
    let (mut waiting, mut running, mut succeeded, mut failed) = (0, 0, 0, 0);
    for container in &spec.containers {
        let Some(seen) = observed.containers.get(&container.name) else { continue };
        match &seen.state {
            State::Ended(ended) if ended.exit_code == 0 => succeeded += 1,
            State::Ended(_) => failed += 1,
            State::Running { .. } | State::Stopping { .. } => running += 1,
            // Between two attempts it counts as what it was.
            State::Starting | State::Waiting { .. } if seen.attempt > 0 || seen.last.is_some() => failed += 1,
            State::Starting | State::Waiting { .. } => waiting += 1,
        }
    }
    // A pod that is being deleted and has nothing running any more will not be restarted, whatever its policy.
    let over = pod.metadata.deletion_timestamp.is_some() && running == 0;
    match (waiting, running) {
        (1.., _) => "Pending",
        (0, 1..) => "Running",
        _ if failed == 0 && succeeded > 0 && (over || policy != RestartPolicy::Always) => "Succeeded",
        _ if over || policy == RestartPolicy::Never => "Failed",
        _ => "Running",
    }
}

/// The identifier shown for an attempt: of this node, not of a container runtime.
pub(crate) fn container_id(pod: &Pod, name: &str, attempt: u32) -> String {
    format!("fairway://{}-{name}-{attempt}", pod.metadata.uid.as_deref().unwrap_or_default())
}

fn container_status(
    pod: &Pod,
    container: &Container,
    seen: &Observation,
    policy: RestartPolicy,
    now: Timestamp,
) -> ContainerStatus {
    let policy = if is_sidecar(container) { RestartPolicy::Always } else { policy };
    let terminated = |ended: &Ended| ContainerState {
        terminated: Some(terminated_state(pod, &container.name, ended)),
        ..Default::default()
    };
    let waiting = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..Default::default()
    };
    let mut last = seen.last.as_ref();
    let state = match &seen.state {
        State::Waiting { reason, message, .. } => waiting(reason, message.clone()),
        State::Starting => waiting("ContainerCreating", None),
        State::Running { started_at } | State::Stopping { started_at } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(seconds(*started_at)) }),
            ..Default::default()
        },
        State::Ended(ended) => {
            let restart_at = seen.restart_at(ended);
            let delayed = restarts(policy, ended.exit_code)
                && restart_at > now
                && pod.metadata.deletion_timestamp.is_none();
            if delayed {
                last = Some(ended);
                let delay = restart_at.duration_since(ended.finished_at).as_secs();
                waiting("CrashLoopBackOff", Some(back_off_message(pod, &container.name, delay)))
            } else {
                terminated(ended)
            }
        }
    };
    // Also while it stops: endpoints of a terminating pod go on serving until they are gone (KEP-1669).
    let running = seen.is_alive();
    let never_started = matches!(seen.state, State::Waiting { .. } | State::Starting) && seen.last.is_none();
    let completed_init =
        matches!(&seen.state, State::Ended(ended) if ended.exit_code == 0) && is_init(pod, container);
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: seen.image_id.clone(),
        container_id: (!never_started).then(|| container_id(pod, &container.name, seen.attempt)),
        ready: (running && seen.started && seen.ready) || completed_init,
        started: Some(running && seen.started),
        restart_count: i32::try_from(seen.attempt).unwrap_or(i32::MAX),
        last_state: Some(last.map(terminated).unwrap_or_default()),
        state: Some(state),
        ..ContainerStatus::default()
    }
}

/// The text of CrashLoopBackOff, also used for the BackOff event.
pub(crate) fn back_off_message(pod: &Pod, container: &str, delay_secs: i64) -> String {
    let (meta, delay) = (&pod.metadata, delay_text(delay_secs));
    format!(
        "back-off {delay} restarting failed container={container} pod={}_{}({})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default(),
    )
}

fn delay_text(secs: i64) -> String {
    match (secs / 60, secs % 60) {
        (0, secs) => format!("{secs}s"),
        (minutes, secs) => format!("{minutes}m{secs}s"),
    }
}

fn is_init(pod: &Pod, container: &Container) -> bool {
    pod.spec.as_ref().is_some_and(|spec| init_containers(spec).iter().any(|init| init.name == container.name))
}

fn terminated_state(pod: &Pod, name: &str, ended: &Ended) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: Some(container_id(pod, name, ended.attempt)),
        exit_code: ended.exit_code,
        signal: ended.signal,
        reason: Some(ended.reason.clone()),
        message: ended.message.clone(),
        started_at: Some(seconds(ended.started_at)),
        finished_at: Some(seconds(ended.finished_at)),
    }
}

/// Times of the API have no fraction: with one, a status that was read back would look different from the same one computed again.
fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// A condition as decided, before transition times.
struct Decided {
    type_: &'static str,
    /// `None`: true; otherwise false with a reason and a message.
    obstacle: Option<(&'static str, Option<String>)>,
    /// A reason beside "true".
    reason: Option<&'static str>,
}

fn conditions(
    pod: &Pod,
    spec: &PodSpec,
    observed: &Observed,
    previous: &PodStatus,
    done: bool,
    now: Timestamp,
) -> Vec<PodCondition> {
    let known = previous.conditions.as_deref().unwrap_or_default();
    let completed = done.then_some(("PodCompleted", None));
    let initialized = match init_progress(spec, observed) {
        InitProgress::Done => None,
        InitProgress::Running | InitProgress::Failed => {
            let waiting = init_containers(spec).iter().filter(|container| !passed(container, observed));
            Some(("ContainersNotInitialized", Some(names("containers with incomplete status", waiting))))
        }
    };
    let unready: Vec<&Container> = spec
        .containers
        .iter()
        .chain(init_containers(spec).iter().filter(|container| is_sidecar(container)))
        .filter(|container| {
            !observed
                .containers
                .get(&container.name)
                .is_some_and(|seen| seen.started && seen.ready && seen.is_alive())
        })
        .collect();
    let containers_ready = completed.clone().or_else(|| {
        (!unready.is_empty()).then(|| {
            ("ContainersNotReady", Some(names("containers with unready status", unready.into_iter())))
        })
    });
    let gate_closed = || {
        let gates = spec.readiness_gates.as_deref().unwrap_or_default();
        let open =
            |gate: &str| known.iter().chain(found(pod)).any(|it| it.type_ == gate && it.status == "True");
        let closed: Vec<&str> =
            gates.iter().map(|gate| gate.condition_type.as_str()).filter(|gate| !open(gate)).collect();
        (!closed.is_empty()).then(|| {
            (
                "ReadinessGatesNotReady",
                Some(format!("the status of pod readiness gate is not \"True\": {closed:?}")),
            )
        })
    };
    let sandbox = (observed.sandbox != Sandbox::Ready)
        .then_some(("SandboxNotReady", None))
        .map(|(_, message)| ("", message));
    let decided = [
        Decided { type_: "PodReadyToStartContainers", obstacle: sandbox, reason: None },
        Decided { type_: "Initialized", obstacle: initialized, reason: done.then_some("PodCompleted") },
        Decided { type_: "Ready", obstacle: containers_ready.clone().or_else(gate_closed), reason: None },
        Decided { type_: "ContainersReady", obstacle: containers_ready, reason: None },
    ];
    let mut all: Vec<PodCondition> =
        decided.into_iter().map(|decided| decided.condition(pod, known, now)).collect();
    let scheduled = known.iter().chain(found(pod)).find(|it| it.type_ == "PodScheduled").cloned();
    all.push(scheduled.unwrap_or_else(|| {
        Decided { type_: "PodScheduled", obstacle: None, reason: None }.condition(pod, known, now)
    }));
    all
}

fn found(pod: &Pod) -> &[PodCondition] {
    pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn passed(container: &Container, observed: &Observed) -> bool {
    let Some(seen) = observed.containers.get(&container.name) else { return false };
    match &seen.state {
        State::Ended(ended) => ended.exit_code == 0 && !is_sidecar(container),
        _ => is_sidecar(container) && seen.started,
    }
}

fn names<'a>(text: &str, containers: impl Iterator<Item = &'a Container>) -> String {
    let names: Vec<&str> = containers.map(|container| container.name.as_str()).collect();
    format!("{text}: [{}]", names.join(" "))
}

impl Decided {
    fn condition(self, pod: &Pod, known: &[PodCondition], now: Timestamp) -> PodCondition {
        let status = if self.obstacle.is_none() { "True" } else { "False" };
        let before =
            known.iter().find(|condition| condition.type_ == self.type_ && condition.status == status);
        let (reason, message) = match self.obstacle {
            None => (self.reason.unwrap_or_default(), None),
            Some((reason, message)) => (reason, message),
        };
        PodCondition {
            type_: self.type_.to_owned(),
            status: status.to_owned(),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            message,
            last_transition_time: before
                .and_then(|before| before.last_transition_time.clone())
                .or(Some(seconds(now))),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        }
    }
}

#[cfg(test)]
mod tests;
