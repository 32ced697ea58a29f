//! Server-side apply and the owners of fields, over HTTP and by kubectl.

use serde_json::{Value, json};

use crate::kubectl::kubectl;
use crate::server::{Answer, Client, Running, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

impl Client {
    async fn apply(&mut self, path: &str, query: &str, config: &Value) -> Answer {
        let path = format!("{path}?{query}");
        self.ask("PATCH", &path, "application/apply-patch+yaml", &config.to_string()).await
    }
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

fn deployment(replicas: Option<u32>) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "fairway.dev/toolbox"}]},
        }},
    });
    if let Some(replicas) = replicas {
        object["spec"]["replicas"] = replicas.into();
    }
    object
}

/// Who owns what: `manager operation[/subresource]` to FieldsV1.
fn owners(object: &Value) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            let part = text("subresource");
            let slash = if part.is_empty() { "" } else { "/" };
            (format!("{} {}{slash}{part}", text("manager"), text("operation")), entry["fieldsV1"].clone())
        })
        .collect()
}

#[tokio::test]
async fn configurations_share_conflict_and_take_over() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let path = format!("{MAPS}/a");
    let dry = client.apply(&path, "fieldManager=m1&dryRun=All", &map(json!({"k": "1"}))).await;
    assert_eq!(dry.code, 201);
    assert_eq!(client.get(&path).await.code, 404);

    let created = client.apply(&path, "fieldManager=m1", &map(json!({"k": "1", "j": "1"}))).await;
    assert_eq!(created.code, 201, "{created:?}");
    assert_eq!(owners(&created.json()), json!({"m1 Apply": {"f:data": {"f:j": {}, "f:k": {}}}}));
    let again = client.apply(&path, "fieldManager=m1", &map(json!({"k": "1", "j": "1"}))).await;
    assert_eq!(again.code, 200);
    assert_eq!(again.json(), created.json(), "nothing to write");

    let change = map(json!({"k": "2"}));
    let refused = client.apply(&path, "fieldManager=m2&force=false", &change).await;
    assert_eq!(refused.code, 409);
    assert_eq!(
        refused.json(),
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Conflict", "code": 409,
            "message": "Apply failed with 1 conflict: conflict with \"m1\": .data.k",
            "details": {"causes": [
                {"reason": "FieldManagerConflict", "message": "conflict with \"m1\"", "field": ".data.k"},
            ]},
        })
    );
    let forced = client.apply(&path, "fieldManager=m2&force=true", &change).await;
    assert_eq!(forced.json()["data"], json!({"j": "1", "k": "2"}));
    let want = json!({"m1 Apply": {"f:data": {"f:j": {}}}, "m2 Apply": {"f:data": {"f:k": {}}}});
    assert_eq!(owners(&forced.json()), want);

    let merged = client.merge(&format!("{path}?fieldManager=editor"), &json!({"data": {"j": "3"}})).await;
    let want = json!({"editor Update": {"f:data": {"f:j": {}}}, "m2 Apply": {"f:data": {"f:k": {}}}});
    assert_eq!(owners(&merged.json()), want);
    let refused = client.apply(&path, "fieldManager=m1", &map(json!({"j": "1", "k": "1"}))).await;
    assert_eq!(
        refused.message(),
        "Apply failed with 2 conflicts: conflicts with \"editor\" using v1:\n- .data.j\nconflicts with \"m2\":\n- .data.k"
    );
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn requests_to_apply_are_checked() {
    let server = Running::start().await;
    let mut client = server.client().await;
    assert_eq!(client.post(MAPS, &config_map("a", "1")).await.code, 201);
    let uid = client.get(&format!("{MAPS}/a")).await.json()["metadata"]["uid"].clone();
    struct Case {
        name: &'static str,
        path: &'static str,
        query: &'static str,
        config: Value,
        want: (u16, &'static str),
    }
    let with = |metadata: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
    let cases = [
        Case {
            name: "nobody",
            path: "a",
            query: "force=true",
            config: map(json!({})),
            want: (
                422,
                r#"PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch"#,
            ),
        },
        Case {
            name: "another name",
            path: "b",
            query: "fieldManager=m",
            config: map(json!({})),
            want: (400, "the name of the object (a) does not match the name on the URL (b)"),
        },
        Case {
            name: "no name for a new object",
            path: "b",
            query: "fieldManager=m",
            config: with(json!({})),
            want: (400, "the name of the object (b based on URL) was undeterminable: name must be provided"),
        },
        Case {
            name: "a uid for a new object",
            path: "b",
            query: "fieldManager=m",
            config: with(json!({"name": "b", "uid": "u"})),
            want: (
                409,
                r#"Operation cannot be fulfilled on configmaps "b": uid mismatch: the provided object specified uid u, and no existing object was found"#,
            ),
        },
        Case {
            name: "another version",
            path: "a",
            query: "fieldManager=m",
            config: with(json!({"name": "a", "resourceVersion": "1"})),
            want: (
                409,
                r#"Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again"#,
            ),
        },
        Case {
            name: "a field that is not there",
            path: "a",
            query: "fieldManager=m",
            config: json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default"}, "foo": 1}),
            want: (
                500,
                "failed to create typed patch object (default/a; /v1, Kind=ConfigMap): .foo: field not declared in schema",
            ),
        },
        Case {
            name: "a status of nothing",
            path: "b/status",
            query: "fieldManager=m",
            config: json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}}),
            want: (404, "the server could not find the requested resource"),
        },
    ];
    for case in cases {
        let answer = client.apply(&format!("{MAPS}/{}", case.path), case.query, &case.config).await;
        assert_eq!((answer.code, answer.message().as_str()), case.want, "{}", case.name);
    }
    let same =
        client.apply(&format!("{MAPS}/a"), "fieldManager=m", &with(json!({"name": "a", "uid": uid}))).await;
    assert_eq!(same.code, 200, "{same:?}");
}

#[tokio::test]
async fn only_apply_may_force_and_configurations_may_be_yaml() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let force = client.merge(&format!("{MAPS}/a?force=true"), &json!({})).await;
    assert_eq!(
        force.message(),
        r#"PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch"#
    );
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yaml\ndata:\n  a: b\n";
    let answer = client
        .ask("PATCH", &format!("{MAPS}/yaml?fieldManager=m"), "application/apply-patch+yaml", yaml)
        .await;
    assert_eq!((answer.code, answer.json()["data"].clone()), (201, json!({"a": "b"})), "{answer:?}");
}

#[tokio::test]
async fn services_keep_what_the_server_gave_them() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let path = format!("{SERVICES}/web");
    let service = |spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec});
    let config = service(json!({"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80}]}));
    let created = client.apply(&path, "fieldManager=m", &config).await.json();
    let address = &created["spec"]["clusterIP"];
    assert!(address.is_string() && created["spec"]["ports"][0]["nodePort"].is_u64(), "{created}");
    let again = client.apply(&path, "fieldManager=m", &config).await.json();
    assert_eq!(again, created, "defaults and allocations are no difference");
    let config = service(json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}));
    let changed = client.apply(&path, "fieldManager=m", &config).await.json();
    assert_eq!((&changed["spec"]["type"], &changed["spec"]["clusterIP"]), (&json!("ClusterIP"), address));
    assert!(changed["spec"]["ports"][0].get("nodePort").is_none(), "{changed}");
}

#[tokio::test]
async fn status_and_scale_have_owners_of_their_own() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let path = format!("{DEPLOYMENTS}/web");
    let created = client.apply(&path, "fieldManager=m", &deployment(Some(2))).await;
    assert_eq!(created.code, 201, "{created:?}");
    let scaled =
        client.merge(&format!("{path}/scale?fieldManager=hpa"), &json!({"spec": {"replicas": 5}})).await;
    assert_eq!((scaled.code, &scaled.json()["spec"]["replicas"]), (200, &json!(5)));
    let object = client.get(&path).await.json();
    assert_eq!(owners(&object)["hpa Update/scale"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(object["metadata"]["generation"], 2);
    let refused = client.apply(&path, "fieldManager=m", &deployment(Some(2))).await;
    assert_eq!(
        refused.message(),
        r#"Apply failed with 1 conflict: conflict with "hpa" with subresource "scale" using apps/v1: .spec.replicas"#
    );
    let left = client.apply(&path, "fieldManager=m", &deployment(None)).await;
    assert_eq!(left.json()["spec"]["replicas"], 5, "it belongs to the scaler");

    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 3}});
    let refused = client.apply(&format!("{path}/scale"), "fieldManager=s", &scale).await;
    assert_eq!(refused.code, 409);
    let scaled = client.apply(&format!("{path}/scale"), "fieldManager=s&force=true", &scale).await;
    assert_eq!((scaled.code, &scaled.json()["spec"]["replicas"]), (200, &json!(3)), "{scaled:?}");

    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "status": {"replicas": 3, "conditions": [{"type": "Available", "status": "True"}]}});
    let applied = client.apply(&format!("{path}/status"), "fieldManager=c", &status).await.json();
    assert_eq!(applied["status"]["replicas"], 3);
    let want = json!({"f:status": {"f:replicas": {}, "f:conditions": {
        r#"k:{"type":"Available"}"#: {".": {}, "f:type": {}, "f:status": {}}}}});
    assert_eq!(owners(&applied)["c Apply/status"], want);
    assert_eq!(owners(&applied)["s Apply/scale"], json!({"f:spec": {"f:replicas": {}}}));
    let again = client.apply(&path, "fieldManager=m", &deployment(None)).await.json();
    assert_eq!(again["metadata"]["resourceVersion"], applied["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn owners_are_named_kept_reset_and_rewritten() {
    let server = Running::start().await;
    let mut client = server.client().await;
    client.headers.push(("user-agent", "deployer/v2 (linux) x/y".to_owned()));
    let created = client.post(MAPS, &config_map("a", "1")).await.json();
    let mine = json!({"deployer Update": {"f:data": {".": {}, "f:k": {}}}});
    assert_eq!(owners(&created), mine);
    let entry = &created["metadata"]["managedFields"][0];
    assert_eq!((&entry["apiVersion"], &entry["fieldsType"]), (&json!("v1"), &json!("FieldsV1")));
    assert_eq!(entry["time"].as_str().map(str::len), Some("2026-01-01T00:00:00Z".len()));
    let path = format!("{MAPS}/a");
    let mut plain = created.clone();
    plain["metadata"].as_object_mut().unwrap().remove("managedFields");
    assert_eq!(
        owners(&client.put(&path, &plain).await.json()),
        mine,
        "a client that does not know them keeps them"
    );
    let rewritten = json!([{"op": "replace", "path": "/metadata/managedFields/0/manager", "value": "other"}]);
    let answer = client.ask("PATCH", &path, "application/json-patch+json", &rewritten.to_string()).await;
    assert_eq!(owners(&answer.json()), json!({"other Update": {"f:data": {".": {}, "f:k": {}}}}));
    let reset = client.merge(&path, &json!({"metadata": {"managedFields": [{}]}})).await;
    assert_eq!(owners(&reset.json()), json!({}));
    assert!(reset.json()["metadata"].get("managedFields").is_none());
    let refused = client.apply(&path, "fieldManager=m", &map(json!({"k": "9"}))).await;
    assert_eq!(
        refused.message(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.k"
    );
}

const MANIFEST: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: site}
data: {a: '1', b: '1'}
";

/// What kubectl prints and where it fails, from the first apply by the client to the last by the server.
#[tokio::test]
async fn kubectl_moves_from_the_client_to_the_server() {
    let server = Running::start().await;
    let run = async |arguments: &str, input: &str| {
        kubectl(&server, arguments, input)
            .await
            .unwrap_or_else(|error| panic!("kubectl {arguments}: {error}"))
    };
    assert_eq!(run("apply -f -", MANIFEST).await, "configmap/site created\n");
    let moved = run("apply --server-side -f -", &MANIFEST.replace("a: '1'", "a: '2'")).await;
    assert_eq!(moved, "configmap/site serverside-applied\n");
    let mut client = server.client().await;
    let object = client.get(&format!("{MAPS}/site")).await.json();
    let managers: Vec<String> = owners(&object).as_object().unwrap().keys().cloned().collect();
    let want = ["kubectl Apply", "kubectl-last-applied Apply"];
    assert_eq!(managers, want, "the client's entry has moved: {object}");
    assert_eq!(object["data"], json!({"a": "2", "b": "1"}));

    let shorter = run("apply --server-side -f -", &MANIFEST.replace("a: '1', ", "")).await;
    assert_eq!(shorter, "configmap/site serverside-applied\n");
    assert_eq!(run("get configmap site -o jsonpath={.data}", "").await, r#"{"b":"1"}"#);

    let other = MANIFEST.replace("b: '1'", "b: '3'");
    let error = kubectl(&server, "apply --server-side --field-manager=other -f -", &other).await.unwrap_err();
    assert!(error.contains("Apply failed with 1 conflict: conflict with \"kubectl\": .data.b"), "{error}");
    assert!(error.contains("--force-conflicts"), "{error}");
    let forced = run("apply --server-side --field-manager=other --force-conflicts -f -", &other).await;
    assert_eq!(forced, "configmap/site serverside-applied\n");
    let shown = run("get configmap site -o yaml --show-managed-fields", "").await;
    assert!(shown.contains("manager: other") && shown.contains("f:b: {}"), "{shown}");
    let hidden = run("get configmap site -o yaml", "").await;
    assert!(!hidden.contains("managedFields"), "{hidden}");

    let same = run("diff --server-side --field-manager=other -f -", &other).await;
    assert_eq!(same, "");
    let differs =
        kubectl(&server, "diff --server-side --field-manager=other -f -", &other.replace("'3'", "'4'")).await;
    let differs = differs.unwrap_err();
    assert!(differs.contains("-  b: \"3\"") && differs.contains("+  b: \"4\""), "{differs}");
}
