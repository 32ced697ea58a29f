//! Pods that nobody will ever finish or remove: their node is gone, or they never had one, or they ended long ago.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use fairway_kit::watch::ObjectKey;

use std::sync::Arc;

use crate::index::Tag;
use crate::metadata::{after_seconds, age, is_deleting, seconds, until};
use crate::plan::{Deletion, Plan, Write};
use crate::pod;
use crate::world::{Kind, World};

/// A pod may be older than its node's registration (a node that restarts, a pod with a node name of its own): so long it waits.
const QUARANTINE_SECONDS: i64 = 40;

/// Ended pods that are kept for their readers; beyond that, the oldest go.
const TERMINATED_MAX: usize = 12_500;

/// Removes pods of nodes that do not exist: first they fail, so that their owners and readers see why, then they go. Also pods
/// that are to go and never had a node, and the oldest of very many that ended.
pub fn reconcile(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let lookup = &world.index.pods.lookup;
    let gone = lookup.nodes().filter(|node| !world.nodes.contains_key(&ObjectKey::new("", node)));
    for node in gone {
        for pod in world.pods_tagged(&Tag::Node(node.into())) {
            orphaned(pod, node, now, &mut plan);
        }
    }
    plan.writes.extend(world.pods_tagged(&Tag::Abandoned).map(|pod| remove(pod)));
    let surplus = lookup.count(&Tag::Terminal).saturating_sub(TERMINATED_MAX);
    if surplus > 0 {
        let mut ended: Vec<&Arc<Pod>> =
            world.pods_tagged(&Tag::Terminal).filter(|pod| !is_deleting(&pod.metadata)).collect();
        ended.sort_by(|left, right| age(&left.metadata).cmp(&age(&right.metadata)));
        plan.writes.extend(ended.into_iter().take(surplus).map(|pod| remove(pod)));
    }
    plan
}

/// Whether there is anything to do about this pod.
pub(crate) fn concerns(world: &World, pod: &Pod) -> bool {
    let lookup = &world.index.pods.lookup;
    match pod::node_name(pod) {
        None => is_deleting(&pod.metadata),
        Some(node) => {
            !world.nodes.contains_key(&ObjectKey::new("", node))
                || (pod::is_terminal(pod) && lookup.count(&Tag::Terminal) > TERMINATED_MAX)
        }
    }
}

fn orphaned(pod: &Pod, node: &str, now: Timestamp, plan: &mut Plan) {
    let created = pod.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    if let Some(wait) = until(after_seconds(created, QUARANTINE_SECONDS), now) {
        plan.look_again(Some(wait));
    } else if pod::is_terminal(pod) {
        plan.writes.push(remove(pod));
    } else {
        plan.writes.push(Write::ReplaceStatus(fail(pod, node, now).into()));
    }
}

fn remove(pod: &Pod) -> Write {
    Write::Delete(Deletion { grace_period_seconds: Some(0), ..Deletion::of(Kind::Pod, pod) })
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
            world
                .set::<Pod>(ObjectKey::new("ns", name), Some(Arc::new(serde_json::from_value(pod).unwrap())));
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

    #[test]
    fn what_never_had_a_node_goes_at_once_when_it_is_to_go_and_so_do_the_oldest_of_too_many_that_ended() {
        let mut world = World::default();
        let mut put = |name: &str, pod: serde_json::Value| {
            world
                .set::<Pod>(ObjectKey::new("ns", name), Some(Arc::new(serde_json::from_value(pod).unwrap())));
        };
        put(
            "leaving",
            json!({"metadata": {"namespace": "ns", "name": "leaving", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"containers": []}}),
        );
        for at in 0..TERMINATED_MAX + 2 {
            let name = format!("p{at:05}");
            put(
                &name,
                json!({"metadata": {"namespace": "ns", "name": name}, "status": {"phase": "Succeeded"}}),
            );
        }
        let names: Vec<_> = reconcile(&world, Timestamp::UNIX_EPOCH)
            .writes
            .iter()
            .map(|write| match write {
                Write::Delete(deletion) => deletion.key.name.to_string(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["leaving", "p00000", "p00001"]);
    }
}
