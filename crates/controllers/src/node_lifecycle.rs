//! Nodes that no longer report: said in their conditions, kept from new pods by taints, and their pods taken out of traffic, then
//! moved elsewhere.

use fairway_kit::watch::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};

use crate::index::Tag;
use crate::metadata::{after_seconds, is_deleting, name_of, seconds, until};
use crate::plan::{Deletion, Notice, Plan, Severity, Write};
use crate::pod;
use crate::selector::tolerates;
use crate::world::{Kind, World};

/// A node that did not renew its Lease for so long is no longer known to be alive.
pub const LEASE_GRACE_SECONDS: i64 = 40;
/// Where nodes keep their Leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// What is known of a node's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Ready,
    /// It says itself that it is not.
    NotReady,
    /// It says nothing.
    Unknown,
}

/// Judges one node: conditions first, then taints, then its pods.
pub fn reconcile(world: &World, name: &str, now: Timestamp) -> Plan {
    let Some(node) = world.nodes.get(&ObjectKey::new("", name)) else { return Plan::nothing() };
    let mut plan = Plan::nothing();
    let silent = match last_sign_of_life(world, node) {
        None => false,
        Some(seen) => {
            let deadline = after_seconds(seen, LEASE_GRACE_SECONDS);
            plan.look_again(until(deadline, now));
            deadline <= now
        }
    };
    if silent && let Some(marked) = mark_unknown(node, now) {
        plan.writes.push(Write::ReplaceStatus(marked.into()));
        let message =
            format!("Node {name} stopped reporting {LEASE_GRACE_SECONDS} s ago: its pods get no new traffic");
        plan.notices.push(Notice::new(&**node, Severity::Warning, "NodeNotReady", message));
        return plan;
    }
    let health = health(node);
    if let Some(tainted) = taint(node, health, now) {
        plan.writes.push(Write::Replace(tainted.into()));
        return plan;
    }
    let pods: Vec<&Pod> = world.pods_tagged(&Tag::Node(name.into())).map(AsRef::as_ref).collect();
    if health != Health::Ready {
        plan.writes.extend(pods.iter().filter_map(|pod| mark_pod_unready(pod, now)));
    }
    if plan.writes.is_empty() {
        evict(node, &pods, now, &mut plan);
    }
    plan
}

/// The Lease, or before there is one the heartbeat of the Ready condition, or the node's creation.
fn last_sign_of_life(world: &World, node: &Node) -> Option<Timestamp> {
    let lease = world.leases.get(&ObjectKey::new(LEASE_NAMESPACE, name_of(&node.metadata)));
    let renewed = lease
        .and_then(|lease| lease.spec.as_ref())
        .and_then(|spec| spec.renew_time.as_ref())
        .map(|time| time.0);
    let heartbeat =
        ready_condition(node).and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|time| time.0);
    let created = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
    renewed.max(heartbeat).or(created)
}

fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == "Ready")
}

fn health(node: &Node) -> Health {
    match ready_condition(node).map(|ready| ready.status.as_str()) {
        Some("True") => Health::Ready,
        Some("Unknown") => Health::Unknown,
        _ => Health::NotReady,
    }
}

fn mark_unknown(node: &Node, now: Timestamp) -> Option<Node> {
    let mut node = node.clone();
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    if !conditions.iter().any(|condition| condition.type_ == "Ready") {
        conditions.push(NodeCondition { type_: "Ready".to_owned(), ..NodeCondition::default() });
    }
    let mut changed = false;
    for condition in conditions.iter_mut().filter(|condition| condition.status != "Unknown") {
        condition.status = "Unknown".to_owned();
        condition.reason = Some("NodeStatusUnknown".to_owned());
        condition.message = Some("Kubelet stopped posting node status.".to_owned());
        condition.last_transition_time = Some(seconds(now));
        changed = true;
    }
    changed.then_some(node)
}

/// Conditions that keep new pods away, and the taint that does so.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The taints that the node's state asks for: key and effect.
fn wanted_taints(node: &Node, health: Health) -> Vec<(&'static str, &'static str)> {
    let key = match health {
        Health::Ready => None,
        Health::NotReady => Some(NOT_READY),
        Health::Unknown => Some(UNREACHABLE),
    };
    let mut wanted: Vec<_> =
        key.into_iter().flat_map(|key| [(key, "NoSchedule"), (key, "NoExecute")]).collect();
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let holds = |type_: &str| {
        conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
    };
    wanted.extend(PRESSURES.iter().filter(|(type_, _)| holds(type_)).map(|(_, key)| (*key, "NoSchedule")));
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

fn is_ours(taint: &Taint) -> bool {
    [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&&*taint.key)
        || PRESSURES.iter().any(|(_, key)| *key == taint.key)
}

/// The node with the taints of its state, if it has others.
fn taint(node: &Node, health: Health, now: Timestamp) -> Option<Node> {
    let wanted = wanted_taints(node, health);
    let present = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> =
        present.iter().filter(|taint| !is_ours(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let time_added = (effect == "NoExecute" || key == UNSCHEDULABLE).then(|| seconds(now));
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), time_added, value: None });
        }
    }
    if taints == present {
        return None;
    }
    let mut node = node.clone();
    node.spec.get_or_insert_default().taints = Some(taints).filter(|taints| !taints.is_empty());
    Some(node)
}

/// Nobody is there to say that the pod is unready: so it is said here, and its endpoints follow.
fn mark_pod_unready(pod: &Pod, now: Timestamp) -> Option<Write> {
    if !pod::is_ready(pod) {
        return None;
    }
    let mut pod = pod.clone();
    for condition in pod.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten()) {
        if condition.type_ == "Ready" {
            condition.status = "False".to_owned();
            condition.reason = Some("NodeNotReady".to_owned());
            condition.message = Some("The node of this pod does not report".to_owned());
            condition.last_transition_time = Some(seconds(now));
        }
    }
    Some(Write::ReplaceStatus(pod.into()))
}

/// Deletes pods that do not tolerate the node's NoExecute taints, or tolerated them long enough.
fn evict(node: &Node, pods: &[&Pod], now: Timestamp, plan: &mut Plan) {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let taints: Vec<&Taint> = taints.filter(|taint| taint.effect == "NoExecute").collect();
    if taints.is_empty() {
        return;
    }
    for pod in pods.iter().filter(|pod| !is_deleting(&pod.metadata) && !pod::is_terminal(pod)) {
        let Some(deadline) = leaves_at(pod, &taints, now) else { continue };
        match until(deadline, now) {
            Some(wait) => plan.look_again(Some(wait)),
            None => {
                plan.writes.push(Write::Delete(Deletion::of(Kind::Pod, *pod)));
                let message = format!("Marking for deletion Pod {}", fairway_kit::watch::key_of(*pod));
                plan.notices.push(Notice::new(*pod, Severity::Normal, "TaintManagerEviction", message));
            }
        }
    }
}

/// When the pod has to go; `None` when it may stay.
fn leaves_at(pod: &Pod, taints: &[&Taint], now: Timestamp) -> Option<Timestamp> {
    let tolerations: Vec<_> = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten()).collect();
    let deadlines = taints.iter().filter_map(|taint| {
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let mut matching = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if matching.peek().is_none() {
            return Some(now);
        }
        // The shortest of all that apply; one without a limit does not limit.
        matching
            .filter_map(|toleration| toleration.toleration_seconds)
            .min()
            .map(|limit| after_seconds(since, limit.max(0)))
    });
    deadlines.min()
}

#[cfg(test)]
mod tests;
