//! Restarts, silent nodes, and nothing to do.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, ListParams};
use kube::runtime::wait;

use crate::cluster::{Cluster, deployment, images, patiently};

/// The store's newest revision.
async fn revision(cluster: &Cluster) -> String {
    let all: Api<Namespace> = Api::all(cluster.client.clone());
    all.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap()
}

fn available(wanted: i32) -> impl Fn(&Deployment) -> bool {
    move |deployment| {
        let status = deployment.status.clone().unwrap_or_default();
        status.observed_generation == deployment.metadata.generation
            && status.available_replicas == Some(wanted)
            && status.replicas == Some(wanted)
            && status.updated_replicas == Some(wanted)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_goes_on_after_the_controllers_restart_in_the_middle() {
    let mut cluster = Cluster::start().await;
    cluster.apply(&[deployment("web", 20, "v1")]).await;
    cluster.until("web", "20 available", available(20)).await;
    cluster.kubectl(&["set", "image", "deployment/web", "c=v2"]).await;
    for _ in 0..3 {
        cluster.stop_controllers().await;
        cluster.start_controllers().await;
    }
    cluster.until("web", "20 of v2 available", available(20)).await;
    let pods = cluster.until_all("the old ones are gone", |pods: &[Pod]| pods.len() == 20).await;
    assert_eq!(images(&pods), [("v2".into(), 20)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_goes_on_after_the_api_server_was_away() {
    let mut cluster = Cluster::start().await;
    cluster.apply(&[deployment("web", 20, "v1")]).await;
    cluster.stop_server().await;
    cluster.start_server().await;
    cluster.until("web", "20 available", available(20)).await;
    assert_eq!(cluster.pods().await.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_pods_are_made_exactly_once_and_then_nothing_is_written() {
    let cluster = Cluster::start().await;
    let started = Instant::now();
    cluster.apply(&[deployment("web", 100, "v1")]).await;
    cluster.until("web", "100 available", available(100)).await;
    println!("100 replicas available after {:?}", started.elapsed());
    let pods: Api<Pod> = cluster.api();
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), 100);
    // Events are written a little later than what they tell.
    let mut before = revision(&cluster).await;
    patiently("nothing is written for half a second", async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = revision(&cluster).await;
            if now == before {
                break;
            }
            before = now;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_silent_node_are_taken_out_of_traffic_until_it_is_back() {
    let cluster = Cluster::start().await;
    cluster.apply(&[deployment("web", 2, "v1")]).await;
    cluster.until("web", "2 available", available(2)).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    // As if it had reported last a minute ago.
    let long_ago = Timestamp::now() - jiff::SignedDuration::from_secs(60);
    cluster
        .kubectl(&[
            "patch",
            "node",
            "n1",
            "--subresource=status",
            "--type=json",
            &format!(
                r#"-p=[{{"op":"replace","path":"/status/conditions/0/lastHeartbeatTime","value":"{}"}}]"#,
                long_ago.strftime("%Y-%m-%dT%H:%M:%SZ")
            ),
        ])
        .await;
    cluster.renew_lease("n1", long_ago).await;
    let tainted = |node: Option<&Node>| {
        let taints = node.and_then(|node| node.spec.as_ref()?.taints.clone()).unwrap_or_default();
        taints
            .iter()
            .any(|taint| taint.key == "node.kubernetes.io/unreachable" && taint.effect == "NoExecute")
    };
    patiently("taint", wait::await_condition(nodes.clone(), "n1", tainted)).await.unwrap();
    let unready = |pods: &[Pod]| {
        let condition = |pod: &Pod| {
            let conditions =
                pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "False")
        };
        pods.iter()
            .filter(|pod| condition(pod))
            .all(|pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some("n1"))
            && pods.iter().any(condition)
    };
    cluster.until_all("its pod is unready", unready).await;
    cluster.renew_lease("n1", Timestamp::now()).await;
    cluster
        .kubectl(&[
            "patch",
            "node",
            "n1",
            "--subresource=status",
            "--type=json",
            r#"-p=[{"op":"replace","path":"/status/conditions/0/status","value":"True"}]"#,
        ])
        .await;
    let clean = |node: Option<&Node>| {
        node.and_then(|node| node.spec.as_ref()?.taints.clone()).unwrap_or_default().is_empty()
    };
    patiently("no taint", wait::await_condition(nodes, "n1", clean)).await.unwrap();
}
