use serde_json::{Value, json};

use super::*;
use crate::simulation::{Cluster, merge, template};
use crate::world::Objects;

/// Midnight of the first of January 2026, a CronJob due every five minutes.
fn cluster(extra: Value) -> Cluster {
    let mut cluster = Cluster::with_nodes(1);
    let mut template = template("v1");
    template["spec"]["restartPolicy"] = json!("Never");
    let job = json!({"spec": {"completions": 1, "parallelism": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
    let mut spec = json!({"schedule": "*/5 * * * *", "jobTemplate": job});
    merge(&mut spec, extra);
    cluster.create::<CronJob>(json!({"metadata": {"name": "tick"}, "spec": spec}));
    cluster.settle();
    cluster
}

fn crons(world: &World) -> &Objects<CronJob> {
    &world.cron_jobs
}

fn status(cluster: &Cluster) -> CronJobStatus {
    cluster.world.cron_jobs[&ObjectKey::new("ns", "tick")].status.clone().unwrap_or_default()
}

fn jobs(cluster: &Cluster) -> Vec<String> {
    cluster.world.jobs.keys().map(|key| key.name.to_string()).collect()
}

fn wait(cluster: &mut Cluster, seconds: i64) {
    cluster.wait(seconds);
    cluster.settle();
}

fn finish(cluster: &mut Cluster, code: i32) {
    let names: Vec<_> = cluster.world.pods.keys().map(|key| key.name.to_string()).collect();
    for name in names {
        if !crate::pod::is_terminal(&cluster.world.pods[&ObjectKey::new("ns", &name)]) {
            cluster.end(&name, code);
        }
    }
    cluster.settle();
}

fn told(cluster: &Cluster, reason: &str) -> usize {
    cluster.notices.iter().filter(|notice| notice.reason == reason).count()
}

#[test]
fn a_job_for_every_time_named_after_it() {
    let mut cluster = cluster(json!({}));
    let plan = reconcile(&cluster.world, &ObjectKey::new("ns", "tick"), cluster.now);
    assert_eq!(plan.look_again_after, Some(Duration::from_millis(300_100)));
    wait(&mut cluster, 301);
    assert_eq!(jobs(&cluster), ["tick-29453765"]);
    let job = &cluster.world.jobs[&ObjectKey::new("ns", "tick-29453765")];
    assert_eq!(job.metadata.annotations.as_ref().unwrap()[SCHEDULED], "2026-01-01T00:05:00Z");
    assert_eq!(crate::metadata::controller_of(&job.metadata).unwrap().name, "tick");
    let before = status(&cluster);
    assert_eq!(before.last_schedule_time.unwrap().0, "2026-01-01T00:05:00Z".parse().unwrap());
    assert_eq!(before.active.unwrap()[0].name.as_deref(), Some("tick-29453765"));
    finish(&mut cluster, 0);
    let after = status(&cluster);
    assert_eq!(after.active, None);
    assert!(after.last_successful_time.is_some());
    let seen = cluster.notices.iter().find(|notice| notice.reason == "SawCompletedJob").unwrap();
    assert_eq!(seen.message, "Saw completed job: tick-29453765, condition: Complete");
    cluster.look_at_everything();
    cluster.settle();
    assert_eq!(jobs(&cluster).len(), 1, "a time never has two Jobs");
}

#[test]
fn what_happens_when_the_last_one_still_runs() {
    for (policy, running, created) in [("Allow", 2, 2), ("Forbid", 1, 1), ("Replace", 1, 2)] {
        let mut cluster = cluster(json!({"concurrencyPolicy": policy}));
        wait(&mut cluster, 300);
        wait(&mut cluster, 300);
        assert_eq!(jobs(&cluster).len(), running, "{policy}");
        assert_eq!(told(&cluster, "SuccessfulCreate"), created, "{policy}");
        assert_eq!(told(&cluster, "JobAlreadyActive") > 0, policy == "Forbid", "{policy}");
    }
}

#[test]
fn only_so_many_finished_jobs_are_kept() {
    let mut cluster = cluster(
        json!({"successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 0, "jobTemplate": {"spec": {"backoffLimit": 0}}}),
    );
    for code in [0, 1, 0, 0, 1] {
        wait(&mut cluster, 300);
        finish(&mut cluster, code);
        cluster.converge();
    }
    assert_eq!(jobs(&cluster).len(), 2);
    assert_eq!(told(&cluster, "SuccessfulDelete"), 3);
}

#[test]
fn suspended_nothing_begins() {
    let mut cluster = cluster(json!({"suspend": true}));
    wait(&mut cluster, 3600);
    assert_eq!(jobs(&cluster), [""; 0]);
    cluster.patch(crons, "tick", json!({"spec": {"suspend": false}}));
    cluster.settle();
    assert_eq!(jobs(&cluster).len(), 1, "the latest of those missed");
}

#[test]
fn a_time_that_is_missed_by_too_much_is_left_out() {
    let mut cluster = cluster(json!({"startingDeadlineSeconds": 60}));
    wait(&mut cluster, 590);
    assert_eq!(jobs(&cluster), [""; 0]);
    wait(&mut cluster, 15);
    assert_eq!(jobs(&cluster), ["tick-29453770"]);
}

#[test]
fn after_a_very_long_time_the_latest_is_made_up_for_and_the_rest_is_told() {
    let mut cluster = cluster(json!({"schedule": "* * * * *"}));
    wait(&mut cluster, 101 * 60 + 30);
    assert_eq!(jobs(&cluster), ["tick-29453861"]);
    assert_eq!(told(&cluster, "TooManyMissedTimes"), 1);
}

#[test]
fn a_schedule_that_is_none_is_told() {
    for (extra, reason) in [
        (json!({"schedule": "often"}), "UnparseableSchedule"),
        (json!({"timeZone": "Mars/Base"}), "UnknownTimeZone"),
    ] {
        let cluster = cluster(extra);
        assert_eq!(told(&cluster, reason), 1, "{reason}");
    }
}
