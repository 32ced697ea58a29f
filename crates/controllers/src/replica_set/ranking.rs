//! Which pod goes first when a set of equal pods shrinks: the one whose loss hurts least. The order is the field order of [`Worth`].

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::metadata::{annotation, name_of};
use crate::pod;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What a pod is worth keeping for; the smallest goes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Worth<'a> {
    assigned: bool,
    phase: Phase,
    ready: bool,
    deletion_cost: i32,
    /// A node that has many of these pods can spare one.
    neighbours: Reverse<usize>,
    /// The pod that is ready for longer stays: a time that is earlier is worth more.
    ready_since: Reverse<Option<Timestamp>>,
    restarts: Reverse<i32>,
    created: Reverse<Option<Timestamp>>,
    name: &'a str,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Pending,
    Unknown,
    Running,
}

/// The pods, least worth first.
pub(crate) fn first_to_go<'a>(pods: &[&'a Pod]) -> Vec<&'a Pod> {
    let mut on_node: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    for pod in pods {
        *on_node.entry(pod::node_name(pod)).or_default() += 1;
    }
    let mut ranked: Vec<_> = pods.iter().map(|pod| (worth(pod, &on_node), *pod)).collect();
    ranked.sort_by(|left, right| left.0.cmp(&right.0));
    ranked.into_iter().map(|(_, pod)| pod).collect()
}

fn worth<'a>(pod: &'a Pod, on_node: &BTreeMap<Option<&str>, usize>) -> Worth<'a> {
    let node = pod::node_name(pod);
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    Worth {
        assigned: node.is_some(),
        phase: match pod::phase(pod) {
            "Pending" => Phase::Pending,
            "Running" => Phase::Running,
            _ => Phase::Unknown,
        },
        ready: pod::is_ready(pod),
        deletion_cost: annotation(&pod.metadata, DELETION_COST)
            .and_then(|cost| cost.parse().ok())
            .unwrap_or(0),
        neighbours: Reverse(on_node.get(&node).copied().unwrap_or(0)),
        ready_since: Reverse(pod::ready_since(pod)),
        restarts: Reverse(
            statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or(0),
        ),
        created: Reverse(pod.metadata.creation_timestamp.as_ref().map(|time| time.0)),
        name: name_of(&pod.metadata),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A running, ready pod on n1; `change` is merged over it.
    fn pod(name: &str, change: Value) -> Pod {
        let mut value = json!({
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": "n1"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}]},
        });
        merge(&mut value, change);
        serde_json::from_value(value).unwrap()
    }

    fn merge(target: &mut Value, change: Value) {
        match (target, change) {
            (Value::Object(target), Value::Object(change)) => {
                for (name, value) in change {
                    merge(target.entry(name).or_insert(Value::Null), value);
                }
            }
            (target, change) => *target = change,
        }
    }

    #[test]
    fn the_first_difference_decides() {
        struct Case {
            name: &'static str,
            goes: Value,
        }
        let cases = [
            Case { name: "without a node", goes: json!({"spec": {"nodeName": null}}) },
            Case { name: "pending", goes: json!({"status": {"phase": "Pending"}}) },
            Case {
                name: "not ready",
                goes: json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
            },
            Case { name: "cheap", goes: json!({"metadata": {"annotations": {DELETION_COST: "-1"}}}) },
            Case {
                name: "ready for a shorter time",
                goes: json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z"}]}}),
            },
            Case {
                name: "restarted",
                goes: json!({"status": {"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 3}]}}),
            },
            Case {
                name: "younger",
                goes: json!({"metadata": {"creationTimestamp": "2026-01-02T00:00:00Z"}}),
            },
        ];
        for case in cases {
            let (stays, goes) = (pod("a", json!({})), pod("z", case.goes));
            for pods in [[&stays, &goes], [&goes, &stays]] {
                assert_eq!(name_of(&first_to_go(&pods)[0].metadata), "z", "{}", case.name);
            }
        }
    }

    #[test]
    fn a_crowded_node_gives_first() {
        let (a, b, c) =
            (pod("a", json!({"spec": {"nodeName": "n2"}})), pod("b", json!({})), pod("c", json!({})));
        let names: Vec<_> = first_to_go(&[&a, &b, &c]).iter().map(|pod| name_of(&pod.metadata)).collect();
        assert_eq!(names, ["b", "c", "a"]);
    }
}
