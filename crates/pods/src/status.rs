//! `pod.status` as a pure function of the pod and what is known of it.

mod conditions;

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::lifecycle::{
    Ended, InitProgress, Observation, Observed, Part, State, common, failure, init_progress, restarts,
    was_touched,
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
    let status = |part: Part, container: &Container| {
        let seen = observed.containers.get(&container.name)?;
        Some(container_status(&Subject { pod, spec: &spec, part, container, seen }, now))
    };
    let initial = |containers: &Vec<Container>| -> Vec<ContainerStatus> {
        containers.iter().filter_map(|container| status(Part::of_init(container), container)).collect()
    };
    let ip = observed.ip.map(|ip| ip.to_string());
    PodStatus {
        phase: Some(phase.to_owned()),
        reason: failed.as_ref().map(|failed| failed.reason.clone()),
        message: failed.map(|failed| failed.message),
        conditions: Some(conditions::conditions(pod, &spec, observed, previous, phase, now)),
        container_statuses: Some(spec.containers.iter().filter_map(|one| status(Part::Main, one)).collect()),
        init_container_statuses: spec.init_containers.as_ref().map(initial),
        ephemeral_container_statuses: spec
            .ephemeral_containers
            .as_ref()
            .map(|all| all.iter().filter_map(|one| status(Part::Ephemeral, &common(one))).collect()),
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
    match init_progress(spec, observed) {
        InitProgress::Failed => return "Failed",
        InitProgress::Running if !was_touched(spec, observed) => return "Pending",
        InitProgress::Running | InitProgress::Done => {}
    }
    // A pod that is being deleted starts nothing any more, whatever its policy.
    let deleted = pod.metadata.deletion_timestamp.is_some();
    let (mut waiting, mut running, mut again, mut failed) = (false, false, false, false);
    for container in &spec.containers {
        let Some(seen) = observed.containers.get(&container.name) else { continue };
        let before = seen.attempt > 0 || seen.last.is_some();
        match &seen.state {
            State::Ended(ended) => {
                again |= !deleted && restarts(spec, Part::Main, container, ended.exit_code);
                failed |= ended.exit_code != 0;
            }
            State::Running { .. } | State::Stopping { .. } if seen.hook_pending && !before => waiting = true,
            State::Running { .. } | State::Stopping { .. } => running = true,
            // Between two attempts it counts as what it was.
            State::Starting | State::Waiting { .. } if before => (again, failed) = (again | !deleted, true),
            State::Starting | State::Waiting { .. } => waiting = true,
        }
    }
    match (waiting, running || again, failed) {
        (true, ..) => "Pending",
        (false, true, _) => "Running",
        (false, false, true) => "Failed",
        (false, false, false) => "Succeeded",
    }
}

/// The identifier shown for an attempt: of this node, not of a container runtime.
pub(crate) fn container_id(pod: &Pod, name: &str, attempt: u32) -> String {
    format!("fairway://{}-{name}-{attempt}", pod.metadata.uid.as_deref().unwrap_or_default())
}

/// What one container's status is made of.
struct Subject<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    part: Part,
    container: &'a Container,
    seen: &'a Observation,
}

fn container_status(subject: &Subject<'_>, now: Timestamp) -> ContainerStatus {
    let Subject { pod, part, container, seen, .. } = subject;
    let (state, last) = state_and_last(subject, now);
    let terminated = |ended: &Ended| ContainerState {
        terminated: Some(terminated_state(pod, &container.name, ended)),
        ..Default::default()
    };
    // Also while it stops: endpoints of a terminating pod go on serving until they are gone (KEP-1669).
    let running = seen.is_alive();
    let never_started = matches!(seen.state, State::Waiting { .. } | State::Starting) && seen.last.is_none();
    let completed_init =
        matches!(&seen.state, State::Ended(ended) if ended.exit_code == 0) && *part == Part::Init;
    let resources = container.resources.clone().filter(|it| it.limits.is_some() || it.requests.is_some());
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: seen.image_id.clone(),
        container_id: (!never_started).then(|| container_id(pod, &container.name, seen.attempt)),
        ready: (running && seen.started && seen.ready && *part != Part::Ephemeral) || completed_init,
        started: Some(running && seen.started),
        restart_count: i32::try_from(seen.attempt).unwrap_or(i32::MAX),
        last_state: Some(last.map(terminated).unwrap_or_default()),
        state: Some(state),
        allocated_resources: resources.as_ref().and_then(|resources| resources.requests.clone()),
        resources,
        stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
        ..ContainerStatus::default()
    }
}

/// What the container does, and how it ended before.
fn state_and_last<'a>(subject: &Subject<'a>, now: Timestamp) -> (ContainerState, Option<&'a Ended>) {
    let Subject { pod, spec, part, container, seen } = subject;
    let waiting = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..Default::default()
    };
    let last = seen.last.as_ref();
    let coming = if spec.init_containers.is_some() { "PodInitializing" } else { "ContainerCreating" };
    match &seen.state {
        State::Waiting { reason, message, .. } => (waiting(reason, message.clone()), last),
        State::Starting => (waiting(coming, None), last),
        // It counts as running when its postStart hook is through.
        State::Running { .. } if seen.hook_pending => (waiting(coming, None), last),
        State::Running { started_at } | State::Stopping { started_at } => {
            let running = Some(ContainerStateRunning { started_at: Some(seconds(*started_at)) });
            (ContainerState { running, ..Default::default() }, last)
        }
        State::Ended(ended) => {
            let restart_at = seen.restart_at(ended);
            let delayed = restarts(spec, *part, container, ended.exit_code)
                && restart_at > now
                && pod.metadata.deletion_timestamp.is_none();
            if delayed {
                let delay = restart_at.duration_since(ended.finished_at).as_secs();
                let message = back_off_message(pod, &container.name, delay);
                return (waiting("CrashLoopBackOff", Some(message)), Some(ended));
            }
            let terminated = Some(terminated_state(pod, &container.name, ended));
            (ContainerState { terminated, ..Default::default() }, last)
        }
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

#[cfg(test)]
mod tests;
