//! Pods whose node is gone: nobody will ever finish them, so they are removed here.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use fairway_kit::watch::ObjectKey;

use crate::metadata::{after_seconds, seconds, until};
use crate::plan::{Deletion, Plan, Write};
use crate::pod;
use crate::world::{Kind, World};

/// A pod may be older than its node's registration (a node that restarts, a pod with a node name of its own): so long it waits.
const QUARANTINE_SECONDS: i64 = 40;

/// Removes pods of nodes that do not exist: first they fail, so that their owners and readers see why, then they go.
pub fn reconcile(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    for pod in world.pods.values() {
        let Some(node) =
            pod::node_name(pod).filter(|node| !world.nodes.contains_key(&ObjectKey::new("", node)))
        else {
            continue;
        };
        let created = pod.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
        if let Some(wait) = until(after_seconds(created, QUARANTINE_SECONDS), now) {
            plan.look_again(Some(wait));
        } else if pod::is_terminal(pod) {
            let removal = Deletion { grace_period_seconds: Some(0), ..Deletion::of(Kind::Pod, &**pod) };
            plan.writes.push(Write::Delete(removal));
        } else {
            plan.writes.push(Write::ReplaceStatus(fail(pod, node, now).into()));
        }
    }
    plan
}

fn fail(pod: &Pod, node: &str, now: Timestamp) -> Pod {
    let mut pod = pod.clone();
    let status = pod.status.get_or_insert_default();
    status.phase = Some("Failed".to_owned());
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("DeletionByPodGC".to_owned()),
        message: Some(format!("PodGC: node {node} no longer exists")),
        last_transition_time: Some(seconds(now)),
        ..PodCondition::default()
    });
    pod
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn pods_of_a_vanished_node_fail_and_then_go_and_young_ones_wait() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let mut world = World::default();
        for (name, node, phase, created) in [
            ("runs", "gone", "Running", "2026-01-01T00:00:00Z"),
            ("failed", "gone", "Failed", "2026-01-01T00:00:00Z"),
            ("young", "gone", "Running", "2026-01-01T00:00:50Z"),
            ("fine", "n1", "Running", "2026-01-01T00:00:00Z"),
            ("waiting", "", "Pending", "2026-01-01T00:00:00Z"),
        ] {
            let pod = json!({"metadata": {"namespace": "ns", "name": name, "creationTimestamp": created},
                "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase}});
            world.pods.insert(ObjectKey::new("ns", name), Arc::new(serde_json::from_value(pod).unwrap()));
        }
        world.nodes.insert(ObjectKey::new("", "n1"), Arc::default());
        let plan = reconcile(&world, now);
        let names: Vec<_> = plan
            .writes
            .iter()
            .map(|write| match write {
                Write::ReplaceStatus(pod) => format!("fail {}", pod.meta().name.as_deref().unwrap()),
                Write::Delete(deletion) => {
                    format!("delete {} {:?}", deletion.key.name, deletion.grace_period_seconds)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["delete failed Some(0)", "fail runs"]);
        assert_eq!(plan.look_again_after, Some(std::time::Duration::from_secs(30)));
    }
}
