//! What comes next, case by case.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;

const NOW: &str = "2026-01-01T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn ago(secs: i64) -> Timestamp {
    now().checked_sub(SignedDuration::from_secs(secs)).unwrap()
}

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u"}, "spec": spec}))
        .unwrap()
}

fn deleted(spec: serde_json::Value, grace_secs: i64) -> Pod {
    let mut pod = pod(spec);
    let at = later(now(), SignedDuration::from_secs(grace_secs));
    pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
    pod.metadata.deletion_grace_period_seconds = Some(grace_secs);
    pod
}

fn seen(state: State) -> Observation {
    Observation { state, started: true, ready: true, ..Observation::new("ContainerCreating") }
}

fn running() -> Observation {
    seen(State::Running { started_at: ago(60) })
}

fn waiting() -> Observation {
    Observation::new("ContainerCreating")
}

/// Ended that many seconds ago, after a run of `ran_secs`.
fn ended(exit_code: i32, secs: i64, ran_secs: i64, crashes: u32) -> Observation {
    let ended = Ended {
        started_at: ago(secs + ran_secs),
        finished_at: ago(secs),
        exit_code,
        signal: None,
        reason: String::new(),
        message: None,
        attempt: crashes,
    };
    Observation { attempt: crashes, crashes, ..seen(State::Ended(ended)) }
}

fn observed(sandbox: Sandbox, containers: &[(&str, Observation)]) -> Observed {
    Observed {
        sandbox,
        containers: containers.iter().map(|(name, seen)| ((*name).to_owned(), seen.clone())).collect(),
        initialized: false,
        failure: None,
        gone: false,
        ip: None,
        start_time: ago(100),
    }
}

fn start(name: &str, attempt: u32) -> Action {
    Action::StartContainer { name: name.to_owned(), attempt }
}

fn stop(name: &str, secs: i64, reason: StopReason) -> Action {
    Action::StopContainer { name: name.to_owned(), grace: SignedDuration::from_secs(secs), reason }
}

struct Case {
    name: &'static str,
    pod: Pod,
    given: Observed,
    want: Vec<Action>,
    wake_in_secs: Option<i64>,
}

fn check(cases: Vec<Case>) {
    for case in cases {
        let plan = reconcile(&case.pod, &case.given, now());
        assert_eq!(plan.actions, case.want, "{}", case.name);
        let wake = plan.wake_at.map(|at| at.duration_since(now()).as_secs());
        assert_eq!(wake, case.wake_in_secs, "{}: when to wake", case.name);
    }
}

fn two() -> serde_json::Value {
    json!({"containers": [{"name": "a"}, {"name": "b"}]})
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn coming_up() {
    let case = |name, spec, given, want| Case { name, pod: pod(spec), given, want, wake_in_secs: None };
    let with_init =
        || json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]});
    let sidecar = || json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]});
    let unstarted = Observation { started: false, ..running() };
    let initialized = |given: Observed| Observed { initialized: true, ..given };
    let mut again = ended(0, 5, 1, 0);
    again.run_again();
    let absent = Sandbox::Absent { retry_at: None };
    check(vec![
        case(
            "the surroundings first",
            two(),
            observed(absent, &[("a", waiting()), ("b", waiting())]),
            vec![Action::StartSandbox],
        ),
        case(
            "nothing while they are made",
            two(),
            observed(Sandbox::Starting, &[("a", waiting()), ("b", waiting())]),
            vec![],
        ),
        case(
            "then all containers",
            two(),
            observed(Sandbox::Ready, &[("a", waiting()), ("b", waiting())]),
            vec![start("a", 0), start("b", 0)],
        ),
        case(
            "one at a time of init containers",
            with_init(),
            observed(Sandbox::Ready, &[("i", waiting()), ("j", waiting()), ("a", waiting())]),
            vec![start("i", 0)],
        ),
        case(
            "the next when the first is done",
            with_init(),
            observed(Sandbox::Ready, &[("i", ended(0, 5, 1, 0)), ("j", waiting()), ("a", waiting())]),
            vec![start("j", 0)],
        ),
        case(
            "containers after all of them",
            with_init(),
            observed(Sandbox::Ready, &[("i", ended(0, 5, 1, 0)), ("j", ended(0, 3, 1, 0)), ("a", waiting())]),
            vec![start("a", 0)],
        ),
        case(
            "a sidecar that has not started blocks",
            sidecar(),
            observed(Sandbox::Ready, &[("s", unstarted), ("a", waiting())]),
            vec![],
        ),
        case(
            "one that has does not",
            sidecar(),
            observed(Sandbox::Ready, &[("s", running()), ("a", waiting())]),
            vec![start("a", 0)],
        ),
        case(
            "a sidecar is kept running beside the others",
            sidecar(),
            initialized(observed(Sandbox::Ready, &[("s", ended(0, 5, 700, 0)), ("a", running())])),
            vec![start("s", 1)],
        ),
        case(
            "containers after one whose postStart hook runs wait",
            two(),
            observed(
                Sandbox::Ready,
                &[("a", Observation { hook_pending: true, ..running() }), ("b", waiting())],
            ),
            vec![],
        ),
        case(
            "also while it comes up",
            json!({"containers": [{"name": "a", "lifecycle": {"postStart": {"sleep": {"seconds": 1}}}}, {"name": "b"}]}),
            observed(Sandbox::Ready, &[("a", waiting()), ("b", waiting())]),
            vec![start("a", 0)],
        ),
        case(
            "a debug container runs at any time, once",
            json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}],
                "ephemeralContainers": [{"name": "d"}, {"name": "e"}]}),
            observed(
                Sandbox::Ready,
                &[("i", running()), ("a", waiting()), ("d", waiting()), ("e", ended(1, 5, 1, 0))],
            ),
            vec![start("d", 0)],
        ),
        case(
            "init containers run again in a new sandbox",
            with_init(),
            observed(Sandbox::Ready, &[("i", again), ("j", waiting()), ("a", ended(137, 0, 100, 0))]),
            vec![start("i", 1)],
        ),
    ]);
}

#[test]
fn starting_again() {
    let one = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}]});
    let case = |name, policy, seen, want, wake_in_secs| Case {
        name,
        pod: pod(one(policy)),
        given: observed(Sandbox::Ready, &[("a", seen)]),
        want,
        wake_in_secs,
    };
    let absent = |secs| Sandbox::Absent { retry_at: Some(later(now(), SignedDuration::from_secs(secs))) };
    check(vec![
        case("the first time at once", "Always", ended(1, 0, 5, 0), vec![start("a", 1)], None),
        case("then after 10 s", "Always", ended(1, 4, 5, 1), vec![], Some(6)),
        case("which are over", "Always", ended(1, 10, 5, 1), vec![start("a", 2)], None),
        case("then after 20 s", "Always", ended(1, 4, 5, 2), vec![], Some(16)),
        case("never later than 5 min", "Always", ended(1, 0, 5, 40), vec![], Some(300)),
        case("a long run makes it fresh", "Always", ended(1, 0, 600, 40), vec![start("a", 41)], None),
        case("success counts under Always", "Always", ended(0, 0, 5, 0), vec![start("a", 1)], None),
        case(
            "success is the end under OnFailure",
            "OnFailure",
            ended(0, 0, 5, 0),
            vec![Action::RemoveSandbox],
            None,
        ),
        case("failure is not", "OnFailure", ended(1, 0, 5, 0), vec![start("a", 1)], None),
        case(
            "everything is the end under Never",
            "Never",
            ended(1, 0, 5, 0),
            vec![Action::RemoveSandbox],
            None,
        ),
        case(
            "an image later",
            "Always",
            seen(State::Waiting {
                reason: "ErrImagePull",
                message: None,
                retry_at: Some(later(now(), SignedDuration::from_secs(7))),
            }),
            vec![],
            Some(7),
        ),
        Case {
            name: "a rule by exit code wins over the policy",
            pod: pod(json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never",
                "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]})),
            given: observed(Sandbox::Ready, &[("a", ended(42, 0, 5, 0))]),
            want: vec![start("a", 1)],
            wake_in_secs: None,
        },
        Case {
            name: "a container's own policy wins over the pod's",
            pod: pod(
                json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "OnFailure"}]}),
            ),
            given: observed(Sandbox::Ready, &[("a", ended(1, 0, 5, 0))]),
            want: vec![start("a", 1)],
            wake_in_secs: None,
        },
        Case {
            name: "surroundings later",
            pod: pod(two()),
            given: observed(absent(1), &[("a", waiting())]),
            want: vec![],
            wake_in_secs: Some(1),
        },
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn going_down() {
    let sidecars = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "t", "restartPolicy": "Always"}], "containers": [{"name": "a"}]});
    let stopping = || seen(State::Stopping { started_at: ago(60) });
    let case = |name, pod, given, want| Case { name, pod, given, want, wake_in_secs: None };
    let gone = |pod: Pod, containers: &[(&str, Observation)]| {
        (pod, Observed { gone: true, ..observed(Sandbox::Ready, containers) })
    };
    let (forced, forced_given) = gone(pod(two()), &[("a", running()), ("b", running())]);
    check(vec![
        case(
            "all at once, with the grace of the deletion",
            deleted(two(), 7),
            observed(Sandbox::Ready, &[("a", running()), ("b", running())]),
            vec![stop("a", 7, StopReason::Deleted), stop("b", 7, StopReason::Deleted)],
        ),
        case(
            "not twice",
            deleted(two(), 7),
            observed(Sandbox::Ready, &[("a", stopping()), ("b", ended(0, 1, 1, 0))]),
            vec![],
        ),
        case(
            "no restart meanwhile",
            deleted(two(), 7),
            observed(Sandbox::Ready, &[("a", running()), ("b", ended(1, 1, 1, 0))]),
            vec![stop("a", 7, StopReason::Deleted)],
        ),
        case(
            "then the surroundings",
            deleted(two(), 7),
            observed(Sandbox::Ready, &[("a", ended(0, 1, 1, 0)), ("b", ended(0, 1, 1, 0))]),
            vec![Action::RemoveSandbox],
        ),
        case(
            "not while a start is under way",
            deleted(two(), 7),
            observed(Sandbox::Ready, &[("a", seen(State::Starting)), ("b", waiting())]),
            vec![],
        ),
        case(
            "nor while they are made",
            deleted(two(), 7),
            observed(Sandbox::Starting, &[("a", waiting()), ("b", waiting())]),
            vec![],
        ),
        case(
            "then the object",
            deleted(two(), 7),
            observed(Sandbox::Removed, &[("a", ended(0, 1, 1, 0)), ("b", ended(0, 1, 1, 0))]),
            vec![Action::Finish],
        ),
        case(
            "a pod that never started",
            deleted(two(), 7),
            observed(Sandbox::Absent { retry_at: None }, &[("a", waiting()), ("b", waiting())]),
            vec![Action::Finish],
        ),
        case(
            "sidecars last, the last one first",
            deleted(sidecars.clone(), 7),
            observed(Sandbox::Ready, &[("s", running()), ("t", running()), ("a", ended(0, 1, 1, 0))]),
            vec![stop("t", 7, StopReason::Deleted)],
        ),
        case(
            "one after the other",
            deleted(sidecars.clone(), 7),
            observed(Sandbox::Ready, &[("s", running()), ("t", stopping()), ("a", ended(0, 1, 1, 0))]),
            vec![],
        ),
        case(
            "deleted by force",
            forced,
            forced_given,
            vec![stop("a", 1, StopReason::Deleted), stop("b", 1, StopReason::Deleted)],
        ),
        case(
            "after the deadline",
            pod(
                json!({"activeDeadlineSeconds": 99, "terminationGracePeriodSeconds": 3, "containers": [{"name": "a"}]}),
            ),
            observed(Sandbox::Ready, &[("a", running())]),
            vec![stop("a", 3, StopReason::Failed)],
        ),
        Case {
            name: "before it",
            pod: pod(json!({"activeDeadlineSeconds": 110, "containers": [{"name": "a"}]})),
            given: observed(Sandbox::Ready, &[("a", running())]),
            want: vec![],
            wake_in_secs: Some(10),
        },
        case(
            "a sidecar ends with its pod's own containers",
            pod(
                json!({"restartPolicy": "Never", "initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]}),
            ),
            observed(Sandbox::Ready, &[("s", running()), ("a", ended(0, 1, 1, 0))]),
            vec![stop("s", 30, StopReason::Finished)],
        ),
    ]);
}

#[test]
fn an_unhealthy_container_is_stopped_with_the_probe_s_grace() {
    let spec = json!({"terminationGracePeriodSeconds": 9, "containers": [{"name": "a"}]});
    for (grace_secs, want) in [(None, 9), (Some(2), 2)] {
        let sick =
            Observation { unhealthy: Some(Unhealthy { message: "m".into(), grace_secs }), ..running() };
        let plan = reconcile(&pod(spec.clone()), &observed(Sandbox::Ready, &[("a", sick)]), now());
        assert_eq!(plan.actions, [stop("a", want, StopReason::Unhealthy("m".into()))]);
    }
}

#[test]
fn transitions_count_crashes_and_keep_the_last_end() {
    let mut container = ended(1, 0, 5, 0);
    container.begin(1);
    assert_eq!(
        (container.crashes, container.attempt, container.last.as_ref().map(|last| last.exit_code)),
        (1, 1, Some(1))
    );
    container.run(now(), true, false);
    assert!(container.is_alive() && !container.ready);
    container.end(Ended { attempt: 1, started_at: ago(700), ..container.last.clone().unwrap() });
    container.begin(2);
    assert_eq!(container.crashes, 1, "a long run is forgiven");
}

#[test]
fn one_grace_for_the_whole_pod() {
    let observed = observed(Sandbox::Ready, &[]);
    let left = |since_secs: i64, grace_secs: i64| {
        let at = later(now(), SignedDuration::from_secs(since_secs));
        grace_left(&deleted(two(), grace_secs), &observed, at).as_secs()
    };
    assert_eq!((left(0, 30), left(20, 30)), (30, 11), "what is left, and the second that the timestamp lost");
    assert_eq!((left(60, 30), left(60, 0)), (2, 0), "at least two seconds, unless none were given");
}
