//! ReplicaSet and ReplicationController: so many pods of one template. Two kinds, one engine.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerSpec, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Resource;

use fairway_kit::watch::ObjectKey;

use crate::claim::claim;
use crate::metadata::{is_deleting, name_of, object_reference, owner_reference, until};
use crate::plan::{Deletion, Plan, Write};
use crate::pod::{self, Availability};
use crate::selector::matches_pairs;
use crate::world::{Kind, World};

pub(crate) mod ranking;

/// Pods created or deleted in one pass; the rest follows when these are seen.
const BURST_MAX: usize = 500;

/// What both kinds ask for.
struct Wanted {
    replicas: usize,
    min_ready_seconds: i32,
    selector: LabelSelector,
    template: PodTemplateSpec,
}

impl Wanted {
    fn of_set(spec: &ReplicaSetSpec) -> Self {
        Self {
            replicas: usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector: spec.selector.clone(),
            template: spec.template.clone().unwrap_or_default(),
        }
    }

    /// `None` without a selector: the API server fills it in from the template.
    fn of_controller(spec: &ReplicationControllerSpec) -> Option<Self> {
        let pairs = spec.selector.clone().filter(|pairs| !pairs.is_empty())?;
        Some(Self {
            replicas: usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector: LabelSelector { match_labels: Some(pairs), match_expressions: None },
            template: spec.template.clone().unwrap_or_default(),
        })
    }
}

/// What there is.
#[derive(Debug, Default)]
struct Counts {
    active: i32,
    fully_labelled: i32,
    ready: i32,
    available: i32,
    terminating: i32,
}

/// Creates, deletes, adopts and releases pods of one ReplicaSet and reports them in its status.
pub fn reconcile(world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
    let Some(set) = world.replica_sets.get(key) else { return Plan::nothing() };
    let Some(spec) = set.spec.as_ref() else { return Plan::nothing() };
    let (mut plan, counts) = keep(world, &**set, &Wanted::of_set(spec), now);
    let status = ReplicaSetStatus {
        replicas: counts.active,
        fully_labeled_replicas: nonzero(counts.fully_labelled),
        ready_replicas: nonzero(counts.ready),
        available_replicas: nonzero(counts.available),
        terminating_replicas: Some(counts.terminating),
        observed_generation: set.metadata.generation,
        conditions: set.status.clone().and_then(|status| status.conditions),
    };
    if set.status.as_ref() != Some(&status) {
        plan.writes.push(Write::ReplaceStatus(ReplicaSet { status: Some(status), ..(**set).clone() }.into()));
    }
    plan
}

/// The same for one ReplicationController.
pub fn reconcile_controller(world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
    let Some(controller) = world.replication_controllers.get(key) else { return Plan::nothing() };
    let Some(wanted) = controller.spec.as_ref().and_then(Wanted::of_controller) else {
        return Plan::nothing();
    };
    let (mut plan, counts) = keep(world, &**controller, &wanted, now);
    let status = ReplicationControllerStatus {
        replicas: counts.active,
        fully_labeled_replicas: nonzero(counts.fully_labelled),
        ready_replicas: nonzero(counts.ready),
        available_replicas: nonzero(counts.available),
        observed_generation: controller.metadata.generation,
        conditions: controller.status.clone().and_then(|status| status.conditions),
    };
    if controller.status.as_ref() != Some(&status) {
        let reported = ReplicationController { status: Some(status), ..(**controller).clone() };
        plan.writes.push(Write::ReplaceStatus(reported.into()));
    }
    plan
}

/// Everything but the status.
fn keep<K>(world: &World, owner: &K, wanted: &Wanted, now: Timestamp) -> (Plan, Counts)
where
    K: Resource<DynamicType = ()>,
{
    let pods = world.candidates(owner.meta());
    let claim = claim(pods.into_iter(), owner.meta(), &owner_reference(owner), &wanted.selector);
    let active: Vec<&Pod> = claim.owned.iter().map(AsRef::as_ref).filter(|pod| pod::is_active(pod)).collect();
    let mut plan = Plan::writes(claim.writes);
    if !is_deleting(owner.meta()) {
        plan.writes.extend(scale(owner, wanted, &active));
    }
    let leaving = |pod: &&std::sync::Arc<Pod>| is_deleting(&pod.metadata) && !pod::is_terminal(pod);
    let terminating = claim.owned.iter().filter(leaving).count();
    let (mut counts, next) = count(wanted, &active, now);
    counts.terminating = i32::try_from(terminating).unwrap_or(i32::MAX);
    plan.look_again(next.and_then(|moment| until(moment, now)));
    (plan, counts)
}

fn scale<K: Resource<DynamicType = ()>>(owner: &K, wanted: &Wanted, active: &[&Pod]) -> Vec<Write> {
    let reference = object_reference(owner);
    if active.len() < wanted.replicas {
        let missing = (wanted.replicas - active.len()).min(BURST_MAX);
        let create = |_| Write::CreatePod { pod: Box::new(new_pod(owner, wanted)), owner: reference.clone() };
        return (0..missing).map(create).collect();
    }
    let surplus = (active.len() - wanted.replicas).min(BURST_MAX);
    if surplus == 0 {
        return Vec::new();
    }
    ranking::first_to_go(active)
        .into_iter()
        .take(surplus)
        .map(|pod| Write::DeletePod { pod: Deletion::of(Kind::Pod, pod), owner: reference.clone() })
        .collect()
}

fn new_pod<K: Resource<DynamicType = ()>>(owner: &K, wanted: &Wanted) -> Pod {
    let meta = owner.meta();
    let mut pod = pod::from_template(&wanted.template, meta.namespace.clone(), owner_reference(owner));
    pod.metadata.generate_name = Some(format!("{}-", name_of(meta)));
    pod
}

/// The counts and the moment at which they change by themselves (a ready pod becomes available).
fn count(wanted: &Wanted, active: &[&Pod], now: Timestamp) -> (Counts, Option<Timestamp>) {
    let template_labels = wanted.template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    let template_labels = template_labels.unwrap_or_default();
    let mut counts = Counts { active: i32::try_from(active.len()).unwrap_or(i32::MAX), ..Counts::default() };
    let mut next: Option<Timestamp> = None;
    for pod in active {
        counts.fully_labelled += i32::from(matches_pairs(&template_labels, pod.metadata.labels.as_ref()));
        match pod::availability(pod, wanted.min_ready_seconds, now) {
            Availability::Unready => {}
            Availability::Available => {
                (counts.ready, counts.available) = (counts.ready + 1, counts.available + 1);
            }
            Availability::ReadyUntil(moment) => {
                counts.ready += 1;
                next = Some(next.map_or(moment, |next| next.min(moment)));
            }
        }
    }
    (counts, next)
}

/// Counts of zero are left out on the wire.
pub(crate) fn nonzero(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}

#[cfg(test)]
mod tests;
