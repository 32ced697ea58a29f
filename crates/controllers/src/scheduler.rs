//! The scheduler: every pod without a node gets one, or is told why not.
//!
//! All waiting pods are decided in one pass, oldest of the highest priority first, each decision counting for the next one: a
//! burst of replicas spreads evenly. Nothing is preempted: a pod for which there is no room waits, whatever its priority.
//!
//! - `filter`: what speaks against a node by itself; `resources`: whether it has enough left.
//! - `nearness`: what other pods mean: (anti-)affinity and spreading.
//! - `load`: what each node carries, kept up to date with every change.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, PodStatus};

use crate::index::Tag;
use crate::metadata::{age, controller_of, is_deleting, name_of, namespace_of, seconds};
use crate::plan::{Notice, Plan, Severity, Write};
use crate::pod;
use crate::world::World;

pub(crate) mod filter;
pub mod load;
mod nearness;
mod resources;

use filter::Refusal;
use load::Loads;
use nearness::{Nearness, Placed};

/// The scheduler that pods name when they name none.
const SCHEDULER_NAME: &str = "default-scheduler";
/// Pods decided in one pass; the others follow at once.
const PODS_PER_PASS_MAX: usize = 500;

/// Decides for all waiting pods.
pub fn reconcile(world: &World, now: Timestamp) -> Plan {
    let mut waiting: Vec<&Arc<Pod>> = world.pods_tagged(&Tag::Waiting).collect();
    let mut plan = Plan::nothing();
    if waiting.is_empty() {
        return plan;
    }
    waiting.sort_by(|left, right| order(left).cmp(&order(right)));
    if waiting.len() > PODS_PER_PASS_MAX {
        waiting.truncate(PODS_PER_PASS_MAX);
        plan.look_again(Some(std::time::Duration::from_millis(1)));
    }
    let mut loads = world.index.pods.loads.clone();
    let mut placed = Placed::new();
    for pod in waiting {
        match choose(pod, world, &loads, &placed) {
            Ok(node) => {
                loads.place(pod, node);
                placed.push((pod, node));
                plan.writes.push(Write::Bind { pod: Box::new((**pod).clone()), node: node.to_owned() });
                let message = format!(
                    "Successfully assigned {}/{} to {node}",
                    namespace_of(&pod.metadata),
                    name_of(&pod.metadata)
                );
                plan.notices.push(Notice::new(&**pod, Severity::Normal, "Scheduled", message));
            }
            Err(message) => refuse(pod, message, now, &mut plan),
        }
    }
    plan
}

/// Highest priority first, then oldest.
fn order(pod: &Pod) -> (std::cmp::Reverse<i32>, (Option<Timestamp>, &str), &str) {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    (std::cmp::Reverse(priority), age(&pod.metadata), namespace_of(&pod.metadata))
}

fn is_waiting(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    pod::node_name(pod).is_none()
        && !is_deleting(&pod.metadata)
        && !pod::is_terminal(pod)
        && spec.scheduler_name.as_deref().unwrap_or(SCHEDULER_NAME) == SCHEDULER_NAME
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
}

/// Whether this pod is one for [`reconcile`].
pub fn concerns(pod: &Pod) -> bool {
    is_waiting(pod)
}

/// Whether a pod keeps others away.
pub(crate) fn repels(pod: &Pod) -> bool {
    nearness::repels(pod)
}

/// The best node that nothing speaks against: avoided taints, what the pod prefers, evenness, pods of the same owner, then all pods,
/// then the name decide.
fn choose<'a>(pod: &'a Pod, world: &'a World, loads: &Loads, placed: &Placed<'a>) -> Result<&'a str, String> {
    let owner = controller_of(&pod.metadata).map(|owner| owner.uid.as_str());
    let requests = resources::requests(pod);
    let nearness = Nearness::of(pod, world, placed);
    let mut refusals: BTreeMap<Refusal, usize> = BTreeMap::new();
    let mut best: Option<(Cost<'a>, &'a Node)> = None;
    for node in world.nodes.values() {
        let name = name_of(&node.metadata);
        let load = loads.of(name);
        let mut against = filter::refusals(pod, &requests, node, load);
        if against.is_empty() {
            against.extend(nearness.refusal(node));
        }
        if !against.is_empty() {
            against.into_iter().for_each(|refusal| *refusals.entry(refusal).or_default() += 1);
            continue;
        }
        let cost = Cost {
            avoided_taints: filter::avoided_taints(pod, node),
            unwanted: std::cmp::Reverse(filter::preference(pod, node) + nearness.preference(node)),
            unevenness: nearness.unevenness(node),
            of_owner: owner.and_then(|owner| load?.of_owner.get(owner)).copied().unwrap_or(0),
            pods: load.map_or(0, |load| load.pods),
            name,
        };
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, node));
        }
    }
    best.map(|(_, node)| name_of(&node.metadata)).ok_or_else(|| explain(world.nodes.len(), &refusals))
}

/// What placing a pod on a node costs; the first difference decides.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost<'a> {
    avoided_taints: usize,
    unwanted: std::cmp::Reverse<i64>,
    unevenness: i64,
    of_owner: usize,
    pods: usize,
    name: &'a str,
}

fn explain(total: usize, refusals: &BTreeMap<Refusal, usize>) -> String {
    if total == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut reasons: Vec<String> =
        refusals.iter().map(|(refusal, count)| format!("{count} {refusal}")).collect();
    reasons.sort();
    format!("0/{total} nodes are available: {}.", reasons.join(", "))
}

/// Says it once: a pod that is refused for the same reason as before is not written again.
fn refuse(pod: &Pod, message: String, now: Timestamp, plan: &mut Plan) {
    let old = pod::condition(pod, "PodScheduled");
    if old.is_some_and(|old| old.status == "False" && old.message.as_deref() == Some(&*message)) {
        return;
    }
    let since = old.filter(|old| old.status == "False").and_then(|old| old.last_transition_time.clone());
    let condition = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(message.clone()),
        last_transition_time: since.or_else(|| Some(seconds(now))),
        ..PodCondition::default()
    };
    let mut status: PodStatus = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(condition);
    plan.writes.push(Write::ReplaceStatus(Pod { status: Some(status), ..pod.clone() }.into()));
    plan.notices.push(Notice::new(pod, Severity::Warning, "FailedScheduling", message));
}

#[cfg(test)]
mod tests;
