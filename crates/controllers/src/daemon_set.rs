//! DaemonSet: one pod on every node that it fits.
//!
//! The pods are made with an affinity to the name of their node and go through the scheduler like any other; what keeps other pods
//! off a node that is not well, daemons tolerate.
//!
//! - `placement`: which nodes, and what a pod gets so that it lands there.
//! - `rollout`: which pods make way for the present template, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_kit::watch::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::Pod;

use crate::claim::claim;
use crate::metadata::{
    after_seconds, age, is_deleting, label, name_of, object_reference, owner_reference, until,
};
use crate::plan::{Deletion, Notice, Plan, Severity, Write};
use crate::pod::{self, Availability};
use crate::revisions::{self, History, REVISION_LABEL};
use crate::world::{Kind, World};

mod placement;
mod rollout;

pub(crate) use placement::wants_look;

/// Pods created or deleted in one pass.
const BURST_MAX: usize = 250;
/// A daemon that ends sooner than this after it was made is not replaced at once, or a broken one would be made again and again.
const SHORT_LIFE_SECONDS: i64 = 10;

/// Creates, replaces and deletes the pods of one DaemonSet, keeps its revisions and reports in its status.
pub fn reconcile(world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
    let Some(set) = world.daemon_sets.get(key) else { return Plan::nothing() };
    let Some(spec) = set.spec.as_ref() else { return Plan::nothing() };
    let pods = world.candidates(&set.metadata);
    let claim = claim(pods.into_iter(), &set.metadata, &owner_reference(&**set), &spec.selector);
    if !claim.writes.is_empty() {
        return Plan::writes(claim.writes);
    }
    let owner = revisions::Owner {
        meta: &set.metadata,
        reference: owner_reference(&**set),
        template: &spec.template,
        limit: spec.revision_history_limit,
        reported: None,
    };
    let history = match History::of(&owner, world) {
        Ok(history) => history,
        Err(writes) => return Plan::writes(writes),
    };
    let state = State::new(world, set, spec, &claim.owned, &history.update_hash, now);
    let mut plan = Plan::nothing();
    if !is_deleting(&set.metadata) {
        state.manage(&mut plan);
        if plan.writes.is_empty() {
            plan.writes.extend(rollout::next(&state));
        }
    }
    let status = state.status();
    if set.status.as_ref() != Some(&status) {
        plan.writes.push(Write::ReplaceStatus(DaemonSet { status: Some(status), ..(**set).clone() }.into()));
    } else if plan.writes.is_empty() {
        let live: BTreeSet<&str> =
            claim.owned.iter().filter_map(|pod| label(&pod.metadata, REVISION_LABEL)).collect();
        plan.writes = history.prune(|revision| {
            label(&revision.metadata, REVISION_LABEL).is_some_and(|hash| live.contains(hash))
        });
    }
    plan.look_again(state.next_available.and_then(|moment| until(moment, now)));
    plan
}

/// One node, and the pods of the set that are on it or on their way to it, oldest first.
#[derive(Debug, Default)]
struct Place<'a> {
    /// A pod belongs here.
    wanted: bool,
    /// A pod that is here already may stay.
    tolerated: bool,
    pods: Vec<Daemon<'a>>,
}

/// One pod of the set.
#[derive(Clone, Copy, Debug)]
struct Daemon<'a> {
    pod: &'a Pod,
    /// Of the present template.
    updated: bool,
    ready: bool,
    available: bool,
}

impl Daemon<'_> {
    fn is_leaving(&self) -> bool {
        is_deleting(&self.pod.metadata)
    }
}

/// All that the decision needs.
struct State<'a> {
    set: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    hash: &'a str,
    /// By node; nodes that are gone are there while they have pods.
    places: BTreeMap<&'a str, Place<'a>>,
    next_available: Option<Timestamp>,
    now: Timestamp,
}

impl<'a> State<'a> {
    fn new(
        world: &'a World,
        set: &'a DaemonSet,
        spec: &'a DaemonSetSpec,
        pods: &'a [Arc<Pod>],
        hash: &'a str,
        now: Timestamp,
    ) -> Self {
        let mut state = Self { set, spec, hash, places: BTreeMap::new(), next_available: None, now };
        let model = placement::model(&spec.template);
        for node in world.nodes.values() {
            let fit = placement::fit(&model, node);
            let place = Place { wanted: fit.wanted, tolerated: fit.tolerated, pods: Vec::new() };
            state.places.insert(name_of(&node.metadata), place);
        }
        let mut pods: Vec<&Arc<Pod>> = pods.iter().collect();
        pods.sort_by(|left, right| age(&left.metadata).cmp(&age(&right.metadata)));
        for pod in pods {
            let Some(node) = placement::node_of(pod) else { continue };
            let daemon = state.daemon(pod);
            state.places.entry(node).or_default().pods.push(daemon);
        }
        state
    }

    fn daemon(&mut self, pod: &'a Pod) -> Daemon<'a> {
        let updated = label(&pod.metadata, REVISION_LABEL) == Some(self.hash);
        let (ready, available) =
            match pod::availability(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now) {
                _ if is_deleting(&pod.metadata) || pod::is_terminal(pod) => (false, false),
                Availability::Unready => (false, false),
                Availability::Available => (true, true),
                Availability::ReadyUntil(moment) => {
                    self.next_available = Some(self.next_available.map_or(moment, |next| next.min(moment)));
                    (true, false)
                }
            };
        Daemon { pod, updated, ready, available }
    }

    /// Makes what is missing and removes what should not be there.
    fn manage(&self, plan: &mut Plan) {
        for (node, place) in &self.places {
            if plan.writes.len() >= BURST_MAX {
                return;
            }
            if place.pods.is_empty() {
                plan.writes.extend(place.wanted.then(|| self.create(node)));
            } else if !place.tolerated {
                let staying = place.pods.iter().filter(|daemon| !daemon.is_leaving());
                plan.writes.extend(staying.map(|daemon| self.delete(daemon.pod)));
            } else {
                self.tidy(node, place, plan);
            }
        }
    }

    /// A node that keeps its pod: one that ended makes way, and of several all but the oldest go.
    fn tidy(&self, node: &str, place: &Place<'_>, plan: &mut Plan) {
        let mut running: Vec<&Daemon<'_>> = Vec::new();
        for daemon in place.pods.iter().filter(|daemon| !daemon.is_leaving()) {
            if pod::is_terminal(daemon.pod) {
                self.replace(daemon.pod, node, plan);
            } else {
                running.push(daemon);
            }
        }
        // While a rollout surges, an old and a new pod stand side by side until the new one is available.
        let surging =
            |left: &Daemon<'_>, right: &Daemon<'_>| rollout::surge(self) > 0 && left.updated != right.updated;
        match running.as_slice() {
            [] | [_] => {}
            [left, right] if surging(left, right) => {}
            [_, surplus @ ..] => {
                plan.writes.extend(surplus.iter().map(|daemon| self.delete(daemon.pod)));
            }
        }
    }

    fn replace(&self, pod: &Pod, node: &str, plan: &mut Plan) {
        let created = pod.metadata.creation_timestamp.as_ref().map_or(self.now, |time| time.0);
        if let Some(wait) = until(after_seconds(created, SHORT_LIFE_SECONDS), self.now) {
            return plan.look_again(Some(wait));
        }
        let (severity, reason) = match pod::phase(pod) {
            "Failed" => (Severity::Warning, "FailedDaemonPod"),
            _ => (Severity::Normal, "SucceededDaemonPod"),
        };
        let how = if severity == Severity::Warning { "failed" } else { "succeeded" };
        let key = fairway_kit::watch::key_of(pod);
        let message = format!("Found {how} daemon pod {key} on node {node}, will try to kill it");
        plan.notices.push(Notice::new(self.set, severity, reason, message));
        plan.writes.push(self.delete(pod));
    }

    fn create(&self, node: &str) -> Write {
        let pod = placement::new_pod(self.set, &self.spec.template, node, self.hash);
        Write::CreatePod { pod: Box::new(pod), owner: object_reference(self.set) }
    }

    fn delete(&self, pod: &Pod) -> Write {
        Write::DeletePod { pod: Deletion::of(Kind::Pod, pod), owner: object_reference(self.set) }
    }

    /// Nodes on which a pod belongs.
    fn desired(&self) -> i32 {
        i32::try_from(self.places.values().filter(|place| place.wanted).count()).unwrap_or(i32::MAX)
    }

    fn status(&self) -> DaemonSetStatus {
        let old = self.set.status.clone().unwrap_or_default();
        let (mut current, mut misplaced, mut ready, mut available, mut updated) = (0, 0, 0, 0, 0);
        for place in self.places.values().filter(|place| !place.pods.is_empty()) {
            if !place.wanted {
                misplaced += 1;
                continue;
            }
            current += 1;
            ready += i32::from(place.pods.iter().any(|daemon| daemon.ready));
            available += i32::from(place.pods.iter().any(|daemon| daemon.available));
            updated += i32::from(place.pods.iter().any(|daemon| daemon.updated && !daemon.is_leaving()));
        }
        let desired = self.desired();
        DaemonSetStatus {
            collision_count: old.collision_count,
            conditions: old.conditions,
            current_number_scheduled: current,
            desired_number_scheduled: desired,
            number_available: crate::replica_set::nonzero(available),
            number_misscheduled: misplaced,
            number_ready: ready,
            number_unavailable: crate::replica_set::nonzero((desired - available).max(0)),
            observed_generation: self.set.metadata.generation,
            updated_number_scheduled: crate::replica_set::nonzero(updated),
        }
    }
}

#[cfg(test)]
mod tests;
