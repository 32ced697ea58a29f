//! Statuses, case by case.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::PodCondition;
use serde_json::json;

use super::*;
use crate::lifecycle::Sandbox;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn ago(secs: i64) -> Timestamp {
    now().checked_sub(SignedDuration::from_secs(secs)).unwrap()
}

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u"}, "spec": spec}))
        .unwrap()
}

fn running(ready: bool) -> Observation {
    let state = State::Running { started_at: ago(60) };
    Observation { state, started: true, ready, ..Observation::new("ContainerCreating") }
}

fn ended(exit_code: i32) -> Observation {
    let ended = Ended {
        started_at: ago(20),
        finished_at: ago(10),
        exit_code,
        signal: None,
        reason: "Error".into(),
        message: None,
        attempt: 0,
    };
    Observation { state: State::Ended(ended), ..Observation::new("ContainerCreating") }
}

fn observed(containers: &[(&str, Observation)]) -> Observed {
    Observed {
        sandbox: Sandbox::Ready,
        containers: containers.iter().map(|(name, seen)| ((*name).to_owned(), seen.clone())).collect(),
        initialized: false,
        failure: None,
        gone: false,
        ip: Some([10, 244, 1, 2].into()),
        start_time: ago(100),
    }
}

fn status(pod: &Pod, observed: &Observed) -> PodStatus {
    compute(pod, observed, &PodStatus::default(), [10, 200, 0, 2].into(), now())
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn phases() {
    struct Case {
        name: &'static str,
        policy: &'static str,
        given: Vec<(&'static str, Observation)>,
        deleted: bool,
        want: &'static str,
    }
    let waiting = || Observation::new("ContainerCreating");
    let between = || Observation { attempt: 1, state: State::Starting, ..ended(1) };
    let cases = [
        Case {
            name: "nothing started",
            policy: "Always",
            given: vec![("a", waiting()), ("b", waiting())],
            deleted: false,
            want: "Pending",
        },
        Case {
            name: "one waits",
            policy: "Always",
            given: vec![("a", running(true)), ("b", waiting())],
            deleted: false,
            want: "Pending",
        },
        Case {
            name: "one runs, one ended",
            policy: "Never",
            given: vec![("a", running(true)), ("b", ended(1))],
            deleted: false,
            want: "Running",
        },
        Case {
            name: "all ended, to be restarted",
            policy: "Always",
            given: vec![("a", ended(0)), ("b", ended(1))],
            deleted: false,
            want: "Running",
        },
        Case {
            name: "one is being restarted",
            policy: "Always",
            given: vec![("a", between()), ("b", running(true))],
            deleted: false,
            want: "Running",
        },
        Case {
            name: "failures are retried",
            policy: "OnFailure",
            given: vec![("a", ended(0)), ("b", ended(1))],
            deleted: false,
            want: "Running",
        },
        Case {
            name: "success",
            policy: "OnFailure",
            given: vec![("a", ended(0)), ("b", ended(0))],
            deleted: false,
            want: "Succeeded",
        },
        Case {
            name: "failure",
            policy: "Never",
            given: vec![("a", ended(0)), ("b", ended(1))],
            deleted: false,
            want: "Failed",
        },
        Case {
            name: "deleted, all well",
            policy: "Always",
            given: vec![("a", ended(0)), ("b", ended(0))],
            deleted: true,
            want: "Succeeded",
        },
        Case {
            name: "deleted, killed",
            policy: "Always",
            given: vec![("a", ended(137)), ("b", ended(0))],
            deleted: true,
            want: "Failed",
        },
    ];
    for case in cases {
        let mut pod =
            pod(json!({"restartPolicy": case.policy, "containers": [{"name": "a"}, {"name": "b"}]}));
        pod.metadata.deletion_timestamp = case.deleted.then(|| Time(now()));
        assert_eq!(status(&pod, &observed(&case.given)).phase.as_deref(), Some(case.want), "{}", case.name);
    }
}

#[test]
fn conditions_say_what_is_missing_and_keep_their_time() {
    let pod = pod(
        json!({"containers": [{"name": "a"}, {"name": "b"}], "readinessGates": [{"conditionType": "example.com/gate"}]}),
    );
    let find = |status: &PodStatus, type_: &str| {
        status.conditions.iter().flatten().find(|it| it.type_ == type_).cloned().unwrap()
    };
    let first = status(&pod, &observed(&[("a", running(true)), ("b", running(false))]));
    let ready = find(&first, "Ready");
    assert_eq!(
        (ready.status.as_str(), ready.message.as_deref()),
        ("False", Some("containers with unready status: [b]"))
    );
    assert_eq!(find(&first, "Initialized").status, "True");
    let at = ago(-30);
    let second = compute(
        &pod,
        &observed(&[("a", running(true)), ("b", running(true))]),
        &first,
        [10, 200, 0, 2].into(),
        at,
    );
    assert_eq!(find(&second, "ContainersReady").last_transition_time, Some(Time(at)), "it flipped");
    assert_eq!(find(&second, "Initialized").last_transition_time, Some(Time(now())), "it did not");
    let ready = find(&second, "Ready");
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("ReadinessGatesNotReady")));
    let gate =
        PodCondition { type_: "example.com/gate".into(), status: "True".into(), ..PodCondition::default() };
    let mut open = pod.clone();
    open.status = Some(PodStatus { conditions: Some(vec![gate]), ..PodStatus::default() });
    let third = compute(
        &open,
        &observed(&[("a", running(true)), ("b", running(true))]),
        &second,
        [10, 200, 0, 2].into(),
        at,
    );
    assert_eq!(find(&third, "Ready").status, "True");
}

#[test]
fn a_container_between_two_starts() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let seen = Observation { crashes: 2, attempt: 2, ..ended(3) };
    let status = status(&pod, &observed(&[("a", seen)]));
    let container = &status.container_statuses.unwrap()[0];
    let waiting = container.state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(waiting.message.as_deref(), Some("back-off 20s restarting failed container=a pod=p_ns(u)"));
    assert_eq!(container.last_state.clone().unwrap().terminated.unwrap().exit_code, 3);
    assert_eq!((container.restart_count, container.ready, container.started), (2, false, Some(false)));
}

#[test]
fn a_stopping_container_stays_ready_until_it_ends() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let seen = Observation { state: State::Stopping { started_at: ago(5) }, ..running(true) };
    let status = status(&pod, &observed(&[("a", seen)]));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert!(container.state.as_ref().unwrap().running.is_some() && container.ready);
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn a_pod_past_its_deadline_has_failed() {
    let pod = pod(json!({"activeDeadlineSeconds": 99, "containers": [{"name": "a"}]}));
    let status = status(&pod, &observed(&[("a", running(true))]));
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
}
