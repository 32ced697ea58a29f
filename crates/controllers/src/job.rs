//! Job: pods until enough of them succeeded, or too many failed.
//!
//! - `tally`: every pod that ended is counted exactly once.
//! - `verdict`: whether the Job has succeeded or failed, and why.
//! - `failure`: what one failed pod means.
//! - `pods`, `indexes`: what pods look like, and sets of completion indexes.
//!
//! Conditions come in two steps, as clients expect: `SuccessCriteriaMet` or `FailureTarget` when it is decided, `Complete` or
//! `Failed` when the last pod is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_kit::watch::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use crate::claim::claim;
use crate::index::Tag;
use crate::metadata::{
    after_seconds, controller_of, is_deleting, object_reference, owner_reference, seconds, until,
};
use crate::plan::{Deletion, Notice, Plan, Severity, Write};
use crate::pod;
use crate::replica_set::{nonzero, ranking};
use crate::world::{Kind, World};

mod failure;
mod indexes;
mod pods;
mod tally;
mod verdict;

use indexes::Indexes;
use pods::{index_of, new_pod, released};
use tally::{Rules, Tally};
use verdict::Verdict;

/// Keeps a pod that ended until it is counted.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// `spec.managedBy` of Jobs that are ours.
const MANAGED_BY_US: &str = "kubernetes.io/job-controller";
/// Pods created or deleted in one pass.
const BURST_MAX: usize = 500;

/// Whether the pod still has to be counted by its Job.
pub(crate) fn is_uncounted(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// The condition with which a Job ended: Complete or Failed.
pub(crate) fn ending(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .filter(|condition| condition.status == "True")
        .find(|condition| condition.type_ == "Complete" || condition.type_ == "Failed")
}

/// Creates, counts and deletes the pods of one Job and reports in its status; a finished Job is deleted when its time is up.
pub fn reconcile(world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
    let job = world.jobs.get(key);
    let mut plan =
        Plan::writes(release_strangers(world, key, job.and_then(|job| job.metadata.uid.as_deref())));
    let Some(job) = job else { return plan };
    let Some(spec) = job.spec.as_ref() else { return plan };
    if spec.managed_by.as_deref().is_some_and(|manager| manager != MANAGED_BY_US) {
        return plan;
    }
    let Some(selector) = &spec.selector else { return plan };
    let candidates = world.candidates(&job.metadata);
    let claim = claim(candidates.into_iter(), &job.metadata, &owner_reference(&**job), selector);
    plan.writes.extend(claim.writes);
    if !plan.writes.is_empty() {
        return plan;
    }
    if let Some(condition) = ending(job) {
        return retire(job, spec, condition, &claim.owned, now);
    }
    State::new(job, spec, &claim.owned, now).plan()
}

/// Pods that wait to be counted by a Job that is gone, or by an earlier one of the same name: nobody will.
fn release_strangers(world: &World, key: &ObjectKey, uid: Option<&str>) -> Vec<Write> {
    let pods = world.pods_tagged(&Tag::Uncounted(key.clone()));
    let strangers = pods.filter(|pod| controller_of(&pod.metadata).map(|owner| owner.uid.as_str()) != uid);
    strangers.map(|pod| Write::Replace(released(pod).into())).collect()
}

/// After the end: nothing is held back any more, and after `ttlSecondsAfterFinished` the Job goes.
fn retire(job: &Job, spec: &JobSpec, condition: &JobCondition, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let held = pods.iter().filter(|pod| is_uncounted(pod));
    let mut plan = Plan::writes(held.map(|pod| Write::Replace(released(pod).into())).collect());
    let finished = condition.last_transition_time.as_ref().map(|time| time.0);
    let (Some(finished), Some(ttl)) = (finished, spec.ttl_seconds_after_finished) else { return plan };
    match until(after_seconds(finished, i64::from(ttl)), now) {
        Some(wait) => plan.look_again(Some(wait)),
        None if is_deleting(&job.metadata) => {}
        None => plan.writes.push(Write::Delete(Deletion::of(Kind::Job, job))),
    }
    plan
}

/// All that the decision needs.
struct State<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: &'a [Arc<Pod>],
    /// Neither ended nor being deleted.
    active: Vec<&'a Pod>,
    /// Being deleted, and not ended yet.
    terminating: usize,
    tally: Tally,
    now: Timestamp,
}

impl<'a> State<'a> {
    fn new(job: &'a Job, spec: &'a JobSpec, pods: &'a [Arc<Pod>], now: Timestamp) -> Self {
        let rules = Rules {
            spec,
            index_count: index_count(spec),
            succeeded: verdict::condition(job, "SuccessCriteriaMet").is_some(),
            replace_when_ended: replaces_when_ended(spec),
        };
        let active = pods.iter().map(AsRef::as_ref).filter(|pod| pod::is_active(pod)).collect();
        let leaving = |pod: &&Arc<Pod>| is_deleting(&pod.metadata) && !pod::is_terminal(pod);
        let terminating = pods.iter().filter(leaving).count();
        Self { job, spec, pods, active, terminating, tally: Tally::of(job, &rules, pods), now }
    }

    fn is_indexed(&self) -> bool {
        index_count(self.spec).is_some()
    }

    fn succeeded(&self) -> i32 {
        self.tally.succeeded_total(self.is_indexed())
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    fn plan(mut self) -> Plan {
        let verdict = verdict::of(&mut self);
        let mut plan = Plan::nothing();
        let status = self.status(&verdict, &mut plan);
        if self.job.status.as_ref() != Some(&status) {
            let reported = Job { status: Some(status), ..self.job.clone() };
            plan.writes.push(Write::ReplaceStatus(reported.into()));
        }
        // From here on everything relies on the status being stored.
        plan.writes.extend(self.tally.releasable.iter().map(|pod| Write::Replace(released(pod).into())));
        if is_deleting(&self.job.metadata) {
            return plan;
        }
        match &verdict {
            Verdict::Open => self.manage(&mut plan),
            Verdict::Succeeded { .. } | Verdict::Failed { .. } => {
                plan.writes.extend(self.active.iter().take(BURST_MAX).map(|pod| self.delete(pod)));
            }
        }
        plan
    }

    /// Brings the number of running pods to what is wanted.
    fn manage(&self, plan: &mut Plan) {
        let wanted = self.wanted();
        if let Some(deadline) = self.deadline() {
            plan.look_again(until(deadline, self.now));
        }
        let surplus = self.surplus(wanted);
        if !surplus.is_empty() {
            for pod in surplus.into_iter().take(BURST_MAX) {
                // Taken away, not failed: it must not be counted.
                plan.writes.extend(is_uncounted(pod).then(|| Write::Replace(released(pod).into())));
                plan.writes.push(self.delete(pod));
            }
            return;
        }
        let there = if replaces_when_ended(self.spec) {
            self.active.len() + self.terminating
        } else {
            self.active.len()
        };
        let missing = wanted.saturating_sub(there).min(BURST_MAX);
        if missing > 0 {
            self.create(missing, plan);
        }
    }

    /// How many pods should run.
    fn wanted(&self) -> usize {
        if self.is_suspended() {
            return 0;
        }
        let parallelism = self.spec.parallelism.unwrap_or(1).max(0);
        let wanted = match self.spec.completions {
            Some(completions) => {
                let settled =
                    self.succeeded() + i32::try_from(self.tally.failed_indexes.len()).unwrap_or(i32::MAX);
                parallelism.min((completions - settled).max(0))
            }
            // A work queue: after the first success nobody new begins.
            None if self.succeeded() > 0 => {
                return self.active.len().min(usize::try_from(parallelism).unwrap_or(0));
            }
            None => parallelism,
        };
        usize::try_from(wanted).unwrap_or(0)
    }

    /// Pods that have to go: of an indexed Job those whose index is done, out of range or taken twice; then the least worth.
    fn surplus(&self, wanted: usize) -> Vec<&'a Pod> {
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        let mut taken = Indexes::new();
        for pod in ranking::first_to_go(&self.active).into_iter().rev() {
            let useful = match index_count(self.spec) {
                None => true,
                Some(count) => index_of(pod)
                    .is_some_and(|index| index < count && !self.is_settled(index) && taken.insert(index)),
            };
            if useful { kept.push(pod) } else { gone.push(pod) }
        }
        gone.extend(kept.into_iter().skip(wanted));
        gone
    }

    fn is_settled(&self, index: i32) -> bool {
        self.tally.completed.contains(&index) || self.tally.failed_indexes.contains(&index)
    }

    fn create(&self, missing: usize, plan: &mut Plan) {
        let owner = object_reference(self.job);
        let write = |pod: Pod| Write::CreatePod { pod: Box::new(pod), owner: owner.clone() };
        let ended = || self.pods.iter().map(AsRef::as_ref).filter(|pod: &&Pod| pod::is_terminal(pod));
        let per_index = self.spec.backoff_limit_per_index.is_some();
        if !per_index && let Some(wait) = failure::next_attempt(ended()).and_then(|at| until(at, self.now)) {
            return plan.look_again(Some(wait));
        }
        let Some(count) = index_count(self.spec) else {
            let pods = (0..missing).map(|_| write(new_pod(self.job, self.spec, None, None)));
            return plan.writes.extend(pods);
        };
        let mut busy: Indexes = self.active.iter().filter_map(|pod| index_of(pod)).collect();
        if replaces_when_ended(self.spec) {
            busy.extend(
                self.pods.iter().filter(|pod| !pod::is_terminal(pod)).filter_map(|pod| index_of(pod)),
            );
        }
        let mut attempts: BTreeMap<i32, Vec<&Pod>> = BTreeMap::new();
        for pod in ended() {
            attempts.entry(index_of(pod).unwrap_or(-1)).or_default().push(pod);
        }
        let free = (0..count).filter(|index| !self.is_settled(*index) && !busy.contains(index));
        let mut made = 0;
        for index in free {
            let before = attempts.get(&index).map(Vec::as_slice).unwrap_or_default();
            let due = failure::next_attempt(before.iter().copied()).filter(|_| per_index);
            if let Some(wait) = due.and_then(|at| until(at, self.now)) {
                plan.look_again(Some(wait));
                continue;
            }
            if made == missing {
                return;
            }
            made += 1;
            let age = |pod: &&&Pod| crate::metadata::age(&pod.metadata).0;
            let previous = before.iter().max_by_key(age).copied();
            plan.writes.push(write(new_pod(self.job, self.spec, Some(index), previous)));
        }
    }

    fn delete(&self, pod: &Pod) -> Write {
        Write::DeletePod { pod: Deletion::of(Kind::Pod, pod), owner: object_reference(self.job) }
    }

    /// When `activeDeadlineSeconds` is over.
    fn deadline(&self) -> Option<Timestamp> {
        let start = self.job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
        let limit = self.spec.active_deadline_seconds?;
        (!self.is_suspended()).then(|| after_seconds(start.unwrap_or(self.now), limit))
    }

    fn status(&self, verdict: &Verdict, plan: &mut Plan) -> JobStatus {
        let old = self.job.status.clone().unwrap_or_default();
        let mut conditions = verdict::Conditions::of(self.job, self.now);
        let starts = old.start_time.is_none() && !self.is_suspended();
        let mut start_time = if starts { Some(seconds(self.now)) } else { old.start_time.clone() };
        if let Some(resumed) = conditions.suspend(self.is_suspended() && *verdict == Verdict::Open) {
            start_time = resumed.then(|| seconds(self.now));
            let (reason, message) =
                if resumed { ("Resumed", "Job resumed") } else { ("Suspended", "Job suspended") };
            plan.notices.push(Notice::new(self.job, Severity::Normal, reason, message.to_owned()));
        }
        let quiet = self.active.is_empty() && self.terminating == 0 && self.tally.is_settled();
        let ended = conditions.announce(verdict, quiet);
        let completion_time =
            (ended && matches!(verdict, Verdict::Succeeded { .. })).then(|| seconds(self.now));
        if ended {
            plan.notices.push(verdict.notice(self.job));
        }
        let ready = self.active.iter().filter(|pod| pod::is_ready(pod)).count();
        let count = |length: usize| i32::try_from(length).unwrap_or(i32::MAX);
        let indexed = self.is_indexed();
        let text =
            |indexes: &Indexes| indexed.then(|| indexes::format(indexes)).filter(|text| !text.is_empty());
        JobStatus {
            active: nonzero(count(self.active.len())),
            completed_indexes: text(&self.tally.completed),
            completion_time: old.completion_time.or(completion_time),
            conditions: conditions.into_list(),
            failed: nonzero(self.tally.failed),
            failed_indexes: self
                .spec
                .backoff_limit_per_index
                .map(|_| indexes::format(&self.tally.failed_indexes)),
            ready: Some(count(ready)),
            start_time,
            succeeded: nonzero(if indexed { self.succeeded() } else { self.tally.succeeded }),
            terminating: Some(count(self.terminating)),
            uncounted_terminated_pods: Some(self.tally.uncounted()),
        }
    }
}

/// The number of indexes of an indexed Job.
fn index_count(spec: &JobSpec) -> Option<i32> {
    let indexed = spec.completion_mode.as_deref() == Some("Indexed");
    spec.completions.filter(|_| indexed).map(|count| count.max(0))
}

/// Whether a pod that is being deleted is replaced only when it ended.
fn replaces_when_ended(spec: &JobSpec) -> bool {
    match spec.pod_replacement_policy.as_deref() {
        Some(policy) => policy == "Failed",
        None => spec.pod_failure_policy.is_some(),
    }
}

#[cfg(test)]
mod tests;
