//! Counting the pods of a Job exactly once each, whatever is deleted or restarted meanwhile.
//!
//! A pod that ended keeps a finalizer until its uid stands in `status.uncountedTerminatedPods` (or its index in
//! `completedIndexes`). Then the finalizer is taken off; when that is seen, the uid becomes a number. So every pod is always in
//! exactly one of the three places, and a crash between two steps repeats the step.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobSpec, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use crate::metadata::is_deleting;
use crate::pod;

use super::failure::{Action, action};
use super::indexes::{self, Indexes};
use super::is_uncounted;
use super::pods::{failure_count, index_of};

/// Pods newly counted in one pass; the rest follows.
const COUNTED_MAX: usize = 500;

/// Where the count stands.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Counted, and with finalizers off.
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    /// Noted in the status; the finalizer may still be on.
    pub(super) noted_succeeded: BTreeSet<String>,
    pub(super) noted_failed: BTreeSet<String>,
    /// Of an indexed Job.
    pub(super) completed: Indexes,
    pub(super) failed_indexes: Indexes,
    /// Pods whose finalizers may be taken off once the status is stored.
    pub(super) releasable: Vec<Arc<Pod>>,
    /// A failed pod said that the whole Job is to fail.
    pub(super) fail_job: Option<String>,
}

/// How a Job counts.
pub(super) struct Rules<'a> {
    pub(super) spec: &'a JobSpec,
    /// Number of indexes of an indexed Job.
    pub(super) index_count: Option<i32>,
    /// The Job has succeeded: what is taken away now did not fail.
    pub(super) succeeded: bool,
    /// A pod that is being deleted is replaced when it ended, not before.
    pub(super) replace_when_ended: bool,
}

impl Rules<'_> {
    fn is_failed(&self, pod: &Pod) -> bool {
        match pod::phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            _ => is_deleting(&pod.metadata) && !self.replace_when_ended,
        }
    }
}

impl Tally {
    /// The count after these pods.
    pub(super) fn of(job: &Job, rules: &Rules<'_>, pods: &[Arc<Pod>]) -> Self {
        let mut tally = Self::noted(job, rules, pods);
        let mut room = COUNTED_MAX;
        for pod in pods.iter().filter(|pod| is_uncounted(pod)) {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let known = tally.noted_succeeded.contains(uid) || tally.noted_failed.contains(uid);
            let ended = pod::phase(pod) == "Succeeded" || rules.is_failed(pod);
            if !known && ended && room > 0 {
                room -= 1;
                tally.note(rules, pod, uid);
                tally.releasable.push(pod.clone());
            } else if known {
                tally.releasable.push(pod.clone());
            }
        }
        tally
    }

    /// What the status says, with noted pods whose finalizers are off turned into numbers.
    fn noted(job: &Job, rules: &Rules<'_>, pods: &[Arc<Pod>]) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let noted = status.uncounted_terminated_pods.unwrap_or_default();
        let held: BTreeSet<&str> = pods
            .iter()
            .filter(|pod| is_uncounted(pod))
            .filter_map(|pod| pod.metadata.uid.as_deref())
            .collect();
        let split = |uids: Option<Vec<String>>| -> (BTreeSet<String>, i32) {
            let (kept, done): (Vec<_>, Vec<_>) =
                uids.unwrap_or_default().into_iter().partition(|uid| held.contains(uid.as_str()));
            (kept.into_iter().collect(), i32::try_from(done.len()).unwrap_or(i32::MAX))
        };
        let (noted_succeeded, succeeded) = split(noted.succeeded);
        let (noted_failed, failed) = split(noted.failed);
        let read = |text: Option<String>| match (text, rules.index_count) {
            (Some(text), Some(count)) => indexes::parse(&text, count),
            _ => Indexes::new(),
        };
        Self {
            succeeded: status.succeeded.unwrap_or(0).saturating_add(succeeded),
            failed: status.failed.unwrap_or(0).saturating_add(failed),
            noted_succeeded,
            noted_failed,
            completed: read(status.completed_indexes),
            failed_indexes: read(status.failed_indexes),
            releasable: Vec::new(),
            fail_job: None,
        }
    }

    fn note(&mut self, rules: &Rules<'_>, pod: &Pod, uid: &str) {
        if pod::phase(pod) == "Succeeded" {
            match rules.index_count {
                // Counted by index: twice the same is once.
                Some(count) => self.completed.extend(index_of(pod).filter(|index| *index < count)),
                None => _ = self.noted_succeeded.insert(uid.to_owned()),
            }
            return;
        }
        if rules.succeeded {
            return;
        }
        let action = if pod::phase(pod) == "Failed" { action(rules.spec, pod) } else { Action::Count };
        match &action {
            Action::Ignore => return,
            Action::FailJob(message) => self.fail_job = Some(message.clone()),
            Action::FailIndex | Action::Count => {}
        }
        self.noted_failed.insert(uid.to_owned());
        let Some(limit) = rules.spec.backoff_limit_per_index else { return };
        let gives_up = action == Action::FailIndex || failure_count(pod) >= limit;
        self.failed_indexes.extend(index_of(pod).filter(|_| gives_up));
    }

    /// All that succeeded.
    pub(super) fn succeeded_total(&self, indexed: bool) -> i32 {
        let count = |length: usize| i32::try_from(length).unwrap_or(i32::MAX);
        if indexed {
            count(self.completed.len())
        } else {
            self.succeeded.saturating_add(count(self.noted_succeeded.len()))
        }
    }

    /// All that failed and counts.
    pub(super) fn failed_total(&self) -> i32 {
        self.failed.saturating_add(i32::try_from(self.noted_failed.len()).unwrap_or(i32::MAX))
    }

    /// Nothing is left between pods and numbers.
    pub(super) fn is_settled(&self) -> bool {
        self.noted_succeeded.is_empty() && self.noted_failed.is_empty() && self.releasable.is_empty()
    }

    /// As the status tells it.
    pub(super) fn uncounted(&self) -> UncountedTerminatedPods {
        let list = |uids: &BTreeSet<String>| (!uids.is_empty()).then(|| uids.iter().cloned().collect());
        UncountedTerminatedPods { failed: list(&self.noted_failed), succeeded: list(&self.noted_succeeded) }
    }
}
