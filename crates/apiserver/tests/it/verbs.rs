//! Create, read, update, patch, delete, list: answers and messages.

use serde_json::{Value, json};

use crate::server::{Running, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn an_object_is_created_read_changed_and_deleted() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let created = client.post(MAPS, &config_map("a", "1")).await;
    assert_eq!(created.code, 201, "{created:?}");
    let object = created.json();
    assert_eq!(object["metadata"]["namespace"], "default");
    assert!(object["metadata"]["uid"].as_str().unwrap().len() == 36);
    let created_at = object["metadata"]["creationTimestamp"].as_str().unwrap();
    assert!(created_at.len() == 20 && created_at.ends_with('Z'), "{created_at}");

    let again = client.post(MAPS, &config_map("a", "1")).await;
    assert_eq!((again.code, again.message().as_str()), (409, r#"configmaps "a" already exists"#));
    assert_eq!(again.json()["reason"], "AlreadyExists");
    assert_eq!(again.json()["details"]["kind"], "configmaps");

    let mut changed = object.clone();
    changed["data"]["k"] = "2".into();
    let updated = client.put(&format!("{MAPS}/a"), &changed).await;
    assert_eq!(updated.code, 200);
    let stale = client.put(&format!("{MAPS}/a"), &object).await;
    assert_eq!(stale.code, 409);
    let want = r#"Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again"#;
    assert_eq!(stale.message(), want);

    let patched = client.merge(&format!("{MAPS}/a"), &json!({"data": {"j": "3"}})).await;
    assert_eq!(patched.json()["data"], json!({"k": "2", "j": "3"}));
    let nothing = client.merge(&format!("{MAPS}/a"), &json!({"data": {"j": "3"}})).await;
    let version = |answer: &Value| answer["metadata"]["resourceVersion"].clone();
    assert_eq!(version(&nothing.json()), version(&patched.json()), "a change of nothing is no change");
    let forced = client
        .merge(&format!("{MAPS}/a"), &json!({"metadata": {"resourceVersion": "1"}, "data": {"j": "4"}}))
        .await;
    assert_eq!(forced.code, 409);

    let wrong = client
        .ask("DELETE", &format!("{MAPS}/a"), "application/json", r#"{"preconditions":{"uid":"x"}}"#)
        .await;
    assert_eq!(wrong.code, 409);
    assert!(
        wrong.message().contains("the UID in the precondition (x) does not match the UID in record ("),
        "{wrong:?}"
    );
    let deleted = client.delete(&format!("{MAPS}/a")).await;
    assert_eq!((deleted.code, deleted.json()["status"].as_str()), (200, Some("Success")));
    assert_eq!(deleted.json()["details"]["uid"], object["metadata"]["uid"]);
    let gone = client.get(&format!("{MAPS}/a")).await;
    assert_eq!((gone.code, gone.message().as_str()), (404, r#"configmaps "a" not found"#));
}

#[tokio::test]
async fn mistakes_are_answered_with_the_messages_that_clients_know() {
    let server = Running::start().await;
    let mut client = server.client().await;
    struct Case {
        name: &'static str,
        request: (&'static str, &'static str, Value),
        want: (u16, &'static str),
    }
    let named = |namespace: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": namespace}});
    let cases = [
        Case {
            name: "unknown namespace",
            request: ("POST", "/api/v1/namespaces/missing/configmaps", config_map("a", "1")),
            want: (404, r#"namespaces "missing" not found"#),
        },
        Case {
            name: "another namespace in the body",
            request: ("POST", MAPS, named("other")),
            want: (
                400,
                "the namespace of the provided object does not match the namespace sent on the request",
            ),
        },
        Case {
            name: "another name in the path",
            request: ("PUT", "/api/v1/namespaces/default/configmaps/b", named("default")),
            want: (400, "the name of the object (a) does not match the name on the URL (b)"),
        },
        Case {
            name: "a version on create",
            request: (
                "POST",
                MAPS,
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "resourceVersion": "5"}}),
            ),
            want: (500, "resourceVersion should not be set on objects to be created"),
        },
        Case {
            name: "unknown resource",
            request: ("GET", "/api/v1/nothings", json!(null)),
            want: (404, "the server could not find the requested resource"),
        },
        Case {
            name: "a method that does not fit",
            request: ("POST", "/api/v1/namespaces/default/configmaps/a", config_map("a", "1")),
            want: (405, "the server does not allow this method on the requested resource"),
        },
        Case {
            name: "a bad number",
            request: ("GET", "/api/v1/namespaces/default/configmaps?limit=x", json!(null)),
            want: (400, r#"strconv.ParseInt: parsing "x": invalid syntax"#),
        },
        Case {
            name: "an undeletable namespace",
            request: ("DELETE", "/api/v1/namespaces/default", json!(null)),
            want: (403, r#"namespaces "default" is forbidden: this namespace may not be deleted"#),
        },
        Case {
            name: "an update of nothing",
            request: ("PUT", "/api/v1/namespaces/default/configmaps/none", config_map("none", "1")),
            want: (404, r#"configmaps "none" not found"#),
        },
    ];
    for case in cases {
        let (method, path, body) = case.request;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = client.ask(method, path, "application/json", &body).await;
        assert_eq!((answer.code, answer.message().as_str()), case.want, "{}", case.name);
        assert_eq!(answer.json()["kind"], "Status", "{}", case.name);
    }
    let unknown = client.get("/nothing").await;
    assert_eq!((unknown.code, unknown.text.trim()), (404, "404 page not found"));
    assert!(unknown.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    let media = client.ask("POST", MAPS, "text/plain", "hello").await;
    assert_eq!(media.code, 415, "{media:?}");
    let patch = client.ask("PATCH", &format!("{MAPS}/a"), "application/json", "{}").await;
    assert_eq!(patch.code, 415, "{patch:?}");
    let long = format!("{{\"x\": \"{}\"}}", "y".repeat(4 << 20));
    let mut other = server.client().await;
    assert_eq!(other.ask("POST", MAPS, "application/json", &long).await.code, 413);
}

#[tokio::test]
async fn a_dry_run_decides_all_and_keeps_nothing() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let path = "/api/v1/namespaces/default/services";
    let dry = client.post(&format!("{path}?dryRun=All"), &service).await;
    assert_eq!(dry.code, 201, "{dry:?}");
    assert!(dry.json()["spec"]["clusterIP"].as_str().unwrap().starts_with("10.96."), "{dry:?}");
    assert_eq!(client.get(&format!("{path}/s")).await.code, 404);
    let bad = client.post(&format!("{path}?dryRun=Some"), &service).await;
    assert_eq!(bad.code, 422);
    assert!(
        bad.message().contains(r#"dryRun: Unsupported value: "Some": supported values: "All""#),
        "{bad:?}"
    );
}

#[tokio::test]
async fn services_get_addresses_that_nobody_else_has() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    let own = client.get(&format!("{path}/kubernetes")).await.json();
    assert_eq!(own["spec"]["clusterIP"], "10.96.0.1");
    let taken =
        client.post(path, &service("t", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}))).await;
    assert_eq!(taken.code, 422, "{taken:?}");
    assert!(
        taken.message().contains("failed to allocate IP 10.96.0.1: provided IP is already allocated"),
        "{taken:?}"
    );
    let node = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    let first = client.post(path, &service("n", node.clone())).await;
    assert_eq!(first.code, 201, "{first:?}");
    let second = client.post(path, &service("m", node.clone())).await;
    assert!(second.message().contains("30080: provided port is already allocated"), "{second:?}");
    // PUT without the allocated fields keeps them.
    let put = client
        .put(&format!("{path}/n"), &service("n", json!({"type": "NodePort", "ports": [{"port": 81}]})))
        .await;
    assert_eq!(put.code, 200, "{put:?}");
    assert_eq!(put.json()["spec"]["clusterIP"], first.json()["spec"]["clusterIP"]);
    assert_eq!(client.delete(&format!("{path}/n")).await.code, 200);
    assert_eq!(client.post(path, &service("m", node)).await.code, 201, "the port is free again");
}

#[tokio::test]
async fn lists_come_in_pages_of_one_state() {
    let server = Running::start().await;
    let mut client = server.client().await;
    for n in 0..7 {
        client.post(MAPS, &config_map(&format!("m{n}"), "1")).await;
    }
    let first = client.get(&format!("{MAPS}?limit=3")).await.json();
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&first), ["kube-root-ca.crt", "m0", "m1"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 5);
    assert_eq!(first["kind"], "ConfigMapList");
    assert!(first["items"][0].get("kind").is_none());
    client.delete(&format!("{MAPS}/m3")).await;
    client.post(MAPS, &config_map("m2a", "1")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = client.get(&format!("{MAPS}?limit=10&continue={token}")).await.json();
    assert_eq!(names(&second), ["m2", "m3", "m4", "m5", "m6"], "the state of the first page");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(second["metadata"].get("continue").is_none());
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact =
        client.get(&format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact")).await.json();
    assert_eq!(names(&exact).len(), 8);
    let labels = client.get(&format!("{MAPS}?labelSelector=a%3Db")).await.json();
    assert!(names(&labels).is_empty());
    let field = client.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm4")).await.json();
    assert_eq!(names(&field), ["m4"]);
    let bad = client.get(&format!("{MAPS}?fieldSelector=data.k%3D1")).await;
    assert_eq!(bad.code, 400, "{bad:?}");
    let future = client.get(&format!("{MAPS}?resourceVersion=99999999")).await;
    assert_eq!(
        (future.code, future.json()["details"]["causes"][0]["reason"].as_str()),
        (504, Some("ResourceVersionTooLarge"))
    );
    let deleted = client.delete(&format!("{MAPS}?fieldSelector=metadata.name%3Dm4")).await.json();
    assert_eq!(names(&deleted), ["m4"]);
}

#[tokio::test]
async fn names_are_generated() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x-"}});
    let name = client.post(MAPS, &object).await.json()["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name.len() == 7 && name.starts_with("x-"), "{name}");
    let nameless = client.post(MAPS, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}})).await;
    assert_eq!(nameless.code, 422);
    assert!(
        nameless.message().contains("metadata.name: Required value: name or generateName is required"),
        "{nameless:?}"
    );
}

#[tokio::test]
async fn a_namespace_is_furnished_and_ends_when_it_is_finalized() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    let created = client.post("/api/v1/namespaces", &namespace).await.json();
    assert_eq!(created["metadata"]["labels"]["kubernetes.io/metadata.name"], "n");
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(client.get("/api/v1/namespaces/n/serviceaccounts/default").await.code, 200);
    let authority = client.get("/api/v1/namespaces/n/configmaps/kube-root-ca.crt").await.json();
    assert!(authority["data"]["ca.crt"].as_str().unwrap().contains("BEGIN CERTIFICATE"));

    let deleted = client.delete("/api/v1/namespaces/n").await.json();
    assert_eq!(deleted["status"]["phase"], "Terminating");
    let refused = client.post("/api/v1/namespaces/n/configmaps", &config_map("a", "1")).await;
    assert_eq!(refused.code, 403);
    let want = r#"configmaps "a" is forbidden: unable to create new content in namespace n because it is being terminated"#;
    assert_eq!(refused.message(), want);
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut finalized = deleted.clone();
    finalized["spec"]["finalizers"] = json!([]);
    assert_eq!(client.put("/api/v1/namespaces/n/finalize", &finalized).await.code, 200);
    assert_eq!(client.get("/api/v1/namespaces/n").await.code, 404);
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
           "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn a_pod_is_admitted_bound_once_and_ends_in_its_time() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let pods = "/api/v1/namespaces/default/pods";
    let created = client.post(pods, &pod("p")).await;
    assert_eq!(created.code, 201, "{created:?}");
    let created = created.json();
    assert_eq!(created["spec"]["serviceAccountName"], "default");
    let mounted = created["spec"]["containers"][0]["volumeMounts"][0]["mountPath"].as_str();
    assert_eq!(mounted, Some("/var/run/secrets/kubernetes.io/serviceaccount"));
    let volume = created["spec"]["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-") && volume.len() == 21, "{volume}");
    assert_eq!(created["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(created["status"]["phase"], "Pending");

    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let bound = client.post(&format!("{pods}/p/binding"), &binding).await;
    assert_eq!((bound.code, bound.json()["status"].as_str()), (201, Some("Success")), "{bound:?}");
    let again = client.post(&format!("{pods}/p/binding"), &binding).await;
    assert_eq!(again.code, 409);
    assert!(again.message().contains(r#"pod p is already assigned to node "n1""#), "{again:?}");
    let on_node = client.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.json();
    assert_eq!(on_node["items"][0]["status"]["conditions"][0]["type"], "PodScheduled");

    let status = client
        .merge(
            &format!("{pods}/p/status"),
            &json!({"status": {"phase": "Running"}, "spec": {"nodeName": "n2"}}),
        )
        .await;
    assert_eq!(status.code, 200, "{status:?}");
    assert_eq!(status.json()["status"]["phase"], "Running");
    assert_eq!(status.json()["spec"]["nodeName"], "n1", "status writes do not reach the spec");

    let deleted = client.delete(&format!("{pods}/p")).await.json();
    assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(client.get(&format!("{pods}/p")).await.code, 200, "it has its grace");
    assert_eq!(client.delete(&format!("{pods}/p?gracePeriodSeconds=0")).await.code, 200);
    assert_eq!(client.get(&format!("{pods}/p")).await.code, 404);
}

#[tokio::test]
async fn finalizers_keep_an_object_until_the_last_is_gone() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let mut object = config_map("f", "1");
    object["metadata"]["finalizers"] = json!(["example.com/wait"]);
    client.post(MAPS, &object).await;
    let deleted = client.delete(&format!("{MAPS}/f")).await.json();
    assert!(deleted["metadata"]["deletionTimestamp"].is_string(), "{deleted}");
    let again = client.post(MAPS, &config_map("f", "1")).await;
    assert_eq!(again.message(), r#"object is being deleted: configmaps "f" already exists"#);
    let released = client.merge(&format!("{MAPS}/f"), &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(released.code, 200, "{released:?}");
    assert_eq!(client.get(&format!("{MAPS}/f")).await.code, 404);
}

#[tokio::test]
async fn scale_reads_and_writes_replicas() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"app": "d"}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let created = client.post(deployments, &deployment).await;
    assert_eq!(created.code, 201, "{created:?}");
    assert_eq!(created.json()["metadata"]["generation"], 1);
    let scaled = client.merge(&format!("{deployments}/d/scale"), &json!({"spec": {"replicas": 3}})).await;
    assert_eq!(scaled.code, 200, "{scaled:?}");
    assert_eq!(
        (scaled.json()["kind"].as_str(), &scaled.json()["spec"]["replicas"]),
        (Some("Scale"), &json!(3))
    );
    assert_eq!(scaled.json()["status"]["selector"], "app=d");
    let read = client.get(&format!("{deployments}/d")).await.json();
    assert_eq!((&read["spec"]["replicas"], &read["metadata"]["generation"]), (&json!(3), &json!(2)));
}
