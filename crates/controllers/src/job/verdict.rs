//! Whether a Job has succeeded or failed, and the conditions that say so.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, SuccessPolicyRule};

use crate::metadata::seconds;
use crate::plan::{Notice, Severity};

use super::indexes::{self, Indexes};
use super::{State, failure, index_count};

/// What is decided about a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Open,
    /// Enough succeeded.
    Succeeded { reason: String, message: String },
    /// It will not succeed any more.
    Failed { reason: String, message: String },
}

impl Verdict {
    fn succeeded(reason: &str, message: &str) -> Self {
        Self::Succeeded { reason: reason.to_owned(), message: message.to_owned() }
    }

    fn failed(reason: &str, message: &str) -> Self {
        Self::Failed { reason: reason.to_owned(), message: message.to_owned() }
    }

    /// What readers of the Job are told at its end.
    pub(super) fn notice(&self, job: &Job) -> Notice {
        match self {
            Self::Failed { message, reason } => {
                // Event reasons are fixed words; every one that a verdict has is among these.
                let known = REASONS.into_iter().find(|known| known == reason).unwrap_or("Failed");
                Notice::new(job, Severity::Warning, known, message.clone())
            }
            Self::Open | Self::Succeeded { .. } => {
                Notice::new(job, Severity::Normal, "Completed", "Job completed".to_owned())
            }
        }
    }
}

/// Why a Job fails.
const REASONS: [&str; 5] = [
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "PodFailurePolicy",
    "MaxFailedIndexesExceeded",
    "FailedIndexes",
];

/// A condition that is True.
pub(super) fn condition<'a>(job: &'a Job, type_: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|condition| condition.status == "True").find(|condition| condition.type_ == type_)
}

/// The verdict. Once announced it stands, whatever pods do afterwards.
pub(super) fn of(state: &mut State<'_>) -> Verdict {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    if let Some(announced) = condition(state.job, "FailureTarget") {
        return Verdict::Failed { reason: text(&announced.reason), message: text(&announced.message) };
    }
    if let Some(announced) = condition(state.job, "SuccessCriteriaMet") {
        return Verdict::Succeeded { reason: text(&announced.reason), message: text(&announced.message) };
    }
    if let Some(message) = state.tally.fail_job.take() {
        return Verdict::Failed { reason: "PodFailurePolicy".to_owned(), message };
    }
    if is_over_limit(state) {
        return Verdict::failed("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if state.deadline().is_some_and(|deadline| deadline <= state.now) {
        return Verdict::failed("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    if let Some(count) = index_count(state.spec)
        && let Some(verdict) = of_indexes(state, count)
    {
        return verdict;
    }
    let done = match state.spec.completions {
        Some(completions) => state.succeeded() >= completions,
        None => state.succeeded() > 0 && state.active.is_empty() && state.terminating == 0,
    };
    if done {
        return Verdict::succeeded("CompletionsReached", "Reached expected number of succeeded pods");
    }
    Verdict::Open
}

fn is_over_limit(state: &State<'_>) -> bool {
    let default = if state.spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 };
    let limit = state.spec.backoff_limit.unwrap_or(default);
    let restarting = state.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    let restarts = failure::restarts(&state.active);
    state.tally.failed_total() > limit
        || (restarting == Some("OnFailure") && restarts > 0 && restarts >= i64::from(limit))
}

fn of_indexes(state: &State<'_>, count: i32) -> Option<Verdict> {
    let (completed, failed) = (&state.tally.completed, &state.tally.failed_indexes);
    let rules = state.spec.success_policy.iter().flat_map(|policy| &policy.rules);
    for (at, rule) in rules.enumerate() {
        if is_met(rule, completed, count) {
            return Some(Verdict::succeeded("SuccessPolicy", &format!("Matched rules at index {at}")));
        }
    }
    let failures = i32::try_from(failed.len()).unwrap_or(i32::MAX);
    if state.spec.max_failed_indexes.is_some_and(|limit| failures > limit) {
        return Some(Verdict::failed(
            "MaxFailedIndexesExceeded",
            "Job has exceeded the specified maximal number of failed indexes",
        ));
    }
    let settled = completed.union(failed).count();
    (failures > 0 && i32::try_from(settled).unwrap_or(i32::MAX) >= count)
        .then(|| Verdict::failed("FailedIndexes", "Job has failed indexes"))
}

fn is_met(rule: &SuccessPolicyRule, completed: &Indexes, count: i32) -> bool {
    let wanted = rule.succeeded_indexes.as_deref().map(|text| indexes::parse(text, count));
    let reached = match &wanted {
        Some(wanted) => wanted.intersection(completed).count(),
        None => completed.len(),
    };
    match (rule.succeeded_count, &wanted) {
        (Some(least), _) => i32::try_from(reached).unwrap_or(i32::MAX) >= least,
        (None, Some(wanted)) => reached == wanted.len(),
        (None, None) => false,
    }
}

/// The conditions of a Job while they are written.
pub(super) struct Conditions {
    list: Vec<JobCondition>,
    now: Timestamp,
}

impl Conditions {
    pub(super) fn of(job: &Job, now: Timestamp) -> Self {
        let list = job.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        Self { list, now }
    }

    pub(super) fn into_list(self) -> Option<Vec<JobCondition>> {
        Some(self.list).filter(|list| !list.is_empty())
    }

    fn is_true(&self, type_: &str) -> bool {
        self.list.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
    }

    fn put(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        self.list.retain(|condition| condition.type_ != type_);
        self.list.push(JobCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(seconds(self.now)),
            last_transition_time: Some(seconds(self.now)),
        });
    }

    /// Says whether the Job is suspended; `Some(true)` when it resumes by this, `Some(false)` when it stops.
    pub(super) fn suspend(&mut self, suspended: bool) -> Option<bool> {
        match (self.is_true("Suspended"), suspended) {
            (false, true) => {
                self.put("Suspended", "True", "JobSuspended", "Job suspended");
                Some(false)
            }
            (true, false) => {
                self.put("Suspended", "False", "JobResumed", "Job resumed");
                Some(true)
            }
            (true, true) | (false, false) => None,
        }
    }

    /// First what is decided; when no pod is left, the end itself. True when the end is new.
    pub(super) fn announce(&mut self, verdict: &Verdict, quiet: bool) -> bool {
        let (decided, ended, reason, message) = match verdict {
            Verdict::Open => return false,
            Verdict::Succeeded { reason, message } => ("SuccessCriteriaMet", "Complete", reason, message),
            Verdict::Failed { reason, message } => ("FailureTarget", "Failed", reason, message),
        };
        if !self.is_true(decided) {
            self.put(decided, "True", reason, message);
        }
        let new = quiet && !self.is_true(ended);
        if new {
            self.put(ended, "True", reason, message);
        }
        new
    }
}
