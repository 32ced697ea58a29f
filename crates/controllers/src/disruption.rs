//! PodDisruptionBudget: how many pods may be evicted now. Evictions themselves are decided by the API server, against this status.

use fairway_kit::watch::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use std::collections::{BTreeMap, BTreeSet};

use crate::metadata::{
    after_seconds, controller_key, controller_of, is_deleting, name_of, namespace_of, seconds, until,
};
use crate::plan::{Notice, Plan, Severity, Write};
use crate::pod;
use crate::proportion::{Round, scaled};
use crate::world::World;

/// An eviction that was allowed and did not happen within so long is forgotten.
const DISRUPTED_SECONDS: i64 = 120;

/// What a budget comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Budget {
    expected: i32,
    desired: i32,
    /// Some pods have no controller that would say how many there should be.
    unmanaged: bool,
}

/// Reports one budget in its status.
pub fn reconcile(world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
    let Some(budget) = world.disruption_budgets.get(key) else { return Plan::nothing() };
    let (Some(spec), false) = (budget.spec.as_ref(), is_deleting(&budget.metadata)) else {
        return Plan::nothing();
    };
    // Without a selector no pod is meant; an empty one means all.
    let selector = spec.selector.iter();
    let pods = selector.flat_map(|selector| world.pods_selected(&key.namespace, selector));
    let pods: Vec<&Pod> = pods.map(AsRef::as_ref).filter(|pod| !pod::is_terminal(pod)).collect();
    let sum = sum(world, spec, &pods);
    let mut plan = Plan::nothing();
    if sum.unmanaged {
        let message = "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status of the PDB \
                       cannot be calculated correctly, which may result in undefined behavior. To account for these pods please \
                       set \".spec.minAvailable\" field of the PDB to an integer value.";
        plan.notices.push(Notice::new(&**budget, Severity::Warning, "UnmanagedPods", message.to_owned()));
    }
    let disrupted = disrupted(budget, &pods, now);
    plan.look_again(
        disrupted.values().filter_map(|time| until(after_seconds(time.0, DISRUPTED_SECONDS), now)).min(),
    );
    let healthy = pods.iter().filter(|pod| {
        !is_deleting(&pod.metadata) && !disrupted.contains_key(name_of(&pod.metadata)) && pod::is_ready(pod)
    });
    let status = status(budget, sum, i32::try_from(healthy.count()).unwrap_or(i32::MAX), disrupted, now);
    if budget.status.as_ref() != Some(&status) {
        let reported = PodDisruptionBudget { status: Some(status), ..(**budget).clone() };
        plan.writes.push(Write::ReplaceStatus(reported.into()));
    }
    plan
}

fn sum(world: &World, spec: &PodDisruptionBudgetSpec, pods: &[&Pod]) -> Budget {
    let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let (expected, unmanaged) = scale(world, pods);
            let desired = (expected - scaled(most, expected, Round::Up)).max(0);
            Budget { expected, desired, unmanaged }
        }
        (None, Some(least @ IntOrString::String(_))) => {
            let (expected, unmanaged) = scale(world, pods);
            Budget { expected, desired: scaled(least, expected, Round::Up), unmanaged }
        }
        (None, Some(IntOrString::Int(least))) => {
            Budget { expected: count, desired: *least, unmanaged: false }
        }
        // As if one had to be available.
        (None, None) => Budget { expected: count, desired: 1, unmanaged: false },
    }
}

/// How many pods the controllers of these pods want, and whether some have none.
fn scale(world: &World, pods: &[&Pod]) -> (i32, bool) {
    let mut controllers: BTreeMap<&str, i32> = BTreeMap::new();
    let mut unmanaged = false;
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for pod in pods {
        match controller_of(&pod.metadata) {
            Some(owner) if !seen.insert(owner.uid.as_str()) => {}
            Some(owner) => match replicas(world, pod) {
                Some((uid, replicas)) => _ = controllers.insert(uid, replicas),
                None => {
                    // A kind that we do not know: what it has is what it wants.
                    let same = pods.iter().filter(|other| {
                        controller_of(&other.metadata).is_some_and(|other| other.uid == owner.uid)
                    });
                    controllers.insert(&owner.uid, i32::try_from(same.count()).unwrap_or(i32::MAX));
                }
            },
            None => unmanaged = true,
        }
    }
    (controllers.into_values().fold(0, i32::saturating_add), unmanaged)
}

/// Uid and size of what decides how many of this pod there are.
fn replicas<'a>(world: &'a World, pod: &Pod) -> Option<(&'a str, i32)> {
    let uid = |meta: &'a kube::api::ObjectMeta| meta.uid.as_deref().unwrap_or_default();
    if let Some(set) =
        controller_key(&pod.metadata, "ReplicaSet").and_then(|key| world.replica_sets.get(&key))
    {
        let deployment = controller_key(&set.metadata, "Deployment");
        if let Some(deployment) = deployment.and_then(|key| world.deployments.get(&key)) {
            return Some((uid(&deployment.metadata), deployment.spec.as_ref()?.replicas.unwrap_or(1)));
        }
        return Some((uid(&set.metadata), set.spec.as_ref()?.replicas.unwrap_or(1)));
    }
    let set = controller_key(&pod.metadata, "StatefulSet").and_then(|key| world.stateful_sets.get(&key));
    if let Some(set) = set {
        return Some((uid(&set.metadata), set.spec.as_ref()?.replicas.unwrap_or(1)));
    }
    let controller = controller_key(&pod.metadata, "ReplicationController");
    let controller = controller.and_then(|key| world.replication_controllers.get(&key))?;
    Some((uid(&controller.metadata), controller.spec.as_ref()?.replicas.unwrap_or(1)))
}

/// Evictions that were allowed and are still to come.
fn disrupted(budget: &PodDisruptionBudget, pods: &[&Pod], now: Timestamp) -> BTreeMap<String, Time> {
    let known = budget.status.as_ref().and_then(|status| status.disrupted_pods.clone()).unwrap_or_default();
    let pending = |name: &str, time: &Time| {
        let pod = pods.iter().find(|pod| name_of(&pod.metadata) == name);
        pod.is_some_and(|pod| !is_deleting(&pod.metadata)) && after_seconds(time.0, DISRUPTED_SECONDS) > now
    };
    known.into_iter().filter(|(name, time)| pending(name, time)).collect()
}

fn status(
    budget: &PodDisruptionBudget,
    sum: Budget,
    healthy: i32,
    disrupted: BTreeMap<String, Time>,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let allowed = if sum.expected > 0 { (healthy - sum.desired).max(0) } else { 0 };
    let old = budget.status.clone().unwrap_or_default();
    let (state, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut conditions = old.conditions.unwrap_or_default();
    let before = conditions.iter().position(|condition| condition.type_ == "DisruptionAllowed");
    let before = before.map(|at| conditions.remove(at));
    let since = before.filter(|before| before.status == state).map(|before| before.last_transition_time);
    conditions.push(Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: state.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        last_transition_time: since.unwrap_or_else(|| seconds(now)),
        observed_generation: budget.metadata.generation,
    });
    PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: Some(healthy),
        desired_healthy: Some(sum.desired),
        disrupted_pods: Some(disrupted).filter(|disrupted| !disrupted.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(sum.expected),
        observed_generation: budget.metadata.generation,
    }
}

/// Budgets that mean a pod.
pub(crate) fn concerned<'a>(world: &'a World, pod: &'a Pod) -> impl Iterator<Item = ObjectKey> + 'a {
    let budgets = crate::world::in_namespace(&world.disruption_budgets, namespace_of(&pod.metadata));
    let meant = budgets.filter(|budget| {
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| crate::selector::matches(selector, pod.metadata.labels.as_ref()))
    });
    meant.map(|budget| crate::metadata::key(&**budget))
}

#[cfg(test)]
mod tests;
