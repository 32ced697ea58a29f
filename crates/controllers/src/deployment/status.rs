//! What a Deployment reports: counts and the conditions Available and Progressing.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::{Rollout, replicas};
use crate::metadata::{after_seconds, name_of, seconds, until};
use crate::plan::{Plan, Write};
use crate::replica_set::nonzero;

/// What this pass did, as far as the conditions tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Sizes at most.
    Steady,
    /// A ReplicaSet for a new template.
    Created,
    /// Nothing but scaling, as asked.
    Paused,
}

/// The status write, if anything is to be said that is not said already, and when a deadline is due.
pub(super) fn report(rollout: &Rollout<'_>, step: Step, now: Timestamp) -> Plan {
    let deployment = rollout.deployment;
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = counts(rollout, &old);
    let mut conditions = Conditions { list: old.conditions.clone().unwrap_or_default(), now };
    let available = status.available_replicas.unwrap_or(0) >= rollout.bounds.available_min();
    if available {
        conditions.set(
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        );
    } else {
        conditions.set(
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        );
    }
    let mut plan = Plan::nothing();
    match rollout.spec.progress_deadline_seconds {
        Some(deadline_seconds) if deadline_seconds < i32::MAX => {
            progress(rollout, step, &old, &status, &mut conditions, deadline_seconds);
            let running = conditions.find("Progressing").filter(|progress| is_running(progress));
            let due = running.and_then(|progress| due(progress, deadline_seconds));
            plan.look_again(due.and_then(|due| until(due, now)));
        }
        _ => conditions.list.retain(|condition| condition.type_ != "Progressing"),
    }
    status.conditions = Some(conditions.list);
    if deployment.status.as_ref() != Some(&status) {
        plan.writes
            .push(Write::ReplaceStatus(Deployment { status: Some(status), ..deployment.clone() }.into()));
    }
    plan
}

fn counts(rollout: &Rollout<'_>, old: &DeploymentStatus) -> DeploymentStatus {
    let sum = |count: fn(&ReplicaSet) -> i32| rollout.all().map(|set| count(set)).sum::<i32>();
    let available = sum(|set| set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0));
    let updated =
        rollout.new.as_ref().and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas);
    DeploymentStatus {
        observed_generation: rollout.deployment.metadata.generation,
        replicas: nonzero(sum(|set| set.status.as_ref().map_or(0, |status| status.replicas))),
        updated_replicas: nonzero(updated),
        ready_replicas: nonzero(sum(|set| {
            set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
        })),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((sum(replicas) - available).max(0)),
        terminating_replicas: Some(sum(|set| {
            set.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0)
        })),
        collision_count: old.collision_count,
        conditions: None,
    }
}

fn progress(
    rollout: &Rollout<'_>,
    step: Step,
    old: &DeploymentStatus,
    status: &DeploymentStatus,
    conditions: &mut Conditions,
    deadline_seconds: i32,
) {
    let name = match &rollout.new {
        Some(new) => name_of(&new.metadata).to_owned(),
        None => super::revision::name(rollout),
    };
    let current = conditions.find("Progressing").cloned();
    let reason = current.as_ref().and_then(|current| current.reason.clone()).unwrap_or_default();
    let timed_out =
        current.as_ref().is_some_and(|current| is_timed_out(current, deadline_seconds, conditions.now));
    match step {
        Step::Paused if reason == "ProgressDeadlineExceeded" => {}
        Step::Paused => conditions.set("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused"),
        Step::Steady if reason == "DeploymentPaused" => {
            conditions.set("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed");
        }
        Step::Created => {
            conditions.set(
                "Progressing",
                "True",
                "NewReplicaSetCreated",
                &format!("Created new replica set \"{name}\""),
            );
        }
        Step::Steady if is_complete(rollout, status) => {
            let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
            conditions.set("Progressing", "True", "NewReplicaSetAvailable", &message);
        }
        // It was complete and still is of one version: a pod that fails later is no rollout.
        Step::Steady if reason == "NewReplicaSetAvailable" && status.replicas == status.updated_replicas => {}
        Step::Steady if has_progressed(old, status) => {
            conditions.refresh(
                "Progressing",
                "True",
                "ReplicaSetUpdated",
                &format!("ReplicaSet \"{name}\" is progressing."),
            );
        }
        Step::Steady if timed_out => {
            let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
            conditions.set("Progressing", "False", "ProgressDeadlineExceeded", &message);
        }
        Step::Steady if current.is_none() && rollout.new.is_some() => {
            conditions.set(
                "Progressing",
                "True",
                "FoundNewReplicaSet",
                &format!("Found new replica set \"{name}\""),
            );
        }
        Step::Steady => {}
    }
}

fn is_complete(rollout: &Rollout<'_>, status: &DeploymentStatus) -> bool {
    let wanted = rollout.bounds.replicas;
    rollout.new.is_some()
        && status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let outdated =
        |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    new.updated_replicas.unwrap_or(0) > old.updated_replicas.unwrap_or(0)
        || outdated(new) < outdated(old)
        || new.ready_replicas.unwrap_or(0) > old.ready_replicas.unwrap_or(0)
        || new.available_replicas.unwrap_or(0) > old.available_replicas.unwrap_or(0)
}

/// Only a rollout under way has a deadline.
fn is_running(progress: &DeploymentCondition) -> bool {
    let reason = progress.reason.as_deref().unwrap_or("");
    !matches!(reason, "NewReplicaSetAvailable" | "ProgressDeadlineExceeded" | "DeploymentPaused")
}

fn is_timed_out(progress: &DeploymentCondition, deadline_seconds: i32, now: Timestamp) -> bool {
    is_running(progress) && due(progress, deadline_seconds).is_some_and(|due| due <= now)
}

fn due(progress: &DeploymentCondition, deadline_seconds: i32) -> Option<Timestamp> {
    progress.last_update_time.as_ref().map(|time| after_seconds(time.0, i64::from(deadline_seconds)))
}

struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn find(&self, type_: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_ == type_)
    }

    /// Changes nothing when the same was said for the same reason.
    fn set(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let same = |condition: &DeploymentCondition| {
            condition.status == status
                && condition.reason.as_deref() == Some(reason)
                && condition.message.as_deref() == Some(message)
        };
        if !self.find(type_).is_some_and(same) {
            self.refresh(type_, status, reason, message);
        }
    }

    /// Says it now; the transition time moves only with the status.
    fn refresh(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let old =
            self.list.iter().position(|condition| condition.type_ == type_).map(|at| self.list.remove(at));
        let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time);
        self.list.push(DeploymentCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_update_time: Some(seconds(self.now)),
            last_transition_time: since.or_else(|| Some(seconds(self.now))),
        });
    }
}
