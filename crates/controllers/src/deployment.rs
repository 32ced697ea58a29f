//! Deployment: one ReplicaSet per version of the template, and the way from one to the next.
//!
//! Each pass decides from what is there now, never from what a pass before intended: a restart anywhere in a rollout goes on.
//! What `kubectl rollout status|history|undo|pause|restart` reads (revision annotations, conditions, observedGeneration) is
//! part of the result.

use std::sync::Arc;

use fairway_kit::watch::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};

use crate::claim::claim;
use crate::metadata::{age, annotation, is_deleting, name_of, owner_reference};
use crate::plan::{Notice, Plan, Severity, Write};
use crate::pod;
use crate::world::{Pod, World};

mod revision;
mod rolling;
mod status;

use rolling::{Bounds, Size};

/// Everything of one Deployment, sorted out.
#[derive(Debug)]
struct Rollout<'a> {
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    bounds: Bounds,
    /// The ReplicaSet of the present template.
    new: Option<Arc<ReplicaSet>>,
    /// All others, oldest first.
    old: Vec<Arc<ReplicaSet>>,
}

/// Creates, sizes, annotates and prunes the ReplicaSets of one Deployment and reports in its status.
pub fn reconcile(world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
    let Some(deployment) = world.deployments.get(key) else { return Plan::nothing() };
    let Some(spec) = deployment.spec.as_ref() else { return Plan::nothing() };
    let sets = world.candidates(&deployment.metadata);
    let claim =
        claim(sets.into_iter(), &deployment.metadata, &owner_reference(&**deployment), &spec.selector);
    if !claim.writes.is_empty() {
        // The ReplicaSets change by this: sized in the next pass, which that change brings about.
        return Plan::writes(claim.writes);
    }
    let rollout = Rollout::new(deployment, spec, claim.owned);
    if is_deleting(&deployment.metadata) {
        return status::report(&rollout, status::Step::Steady, now);
    }
    if let Some(collision) = revision::collision(&rollout, world) {
        return collision;
    }
    let mut plan = Plan::nothing();
    let mut step = status::Step::Steady;
    if spec.paused == Some(true) {
        rollout.scale(&mut plan);
        step = status::Step::Paused;
    } else if rollout.is_recreating() {
        step = rollout.recreate(world, &mut plan);
    } else if rollout.is_scaling() {
        rollout.scale(&mut plan);
    } else {
        step = rollout.roll(&mut plan);
    }
    if plan.writes.is_empty() && step != status::Step::Paused {
        plan.writes.extend(revision::annotate(&rollout));
    }
    let settled = plan.writes.is_empty();
    if settled && let Some(write) = revision::annotate_deployment(&rollout) {
        return Plan::writes(vec![write]);
    }
    let report = status::report(&rollout, step, now);
    if settled && (rollout.is_complete() || spec.paused == Some(true)) {
        plan.writes.extend(revision::prune(&rollout));
    }
    plan.writes.extend(report.writes);
    plan.notices.extend(report.notices);
    plan.look_again(report.look_again_after);
    plan
}

impl<'a> Rollout<'a> {
    fn new(deployment: &'a Deployment, spec: &'a DeploymentSpec, mut sets: Vec<Arc<ReplicaSet>>) -> Self {
        sets.sort_by(|left, right| age(&left.metadata).cmp(&age(&right.metadata)));
        let wanted = revision::template_identity(&spec.template);
        let is_new = |set: &Arc<ReplicaSet>| {
            let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            template.is_some_and(|template| revision::template_identity(template) == wanted)
        };
        // The oldest, should there be two of the same template.
        let new = sets.iter().position(is_new).map(|at| sets.remove(at));
        Self { deployment, spec, bounds: Bounds::of(spec), new, old: sets }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(self.new.as_ref())
    }

    /// `spec.replicas` was changed since the ReplicaSets were sized.
    fn is_scaling(&self) -> bool {
        self.all().filter(|set| replicas(set) > 0).any(|set| {
            let desired = annotation(&set.metadata, revision::DESIRED_REPLICAS)
                .and_then(|text| text.parse::<i32>().ok());
            desired.is_some_and(|desired| desired != self.bounds.replicas)
        })
    }

    fn is_recreating(&self) -> bool {
        self.spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
    }

    fn is_complete(&self) -> bool {
        let ready = self.deployment.status.clone().unwrap_or_default();
        let wanted = self.bounds.replicas;
        ready.updated_replicas.unwrap_or(0) == wanted
            && ready.replicas.unwrap_or(0) == wanted
            && ready.available_replicas.unwrap_or(0) == wanted
            && ready.observed_generation >= self.deployment.metadata.generation
    }

    fn roll(&self, plan: &mut Plan) -> status::Step {
        let old: Vec<Size> = self.old.iter().map(|set| size(set)).collect();
        let Some(new) = &self.new else {
            let total: i32 = old.iter().map(|size| size.replicas).sum();
            self.create(self.bounds.grow_new(0, total), plan);
            return status::Step::Created;
        };
        let grown = self.bounds.grow_new(replicas(new), self.all().map(|set| replicas(set)).sum());
        if grown != replicas(new) {
            self.resize(new, grown, plan);
            return status::Step::Steady;
        }
        for (set, replicas) in self.old.iter().zip(self.bounds.shrink_old(size(new), &old)) {
            self.resize(set, replicas, plan);
        }
        status::Step::Steady
    }

    fn recreate(&self, world: &World, plan: &mut Plan) -> status::Step {
        if self.old.iter().any(|set| replicas(set) > 0) {
            for set in &self.old {
                self.resize(set, 0, plan);
            }
            return status::Step::Steady;
        }
        // Two versions never run at the same time: wait until the last old process is gone, not only asked to go.
        let old_runs = self.old.iter().filter_map(|set| set.metadata.uid.as_deref()).any(|uid| {
            let mut pods = world.managed(uid);
            pods.any(|pod: &Arc<Pod>| !pod::is_terminal(pod))
        });
        match &self.new {
            _ if old_runs => status::Step::Steady,
            Some(new) => {
                self.resize(new, self.bounds.replicas, plan);
                status::Step::Steady
            }
            None => {
                self.create(self.bounds.replicas, plan);
                status::Step::Created
            }
        }
    }

    /// Follows a changed `spec.replicas` without moving the rollout on.
    fn scale(&self, plan: &mut Plan) {
        let active: Vec<&Arc<ReplicaSet>> = self.all().filter(|set| replicas(set) > 0).collect();
        let only = match active.as_slice() {
            [] => self.new.as_ref().or(self.old.last()),
            [only] => Some(*only),
            _ => None,
        };
        if let Some(only) = only {
            return self.resize(only, self.bounds.replicas, plan);
        }
        if self.new.as_ref().is_some_and(|new| self.is_saturated(new)) {
            return active.iter().filter(|set| !self.is_new(set)).for_each(|set| self.resize(set, 0, plan));
        }
        if self.is_recreating() {
            return;
        }
        let sizes: Vec<rolling::Share> = active
            .iter()
            .map(|set| rolling::Share {
                replicas: replicas(set),
                sized_for: annotation(&set.metadata, revision::MAX_REPLICAS)
                    .and_then(|text| text.parse().ok()),
            })
            .collect();
        for (set, replicas) in active.iter().zip(self.bounds.proportional(&sizes)) {
            self.resize(set, replicas, plan);
        }
    }

    fn is_new(&self, set: &ReplicaSet) -> bool {
        self.new.as_ref().is_some_and(|new| new.metadata.uid == set.metadata.uid)
    }

    fn is_saturated(&self, set: &ReplicaSet) -> bool {
        let wanted = self.bounds.replicas;
        let desired =
            annotation(&set.metadata, revision::DESIRED_REPLICAS).and_then(|text| text.parse().ok());
        let available = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
        replicas(set) == wanted && desired == Some(wanted) && available == wanted
    }

    /// Makes the ReplicaSet of the present template. While a rollout has no room for it yet, it begins empty.
    fn create(&self, wanted: i32, plan: &mut Plan) {
        plan.writes.push(revision::create(self, wanted));
        if wanted > 0 {
            plan.notices.push(self.scaled(&revision::name(self), 0, wanted));
        }
    }

    /// Gives a ReplicaSet its size and notes for which Deployment size that was.
    fn resize(&self, set: &ReplicaSet, wanted: i32, plan: &mut Plan) {
        let before = replicas(set);
        let mut sized = set.clone();
        let noted = revision::note_size(&mut sized.metadata, self.bounds);
        if before == wanted && !noted {
            return;
        }
        if let Some(spec) = sized.spec.as_mut() {
            spec.replicas = Some(wanted);
        }
        plan.writes.push(Write::Replace(sized.into()));
        if before != wanted {
            plan.notices.push(self.scaled(name_of(&set.metadata), before, wanted));
        }
    }

    fn scaled(&self, name: &str, from: i32, to: i32) -> Notice {
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
        Notice::new(self.deployment, Severity::Normal, "ScalingReplicaSet", message)
    }
}

/// `spec.replicas` of a ReplicaSet; defaulted to 1.
fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn size(set: &ReplicaSet) -> Size {
    let available = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    Size { replicas: replicas(set), available }
}

#[cfg(test)]
mod tests;
