//! Watches: order, selectors, bookmarks, ends.

use std::time::Duration;

use serde_json::json;

use crate::server::{Running, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_watch_goes_on_where_a_list_ended() {
    let server = Running::start().await;
    let mut client = server.client().await;
    client.post(MAPS, &config_map("a", "1")).await;
    let list = client.get(MAPS).await.json();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = server.client().await.watch(&format!("{MAPS}?watch=1&resourceVersion={version}")).await;
    client.post(MAPS, &config_map("b", "1")).await;
    client.merge(&format!("{MAPS}/b"), &json!({"data": {"k": "2"}})).await;
    let removed = client.get(&format!("{MAPS}/b")).await.json();
    client.delete(&format!("{MAPS}/b")).await;
    assert_eq!(watch.brief().await, "ADDED b");
    assert_eq!(watch.brief().await, "MODIFIED b");
    let deleted = watch.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(deleted["object"]["data"], removed["data"], "the last content");
    let number = |object: &serde_json::Value| {
        object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
    };
    assert!(number(&deleted["object"]) > number(&removed), "with a newer version");
}

#[tokio::test]
async fn what_leaves_a_selector_is_deleted_and_what_enters_is_added() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let mut watch = server.client().await.watch(&format!("{MAPS}?watch=1&labelSelector=a%3Db")).await;
    let label = |value: &str| json!({"metadata": {"labels": {"a": value}}});
    client.post(MAPS, &config_map("m", "1")).await;
    client.merge(&format!("{MAPS}/m"), &label("b")).await;
    client.merge(&format!("{MAPS}/m"), &json!({"data": {"k": "2"}})).await;
    client.merge(&format!("{MAPS}/m"), &label("c")).await;
    client.merge(&format!("{MAPS}/m"), &label("d")).await;
    client.merge(&format!("{MAPS}/m"), &label("b")).await;
    for want in ["ADDED m", "MODIFIED m"] {
        assert_eq!(watch.brief().await, want);
    }
    let left = watch.next().await.unwrap();
    assert_eq!(
        (left["type"].as_str(), left["object"]["metadata"]["labels"]["a"].as_str()),
        (Some("DELETED"), Some("b"))
    );
    assert_eq!(watch.brief().await, "ADDED m");
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let server = Running::start().await;
    let mut client = server.client().await;
    client.post(MAPS, &config_map("a", "1")).await;
    let path = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut watch = server.client().await.watch(&path).await;
    assert_eq!(watch.brief().await, "ADDED a");
    assert_eq!(watch.brief().await, "ADDED kube-root-ca.crt");
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    client.post(MAPS, &config_map("b", "1")).await;
    assert_eq!(watch.brief().await, "ADDED b");
    let refused = client.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await;
    assert_eq!(refused.code, 422);
}

#[tokio::test]
async fn a_watch_ends_cleanly_with_a_bookmark_before() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let path = format!("{MAPS}?watch=1&resourceVersion=0&allowWatchBookmarks=true&timeoutSeconds=2");
    let mut watch = server.client().await.watch(&path).await;
    assert_eq!(watch.brief().await, "ADDED kube-root-ca.crt");
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
    // Elsewhere the store moves on; the last bookmark says so.
    let created = client
        .post(
            "/api/v1/namespaces/kube-public/secrets",
            &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}),
        )
        .await;
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(
        bookmark["object"]["metadata"]["resourceVersion"],
        created.json()["metadata"]["resourceVersion"]
    );
    assert!(watch.next().await.is_none(), "a clean end");
}

#[tokio::test]
async fn tables_and_metadata_are_watched_too() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let mut tables = server.client().await;
    tables.headers.push(("accept", "application/json;as=Table;v=v1;g=meta.k8s.io".to_owned()));
    let mut tables = tables.watch(&format!("{MAPS}?watch=1")).await;
    let mut metadata = server.client().await;
    metadata
        .headers
        .push(("accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io".to_owned()));
    let mut metadata = metadata.watch(&format!("{MAPS}?watch=1")).await;
    client.post(MAPS, &config_map("z", "1")).await;
    let first = tables.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert!(
        first["object"]["columnDefinitions"].as_array().is_some_and(|columns| !columns.is_empty()),
        "{first}"
    );
    let second = tables.next().await.unwrap();
    assert_eq!(second["object"]["rows"][0]["cells"][0], "z");
    metadata.next().await.unwrap();
    let second = metadata.next().await.unwrap();
    assert_eq!(second["object"]["kind"], "PartialObjectMetadata");
    assert!(second["object"].get("data").is_none());
}

#[tokio::test]
async fn one_object_is_watched_by_name() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let mut watch =
        server.client().await.watch(&format!("{MAPS}?watch=true&fieldSelector=metadata.name%3Dw")).await;
    let mut old = server.client().await.watch("/api/v1/watch/namespaces/default/configmaps/w").await;
    client.post(MAPS, &config_map("v", "1")).await;
    client.post(MAPS, &config_map("w", "1")).await;
    assert_eq!(watch.brief().await, "ADDED w");
    assert_eq!(old.brief().await, "ADDED w");
}

#[tokio::test]
async fn a_stop_ends_watches_cleanly() {
    let mut server = Running::start().await;
    let mut watch = server.client().await.watch(&format!("{MAPS}?watch=1")).await;
    assert_eq!(watch.brief().await, "ADDED kube-root-ca.crt");
    let ended = tokio::spawn(async move { watch.next().await.is_none() });
    tokio::time::timeout(Duration::from_secs(10), server.stop()).await.unwrap();
    assert!(ended.await.unwrap());
}
