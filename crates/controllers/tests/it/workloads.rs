//! Deployments, StatefulSets and the scheduler.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::cluster::{Cluster, deployment, images, template};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_forward_and_back_as_kubectl_shows_it() {
    let cluster = Cluster::start().await;
    cluster.apply(&[deployment("web", 4, "v1")]).await;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=20s"]).await;
    assert_eq!(images(&cluster.pods().await), [("v1".into(), 4)]);
    cluster.kubectl(&["set", "image", "deployment/web", "c=v2"]).await;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=20s"]).await;
    assert_eq!(images(&cluster.pods().await), [("v2".into(), 4)]);
    let history = cluster.kubectl(&["rollout", "history", "deployment/web"]).await;
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    cluster.kubectl(&["rollout", "undo", "deployment/web"]).await;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=20s"]).await;
    assert_eq!(images(&cluster.pods().await), [("v1".into(), 4)]);
    cluster.kubectl(&["rollout", "restart", "deployment/web"]).await;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=20s"]).await;
    cluster.kubectl(&["scale", "deployment/web", "--replicas=0"]).await;
    cluster.until_all("no pods", |pods: &[Pod]| pods.is_empty()).await;
    cluster.event("web", "ScalingReplicaSet").await;
    let description = cluster.kubectl(&["describe", "deployment", "web"]).await;
    assert!(description.contains("Scaled down replica set"), "{description}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_spread_evenly_over_the_nodes() {
    let cluster = Cluster::start().await;
    cluster.apply(&[deployment("web", 10, "v1"), deployment("api", 6, "v1")]).await;
    cluster
        .until::<Deployment>("web", "available", |web| {
            web.status.as_ref().and_then(|status| status.available_replicas) == Some(10)
        })
        .await;
    cluster
        .until::<Deployment>("api", "available", |api| {
            api.status.as_ref().and_then(|status| status.available_replicas) == Some(6)
        })
        .await;
    let mut placed: BTreeMap<(String, String), usize> = BTreeMap::new();
    for pod in cluster.pods().await {
        let app = pod.metadata.labels.as_ref().unwrap()["app"].clone();
        *placed.entry((app, pod.spec.unwrap().node_name.unwrap())).or_default() += 1;
    }
    assert_eq!(placed.into_values().collect::<Vec<_>>(), [3, 3, 5, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_comes_up_in_order_and_rolls_back() {
    let cluster = Cluster::start().await;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {"replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": template("db", "v1")},
    });
    cluster.apply(&[set]).await;
    cluster.kubectl(&["rollout", "status", "statefulset/db", "--timeout=20s"]).await;
    let mut pods = cluster.pods().await;
    pods.sort_by_key(|pod| {
        pod.metadata.resource_version.as_ref().and_then(|version| version.parse::<u64>().ok())
    });
    let names: Vec<_> = pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["db-0", "db-1", "db-2"]);
    cluster.kubectl(&["set", "image", "statefulset/db", "c=v2"]).await;
    cluster.kubectl(&["rollout", "status", "statefulset/db", "--timeout=20s"]).await;
    assert_eq!(images(&cluster.pods().await), [("v2".into(), 3)]);
    cluster.kubectl(&["rollout", "undo", "statefulset/db"]).await;
    cluster.kubectl(&["rollout", "status", "statefulset/db", "--timeout=20s"]).await;
    assert_eq!(images(&cluster.pods().await), [("v1".into(), 3)]);
    cluster.kubectl(&["scale", "statefulset/db", "--replicas=1"]).await;
    cluster.until_all("one pod", |pods: &[Pod]| pods.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volume_claim_templates_are_refused_with_an_event() {
    let cluster = Cluster::start().await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {"replicas": 1, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": template("db", "v1"),
            "volumeClaimTemplates": [claim]},
    });
    cluster.apply(&[set]).await;
    let event = cluster.event("db", "FailedCreate").await;
    assert!(event.message.unwrap().contains("volumeClaimTemplates are not supported"));
    let told = |set: &StatefulSet| {
        set.status
            .as_ref()
            .and_then(|status| status.conditions.as_ref())
            .is_some_and(|conditions| !conditions.is_empty())
    };
    cluster.until("db", "condition", told).await;
    assert_eq!(cluster.pods().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unschedulable_pod_says_why_and_is_placed_when_a_node_fits() {
    let cluster = Cluster::start().await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "picky"},
        "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c", "image": "v1"}]},
    });
    cluster.apply(&[pod]).await;
    let event = cluster.event("picky", "FailedScheduling").await;
    assert_eq!(
        event.message.as_deref(),
        Some("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.")
    );
    let pending = cluster.kubectl(&["get", "pod", "picky"]).await;
    assert!(pending.contains("Pending"), "{pending}");
    cluster.kubectl(&["label", "node", "n2", "disk=ssd"]).await;
    let placed = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some("n2");
    cluster.until("picky", "on n2", placed).await;
    cluster.event("picky", "Scheduled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_version_is_stopped_and_can_be_undone() {
    let cluster = Cluster::start().await;
    let mut web = deployment("web", 4, "v1");
    web["spec"]["progressDeadlineSeconds"] = json!(2);
    cluster.apply(&[web]).await;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=20s"]).await;
    cluster.kubectl(&["set", "image", "deployment/web", "c=broken"]).await;
    let missed = |web: &Deployment| {
        let conditions = web.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        conditions.iter().any(|condition| condition.reason.as_deref() == Some("ProgressDeadlineExceeded"))
    };
    let web = cluster.until("web", "deadline missed", missed).await;
    assert!(web.status.unwrap().available_replicas >= Some(3));
    cluster.kubectl(&["rollout", "undo", "deployment/web"]).await;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=20s"]).await;
    assert_eq!(images(&cluster.pods().await), [("v1".into(), 4)]);
    let idle = |sets: &[ReplicaSet]| {
        sets.iter().filter(|set| set.spec.as_ref().unwrap().replicas == Some(0)).count() == 1
    };
    cluster.until_all("the broken version is idle", idle).await;
}
