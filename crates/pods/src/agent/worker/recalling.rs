//! What is known before anything happened: from the object's status, and from PID 1's records.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::lifecycle::{
    Ended, Observation, Observed, PodFailure, Sandbox, State, ephemeral_names, init_containers,
};
use crate::names::uses_host_network;
use crate::protocol::{ContainerRecord, How, RecordState};

/// What the object's own status says of an earlier run: containers that ended stay ended, those that ran were lost with it.
pub(super) fn observe(pod: &Pod) -> Observed {
    let status = pod.status.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let known: Vec<&ContainerStatus> = status
        .container_statuses
        .iter()
        .flatten()
        .chain(status.init_container_statuses.iter().flatten())
        .chain(status.ephemeral_container_statuses.iter().flatten())
        .collect();
    let waiting = if init_containers(&spec).is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let first = |name: &str| {
        let mut seen = Observation::new(waiting);
        if let Some(status) = known.iter().find(|status| status.name == name) {
            recall(&mut seen, status);
        }
        (name.to_owned(), seen)
    };
    let own = spec.containers.iter().chain(init_containers(&spec)).map(|container| container.name.as_str());
    let is_true =
        |type_: &str| status.conditions.iter().flatten().any(|it| it.type_ == type_ && it.status == "True");
    let failure = status.reason.clone().filter(|_| status.phase.as_deref() == Some("Failed"));
    Observed {
        sandbox: Sandbox::Absent { retry_at: None },
        containers: own.chain(ephemeral_names(&spec)).map(first).collect(),
        initialized: is_true("Initialized"),
        failure: failure
            .map(|reason| PodFailure { reason, message: status.message.clone().unwrap_or_default() }),
        gone: false,
        ip: if uses_host_network(&spec) {
            None
        } else {
            status.pod_ip.as_deref().and_then(|ip| ip.parse().ok())
        },
        start_time: status.start_time.map_or_else(Timestamp::now, |time| time.0),
    }
}

fn recall(seen: &mut Observation, status: &ContainerStatus) {
    let attempt = u32::try_from(status.restart_count).unwrap_or(0);
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.clone().unwrap_or_default().terminated;
    seen.attempt = attempt;
    seen.image_id = status.image_id.clone();
    (seen.started, seen.ready) = (status.started == Some(true), status.ready);
    let now = Timestamp::now();
    let time = |time: Option<Time>| time.map_or(now, |time| time.0);
    let ended = |it: ContainerStateTerminated, attempt| Ended {
        started_at: time(it.started_at),
        finished_at: time(it.finished_at),
        exit_code: it.exit_code,
        signal: it.signal,
        reason: it.reason.unwrap_or_default(),
        message: it.message,
        attempt,
    };
    // The restart count has the runs that were lost with the node among it, so it says nothing of crashes. As the kubelet does, an agent
    // that starts counts them anew.
    if let Some(running) = state.running {
        seen.last = last.map(|last| ended(last, attempt.saturating_sub(1)));
        // Lost unless PID 1 tells otherwise.
        seen.state = State::Ended(Ended {
            started_at: time(running.started_at),
            finished_at: now,
            exit_code: 137,
            signal: None,
            reason: "ContainerStatusUnknown".to_owned(),
            message: Some("The container was lost when its node stopped".to_owned()),
            attempt,
        });
    } else if let Some(terminated) = state.terminated {
        seen.last = last.map(|last| ended(last, attempt.saturating_sub(1)));
        seen.state = State::Ended(ended(terminated, attempt));
    } else if let Some(last) = last {
        // It waited for its next start (CrashLoopBackOff).
        seen.state = State::Ended(ended(last, attempt));
    }
}

/// The container of a record, as it was at its end.
pub(super) fn ended_by(record: &ContainerRecord, message: Option<String>) -> Option<Ended> {
    let RecordState::Exited(exit) = &record.state else { return None };
    let at = |us| Timestamp::from_microsecond(us).unwrap_or(Timestamp::UNIX_EPOCH);
    let (reason, signal, message) = match &exit.how {
        How::Code(0) => ("Completed", None, message),
        How::Code(_) if exit.oom => ("OOMKilled", None, message),
        How::Signal(signal) if exit.oom => ("OOMKilled", Some(*signal), message),
        How::Code(_) => ("Error", None, message),
        How::Signal(signal) => ("Error", Some(*signal), message),
        How::NotStarted { message } => ("StartError", None, Some(message.clone())),
    };
    Some(Ended {
        started_at: at(exit.started_us),
        finished_at: at(exit.finished_us),
        exit_code: exit.how.exit_code(),
        signal,
        reason: reason.to_owned(),
        message,
        attempt: record.attempt,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::lifecycle::crash_delay;

    #[test]
    fn a_pod_that_was_lost_with_its_node_again_and_again_starts_at_once() {
        let lost = json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}});
        let states = [
            ("it ran", json!({"running": {}}), json!({})),
            ("it was lost just now", lost.clone(), json!({})),
            ("it waited for its next start", json!({"waiting": {"reason": "CrashLoopBackOff"}}), lost),
        ];
        for (name, state, last) in states {
            let status = json!({"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 17,
                "state": state, "lastState": last});
            let pod = json!({"spec": {"containers": [{"name": "main"}]}, "status": {"containerStatuses": [status]}});
            let seen = observe(&serde_json::from_value(pod).unwrap());
            let (_, main) = seen.containers.iter().next().unwrap();
            assert_eq!((main.attempt, crash_delay(main.crashes)), (17, jiff::SignedDuration::ZERO), "{name}");
        }
    }
}
