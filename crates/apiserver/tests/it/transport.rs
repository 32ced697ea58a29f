//! Rules of every answer: compression, media types, limits, headers, health.

use std::io::Read;

use flate2::read::GzDecoder;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::server::{Running, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn bytes(client: &mut crate::server::Client, path: &str) -> (hyper::HeaderMap, Vec<u8>) {
    let response = client.send("GET", path, "", "").await;
    let headers = response.headers().clone();
    (headers, response.into_body().collect().await.unwrap().to_bytes().to_vec())
}

#[tokio::test]
async fn long_answers_are_compressed_for_who_can_read_them() {
    let server = Running::start().await;
    let mut client = server.client().await;
    for n in 0..40 {
        client.post(MAPS, &config_map(&format!("m{n:02}"), &format!("{n:04}").repeat(1200))).await;
    }
    let plain = client.get(MAPS).await;
    assert!(plain.text.len() > 128 << 10 && plain.headers.get("content-encoding").is_none());
    struct Case {
        name: &'static str,
        path: String,
        headers: &'static [(&'static str, &'static str)],
        want: bool,
    }
    let cases = [
        Case { name: "gzip", path: MAPS.to_owned(), headers: &[("accept-encoding", "gzip")], want: true },
        Case {
            name: "a choice",
            path: MAPS.to_owned(),
            headers: &[("accept-encoding", "br, gzip;q=0.5")],
            want: true,
        },
        Case {
            name: "refused",
            path: MAPS.to_owned(),
            headers: &[("accept-encoding", "gzip;q=0")],
            want: false,
        },
        Case { name: "another", path: MAPS.to_owned(), headers: &[("accept-encoding", "br")], want: false },
        Case {
            name: "short",
            path: format!("{MAPS}?limit=2"),
            headers: &[("accept-encoding", "gzip")],
            want: false,
        },
        Case {
            name: "a long table",
            path: format!("{MAPS}?includeObject=Object"),
            headers: &[
                ("accept-encoding", "gzip"),
                ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"),
            ],
            want: true,
        },
    ];
    for case in cases {
        let mut client = server.client().await;
        client.headers.extend(case.headers.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let (headers, body) = bytes(&mut client, &case.path).await;
        assert_eq!(headers.get("content-encoding").is_some(), case.want, "{}", case.name);
        assert_eq!(headers.get("vary").is_some(), case.want, "{}", case.name);
        let mut text = String::new();
        if case.want {
            GzDecoder::new(body.as_slice()).read_to_string(&mut text).unwrap();
        } else {
            text = String::from_utf8(body).unwrap();
        }
        let read: Value = serde_json::from_str(&text).unwrap();
        if case.path == MAPS {
            assert_eq!(read, plain.json(), "{}", case.name);
        }
    }
    client.post(MAPS, &config_map("one", &"1234".repeat(40 << 10))).await;
    let mut one = server.client().await;
    one.headers.push(("accept-encoding", "gzip".to_owned()));
    let (headers, body) = bytes(&mut one, &format!("{MAPS}/one")).await;
    assert!(headers.get("content-encoding").is_some() && body.len() < 64 << 10, "one long object too");
    // A watch never: it would wait for more to compress.
    let mut watching = server.client().await;
    watching.headers.push(("accept-encoding", "gzip".to_owned()));
    let response = watching.send("GET", &format!("{MAPS}?watch=1&timeoutSeconds=1"), "", "").await;
    assert!(response.headers().get("content-encoding").is_none());
    assert_eq!(response.headers()["transfer-encoding"], "chunked");
}

#[tokio::test]
async fn answers_carry_the_headers_that_clients_know() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let answer = client.get(MAPS).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["cache-control"], "no-cache, private");
    let id = answer.headers["audit-id"].to_str().unwrap().to_owned();
    assert_eq!(id.len(), 36);
    assert_ne!(client.get(MAPS).await.headers["audit-id"], id.as_str());
}

#[tokio::test]
async fn media_types_are_negotiated() {
    let server = Running::start().await;
    let mut client = server.client().await;
    client.post(MAPS, &config_map("a", "1")).await;
    struct Case {
        accept: &'static str,
        want: (u16, &'static str, &'static str),
    }
    let cases = [
        Case { accept: "*/*", want: (200, "application/json", "ConfigMap") },
        Case { accept: "application/json, */*", want: (200, "application/json", "ConfigMap") },
        Case { accept: "application/xml, application/json", want: (200, "application/json", "ConfigMap") },
        Case {
            accept: "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            want: (200, "application/json", "Table"),
        },
        Case {
            accept: "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json",
            want: (200, "application/json", "PartialObjectMetadata"),
        },
        Case { accept: "application/xml", want: (406, "application/json", "Status") },
    ];
    for case in cases {
        let mut client = server.client().await;
        client.headers.push(("accept", case.accept.to_owned()));
        let answer = client.get(&format!("{MAPS}/a")).await;
        let kind = answer.json()["kind"].as_str().unwrap().to_owned();
        assert_eq!((answer.code, kind.as_str()), (case.want.0, case.want.2), "{}", case.accept);
        assert!(answer.headers["content-type"].to_str().unwrap().starts_with(case.want.1), "{}", case.accept);
        if answer.code == 406 {
            let start = "only the following media types are accepted: application/json";
            assert!(answer.message().starts_with(start), "{}", answer.message());
            assert_eq!(answer.json()["reason"], "NotAcceptable");
        }
    }
    let mut yaml = server.client().await;
    yaml.headers.push(("accept", "application/yaml".to_owned()));
    let answer = yaml.get(&format!("{MAPS}/a")).await;
    assert_eq!(answer.headers["content-type"], "application/yaml");
    assert!(answer.text.contains("kind: ConfigMap"), "{}", answer.text);
    let refused = client.ask("POST", MAPS, "text/csv", "a,b").await;
    assert_eq!((refused.code, refused.json()["reason"].as_str()), (415, Some("UnsupportedMediaType")));
    let start =
        "the body of the request was in an unknown format - accepted media types include: application/json";
    assert!(refused.message().starts_with(start), "{}", refused.message());
    let posted = client
        .ask(
            "POST",
            MAPS,
            "application/yaml",
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: from-yaml}}",
        )
        .await;
    assert_eq!(posted.code, 201, "{posted:?}");
}

#[tokio::test]
async fn bodies_have_limits() {
    let server = Running::start().await;
    let mut client = server.client().await;
    client.post(MAPS, &config_map("a", "1")).await;
    let operation = json!({"op": "test", "path": "/data/k", "value": "1"});
    let operations = Value::from(vec![operation; 10_001]).to_string();
    let answer = client.ask("PATCH", &format!("{MAPS}/a"), "application/json-patch+json", &operations).await;
    assert_eq!((answer.code, answer.json()["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
    let want = "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001";
    assert_eq!(answer.message(), want);
    let long = config_map("long", &"x".repeat(3 << 20)).to_string();
    let answer = client.ask("POST", MAPS, "application/json", &long).await;
    assert_eq!((answer.code, answer.json()["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
    assert!(
        answer.message().starts_with("Request entity too large: limit is 3145728"),
        "{}",
        answer.message()
    );
}

#[tokio::test]
async fn of_equal_keys_the_last_counts_and_numbers_are_whole() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"t"},"data":{"a":"1","a":"2"}}"#;
    let created = client.ask("POST", MAPS, "application/json", twice).await;
    assert_eq!((created.code, &created.json()["data"]["a"]), (201, &json!("2")));
    let warning = created.headers["warning"].to_str().unwrap();
    assert!(warning.starts_with("299 - ") && warning.contains("duplicate field"), "{warning}");
    let strict =
        client.ask("POST", &format!("{MAPS}?fieldValidation=Strict"), "application/json", twice).await;
    assert_eq!(strict.code, 400);
    assert!(
        strict.message().ends_with("strict decoding error: duplicate field \"data.a\""),
        "{}",
        strict.message()
    );
    let cased = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"Data":{"a":"1"}}"#;
    let created = client.ask("POST", MAPS, "application/json", cased).await;
    assert!(created.code == 201 && created.json().get("data").is_none(), "{created:?}");
    let seconds = i64::MAX - 1;
    let lease = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"activeDeadlineSeconds": 9_007_199_254_740_993_i64.min(seconds), "containers": [{"name": "c", "image": "i"}]}});
    let created = client.post("/api/v1/namespaces/default/pods", &lease).await;
    // Larger than any deadline may be, and quoted to the last digit: it did not go through a float.
    assert!(created.text.contains("9007199254740993"), "{created:?}");
}

#[tokio::test]
async fn health_and_unknown_paths_are_text() {
    let server = Running::start().await;
    let mut client = server.client_as(None).await;
    let mut admin = server.client().await;
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping", "/livez/etcd"] {
        // Single checks are not for everybody: they tell what a server is made of.
        let single = path.matches('/').count() > 1;
        let answer = if single { admin.get(path).await } else { client.get(path).await };
        assert_eq!((answer.code, answer.text.as_str()), (200, "ok"), "{path}");
        assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"), "{path}");
    }
    let verbose = client.get("/readyz?verbose").await;
    assert!(verbose.text.starts_with("[+]ping ok\n"), "{}", verbose.text);
    let unknown = admin.get("/nothing/here").await;
    assert_eq!((unknown.code, unknown.text.trim()), (404, "404 page not found"));
    assert!(unknown.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    let resource = admin.get("/apis/apps/v1/nothings").await;
    assert_eq!(resource.message(), "the server could not find the requested resource");
    assert_eq!((resource.code, &resource.json()["details"]), (404, &json!({})));
}

#[tokio::test]
async fn metrics_have_the_names_that_dashboards_know() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let _watch = server.client().await.watch(&format!("{MAPS}?watch=1")).await;
    client.post(MAPS, &config_map("a", "1")).await;
    let text = client.get("/metrics").await.text;
    for want in [
        "apiserver_request_total{verb=\"create\",resource=\"configmaps\",code=\"201\"} 1",
        "apiserver_request_duration_seconds_count{verb=\"create\"} 1",
        "apiserver_longrunning_requests 1",
        "apiserver_registered_watchers{resource=\"configmaps\"} 1",
        "apiserver_storage_size_bytes ",
        "etcd_mvcc_db_total_size_in_bytes ",
        "fairway_watches_dropped_total 0",
        "fairway_store_queue_length 0",
        "fairway_store_compacted_events_total 0",
        "fairway_store_log_events{resource=\"configmaps\"} ",
    ] {
        assert!(text.contains(want), "{want} in\n{text}");
    }
}

/// Over HTTP/2, as kubectl and client libraries watch: events come at once, the stream ends at its time, and the connection goes on.
#[tokio::test]
async fn a_stream_of_http_2_ends_without_its_connection() {
    let server = Running::start().await;
    let mut client = server.client_two().await;
    let watch = format!("https://test{MAPS}?watch=1&timeoutSeconds=2");
    let request = |uri: &str| {
        hyper::Request::get(uri).body(http_body_util::Full::<hyper::body::Bytes>::default()).unwrap()
    };
    let mut response = client.send_request(request(&watch)).await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, hyper::Version::HTTP_2));
    assert!(response.headers().get("transfer-encoding").is_none());
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"{\"type\":\"ADDED\""), "{first:?}");
    let listed = client.send_request(request(&format!("https://test{MAPS}"))).await.unwrap();
    assert_eq!(listed.status(), 200, "beside the watch");
    let rest = tokio::time::timeout(crate::server::PATIENCE, response.into_body().collect()).await.unwrap();
    assert!(rest.unwrap().to_bytes().is_empty(), "a clean end, with nothing but an empty last frame");
    let listed = client.send_request(request(&format!("https://test{MAPS}"))).await.unwrap();
    assert_eq!(listed.status(), 200, "after it");
}
