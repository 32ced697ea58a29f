//! Discovery and OpenAPI: versions, tags, compression.

use serde_json::Value;

use crate::server::{Answer, Running};

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const V2BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn discovery_is_in_the_version_asked_for() {
    let server = Running::start().await;
    let cases = [
        (format!("{V2},{V2BETA1},application/json"), V2, "APIGroupDiscoveryList"),
        (format!("{V2BETA1},application/json"), V2BETA1, "APIGroupDiscoveryList"),
        ("application/json".to_owned(), "application/json", "APIGroupList"),
    ];
    for (accept, content_type, kind) in cases {
        let mut client = server.client().await;
        client.headers.push(("accept", accept.clone()));
        let answer = client.get("/apis").await;
        assert_eq!(header(&answer, "content-type"), content_type, "{accept}");
        assert_eq!(answer.json()["kind"], kind, "{accept}");
    }
    let mut client = server.client().await;
    let core = client.get("/api/v1").await.json();
    let pods =
        core["resources"].as_array().unwrap().iter().find(|resource| resource["name"] == "pods").unwrap();
    assert_eq!(pods["shortNames"], Value::from(vec!["po"]));
    assert_eq!(client.get("/apis/nothing.example").await.code, 404);
    assert_eq!(client.get("/apis/apps/v9").await.code, 404);
}

#[tokio::test]
async fn a_document_that_is_known_is_not_sent_again() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let first = client.get("/openapi/v3/api/v1").await;
    assert_eq!(first.code, 200);
    let operations = first.json();
    let patch = &operations["paths"]["/api/v1/namespaces/{namespace}/services/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Service");
    client.headers.push(("if-none-match", header(&first, "etag").to_owned()));
    let second = client.get("/openapi/v3/api/v1").await;
    assert_eq!((second.code, second.text.len()), (304, 0));
    let index = client.get("/openapi/v3").await.json();
    let path = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert!(path.starts_with("/openapi/v3/apis/apps/v1?hash="), "{path}");
    assert_eq!(client.get(&path).await.code, 200);
}

#[tokio::test]
async fn metrics_count_requests() {
    let server = Running::start().await;
    let mut client = server.client().await;
    client.get("/api/v1/namespaces/default/configmaps/none").await;
    let text = client.get("/metrics").await.text;
    let want = r#"apiserver_request_total{verb="get",resource="configmaps",code="404"} 1"#;
    assert!(text.contains(want), "{text}");
    assert!(text.contains(r#"apiserver_storage_objects{resource="namespaces"} 5"#), "{text}");
}
