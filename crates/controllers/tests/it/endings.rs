//! What is deleted takes along what it owns, or not, as asked.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::Api;
use kube::runtime::wait;
use serde_json::json;

use crate::cluster::{Cluster, deployment, patiently};

async fn with_deployment() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.apply(&[deployment("web", 3, "v1")]).await;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=20s"]).await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn background() {
    let cluster = with_deployment().await;
    cluster.kubectl(&["delete", "deployment", "web"]).await;
    cluster.until_all("no ReplicaSets", |sets: &[ReplicaSet]| sets.is_empty()).await;
    cluster.until_all("no pods", |pods: &[Pod]| pods.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreground_waits_for_the_dependents() {
    let cluster = with_deployment().await;
    cluster.kubectl(&["delete", "deployment", "web", "--cascade=foreground", "--timeout=20s"]).await;
    assert_eq!(cluster.pods().await, []);
    cluster.until_all("no ReplicaSets", |sets: &[ReplicaSet]| sets.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_stay_and_are_adopted_by_a_successor() {
    let cluster = with_deployment().await;
    let before: Vec<_> = cluster.pods().await.into_iter().map(|pod| pod.metadata.uid).collect();
    cluster.kubectl(&["delete", "deployment", "web", "--cascade=orphan"]).await;
    let orphaned = |sets: &[ReplicaSet]| {
        sets.len() == 1 && sets[0].metadata.owner_references.as_ref().is_none_or(Vec::is_empty)
    };
    cluster.until_all("orphaned", orphaned).await;
    cluster.apply(&[deployment("web", 3, "v1")]).await;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=20s"]).await;
    let after: Vec<_> = cluster.pods().await.into_iter().map(|pod| pod.metadata.uid).collect();
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_any_kind_goes_with_its_last_owner() {
    let cluster = Cluster::start().await;
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    cluster.apply(&[map("one"), map("two")]).await;
    let uid = async |name: &str| cluster.api::<ConfigMap>().get(name).await.unwrap().metadata.uid.unwrap();
    let owner =
        |name: &str, uid: String| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid});
    let mut child = map("child");
    child["metadata"]["ownerReferences"] =
        json!([owner("one", uid("one").await), owner("two", uid("two").await)]);
    let mut stray = map("stray");
    stray["metadata"]["ownerReferences"] =
        json!([owner("never", "00000000-0000-0000-0000-000000000000".into())]);
    cluster.apply(&[child, stray]).await;
    let names =
        |maps: &[ConfigMap]| maps.iter().filter_map(|map| map.metadata.name.clone()).collect::<Vec<_>>();
    cluster
        .until_all("stray has no owner", |maps: &[ConfigMap]| !names(maps).contains(&"stray".into()))
        .await;
    cluster.kubectl(&["delete", "configmap", "one"]).await;
    cluster
        .until("child", "one owner left", |map: &ConfigMap| {
            map.metadata.owner_references.as_ref().map(Vec::len) == Some(1)
        })
        .await;
    cluster.kubectl(&["delete", "configmap", "two"]).await;
    cluster.until_all("child is gone", |maps: &[ConfigMap]| !names(maps).contains(&"child".into())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_ends_with_everything_in_it() {
    let cluster = Cluster::start().await;
    let inside = |mut manifest: serde_json::Value| {
        manifest["metadata"]["namespace"] = json!("shop");
        manifest
    };
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.apply(&[namespace, inside(deployment("web", 5, "v1")), inside(map), inside(service)]).await;
    cluster.kubectl(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=20s"]).await;
    cluster.kubectl(&["delete", "namespace", "shop", "--timeout=20s"]).await;
    let all: Api<Namespace> = Api::all(cluster.client.clone());
    assert!(all.get_opt("shop").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_says_what_it_waits_for() {
    let cluster = Cluster::start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "stuck"}});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "held", "namespace": "stuck", "finalizers": ["example.com/hold"]}});
    cluster.apply(&[namespace, map]).await;
    cluster.kubectl(&["delete", "namespace", "stuck", "--wait=false"]).await;
    let all: Api<Namespace> = Api::all(cluster.client.clone());
    let told = |namespace: Option<&Namespace>| {
        let conditions = namespace.and_then(|namespace| namespace.status.as_ref()?.conditions.as_ref());
        let finalizers = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition.type_ == "NamespaceFinalizersRemaining");
        finalizers.is_some_and(|condition| {
            condition.message.as_deref().is_some_and(|message| message.contains("example.com/hold in 1"))
        })
    };
    patiently("condition", wait::await_condition(all.clone(), "stuck", told)).await.unwrap();
    cluster
        .kubectl(&[
            "-n",
            "stuck",
            "patch",
            "configmap",
            "held",
            "--type=merge",
            r#"-p={"metadata":{"finalizers":null}}"#,
        ])
        .await;
    patiently(
        "the end",
        wait::await_condition(all, "stuck", |namespace: Option<&Namespace>| namespace.is_none()),
    )
    .await
    .unwrap();
}
