//! StatefulSet: pods with names that last, made, updated and removed in the order of their numbers.
//!
//! One write a pass in ordered mode: what was written is visible to the next pass at once, and each step waits for the pod before
//! it to be available. Volume claim templates are refused: there is no volume provisioner, and a pod whose data silently went
//! nowhere would be worse than none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_kit::watch::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetCondition, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

use crate::claim::claim;
use crate::metadata::{is_deleting, label, name_of, object_reference, owner_reference, seconds, until};
use crate::plan::{Deletion, Notice, Plan, Severity, Write};
use crate::pod::{self, Availability};
use crate::proportion::{Round, scaled};
use crate::replica_set::nonzero;
use crate::revisions::{self, History, REVISION_LABEL};
use crate::world::{Kind, World};

const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";
/// Condition that says what this set asks for in vain.
const SUPPORTED: &str = "Supported";

/// Creates, updates and deletes the pods of one StatefulSet, keeps its revisions and reports in its status.
pub fn reconcile(world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
    let Some(set) = world.stateful_sets.get(key) else { return Plan::nothing() };
    let Some(spec) = set.spec.as_ref() else { return Plan::nothing() };
    if spec.volume_claim_templates.as_ref().is_some_and(|templates| !templates.is_empty()) {
        return refuse(set, now);
    }
    let ours = |pod: &&Arc<Pod>| ordinal(name_of(&set.metadata), name_of(&pod.metadata)).is_some();
    let pods = world.candidates(&set.metadata).into_iter().filter(ours);
    let claim = claim(pods, &set.metadata, &owner_reference(&**set), &spec.selector);
    if !claim.writes.is_empty() {
        return Plan::writes(claim.writes);
    }
    let owner = revisions::Owner {
        meta: &set.metadata,
        reference: owner_reference(&**set),
        template: &spec.template,
        limit: spec.revision_history_limit,
        reported: set.status.as_ref().and_then(|status| status.current_revision.as_deref()),
    };
    let history = match History::of(&owner, world) {
        Ok(history) => history,
        Err(writes) => return Plan::writes(writes),
    };
    let state = State::new(set, spec, &claim.owned, &history, now);
    let mut plan = Plan::nothing();
    if !is_deleting(&set.metadata) {
        plan.writes = state.next_writes();
    }
    let status = state.status();
    if set.status.as_ref() != Some(&status) {
        plan.writes
            .push(Write::ReplaceStatus(StatefulSet { status: Some(status), ..(**set).clone() }.into()));
    } else if plan.writes.is_empty() {
        let live: BTreeSet<&str> = claim.owned.iter().filter_map(|pod| revision(pod)).collect();
        plan.writes = history.prune(|revision| live.contains(name_of(&revision.metadata)));
    }
    plan.look_again(state.next_available.and_then(|moment| until(moment, now)));
    plan
}

fn refuse(set: &StatefulSet, now: Timestamp) -> Plan {
    let message = "volumeClaimTemplates are not supported: there is no volume provisioner, so no pod is created. \
                   Use an emptyDir or hostPath volume in the pod template.";
    let mut status = set.status.clone().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    if conditions.iter().any(|condition| condition.type_ == SUPPORTED) {
        return Plan::nothing();
    }
    conditions.push(StatefulSetCondition {
        type_: SUPPORTED.to_owned(),
        status: "False".to_owned(),
        reason: Some("VolumeClaimTemplates".to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(seconds(now)),
    });
    status.observed_generation = set.metadata.generation;
    Plan {
        writes: vec![Write::ReplaceStatus(StatefulSet { status: Some(status), ..set.clone() }.into())],
        notices: vec![Notice::new(set, Severity::Warning, "FailedCreate", message.to_owned())],
        look_again_after: None,
    }
}

/// The number at the end of `name` when the rest is the set's name.
fn ordinal(set: &str, name: &str) -> Option<i32> {
    let digits = name.strip_prefix(set)?.strip_prefix('-')?;
    let canonical = digits == "0" || !digits.starts_with(['0', '+', '-']);
    digits.parse().ok().filter(|_| canonical)
}

/// One number: what is there.
#[derive(Clone, Copy, Debug)]
enum Slot<'a> {
    Missing,
    /// Failed or Succeeded: to be replaced by a fresh pod of the same name.
    Finished(&'a Pod),
    Terminating(&'a Pod),
    Running {
        pod: &'a Pod,
        ready: bool,
        available: bool,
    },
}

impl Slot<'_> {
    fn is_available(self) -> bool {
        matches!(self, Self::Running { available: true, .. })
    }
}

/// All that the decision needs.
struct State<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    history: &'a History,
    /// The numbers that should be there.
    wanted: BTreeMap<i32, Slot<'a>>,
    /// Numbers beyond, present only.
    surplus: BTreeMap<i32, Slot<'a>>,
    next_available: Option<Timestamp>,
}

impl<'a> State<'a> {
    fn new(
        set: &'a StatefulSet,
        spec: &'a StatefulSetSpec,
        pods: &'a [Arc<Pod>],
        history: &'a History,
        now: Timestamp,
    ) -> Self {
        let start = start(spec);
        let end = start.saturating_add(spec.replicas.unwrap_or(1).max(0));
        let mut state = Self {
            set,
            spec,
            history,
            wanted: (start..end).map(|ordinal| (ordinal, Slot::Missing)).collect(),
            surplus: BTreeMap::new(),
            next_available: None,
        };
        for pod in pods {
            let Some(ordinal) = ordinal(name_of(&set.metadata), name_of(&pod.metadata)) else { continue };
            let slot = state.slot(pod, now);
            let side = if (start..end).contains(&ordinal) { &mut state.wanted } else { &mut state.surplus };
            side.insert(ordinal, slot);
        }
        state
    }

    fn slot(&mut self, pod: &'a Pod, now: Timestamp) -> Slot<'a> {
        if is_deleting(&pod.metadata) {
            return Slot::Terminating(pod);
        }
        if pod::is_terminal(pod) {
            return Slot::Finished(pod);
        }
        match pod::availability(pod, self.spec.min_ready_seconds.unwrap_or(0), now) {
            Availability::Unready => Slot::Running { pod, ready: false, available: false },
            Availability::Available => Slot::Running { pod, ready: true, available: true },
            Availability::ReadyUntil(moment) => {
                self.next_available = Some(self.next_available.map_or(moment, |next| next.min(moment)));
                Slot::Running { pod, ready: true, available: false }
            }
        }
    }

    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn is_on_delete(&self) -> bool {
        self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete")
    }

    fn next_writes(&self) -> Vec<Write> {
        let mut writes = Vec::new();
        let filled = self.fill(&mut writes);
        if self.is_ordered() && !(filled && writes.is_empty()) {
            return writes;
        }
        let shrunk = self.shrink(&mut writes);
        if self.is_ordered() && !(shrunk && writes.is_empty()) {
            return writes;
        }
        if writes.is_empty() {
            writes.extend(self.update());
        }
        writes
    }

    /// Lowest number first. False when a pod has to be waited for before anything else may happen.
    fn fill(&self, writes: &mut Vec<Write>) -> bool {
        for (ordinal, slot) in &self.wanted {
            match slot {
                Slot::Missing => writes.push(self.create(*ordinal)),
                Slot::Finished(pod) => writes.push(self.delete(pod)),
                // Made from a template that was given up before it worked: waiting for it would wait for ever.
                Slot::Running { pod, available: false, .. } if self.is_abandoned(pod) => {
                    writes.push(self.delete(pod))
                }
                Slot::Running { pod, .. } => writes.extend(self.restore_identity(pod, *ordinal)),
                Slot::Terminating(_) => {}
            }
            if self.is_ordered() && (!slot.is_available() || !writes.is_empty()) {
                return false;
            }
        }
        true
    }

    fn is_abandoned(&self, pod: &Pod) -> bool {
        let revision = revision(pod);
        !self.is_on_delete()
            && revision != Some(&*self.history.update)
            && revision != Some(&*self.history.current)
    }

    /// Highest number first.
    fn shrink(&self, writes: &mut Vec<Write>) -> bool {
        for slot in self.surplus.values().rev() {
            match slot {
                Slot::Running { pod, .. } | Slot::Finished(pod) => writes.push(self.delete(pod)),
                Slot::Missing | Slot::Terminating(_) => {}
            }
            if self.is_ordered() {
                return false;
            }
        }
        true
    }

    /// Replaces pods of outdated revisions, the highest first, until `maxUnavailable` of those passed on the way are missing. What
    /// is missing further down does not count: it may be the outdated revision that does not work.
    fn update(&self) -> Vec<Write> {
        if self.is_on_delete() {
            return Vec::new();
        }
        let mut room = self.unavailable_max();
        let mut writes = Vec::new();
        for (_, slot) in self.wanted.range(self.partition()..).rev() {
            match slot {
                _ if room == 0 => break,
                Slot::Running { pod, .. } if revision(pod) != Some(&*self.history.update) => {
                    writes.push(self.delete(pod));
                    room -= 1;
                }
                Slot::Running { available: true, .. } => {}
                Slot::Running { .. } | Slot::Missing | Slot::Finished(_) | Slot::Terminating(_) => room -= 1,
            }
        }
        writes
    }

    /// `updateStrategy.rollingUpdate.maxUnavailable`: at least one.
    fn unavailable_max(&self) -> usize {
        let rolling =
            self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let asked = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let replicas = self.spec.replicas.unwrap_or(1);
        let count = asked.map_or(1, |asked| scaled(asked, replicas, Round::Down));
        usize::try_from(count).unwrap_or(0).max(1)
    }

    /// The lowest number that the update reaches.
    fn partition(&self) -> i32 {
        let rolling =
            self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        start(self.spec).saturating_add(rolling.and_then(|rolling| rolling.partition).unwrap_or(0).max(0))
    }

    fn create(&self, ordinal: i32) -> Write {
        // Below the partition a pod comes back as it was.
        let outdated = !self.is_on_delete() && ordinal < self.partition();
        let (revision, template) = if outdated {
            (&self.history.current, &self.history.current_template)
        } else {
            (&self.history.update, &self.spec.template)
        };
        let pod = self.new_pod(ordinal, revision, template);
        Write::CreatePod { pod: Box::new(pod), owner: object_reference(self.set) }
    }

    fn new_pod(&self, ordinal: i32, revision: &str, template: &PodTemplateSpec) -> Pod {
        let mut pod =
            pod::from_template(template, self.set.metadata.namespace.clone(), owner_reference(self.set));
        let name = format!("{}-{ordinal}", name_of(&self.set.metadata));
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(REVISION_LABEL.to_owned(), revision.to_owned());
        labels.insert(POD_NAME_LABEL.to_owned(), name.clone());
        labels.insert(POD_INDEX_LABEL.to_owned(), ordinal.to_string());
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(name.clone());
        spec.subdomain = self.spec.service_name.clone().filter(|service| !service.is_empty());
        pod.metadata.name = Some(name);
        pod
    }

    /// Labels by which others find this very pod.
    fn restore_identity(&self, pod: &Pod, ordinal: i32) -> Option<Write> {
        let name = name_of(&pod.metadata);
        if label(&pod.metadata, POD_NAME_LABEL) == Some(name)
            && label(&pod.metadata, POD_INDEX_LABEL).is_some()
        {
            return None;
        }
        let mut pod = pod.clone();
        let name = name.to_owned();
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(POD_NAME_LABEL.to_owned(), name);
        labels.insert(POD_INDEX_LABEL.to_owned(), ordinal.to_string());
        Some(Write::Replace(pod.into()))
    }

    fn delete(&self, pod: &Pod) -> Write {
        Write::DeletePod { pod: Deletion::of(Kind::Pod, pod), owner: object_reference(self.set) }
    }

    fn status(&self) -> StatefulSetStatus {
        let old = self.set.status.clone().unwrap_or_default();
        let mut status = StatefulSetStatus {
            collision_count: old.collision_count,
            observed_generation: self.set.metadata.generation,
            current_revision: Some(self.history.current.clone()),
            update_revision: Some(self.history.update.clone()),
            conditions: old.conditions.map(|mut conditions| {
                conditions.retain(|condition| condition.type_ != SUPPORTED);
                conditions
            }),
            ..StatefulSetStatus::default()
        };
        status.conditions = status.conditions.filter(|conditions| !conditions.is_empty());
        let (mut ready_count, mut available_count, mut current, mut updated) = (0, 0, 0, 0);
        for slot in self.wanted.values().chain(self.surplus.values()) {
            let (Slot::Running { pod, .. } | Slot::Terminating(pod) | Slot::Finished(pod)) = slot else {
                continue;
            };
            status.replicas += 1;
            if let Slot::Running { ready, available, .. } = slot {
                ready_count += i32::from(*ready);
                available_count += i32::from(*available);
                current += i32::from(revision(pod) == Some(&*self.history.current));
                updated += i32::from(revision(pod) == Some(&*self.history.update));
            }
        }
        if self.is_rolled_out(updated, ready_count, status.replicas) {
            status.current_revision = status.update_revision.clone();
            current = updated;
        }
        status.ready_replicas = nonzero(ready_count);
        status.available_replicas = Some(available_count);
        status.current_replicas = nonzero(current);
        status.updated_replicas = nonzero(updated);
        status
    }

    /// Every pod is of the update revision: it becomes the current one.
    fn is_rolled_out(&self, updated: i32, ready: i32, replicas: i32) -> bool {
        let wanted = i32::try_from(self.wanted.len()).unwrap_or(i32::MAX);
        self.history.update != self.history.current
            && updated == wanted
            && ready == wanted
            && replicas == wanted
    }
}

fn start(spec: &StatefulSetSpec) -> i32 {
    spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0).max(0)
}

fn revision(pod: &Pod) -> Option<&str> {
    label(&pod.metadata, REVISION_LABEL)
}

#[cfg(test)]
mod tests;
