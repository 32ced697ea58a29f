//! DaemonSets, ReplicationControllers, budgets, and what every namespace has.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ReplicationController, ServiceAccount};
use k8s_openapi::api::networking::v1::IPAddress;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::Api;
use kube::runtime::wait;
use serde_json::json;

use crate::cluster::{Cluster, deployment, images, patiently, template};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_run_on_every_node_and_roll_forward_and_back() {
    let cluster = Cluster::start().await;
    cluster.kubectl(&["cordon", "n2"]).await;
    cluster
        .apply(&[json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
            "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", "v1")}})])
        .await;
    cluster.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=20s"]).await;
    let mut nodes: Vec<_> =
        cluster.pods().await.into_iter().filter_map(|pod| pod.spec.unwrap().node_name).collect();
    nodes.sort();
    assert_eq!(nodes, ["n1", "n2"]);
    cluster.kubectl(&["set", "image", "daemonset/agent", "c=v2"]).await;
    cluster.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=20s"]).await;
    assert_eq!(images(&cluster.pods().await), [("v2".into(), 2)]);
    let history = cluster.kubectl(&["rollout", "history", "daemonset/agent"]).await;
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    cluster.kubectl(&["rollout", "undo", "daemonset/agent"]).await;
    cluster.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=20s"]).await;
    assert_eq!(images(&cluster.pods().await), [("v1".into(), 2)]);
    let settled = |set: &DaemonSet| {
        let status = set.status.clone().unwrap_or_default();
        (status.number_ready, status.number_available, status.number_unavailable) == (2, Some(2), None)
    };
    cluster.until("agent", "2 available", settled).await;
    let description = cluster.kubectl(&["describe", "daemonset", "agent"]).await;
    assert!(description.contains("Desired Number of Nodes Scheduled: 2"), "{description}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_scales() {
    let cluster = Cluster::start().await;
    cluster
        .apply(&[json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old"},
            "spec": {"replicas": 2, "template": template("old", "v1")}})])
        .await;
    let ready = |count: i32| {
        move |controller: &ReplicationController| {
            controller.status.as_ref().and_then(|status| status.ready_replicas) == Some(count)
        }
    };
    cluster.until("old", "2 ready", ready(2)).await;
    cluster.kubectl(&["scale", "rc", "old", "--replicas=4"]).await;
    cluster.until("old", "4 ready", ready(4)).await;
    cluster.kubectl(&["delete", "rc", "old", "--timeout=20s"]).await;
    cluster.until_all("no pods", |pods: &[Pod]| pods.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_says_how_many_pods_may_be_disturbed() {
    let cluster = Cluster::start().await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.apply(&[deployment("web", 3, "v1"), budget]).await;
    let allowed = |budget: &PodDisruptionBudget| {
        budget.status.as_ref().is_some_and(|status| {
            (status.expected_pods, status.current_healthy, status.disruptions_allowed)
                == (Some(3), Some(3), Some(1))
        })
    };
    cluster.until("web", "one may be disturbed", allowed).await;
    let description = cluster.kubectl(&["describe", "pdb", "web"]).await;
    assert!(description.contains("Allowed disruptions:  1"), "{description}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_every_namespace_has_comes_back_at_once() {
    let cluster = Cluster::start().await;
    let uid = |map: &ConfigMap| map.metadata.uid.clone();
    let before = cluster.until("kube-root-ca.crt", "there", |_: &ConfigMap| true).await;
    cluster.kubectl(&["delete", "configmap", "kube-root-ca.crt", "--wait=false"]).await;
    let again = move |map: &ConfigMap| uid(map) != uid(&before) && map.data.is_some();
    let map = cluster.until("kube-root-ca.crt", "back", again).await;
    cluster
        .kubectl(&["patch", "configmap", "kube-root-ca.crt", "-p", r#"{"data":{"ca.crt":"forged"}}"#])
        .await;
    let straight = move |now: &ConfigMap| now.data == map.data;
    cluster.until("kube-root-ca.crt", "set straight", straight).await;
    let before = cluster.until("default", "there", |_: &ServiceAccount| true).await;
    cluster.kubectl(&["delete", "serviceaccount", "default", "--wait=false"]).await;
    let again = move |account: &ServiceAccount| account.metadata.uid != before.metadata.uid;
    cluster.until("default", "back", again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_addresses_are_objects_and_ranges_can_be_added() {
    let cluster = Cluster::start().await;
    let service = |address: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "far"},
        "spec": {"clusterIP": address, "ports": [{"port": 80}]}})
    };
    let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"},
        "spec": {"cidrs": ["10.97.0.0/24"]}});
    cluster.apply(&[range]).await;
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "servicecidr/more",
            "servicecidr/kubernetes",
            "--timeout=20s",
        ])
        .await;
    cluster.apply(&[service("10.97.0.77")]).await;
    let shown =
        cluster.kubectl(&["get", "ipaddress", "10.97.0.77", "-o", "jsonpath={.spec.parentRef.name}"]).await;
    assert_eq!(shown, "far");
    cluster.kubectl(&["delete", "servicecidr", "more", "--wait=false"]).await;
    cluster.kubectl(&["wait", "--for=condition=Ready=false", "servicecidr/more", "--timeout=20s"]).await;
    cluster.kubectl(&["delete", "service", "far"]).await;
    let gone = |address: Option<&IPAddress>| address.is_none();
    let addresses: Api<IPAddress> = Api::all(cluster.client.clone());
    patiently("the address is given back", wait::await_condition(addresses, "10.97.0.77", gone))
        .await
        .unwrap();
    cluster.kubectl(&["wait", "--for=delete", "servicecidr/more", "--timeout=20s"]).await;
}
