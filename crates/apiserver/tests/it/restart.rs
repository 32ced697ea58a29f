//! What survives a restart, and what a second server says.

use serde_json::json;

use crate::server::{Running, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn objects_versions_and_watches_go_on_after_a_restart() {
    let mut server = Running::start().await;
    let mut client = server.client().await;
    let created = client.post(MAPS, &config_map("a", "1")).await.json();
    let version = created["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    client.post(MAPS, &config_map("b", "1")).await;
    let namespaces = client.get("/api/v1/namespaces").await.json();
    server.restart().await;
    let mut client = server.client().await;
    assert_eq!(client.get(&format!("{MAPS}/a")).await.json(), created);
    let after = client.get("/api/v1/namespaces").await.json();
    assert_eq!(after["items"], namespaces["items"], "the first objects are not made again");
    let mut watch = server.client().await.watch(&format!("{MAPS}?watch=1&resourceVersion={version}")).await;
    assert_eq!(watch.brief().await, "ADDED b", "the past is still there");
    client.merge(&format!("{MAPS}/a"), &json!({"data": {"k": "2"}})).await;
    assert_eq!(watch.brief().await, "MODIFIED a");
}

#[tokio::test]
async fn a_second_server_on_the_same_state_is_refused() {
    let server = Running::start().await;
    let error = server.second().await;
    assert!(error.contains("is in use by another API server (process"), "{error}");
}

#[tokio::test]
async fn what_every_cluster_has_comes_back() {
    let mut server = Running::start().await;
    let mut client = server.client().await;
    let paths = [
        "/api/v1/namespaces/default/services/kubernetes",
        "/api/v1/namespaces/default/serviceaccounts/default",
    ];
    for path in paths {
        assert_eq!(client.delete(path).await.code, 200, "{path}");
        assert_eq!(client.get(path).await.code, 404, "{path}");
    }
    server.restart().await;
    let mut client = server.client().await;
    for path in paths {
        assert_eq!(client.get(path).await.code, 200, "{path}");
    }
    let own = client.get(paths[0]).await.json();
    assert_eq!(own["spec"]["clusterIP"], "10.96.0.1");
}
