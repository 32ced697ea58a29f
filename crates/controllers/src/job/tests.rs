use serde_json::{Value, json};

use super::*;
use crate::metadata::name_of;
use crate::simulation::{Cluster, merge, template};
use crate::world::Objects;

fn cluster(extra: Value) -> Cluster {
    let mut cluster = Cluster::with_nodes(2);
    let mut spec = json!({
        "completions": 1, "parallelism": 1, "backoffLimit": 6,
        "selector": {"matchLabels": {"app": "web"}}, "template": template("v1"),
    });
    spec["template"]["spec"]["restartPolicy"] = json!("Never");
    merge(&mut spec, extra);
    cluster.create::<Job>(json!({"metadata": {"name": "work"}, "spec": spec}));
    cluster.settle();
    cluster
}

fn jobs(world: &World) -> &Objects<Job> {
    &world.jobs
}

fn status(cluster: &Cluster) -> JobStatus {
    cluster.world.jobs[&ObjectKey::new("ns", "work")].status.clone().unwrap()
}

/// active, succeeded, failed
fn counts(cluster: &Cluster) -> [i32; 3] {
    let status = status(cluster);
    [status.active.unwrap_or(0), status.succeeded.unwrap_or(0), status.failed.unwrap_or(0)]
}

/// `type=reason` of the conditions that hold.
fn conditions(cluster: &Cluster) -> Vec<String> {
    let held = status(cluster).conditions.unwrap_or_default();
    let held = held.into_iter().filter(|condition| condition.status == "True");
    held.map(|condition| format!("{}={}", condition.type_, condition.reason.unwrap())).collect()
}

fn active(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.world.pods.values().filter(|pod| pod::is_active(pod));
    pods.map(|pod| name_of(&pod.metadata).to_owned()).collect()
}

/// The active pod of an index.
fn of_index(cluster: &Cluster, index: i32) -> String {
    let mut pods = cluster.world.pods.values().filter(|pod| pod::is_active(pod));
    let pod = pods.find(|pod| index_of(pod) == Some(index)).unwrap();
    name_of(&pod.metadata).to_owned()
}

fn end(cluster: &mut Cluster, name: &str, code: i32) {
    cluster.end(name, code);
    cluster.settle();
}

fn held(cluster: &Cluster) -> usize {
    cluster.world.pods.values().filter(|pod| is_uncounted(pod)).count()
}

#[test]
fn runs_as_many_as_asked_at_a_time_and_completes() {
    let mut cluster = cluster(json!({"completions": 3, "parallelism": 2}));
    assert_eq!((counts(&cluster), held(&cluster)), ([2, 0, 0], 2));
    for done in 1..=3 {
        let name = active(&cluster)[0].clone();
        end(&mut cluster, &name, 0);
        assert_eq!(counts(&cluster), [(3 - done).min(2), done, 0]);
    }
    assert_eq!(
        conditions(&cluster),
        ["SuccessCriteriaMet=CompletionsReached", "Complete=CompletionsReached"]
    );
    let status = status(&cluster);
    assert!(status.completion_time.is_some() && status.start_time.is_some());
    assert_eq!((held(&cluster), status.uncounted_terminated_pods), (0, Some(Default::default())));
    assert!(
        cluster
            .notices
            .iter()
            .any(|notice| notice.reason == "Completed" && notice.message == "Job completed")
    );
}

#[test]
fn a_work_queue_ends_with_its_last_pod_after_a_success() {
    let mut cluster = cluster(json!({"completions": null, "parallelism": 3}));
    assert_eq!(counts(&cluster), [3, 0, 0]);
    let names = active(&cluster);
    end(&mut cluster, &names[0], 0);
    end(&mut cluster, &names[1], 1);
    assert_eq!((counts(&cluster), conditions(&cluster).len()), ([1, 1, 1], 0));
    end(&mut cluster, &names[2], 0);
    assert_eq!((counts(&cluster), conditions(&cluster).len()), ([0, 2, 1], 2));
}

#[test]
fn failures_are_retried_later_and_later_until_the_limit() {
    let mut cluster = cluster(json!({"backoffLimit": 2}));
    for (failures, wait) in [(1, 10), (2, 20)] {
        let name = active(&cluster)[0].clone();
        end(&mut cluster, &name, 1);
        assert_eq!((counts(&cluster), active(&cluster).len()), ([0, 0, failures], 0));
        cluster.wait(wait - 1);
        cluster.settle();
        assert_eq!(active(&cluster).len(), 0, "waits {wait} s");
        cluster.wait(1);
        cluster.settle();
        assert_eq!(active(&cluster).len(), 1);
    }
    let name = active(&cluster)[0].clone();
    end(&mut cluster, &name, 1);
    assert_eq!(conditions(&cluster), ["FailureTarget=BackoffLimitExceeded", "Failed=BackoffLimitExceeded"]);
    assert_eq!((counts(&cluster), held(&cluster)), ([0, 0, 3], 0));
    let told = cluster.notices.iter().find(|notice| notice.reason == "BackoffLimitExceeded").unwrap();
    assert_eq!(told.message, "Job has reached the specified backoff limit");
}

#[test]
fn restarts_in_place_count_too() {
    let mut cluster =
        cluster(json!({"backoffLimit": 2, "template": {"spec": {"restartPolicy": "OnFailure"}}}));
    let name = active(&cluster)[0].clone();
    for (restarts, failed) in [(1, false), (2, true)] {
        let container = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": restarts, "state": {}});
        cluster.patch(
            |world| &world.pods,
            &name,
            json!({"status": {"phase": "Running", "containerStatuses": [container]}}),
        );
        cluster.settle();
        assert_eq!(conditions(&cluster).contains(&"FailureTarget=BackoffLimitExceeded".to_owned()), failed);
    }
}

#[test]
fn a_deadline_ends_it_and_failed_comes_when_the_last_pod_is_gone() {
    let mut cluster = cluster(json!({"activeDeadlineSeconds": 30}));
    let plan = reconcile(&cluster.world, &ObjectKey::new("ns", "work"), cluster.now);
    assert_eq!(plan.look_again_after, Some(std::time::Duration::from_secs(30)));
    cluster.wait(30);
    cluster.settle();
    assert_eq!(conditions(&cluster), ["FailureTarget=DeadlineExceeded"]);
    assert_eq!(active(&cluster).len(), 0);
    cluster.converge();
    assert_eq!(conditions(&cluster), ["FailureTarget=DeadlineExceeded", "Failed=DeadlineExceeded"]);
    assert_eq!((cluster.world.pods.len(), counts(&cluster)), (0, [0, 0, 1]));
}

#[test]
fn indexed_pods_have_their_number_everywhere() {
    let mut cluster = cluster(json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed"}));
    let name = of_index(&cluster, 1);
    assert!(name.starts_with("work-1-"), "{name}");
    let pod = &cluster.world.pods[&ObjectKey::new("ns", &name)];
    assert_eq!(pod.metadata.labels.as_ref().unwrap()[pods::INDEX], "1");
    assert_eq!(pod.metadata.annotations.as_ref().unwrap()[pods::INDEX], "1");
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("work-1"));
    let variable = &spec.containers[0].env.as_ref().unwrap()[0];
    let field = variable.value_from.as_ref().unwrap().field_ref.as_ref().unwrap();
    assert_eq!(
        (variable.name.as_str(), field.field_path.as_str()),
        ("JOB_COMPLETION_INDEX", "metadata.labels['batch.kubernetes.io/job-completion-index']")
    );
    end(&mut cluster, &name, 0);
    assert_eq!(status(&cluster).completed_indexes.as_deref(), Some("1"));
    for index in [0, 2, 3] {
        let name = of_index(&cluster, index);
        end(&mut cluster, &name, 0);
    }
    assert_eq!(status(&cluster).completed_indexes.as_deref(), Some("0-3"));
    assert_eq!((counts(&cluster), conditions(&cluster).len()), ([0, 4, 0], 2));
}

#[test]
fn an_index_that_fails_too_often_is_given_up_and_the_others_go_on() {
    let mut cluster = cluster(
        json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": null, "backoffLimitPerIndex": 1}),
    );
    let name = of_index(&cluster, 0);
    end(&mut cluster, &name, 1);
    assert_eq!(status(&cluster).failed_indexes.as_deref(), Some(""));
    cluster.wait(10);
    cluster.settle();
    let name = of_index(&cluster, 0);
    end(&mut cluster, &name, 1);
    assert_eq!(status(&cluster).failed_indexes.as_deref(), Some("0"));
    assert_eq!((active(&cluster).len(), conditions(&cluster).len()), (1, 0));
    let name = of_index(&cluster, 1);
    end(&mut cluster, &name, 0);
    assert_eq!(conditions(&cluster), ["FailureTarget=FailedIndexes", "Failed=FailedIndexes"]);
    assert_eq!(counts(&cluster), [0, 1, 2]);
}

#[test]
fn a_success_policy_ends_it_early() {
    let policy = json!({"rules": [{"succeededIndexes": "0,2", "succeededCount": 1}]});
    let mut cluster = cluster(
        json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "successPolicy": policy}),
    );
    let name = of_index(&cluster, 1);
    end(&mut cluster, &name, 0);
    assert_eq!(conditions(&cluster).len(), 0);
    let name = of_index(&cluster, 2);
    end(&mut cluster, &name, 0);
    cluster.converge();
    assert_eq!(conditions(&cluster), ["SuccessCriteriaMet=SuccessPolicy", "Complete=SuccessPolicy"]);
    assert_eq!(counts(&cluster), [0, 2, 0]);
}

#[test]
fn a_failure_policy_fails_at_once_or_looks_away() {
    let rules = json!({"rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}},
    ]});
    let mut cluster = cluster(json!({"backoffLimit": 0, "podFailurePolicy": rules}));
    let name = active(&cluster)[0].clone();
    end(&mut cluster, &name, 7);
    cluster.wait(10);
    cluster.settle();
    assert_eq!((counts(&cluster), held(&cluster)), ([1, 0, 0], 1));
    let name = active(&cluster)[0].clone();
    end(&mut cluster, &name, 42);
    assert_eq!(conditions(&cluster), ["FailureTarget=PodFailurePolicy", "Failed=PodFailurePolicy"]);
    let message = status(&cluster).conditions.unwrap()[0].message.clone().unwrap();
    assert_eq!(
        message,
        format!("Container c for pod ns/{name} failed with exit code 42 matching FailJob rule at index 0")
    );
}

#[test]
fn suspended_it_stops_without_failures_and_resumes() {
    let mut cluster = cluster(json!({"completions": 2, "parallelism": 2, "suspend": true}));
    assert_eq!(
        (conditions(&cluster), active(&cluster).len()),
        (vec!["Suspended=JobSuspended".to_owned()], 0)
    );
    assert_eq!(status(&cluster).start_time, None);
    cluster.patch(jobs, "work", json!({"spec": {"suspend": false}}));
    cluster.settle();
    assert_eq!((conditions(&cluster).len(), counts(&cluster)), (0, [2, 0, 0]));
    assert!(status(&cluster).start_time.is_some());
    cluster.patch(jobs, "work", json!({"spec": {"suspend": true}}));
    cluster.converge();
    assert_eq!((counts(&cluster), cluster.world.pods.len()), ([0, 0, 0], 0));
    let told: Vec<_> = cluster
        .notices
        .iter()
        .map(|notice| notice.reason)
        .filter(|reason| reason.ends_with("ed") && *reason != "Scheduled")
        .collect();
    assert_eq!(told, ["Suspended", "Resumed", "Suspended"]);
}

#[test]
fn less_parallelism_takes_pods_away_without_counting_them() {
    let mut cluster = cluster(json!({"completions": 4, "parallelism": 4}));
    cluster.patch(jobs, "work", json!({"spec": {"parallelism": 1}}));
    cluster.converge();
    assert_eq!((counts(&cluster), active(&cluster).len()), ([1, 0, 0], 1));
}

#[test]
fn a_deleted_pod_is_replaced_at_once_or_when_it_ended() {
    for (policy, at_once) in [("TerminatingOrFailed", 1), ("Failed", 0)] {
        let mut cluster = cluster(json!({"podReplacementPolicy": policy}));
        let name = active(&cluster)[0].clone();
        let deletion = Deletion {
            kind: Kind::Pod,
            key: ObjectKey::new("ns", &name),
            uid: None,
            grace_period_seconds: None,
        };
        cluster.apply(Write::Delete(deletion)).unwrap();
        // Failures wait: the replacement comes after the back-off in both cases.
        cluster.wait(10);
        cluster.settle();
        assert_eq!(active(&cluster).len(), at_once, "{policy}");
        assert_eq!(status(&cluster).terminating, Some(1), "{policy}");
        cluster.kubelet(&name);
        cluster.settle();
        cluster.wait(10);
        cluster.settle();
        assert_eq!((active(&cluster).len(), counts(&cluster)[2]), (1, 1), "{policy}");
    }
}

#[test]
fn a_finished_job_goes_when_its_time_is_up() {
    let mut cluster = cluster(json!({"ttlSecondsAfterFinished": 60}));
    let name = active(&cluster)[0].clone();
    end(&mut cluster, &name, 0);
    cluster.wait(59);
    cluster.settle();
    assert_eq!(cluster.world.jobs.len(), 1);
    cluster.wait(1);
    cluster.settle();
    assert_eq!(cluster.world.jobs.len(), 0);
}

#[test]
fn pods_of_a_job_that_is_gone_are_let_go() {
    let mut cluster = cluster(json!({"completions": 3, "parallelism": 3}));
    let deletion = Deletion {
        kind: Kind::Job,
        key: ObjectKey::new("ns", "work"),
        uid: None,
        grace_period_seconds: None,
    };
    cluster.apply(Write::Delete(deletion)).unwrap();
    cluster.settle();
    assert_eq!((cluster.world.pods.len(), held(&cluster)), (3, 0));
}

#[test]
fn what_another_manages_is_left_alone() {
    let cluster = cluster(json!({"managedBy": "example.com/queue"}));
    assert_eq!((cluster.world.pods.len(), cluster.world.jobs.len()), (0, 1));
}

#[test]
fn a_restart_at_any_moment_counts_every_pod_once() {
    for stop in 0..40 {
        let mut cluster = cluster(json!({"completions": 5, "parallelism": 2}));
        let mut writes = 0;
        for _ in 0..200 {
            // Pods end, and of each plan only the first writes happen before the controllers are gone.
            let plan = reconcile(&cluster.world, &ObjectKey::new("ns", "work"), cluster.now);
            for write in plan.writes {
                writes += 1;
                if writes % 40 == stop {
                    break;
                }
                let _ = cluster.apply(write);
            }
            if let Some(name) = active(&cluster).first() {
                cluster.end(name, 0);
            }
        }
        cluster.look_at_everything();
        cluster.settle();
        assert_eq!((counts(&cluster), held(&cluster)), ([0, 5, 0], 0), "stopped at {stop}");
    }
}
