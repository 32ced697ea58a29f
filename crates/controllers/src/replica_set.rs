//! ReplicaSet: so many pods of one template.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;

use fairway_kit::watch::ObjectKey;

use crate::claim::claim;
use crate::metadata::{is_deleting, name_of, object_reference, owner_reference, until};
use crate::plan::{Deletion, Plan, Write};
use crate::pod::{self, Availability};
use crate::selector::matches_pairs;
use crate::world::{Kind, World, in_namespace};

mod ranking;

/// Pods created or deleted in one pass; the rest follows when these are seen.
const BURST_MAX: usize = 500;

/// Creates, deletes, adopts and releases pods of one ReplicaSet and reports them in its status.
pub fn reconcile(world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
    let Some(set) = world.replica_sets.get(key) else { return Plan::nothing() };
    let Some(spec) = set.spec.as_ref() else { return Plan::nothing() };
    let pods = in_namespace(&world.pods, &key.namespace);
    let claim = claim(pods, &set.metadata, &owner_reference(&**set), &spec.selector);
    let active: Vec<&Pod> = claim.owned.iter().map(AsRef::as_ref).filter(|pod| pod::is_active(pod)).collect();
    let mut plan = Plan::writes(claim.writes);
    if !is_deleting(&set.metadata) {
        plan.writes.extend(scale(set, &active));
    }
    let terminating =
        claim.owned.iter().filter(|pod| is_deleting(&pod.metadata) && !pod::is_terminal(pod)).count();
    let (status, next) = status(set, &active, terminating, now);
    if set.status.as_ref() != Some(&status) {
        plan.writes.push(Write::ReplaceStatus(ReplicaSet { status: Some(status), ..(**set).clone() }.into()));
    }
    plan.look_again(next.and_then(|moment| until(moment, now)));
    plan
}

fn scale(set: &ReplicaSet, active: &[&Pod]) -> Vec<Write> {
    let Some(spec) = set.spec.as_ref() else { return Vec::new() };
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let owner = object_reference(set);
    if active.len() < wanted {
        let missing = (wanted - active.len()).min(BURST_MAX);
        return (0..missing)
            .map(|_| Write::CreatePod { pod: Box::new(new_pod(set)), owner: owner.clone() })
            .collect();
    }
    let surplus = (active.len() - wanted).min(BURST_MAX);
    ranking::first_to_go(active)
        .into_iter()
        .take(surplus)
        .map(|pod| Write::DeletePod { pod: Deletion::of(Kind::Pod, pod), owner: owner.clone() })
        .collect()
}

fn new_pod(set: &ReplicaSet) -> Pod {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pod::from_template(&template, set.metadata.namespace.clone(), owner_reference(set));
    pod.metadata.generate_name = Some(format!("{}-", name_of(&set.metadata)));
    pod
}

/// The status and the moment at which it changes by itself (a ready pod becomes available).
fn status(
    set: &ReplicaSet,
    active: &[&Pod],
    terminating: usize,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Timestamp>) {
    let spec = set.spec.clone().unwrap_or_default();
    let template_labels =
        spec.template.and_then(|template| template.metadata).and_then(|meta| meta.labels).unwrap_or_default();
    let (mut ready, mut available, mut labelled) = (0, 0, 0);
    let mut next: Option<Timestamp> = None;
    for pod in active {
        labelled += i32::from(matches_pairs(&template_labels, pod.metadata.labels.as_ref()));
        match pod::availability(pod, spec.min_ready_seconds.unwrap_or(0), now) {
            Availability::Unready => {}
            Availability::Available => (ready, available) = (ready + 1, available + 1),
            Availability::ReadyUntil(moment) => {
                ready += 1;
                next = Some(next.map_or(moment, |next| next.min(moment)));
            }
        }
    }
    let old = set.status.clone().unwrap_or_default();
    let status = ReplicaSetStatus {
        replicas: i32::try_from(active.len()).unwrap_or(i32::MAX),
        fully_labeled_replicas: nonzero(labelled),
        ready_replicas: nonzero(ready),
        available_replicas: nonzero(available),
        terminating_replicas: Some(i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: set.metadata.generation,
        conditions: old.conditions,
    };
    (status, next)
}

/// Counts of zero are left out on the wire.
pub(crate) fn nonzero(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}

#[cfg(test)]
mod tests;
