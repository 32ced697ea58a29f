//! Jobs and CronJobs.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::cluster::Cluster;

fn job(name: &str, image: &str, spec: Value) -> Value {
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": image}]}});
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec});
    job["spec"]["template"] = template;
    job
}

fn held(pods: &[Pod]) -> usize {
    let finalizers = |pod: &&Pod| pod.metadata.finalizers.as_ref().is_some_and(|held| !held.is_empty());
    pods.iter().filter(finalizers).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_to_its_end_and_lets_its_pods_go() {
    let cluster = Cluster::start().await;
    cluster.apply(&[job("sum", "exit-0", json!({"completions": 5, "parallelism": 2}))]).await;
    cluster.kubectl(&["wait", "--for=condition=complete", "job/sum", "--timeout=20s"]).await;
    let done: Job = cluster.until("sum", "status", |_: &Job| true).await;
    let status = done.status.unwrap();
    assert_eq!((status.succeeded, status.failed, status.active), (Some(5), None, None));
    cluster.until_all("5 pods, none held", |pods: &[Pod]| pods.len() == 5 && held(pods) == 0).await;
    let description = cluster.kubectl(&["describe", "job", "sum"]).await;
    assert!(description.contains("0 Active (0 Ready) / 5 Succeeded / 0 Failed"), "{description}");
    cluster.kubectl(&["delete", "job", "sum", "--timeout=20s"]).await;
    cluster.until_all("no pods", |pods: &[Pod]| pods.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fails_too_often_is_failed() {
    let cluster = Cluster::start().await;
    cluster.apply(&[job("bad", "exit-3", json!({"backoffLimit": 0}))]).await;
    cluster.kubectl(&["wait", "--for=condition=failed", "job/bad", "--timeout=20s"]).await;
    let event = cluster.event("bad", "BackoffLimitExceeded").await;
    assert_eq!(event.message.as_deref(), Some("Job has reached the specified backoff limit"));
    let reasons: Job = cluster.until("bad", "status", |_: &Job| true).await;
    let types: Vec<_> =
        reasons.status.unwrap().conditions.unwrap().into_iter().map(|condition| condition.type_).collect();
    assert_eq!(types, ["FailureTarget", "Failed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_indexed_job_completes_every_index() {
    let cluster = Cluster::start().await;
    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"});
    cluster.apply(&[job("rows", "exit-0", spec)]).await;
    let complete =
        |job: &Job| job.status.as_ref().and_then(|status| status.completed_indexes.as_deref()) == Some("0-2");
    cluster.until("rows", "all indexes", complete).await;
    cluster.kubectl(&["wait", "--for=condition=complete", "job/rows", "--timeout=20s"]).await;
    let mut hosts: Vec<_> =
        cluster.pods().await.into_iter().filter_map(|pod| pod.spec.unwrap().hostname).collect();
    hosts.sort();
    assert_eq!(hosts, ["rows-0", "rows-1", "rows-2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_ends_although_pods_wait_to_be_counted() {
    let cluster = Cluster::start().await;
    cluster.kubectl(&["create", "namespace", "busy"]).await;
    let mut sleepers = job("sleepers", "v1", json!({"completions": 4, "parallelism": 4}));
    sleepers["metadata"]["namespace"] = json!("busy");
    cluster.apply(&[sleepers]).await;
    cluster
        .kubectl(&[
            "wait",
            "--for=jsonpath={.status.active}=4",
            "job/sleepers",
            "-n",
            "busy",
            "--timeout=20s",
        ])
        .await;
    cluster.kubectl(&["delete", "namespace", "busy", "--timeout=25s"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cron_job_starts_jobs_and_so_does_a_user() {
    let cluster = Cluster::start().await;
    let template = job("x", "exit-0", json!({}))["spec"].clone();
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"},
        "spec": {"schedule": "@every 1s", "jobTemplate": {"spec": template}}});
    cluster.apply(&[cron]).await;
    cluster.event("tick", "SuccessfulCreate").await;
    let finished =
        |cron: &CronJob| cron.status.as_ref().is_some_and(|status| status.last_successful_time.is_some());
    cluster.until("tick", "a Job succeeded", finished).await;
    cluster.kubectl(&["create", "job", "by-hand", "--from=cronjob/tick"]).await;
    cluster.kubectl(&["wait", "--for=condition=complete", "job/by-hand", "--timeout=20s"]).await;
    cluster.kubectl(&["patch", "cronjob", "tick", "-p", r#"{"spec":{"suspend":true}}"#]).await;
    let description = cluster.kubectl(&["describe", "cronjob", "tick"]).await;
    assert!(description.contains("Suspend:                       True"), "{description}");
}
