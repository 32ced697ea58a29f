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

#[tokio::test]
async fn a_position_that_is_too_old_is_an_event_in_the_stream() {
    let (server, now) = crate::lists::with_clock().await;
    let mut client = server.client().await;
    let first = client.post(MAPS, &config_map("a", "1")).await.json();
    let version = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    crate::lists::outlive(&server, &now, "m").await;
    let mut watch = server.client().await.watch(&format!("{MAPS}?watch=1&resourceVersion={version}")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    let status = &event["object"];
    assert_eq!(
        (status["code"].as_u64(), status["reason"].as_str()),
        (Some(410), Some("Expired")),
        "{status}"
    );
    let message = status["message"].as_str().unwrap();
    let oldest = message.strip_prefix(&format!("too old resource version: {version} (")).unwrap();
    let oldest: u64 = oldest.trim_end_matches(')').parse().unwrap();
    assert!(watch.next().await.is_none(), "then the end");
    let mut watch = server.client().await.watch(&format!("{MAPS}?watch=1&resourceVersion={oldest}")).await;
    assert_eq!(watch.brief().await, "MODIFIED m", "the oldest that works, works");
}

#[tokio::test]
async fn a_watch_from_the_future_is_silent_until_then() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let newest = client.get(MAPS).await.json()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse::<u64>()
        .unwrap();
    let path =
        format!("{MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=3&resourceVersion={}", newest + 2);
    let mut watch = server.client().await.watch(&path).await;
    for name in ["a", "b", "c"] {
        client.post(MAPS, &config_map(name, "1")).await;
    }
    assert_eq!(watch.brief().await, "ADDED c", "what comes after that revision");
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
    assert!(watch.next().await.is_none());
    let path =
        format!("{MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion={}", newest + 1000);
    let mut watch = server.client().await.watch(&path).await;
    assert!(watch.next().await.is_none(), "no bookmark from there either");
}

#[tokio::test]
async fn initial_events_are_marked_only_when_asked_for() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    struct Case {
        query: &'static str,
        want: &'static [&'static str],
    }
    let cases = [
        Case {
            query: "sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
            want: &["ADDED kube-root-ca.crt", "ADDED new"],
        },
        Case {
            query: "allowWatchBookmarks=true",
            want: &["ADDED kube-root-ca.crt", "BOOKMARK -", "ADDED new"],
        },
        Case {
            query: "allowWatchBookmarks=true&resourceVersion=0",
            want: &["ADDED kube-root-ca.crt", "BOOKMARK -", "ADDED new"],
        },
        Case { query: "resourceVersion=0", want: &["ADDED kube-root-ca.crt", "ADDED new"] },
        Case { query: "", want: &["ADDED kube-root-ca.crt", "ADDED new"] },
        Case {
            query: "allowWatchBookmarks=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan",
            want: &["ADDED new"],
        },
    ];
    for case in cases {
        let mut watch = server.client().await.watch(&format!("{MAPS}?watch=1&{}", case.query)).await;
        client.post(MAPS, &config_map("new", "1")).await;
        for want in case.want {
            assert_eq!(watch.brief().await, *want, "{}", case.query);
        }
        client.delete(&format!("{MAPS}/new")).await;
    }
    let refusals = [
        (
            "sendInitialEvents=true",
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            "sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion=1",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            "resourceVersionMatch=NotOlderThan&resourceVersion=1",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
    ];
    for (query, want) in refusals {
        let answer = client.get(&format!("{MAPS}?watch=1&{query}")).await;
        assert!(answer.code == 422 && answer.message().ends_with(want), "{query}: {answer:?}");
    }
    let mut watch =
        server.client().await.watch(&format!("{MAPS}?watch=1&{initial}&resourceVersion=99999999")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(
        (event["type"].as_str(), event["object"]["code"].as_u64()),
        (Some("ERROR"), Some(504)),
        "{event}"
    );
}

#[tokio::test]
async fn what_leaves_a_field_selector_is_deleted_with_its_old_content_and_new_version() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let pods = "/api/v1/namespaces/default/pods";
    let mut pending =
        server.client().await.watch(&format!("{pods}?watch=1&fieldSelector=spec.nodeName%3D")).await;
    let mut placed =
        server.client().await.watch(&format!("{pods}?watch=1&fieldSelector=spec.nodeName%3Dn1")).await;
    let mut metadata = server.client().await;
    metadata
        .headers
        .push(("accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io".to_owned()));
    let mut metadata = metadata.watch(&format!("{pods}?watch=1&fieldSelector=spec.nodeName%3D")).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let created = client.post(pods, &pod).await;
    assert_eq!(created.code, 201, "{created:?}");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(client.post(&format!("{pods}/p/binding"), &binding).await.code, 201);
    let bound = client.get(&format!("{pods}/p")).await.json();
    assert_eq!(pending.brief().await, "ADDED p");
    let left = pending.next().await.unwrap();
    assert_eq!(
        (left["type"].as_str(), left["object"]["spec"].get("nodeName")),
        (Some("DELETED"), None),
        "{left}"
    );
    assert_eq!(left["object"]["metadata"]["resourceVersion"], bound["metadata"]["resourceVersion"]);
    assert_eq!(metadata.brief().await, "ADDED p");
    let left = metadata.next().await.unwrap();
    assert_eq!(
        (left["type"].as_str(), left["object"]["kind"].as_str()),
        (Some("DELETED"), Some("PartialObjectMetadata"))
    );
    assert_eq!(left["object"]["metadata"]["resourceVersion"], bound["metadata"]["resourceVersion"]);
    let entered = placed.next().await.unwrap();
    assert_eq!((entered["type"].as_str(), &entered["object"]), (Some("ADDED"), &bound));
}

#[tokio::test]
async fn old_paths_are_watches_and_one_object_is_not() {
    let server = Running::start().await;
    let mut client = server.client().await;
    for path in [
        "/api/v1/watch/configmaps",
        "/api/v1/watch/namespaces/default/configmaps",
        "/api/v1/watch/namespaces/default/configmaps/kube-root-ca.crt",
        "/api/v1/configmaps?watch=true&fieldSelector=metadata.namespace%3Ddefault",
    ] {
        assert_eq!(server.client().await.watch(path).await.brief().await, "ADDED kube-root-ca.crt", "{path}");
    }
    let one = client.get(&format!("{MAPS}/kube-root-ca.crt?watch=true")).await;
    assert_eq!((one.code, one.json()["kind"].as_str()), (200, Some("ConfigMap")));
}

#[tokio::test]
async fn columns_of_a_table_come_only_with_its_first_event() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let mut tables = server.client().await;
    tables.headers.push(("accept", "application/json;as=Table;v=v1;g=meta.k8s.io".to_owned()));
    let mut tables = tables.watch(&format!("{MAPS}?watch=1")).await;
    client.post(MAPS, &config_map("a", "1")).await;
    client.delete(&format!("{MAPS}/a")).await;
    for (index, (kind, name)) in
        [("ADDED", "kube-root-ca.crt"), ("ADDED", "a"), ("DELETED", "a")].iter().enumerate()
    {
        let event = tables.next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["rows"][0]["cells"][0]), (&json!(kind), &json!(name)));
        assert_eq!(event["object"]["rows"].as_array().unwrap().len(), 1);
        let columns = event["object"]["columnDefinitions"].as_array().map_or(0, Vec::len);
        assert_eq!(columns > 0, index == 0, "{event}");
        assert_eq!(event["object"]["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    }
}
