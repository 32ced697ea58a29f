//! How pods print.

use jiff::Timestamp;
use serde_json::Value;

use super::{Printer, age, or_none, since, text, wide};
use crate::document::{self, Document};

pub(super) const POD: Printer = Printer {
    columns: &[
        text("Name"),
        text("Ready"),
        text("Status"),
        text("Restarts"),
        text("Age"),
        wide("IP"),
        wide("Node"),
        wide("Nominated Node"),
        wide("Readiness Gates"),
    ],
    cells,
};

/// What the containers of a pod say, taken together.
#[derive(Debug, Default)]
struct Summary<'a> {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: &'a str,
}

impl<'a> Summary<'a> {
    fn count_restarts(&mut self, status: &'a Value) {
        self.restarts += status.int(&["restartCount"]).unwrap_or(0);
        let finished = status.text(&["lastState", "terminated", "finishedAt"]);
        // RFC 3339 in UTC to the second orders as text.
        if finished > self.last_restart {
            self.last_restart = finished;
        }
    }
}

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let sidecars =
        pod.list(&["spec", "initContainers"]).iter().filter(|container| is_sidecar(container)).count();
    let total = pod.list(&["spec", "containers"]).len() + sidecars;
    let restarts = match (summary.restarts, summary.last_restart) {
        (0, _) | (_, "") => summary.restarts.to_string(),
        (count, time) => format!("{count} ({} ago)", since(time, now)),
    };
    vec![
        document::name(pod).into(),
        format!("{}/{total}", summary.ready).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now),
        or_none(pod.text(&["status", "podIP"])),
        or_none(pod.text(&["spec", "nodeName"])),
        or_none(pod.text(&["status", "nominatedNodeName"])),
        readiness_gates(pod),
    ]
}

fn is_sidecar(container: &Value) -> bool {
    container.text(&["restartPolicy"]) == "Always"
}

fn has_condition(pod: &Value, name: &str) -> bool {
    let conditions = pod.list(&["status", "conditions"]);
    conditions
        .iter()
        .any(|condition| condition.text(&["type"]) == name && condition.text(&["status"]) == "True")
}

/// The status as one word, and the counts. Later rules override earlier ones.
fn summarize(pod: &Value) -> Summary<'_> {
    let mut summary = Summary::default();
    let (phase, reason) = (pod.text(&["status", "phase"]), pod.text(&["status", "reason"]));
    summary.reason = if reason.is_empty() { phase } else { reason }.to_owned();
    let gated = pod.list(&["status", "conditions"]).iter().any(|condition| {
        condition.text(&["type"]) == "PodScheduled" && condition.text(&["reason"]) == "SchedulingGated"
    });
    if gated {
        summary.reason = "SchedulingGated".to_owned();
    }
    let sidecars = init_containers(pod, &mut summary);
    if sidecars.initialized || has_condition(pod, "Initialized") {
        summary.restarts = sidecars.restarts;
        summary.last_restart = sidecars.last_restart;
        containers(pod, &mut summary);
    }
    if document::is_terminating(pod) {
        if reason == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if phase != "Succeeded" && phase != "Failed" {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

struct Sidecars<'a> {
    initialized: bool,
    restarts: i64,
    last_restart: &'a str,
}

/// Goes through the init containers up to the first that is not done.
fn init_containers<'a>(pod: &'a Value, summary: &mut Summary<'a>) -> Sidecars<'a> {
    let specs = pod.list(&["spec", "initContainers"]);
    let mut sidecars = Summary::default();
    let mut initialized = true;
    for (index, status) in pod.list(&["status", "initContainerStatuses"]).iter().enumerate() {
        summary.count_restarts(status);
        let spec = specs.iter().find(|spec| spec.text(&["name"]) == status.text(&["name"]));
        let sidecar = spec.is_some_and(is_sidecar);
        if sidecar {
            sidecars.count_restarts(status);
        }
        let terminated = status.at(&["state", "terminated"]);
        let waiting = status.text(&["state", "waiting", "reason"]);
        if !terminated.is_null() && terminated.int(&["exitCode"]).unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && status.is_true(&["started"]) {
            summary.ready += usize::from(status.is_true(&["ready"]));
            continue;
        }
        summary.reason = if !terminated.is_null() {
            format!("Init:{}", end(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", specs.len())
        };
        initialized = false;
        break;
    }
    Sidecars { initialized, restarts: sidecars.restarts, last_restart: sidecars.last_restart }
}

/// The first container that waits or has ended gives the reason.
fn containers<'a>(pod: &'a Value, summary: &mut Summary<'a>) {
    let mut has_running = false;
    for status in pod.list(&["status", "containerStatuses"]).iter().rev() {
        summary.count_restarts(status);
        let terminated = status.at(&["state", "terminated"]);
        let waiting = status.text(&["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            summary.reason = waiting.to_owned();
        } else if !terminated.is_null() {
            summary.reason = end(terminated);
        } else if status.is_true(&["ready"]) && status.has(&["state", "running"]) {
            has_running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && has_running {
        summary.reason = if has_condition(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
    }
}

/// How a container ended.
fn end(terminated: &Value) -> String {
    match (terminated.text(&["reason"]), terminated.int(&["signal"]).unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", terminated.int(&["exitCode"]).unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = pod.list(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let open = gates.iter().filter(|gate| has_condition(pod, gate.text(&["conditionType"]))).count();
    format!("{open}/{}", gates.len()).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(statuses: &Value, more: &Value) -> Value {
        let mut pod = json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]},
            "status": {"phase": "Running"},
        });
        json_patch::merge(&mut pod, statuses);
        json_patch::merge(&mut pod, more);
        pod
    }

    #[test]
    fn the_status_column_says_the_most_telling_thing() {
        let ok = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
        let init =
            |status: Value| json!({"status": {"phase": "Pending", "initContainerStatuses": [ok, status]}});
        let main = |status: Value| json!({"status": {"containerStatuses": [status]}});
        let none = json!({});
        let cases = [
            ("phase", none.clone(), none.clone(), "Running"),
            ("reason", json!({"status": {"reason": "Evicted"}}), none.clone(), "Evicted"),
            (
                "gated",
                json!({"status": {"conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}}),
                none.clone(),
                "SchedulingGated",
            ),
            ("second init", init(json!({"name": "j", "state": {"running": {}}})), none.clone(), "Init:1/2"),
            (
                "init waits",
                init(json!({"name": "j", "state": {"waiting": {"reason": "CrashLoopBackOff"}}})),
                none.clone(),
                "Init:CrashLoopBackOff",
            ),
            (
                "init failed",
                init(json!({"name": "j", "state": {"terminated": {"exitCode": 3}}})),
                none.clone(),
                "Init:ExitCode:3",
            ),
            (
                "init killed",
                init(json!({"name": "j", "state": {"terminated": {"exitCode": 137, "signal": 9}}})),
                none.clone(),
                "Init:Signal:9",
            ),
            (
                "image",
                main(json!({"name": "a", "state": {"waiting": {"reason": "ImagePullBackOff"}}})),
                none.clone(),
                "ImagePullBackOff",
            ),
            (
                "ended",
                main(json!({"name": "a", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}})),
                none.clone(),
                "Error",
            ),
            (
                "exit code",
                main(json!({"name": "a", "state": {"terminated": {"exitCode": 1}}})),
                none.clone(),
                "ExitCode:1",
            ),
            (
                "one completed, one runs",
                json!({"status": {"conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [
                    {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                    {"name": "b", "ready": true, "state": {"running": {}}}]}}),
                none.clone(),
                "Running",
            ),
            ("deleted", none.clone(), json!({"metadata": {"deletionTimestamp": "t"}}), "Terminating"),
            (
                "deleted and done",
                json!({"status": {"phase": "Succeeded"}}),
                json!({"metadata": {"deletionTimestamp": "t"}}),
                "Succeeded",
            ),
            (
                "deleted on a lost node",
                json!({"status": {"reason": "NodeLost"}}),
                json!({"metadata": {"deletionTimestamp": "t"}}),
                "Unknown",
            ),
        ];
        for (name, statuses, more, want) in cases {
            assert_eq!(summarize(&pod(&statuses, &more)).reason, want, "{name}");
        }
    }

    #[test]
    fn a_row_counts_ready_containers_and_restarts() {
        let pod = json!({
            "metadata": {"name": "p", "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "n",
                     "initContainers": [{"name": "s", "restartPolicy": "Always"}],
                     "readinessGates": [{"conditionType": "g"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1",
                "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 1,
                                           "state": {"running": {}}}],
                "containerStatuses": [
                    {"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}},
                     "lastState": {"terminated": {"finishedAt": "2024-01-01T00:08:00Z"}}},
                    {"name": "b", "ready": false, "restartCount": 0, "state": {"running": {}}}]},
        });
        let now = "2024-01-01T00:10:00Z".parse().unwrap();
        assert_eq!(
            cells(&pod, now),
            ["p", "2/3", "Running", "3 (2m ago)", "10m", "10.0.0.1", "n", "<none>", "0/1"].map(Value::from)
        );
    }
}
