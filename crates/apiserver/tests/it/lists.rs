//! Lists: which state they show, page by page, and what is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fairway_apiserver::store::{Clock, Options};
use serde_json::{Value, json};

use crate::server::{Running, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A server whose clock goes only when it is told to.
pub(crate) async fn with_clock() -> (Running, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(1_700_000_000_000));
    let hand = Arc::clone(&now);
    let clock: Clock = Arc::new(move || hand.load(Ordering::Relaxed));
    let options = Options { clock, ..Options::default() };
    (Running::start_with(&std::env::temp_dir(), options).await, now)
}

/// More changes than are kept whatever their age, then five minutes, then one more so that the old ones go.
pub(crate) async fn outlive(server: &Running, now: &AtomicU64, name: &str) {
    let mut client = server.client().await;
    client.post(MAPS, &config_map(name, "first")).await;
    for n in 0..1100 {
        assert_eq!(client.put(&format!("{MAPS}/{name}"), &config_map(name, &n.to_string())).await.code, 200);
    }
    now.fetch_add(5 * 60_000 + 1, Ordering::Relaxed);
    assert_eq!(client.put(&format!("{MAPS}/{name}"), &config_map(name, "last")).await.code, 200);
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn combinations_without_a_meaning_are_refused() {
    let server = Running::start().await;
    let mut client = server.client().await;
    client.post(MAPS, &config_map("a", "1")).await;
    let first = client.get(&format!("{MAPS}?limit=1")).await.json();
    let token = first["metadata"]["continue"].as_str().unwrap();
    struct Case {
        query: String,
        want: (u16, &'static str),
    }
    let case = |query: &str, code, message| Case { query: query.to_owned(), want: (code, message) };
    let cases = [
        case(
            "resourceVersion=x",
            400,
            "invalid resource version: strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        case("limit=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax"),
        case("timeoutSeconds=soon", 400, "strconv.ParseInt: parsing \"soon\": invalid syntax"),
        case("continue=x", 400, "invalid continue token: continue key is not valid: "),
        Case {
            query: format!("continue={token}&resourceVersion=5"),
            want: (400, "specifying resource version is not allowed when using continue"),
        },
        Case {
            query: format!("continue={token}&resourceVersionMatch=Exact"),
            want: (422, "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden with continue"),
        },
        case(
            "resourceVersionMatch=Exact",
            422,
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        case(
            "resourceVersionMatch=Exact&resourceVersion=0",
            422,
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        case(
            "resourceVersionMatch=Near&resourceVersion=1",
            422,
            "resourceVersionMatch: Unsupported value: \"Near\": supported values: ",
        ),
        case(
            "sendInitialEvents=true",
            422,
            "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
        ),
        case("labelSelector=a%20b", 400, "unable to parse requirement: "),
        case(
            "fieldSelector=data.k%3Dx",
            400,
            "\"data.k\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
    ];
    for case in cases {
        let answer = client.get(&format!("{MAPS}?{}", case.query)).await;
        assert_eq!(answer.code, case.want.0, "{}: {answer:?}", case.query);
        assert!(answer.message().contains(case.want.1), "{}: {}", case.query, answer.message());
        if answer.code == 422 {
            let start = "ListOptions.meta.k8s.io \"\" is invalid: ";
            assert!(answer.message().starts_with(start), "{}", answer.message());
        }
    }
    for query in [format!("continue={token}&resourceVersion=0"), "unknown=1&timeout=32s".to_owned()] {
        assert_eq!(client.get(&format!("{MAPS}?{query}")).await.code, 200, "{query}");
    }
}

#[tokio::test]
async fn a_list_shows_the_state_that_is_asked_for() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let a = version(&client.post(MAPS, &config_map("a", "1")).await.json());
    let b = version(&client.post(MAPS, &config_map("b", "1")).await.json());
    client.delete(&format!("{MAPS}/a")).await;
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    let newest = version(&client.post("/api/v1/namespaces/default/secrets", &other).await.json());
    struct Case {
        query: String,
        want: (u64, &'static [&'static str]),
    }
    let cases = [
        Case { query: String::new(), want: (newest, &["b", "kube-root-ca.crt"]) },
        Case { query: "resourceVersion=0".to_owned(), want: (newest, &["b", "kube-root-ca.crt"]) },
        Case { query: format!("resourceVersion={a}"), want: (newest, &["b", "kube-root-ca.crt"]) },
        Case {
            query: format!("resourceVersion={a}&resourceVersionMatch=NotOlderThan&limit=1"),
            want: (newest, &["b"]),
        },
        Case { query: format!("resourceVersion={a}&limit=1"), want: (a, &["a"]) },
        Case {
            query: format!("resourceVersion={b}&resourceVersionMatch=Exact"),
            want: (b, &["a", "b", "kube-root-ca.crt"]),
        },
        Case {
            query: format!("resourceVersion={a}&resourceVersionMatch=Exact"),
            want: (a, &["a", "kube-root-ca.crt"]),
        },
    ];
    for case in cases {
        let list = client.get(&format!("{MAPS}?{}", case.query)).await.json();
        assert_eq!((version(&list), names(&list)), (case.want.0, case.want.1.to_vec()), "{}", case.query);
    }
    let counted = client.get(&format!("{MAPS}?limit=1")).await.json();
    assert_eq!(counted["metadata"]["remainingItemCount"], 1);
    let selected = client.get(&format!("{MAPS}?limit=1&labelSelector=%21none")).await.json();
    assert!(
        selected["metadata"]["continue"].is_string()
            && selected["metadata"].get("remainingItemCount").is_none()
    );
    let last = client.get(&format!("{MAPS}?limit=2")).await.json();
    assert!(
        last["metadata"].get("continue").is_none() && last["metadata"].get("remainingItemCount").is_none()
    );
}

#[tokio::test]
async fn a_state_of_the_future_is_waited_for_and_then_refused() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let a = version(&client.post(MAPS, &config_map("a", "1")).await.json());
    for path in [format!("{MAPS}?resourceVersion=99999999"), format!("{MAPS}/a?resourceVersion=99999999")] {
        let answer = client.get(&path).await;
        let status = answer.json();
        assert_eq!(answer.code, 504, "{path}: {answer:?}");
        assert_eq!(status["reason"], "Timeout");
        assert_eq!(answer.message(), format!("Timeout: Too large resource version: 99999999, current: {a}"));
        assert_eq!(status["details"]["retryAfterSeconds"], 1);
        assert_eq!(answer.headers["retry-after"], "1");
        let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        assert_eq!(status["details"]["causes"], json!([cause]));
    }
    // It is only waited for as long as it is not there.
    let mut other = server.client().await;
    let path = format!("{MAPS}?resourceVersion={}&resourceVersionMatch=Exact", a + 1);
    let waiting = tokio::spawn(async move { other.get(&path).await.json() });
    let b = version(&client.post(MAPS, &config_map("b", "1")).await.json());
    let list = waiting.await.unwrap();
    assert_eq!((version(&list), names(&list)), (b, vec!["a", "b", "kube-root-ca.crt"]));
}

#[tokio::test]
async fn a_list_that_took_too_long_may_go_on_inconsistently() {
    let (server, now) = with_clock().await;
    let mut client = server.client().await;
    client.post(MAPS, &config_map("a", "1")).await;
    client.post(MAPS, &config_map("z", "1")).await;
    let first = client.get(&format!("{MAPS}?limit=1")).await.json();
    outlive(&server, &now, "m").await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let expired = client.get(&format!("{MAPS}?limit=1&continue={token}")).await;
    assert_eq!((expired.code, expired.json()["reason"].as_str()), (410, Some("Expired")), "{expired:?}");
    assert!(
        expired.message().starts_with("The provided continue parameter is too old "),
        "{}",
        expired.message()
    );
    let token = expired.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let second = client.get(&format!("{MAPS}?continue={token}")).await.json();
    assert_eq!(names(&second), ["kube-root-ca.crt", "m", "z"], "what is there now, after the first page");
    let old = version(&first);
    let exact = client.get(&format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact")).await;
    assert_eq!((exact.code, exact.json()["reason"].as_str()), (410, Some("Expired")), "{exact:?}");
}

#[tokio::test]
async fn items_are_sorted_by_namespace_and_name_and_found_by_index() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let pod = |name: &str, node: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
               "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
    };
    let slice = |name: &str, service: &str| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [],
               "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service, "x": name}}})
    };
    for (namespace, name, node) in
        [("kube-system", "a", "n1"), ("default", "b", "n2"), ("default", "c", "n1"), ("default", "d", "n1")]
    {
        let created = client.post(&format!("/api/v1/namespaces/{namespace}/pods"), &pod(name, node)).await;
        assert_eq!(created.code, 201, "{created:?}");
    }
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    for (name, service) in [("web-1", "web"), ("web-2", "web"), ("db-1", "db")] {
        assert_eq!(client.post(slices, &slice(name, service)).await.code, 201);
    }
    let cases: &[(&str, &[&str])] = &[
        ("/api/v1/pods", &["b", "c", "d", "a"]),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", &["c", "d", "a"]),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1,metadata.name%21%3Dd", &["c", "a"]),
        ("/api/v1/pods?fieldSelector=spec.nodeName%21%3Dn1", &["b"]),
        ("/api/v1/pods?fieldSelector=metadata.name%3Dc", &["c"]),
        ("/api/v1/pods?fieldSelector=metadata.namespace%3Dkube-system", &["a"]),
        ("/api/v1/namespaces/default/pods?fieldSelector=metadata.name%3Da", &[]),
        ("/api/v1/namespaces/default/pods?fieldSelector=spec.nodeName%3Dn1&labelSelector=app%3Dd", &["d"]),
        ("/api/v1/namespaces/default/pods?labelSelector=app+in+(b,d)", &["b", "d"]),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dweb",
            &["web-1", "web-2"],
        ),
        (
            "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=kubernetes.io/service-name%3Dweb,x%21%3Dweb-1",
            &["web-2"],
        ),
    ];
    for (path, want) in cases {
        let list = client.get(path).await.json();
        assert_eq!(names(&list), *want, "{path}");
    }
    let page = client.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&limit=2").await.json();
    let token = page["metadata"]["continue"].as_str().unwrap();
    let rest =
        client.get(&format!("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&limit=2&continue={token}")).await;
    assert_eq!(names(&rest.json()), ["a"]);
}
