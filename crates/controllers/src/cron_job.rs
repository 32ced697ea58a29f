//! CronJob: a Job at every time of a schedule.
//!
//! Names of Jobs come from the time they are for, so that a time never has two Jobs, whatever restarts in between.

use std::sync::Arc;
use std::time::Duration;

use fairway_kit::watch::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::job::ending;
use crate::metadata::{after_seconds, age, is_deleting, name_of, object_reference, owner_reference, until};
use crate::plan::{Deletion, Notice, Plan, Severity, Write};
use crate::world::{Kind, World};

mod schedule;

pub use schedule::{Schedule, ScheduleError};

/// The time that a Job is for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More times missed than this is told as a problem.
const MISSED_MAX: usize = 100;
/// Finished Jobs that are kept when the CronJob does not say.
const SUCCESSFUL_KEPT: i32 = 3;
const FAILED_KEPT: i32 = 1;
/// How long after its time a Job is made: clocks of readers may be a little behind.
const MARGIN: Duration = Duration::from_millis(100);

/// Starts the Job that is due, removes old ones and reports in the status.
pub fn reconcile(world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
    let Some(cron) = world.cron_jobs.get(key) else { return Plan::nothing() };
    let spec = &cron.spec;
    let uid = cron.metadata.uid.as_deref().unwrap_or_default();
    let mut jobs: Vec<Arc<Job>> = world.managed(uid).cloned().collect();
    jobs.sort_by(|left, right| age(&left.metadata).cmp(&age(&right.metadata)));
    let mut plan = Plan::nothing();
    let mut status = observe(cron, &jobs, &mut plan);
    plan.writes.extend(prune(cron, spec, &jobs, &mut plan.notices));
    if !is_deleting(&cron.metadata) {
        start(world, cron, spec, &jobs, &mut status, now, &mut plan);
    }
    if cron.status.clone().unwrap_or_default() != status {
        plan.writes.push(Write::ReplaceStatus(CronJob { status: Some(status), ..(**cron).clone() }.into()));
    }
    plan
}

fn tell(cron: &CronJob, severity: Severity, reason: &'static str, message: String) -> Notice {
    Notice::new(cron, severity, reason, message)
}

/// What runs, and what ended since the last look.
fn observe(cron: &CronJob, jobs: &[Arc<Job>], plan: &mut Plan) -> CronJobStatus {
    let mut status = cron.status.clone().unwrap_or_default();
    let known: Vec<ObjectReference> = status.active.take().unwrap_or_default();
    for reference in &known {
        let name = reference.name.as_deref().unwrap_or_default();
        match jobs.iter().find(|job| job.metadata.uid == reference.uid) {
            None => plan.notices.push(tell(
                cron,
                Severity::Normal,
                "MissingJob",
                format!("Active job went missing: {name}"),
            )),
            Some(job) => {
                let Some(condition) = ending(job) else { continue };
                let message = format!("Saw completed job: {name}, condition: {}", condition.type_);
                plan.notices.push(tell(cron, Severity::Normal, "SawCompletedJob", message));
            }
        }
    }
    let running = jobs.iter().filter(|job| ending(job).is_none());
    // Without the version of the Job: its progress is no news here.
    let reference = |job: &Arc<Job>| ObjectReference { resource_version: None, ..object_reference(&**job) };
    let active: Vec<_> = running.map(reference).collect();
    status.active = Some(active).filter(|active| !active.is_empty());
    let done = jobs.iter().filter(|job| ending(job).is_some_and(|condition| condition.type_ == "Complete"));
    let last = done.filter_map(|job| job.status.as_ref()?.completion_time.as_ref()).map(|time| time.0).max();
    let told = status.last_successful_time.as_ref().map(|time| time.0);
    status.last_successful_time = told.max(last).map(Time);
    status
}

/// Finished Jobs beyond the limits go, the oldest first.
fn prune(cron: &CronJob, spec: &CronJobSpec, jobs: &[Arc<Job>], notices: &mut Vec<Notice>) -> Vec<Write> {
    let mut writes = Vec::new();
    for (type_, kept) in [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(SUCCESSFUL_KEPT)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(FAILED_KEPT)),
    ] {
        let ended: Vec<_> = jobs
            .iter()
            .filter(|job| ending(job).is_some_and(|condition| condition.type_ == type_))
            .filter(|job| !is_deleting(&job.metadata))
            .collect();
        let surplus = ended.len().saturating_sub(usize::try_from(kept).unwrap_or(0));
        for job in ended.into_iter().take(surplus) {
            writes.push(delete(cron, job, notices));
        }
    }
    writes
}

fn delete(cron: &CronJob, job: &Job, notices: &mut Vec<Notice>) -> Write {
    let message = format!("Deleted job {}", name_of(&job.metadata));
    notices.push(tell(cron, Severity::Normal, "SuccessfulDelete", message));
    Write::Delete(Deletion::of(Kind::Job, job))
}

fn start(
    world: &World,
    cron: &CronJob,
    spec: &CronJobSpec,
    jobs: &[Arc<Job>],
    status: &mut CronJobStatus,
    now: Timestamp,
    plan: &mut Plan,
) {
    if spec.suspend == Some(true) {
        return;
    }
    let schedule = match Schedule::parse(&spec.schedule, spec.time_zone.as_deref()) {
        Ok(schedule) => schedule,
        Err(error) => {
            let (reason, what) = match error {
                ScheduleError::TimeZone(_) => ("UnknownTimeZone", "invalid timeZone"),
                _ => ("UnparseableSchedule", "unparseable schedule"),
            };
            let message = format!("{what}: {:?}: {error}", spec.schedule);
            return plan.notices.push(tell(cron, Severity::Warning, reason, message));
        }
    };
    let created = cron.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let seen = status.last_schedule_time.as_ref().map_or(created, |time| time.0);
    let deadline = spec.starting_deadline_seconds;
    let earliest = deadline.map_or(seen, |deadline| seen.max(after_seconds(now, -deadline)));
    let due = schedule.latest(earliest, now, MISSED_MAX + 1);
    // Of @every the next time depends on the last.
    let base = due.map_or(earliest, |(time, _)| time);
    let next = schedule.after(base.max(seen)).and_then(|next| until(next, now));
    plan.look_again(next.map(|wait| wait + MARGIN));
    let Some((time, missed)) = due else { return };
    if missed > MISSED_MAX {
        let message =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.notices.push(tell(cron, Severity::Warning, "TooManyMissedTimes", message.to_owned()));
    }
    let name = job_name(cron, time);
    let running = status.active.as_ref().is_some_and(|active| !active.is_empty());
    if world.jobs.contains_key(&ObjectKey::new(cron.metadata.namespace.as_deref().unwrap_or_default(), &name))
    {
        status.last_schedule_time = Some(Time(time));
        return;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if running => {
            let message =
                "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.notices.push(tell(cron, Severity::Normal, "JobAlreadyActive", message.to_owned()));
            return;
        }
        Some("Replace") => {
            for job in jobs.iter().filter(|job| ending(job).is_none() && !is_deleting(&job.metadata)) {
                plan.writes.push(delete(cron, job, &mut plan.notices));
            }
        }
        _ => {}
    }
    plan.writes.push(Write::Create(new_job(cron, spec, &schedule, &name, time).into()));
    plan.notices.push(tell(cron, Severity::Normal, "SuccessfulCreate", format!("Created job {name}")));
    status.last_schedule_time = Some(Time(time));
}

/// The name of the Job for a time: the CronJob's and the minute since the beginning of 1970.
fn job_name(cron: &CronJob, time: Timestamp) -> String {
    format!("{}-{}", name_of(&cron.metadata), time.as_second().div_euclid(60))
}

fn new_job(cron: &CronJob, spec: &CronJobSpec, schedule: &Schedule, name: &str, time: Timestamp) -> Job {
    let template = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = template.annotations.unwrap_or_default();
    let local = time.to_zoned(schedule.zone().clone());
    let stamp = if local.offset().is_zero() {
        local.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    } else {
        local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    };
    annotations.insert(SCHEDULED.to_owned(), stamp);
    Job {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: cron.metadata.namespace.clone(),
            labels: template.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests;
