//! Webhooks and policies: a webhook server on loopback with every fault there is, and policies as users write them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::server::{Client, Running, config_map};

const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A webhook server. What it does is in the path of a request.
struct Hooks {
    address: SocketAddr,
    authority: String,
    /// What was asked: path and request.
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    connections: Arc<Mutex<u32>>,
    task: JoinHandle<()>,
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hooks {
    async fn start(server: &Running) -> Self {
        Self::start_on(server, "127.0.0.1").await
    }

    async fn start_on(server: &Running, ip: &str) -> Self {
        let identity = server.pki.identity("hooks", &[]);
        let chain = vec![CertificateDer::from_pem_file(&identity.certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<(String, Value)>>>::default();
        let connections = Arc::<Mutex<u32>>::default();
        let (log, count) = (Arc::clone(&asked), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, log, count) = (acceptor.clone(), Arc::clone(&log), Arc::clone(&count));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    *count.lock().unwrap() += 1;
                    let answer = service_fn(move |request| answer(Arc::clone(&log), request));
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        let authority = std::fs::read(server.pki.path("ca.crt")).unwrap();
        Self { address, authority: STANDARD.encode(authority), asked, connections, task }
    }

    fn client_config(&self, path: &str) -> Value {
        json!({"url": format!("https://{}/{path}", self.address), "caBundle": self.authority})
    }

    /// The paths asked since the last look.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().drain(..).map(|(path, _)| path).collect()
    }
}

async fn answer(
    log: Arc<Mutex<Vec<(String, Value)>>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    log.lock().unwrap().push((path.clone(), review["request"].clone()));
    let uid = review["request"]["uid"].clone();
    let patch = |patch: Value| json!({"uid": uid, "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string())});
    let response = match path.as_str() {
        "deny" => {
            json!({"uid": uid, "allowed": false, "status": {"message": "too red", "code": 403, "reason": "Forbidden"}})
        }
        "warn" => json!({"uid": uid, "allowed": true, "warnings": ["mind the gap"]}),
        "label-a" => patch(json!([{"op": "add", "path": "/data/a", "value": "1"}])),
        "label-b" => patch(json!([{"op": "add", "path": "/data/b", "value": "2"}])),
        "bad-patch" => patch(json!([{"op": "remove", "path": "/data/absent"}])),
        "slow" => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            json!({"uid": uid, "allowed": true})
        }
        "garbage" => return Ok(Response::new(Full::new(Bytes::from_static(b"<html>")))),
        "huge" => return Ok(Response::new(Full::new(Bytes::from(vec![b'x'; 8 << 20])))),
        "error" => {
            let mut response = Response::new(Full::new(Bytes::from_static(b"out of order")));
            *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
            return Ok(response);
        }
        _ => json!({"uid": uid, "allowed": true}),
    };
    let review =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    Ok(Response::new(Full::new(Bytes::from(review.to_string()))))
}

/// A configuration with one webhook for ConfigMaps.
fn configuration(kind: &str, name: &str, client: &Value, fields: &Value) -> Value {
    let mut webhook = json!({
        "name": format!("{name}.example.com"), "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "rules": [{"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        // Only what the test makes: the server's own objects are not its business.
        "objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]},
    });
    for (field, value) in fields.as_object().unwrap() {
        webhook[field] = value.clone();
    }
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}WebhookConfiguration"),
        "metadata": {"name": name}, "webhooks": [webhook],
    })
}

async fn register(admin: &mut Client, kind: &str, name: &str, client: &Value, fields: &Value) {
    let path = format!("{REGISTRATION}/{}webhookconfigurations", kind.to_lowercase());
    let answer = admin.post(&path, &configuration(kind, name, client, fields)).await;
    assert_eq!(answer.code, 201, "{answer:?}");
}

async fn unregister(admin: &mut Client, kind: &str, name: &str) {
    let path = format!("{REGISTRATION}/{}webhookconfigurations/{name}", kind.to_lowercase());
    assert_eq!(admin.delete(&path).await.code, 200);
}

#[tokio::test]
async fn webhooks_change_and_refuse_in_the_order_of_their_names() {
    let server = Running::start().await;
    let hooks = Hooks::start(&server).await;
    let mut admin = server.client().await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    register(&mut admin, "Mutating", "b", &hooks.client_config("label-b"), &json!({})).await;
    register(&mut admin, "Mutating", "a", &hooks.client_config("label-a"), &again).await;
    register(&mut admin, "Validating", "c", &hooks.client_config("warn"), &json!({})).await;
    let made = admin.post(MAPS, &config_map("one", "1")).await;
    assert_eq!(made.code, 201, "{made:?}");
    assert_eq!(made.json()["data"], json!({"a": "1", "b": "2", "k": "1"}));
    assert_eq!(made.headers["warning"], "299 - \"mind the gap\"");
    assert_eq!(hooks.asked(), ["label-a", "label-b", "label-a", "warn"], "who wants to is asked again");
    let dry = admin.post(&format!("{MAPS}?dryRun=All"), &config_map("dry", "1")).await;
    assert_eq!(dry.json()["data"]["b"], "2");
    hooks.asked();
    admin.delete(&format!("{MAPS}/one")).await;
    let last = hooks.asked.lock().unwrap().last().unwrap().clone();
    assert_eq!((last.0.as_str(), &last.1["operation"]), ("warn", &json!("DELETE")));
    assert_eq!((&last.1["object"], &last.1["oldObject"]["data"]["k"]), (&Value::Null, &json!("1")));
    assert_eq!(last.1["options"]["kind"], "DeleteOptions");
    assert_eq!(last.1["userInfo"]["username"], "admin");
    assert!(*hooks.connections.lock().unwrap() <= 4, "connections are used again");
    register(&mut admin, "Validating", "d", &hooks.client_config("deny"), &json!({})).await;
    let refused = admin.post(MAPS, &config_map("two", "1")).await;
    let want = r#"admission webhook "d.example.com" denied the request: too red"#;
    assert_eq!((refused.code, refused.message().as_str()), (403, want));
    let metrics = admin.get("/metrics").await.text;
    assert!(
        metrics.contains(
            r#"apiserver_admission_duration_seconds_count{name="d.example.com",verdict="denied"} 1"#
        ),
        "{metrics}"
    );
}

#[tokio::test]
async fn faults_of_webhooks_are_told_or_ignored() {
    struct Case {
        name: &'static str,
        path: &'static str,
        fields: Value,
        want: (u16, &'static str),
    }
    let server = Running::start().await;
    let hooks = Hooks::start(&server).await;
    let mut admin = server.client().await;
    let invalid = "received invalid webhook response: ";
    let cases = [
        Case {
            name: "no answer in time",
            path: "slow",
            fields: json!({"timeoutSeconds": 1}),
            want: (500, "failed to call webhook: context deadline exceeded"),
        },
        Case { name: "no review", path: "garbage", fields: json!({}), want: (500, invalid) },
        Case { name: "too much", path: "huge", fields: json!({}), want: (500, "the answer is longer than") },
        Case {
            name: "an error",
            path: "error",
            fields: json!({}),
            want: (
                500,
                r#"an error on the server ("out of order") has prevented the request from succeeding"#,
            ),
        },
        Case {
            name: "another authority",
            path: "ok",
            fields: json!({"clientConfig": {"url": format!("https://{}/ok", hooks.address)}}),
            want: (500, "failed to verify certificate"),
        },
        Case {
            name: "nobody there",
            path: "ok",
            fields: json!({"clientConfig": {"url": "https://127.0.0.1:1/ok", "caBundle": hooks.authority}}),
            want: (500, "dial tcp 127.0.0.1:1"),
        },
        Case {
            name: "no service",
            path: "ok",
            fields: json!({"clientConfig": {"service": {"namespace": "default", "name": "hook"}, "caBundle": hooks.authority}}),
            want: (500, r#"Post "https://hook.default.svc:443/?timeout=10s": service "hook" not found"#),
        },
    ];
    for case in cases {
        register(&mut admin, "Validating", "x", &hooks.client_config(case.path), &case.fields).await;
        let refused = admin.post(MAPS, &config_map("a", "1")).await;
        let message = refused.message();
        assert_eq!(refused.code, case.want.0, "{}: {message}", case.name);
        let start = r#"Internal error occurred: failed calling webhook "x.example.com": "#;
        assert!(message.starts_with(start) && message.contains(case.want.1), "{}: {message}", case.name);
        unregister(&mut admin, "Validating", "x").await;
        let mut fields = case.fields.clone();
        fields["failurePolicy"] = json!("Ignore");
        register(&mut admin, "Validating", "x", &hooks.client_config(case.path), &fields).await;
        let allowed = admin.post(&format!("{MAPS}?dryRun=All"), &config_map("a", "1")).await;
        assert_eq!(allowed.code, 201, "{}: {allowed:?}", case.name);
        unregister(&mut admin, "Validating", "x").await;
    }
    register(&mut admin, "Validating", "x", &hooks.client_config("ok"), &json!({})).await;
    register(&mut admin, "Mutating", "y", &hooks.client_config("bad-patch"), &json!({})).await;
    let refused = admin.post(MAPS, &config_map("a", "1")).await;
    assert_eq!(refused.code, 500, "{refused:?}");
    unregister(&mut admin, "Mutating", "y").await;
    let conditions = json!({"matchConditions": [
        {"name": "not-mine", "expression": "request.userInfo.username != 'admin'"},
    ]});
    register(&mut admin, "Validating", "z", &hooks.client_config("deny"), &conditions).await;
    assert_eq!(admin.post(MAPS, &config_map("a", "1")).await.code, 201, "a condition that is false");
    hooks.asked();
    unregister(&mut admin, "Validating", "x").await;
    assert!(hooks.asked().is_empty(), "no webhook is asked about webhooks");
}

/// An address of this machine that a slice may hold, which 127.0.0.1 is not, and that leads nowhere else.
struct Address(String);

impl Address {
    fn add() -> Self {
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = Self(format!("198.18.{high}.{low}"));
        assert!(address.change("add"), "ip address add {}", address.0);
        address
    }

    fn change(&self, verb: &str) -> bool {
        let address = format!("{}/32", self.0);
        let done = std::process::Command::new("ip").args(["address", verb, &address, "dev", "lo"]).status();
        done.expect("ip is installed").success()
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        self.change("del");
    }
}

#[tokio::test]
async fn a_webhook_is_reached_through_its_service() {
    let server = Running::start().await;
    let address = Address::add();
    let hooks = Hooks::start_on(&server, &address.0).await;
    let mut admin = server.client().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"},
                         "spec": {"ports": [{"port": 443, "targetPort": 8443}]}});
    assert_eq!(admin.post("/api/v1/namespaces/default/services", &service).await.code, 201);
    let client = json!({"service": {"namespace": "default", "name": "hook", "path": "/deny"}, "caBundle": hooks.authority});
    register(&mut admin, "Validating", "s", &client, &json!({})).await;
    let refused = admin.post(MAPS, &config_map("a", "1")).await.message();
    assert!(refused.ends_with(r#"no endpoints available for service "hook""#), "{refused}");
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
        "endpoints": [{"addresses": [hooks.address.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": hooks.address.port(), "protocol": "TCP"}],
    });
    let made = admin.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await;
    assert_eq!(made.code, 201, "{made:?}");
    let refused = admin.post(MAPS, &config_map("a", "1")).await;
    let want = r#"admission webhook "s.example.com" denied the request: too red"#;
    assert_eq!((refused.code, refused.message().as_str()), (403, want));
}

fn policy(name: &str, spec: &Value) -> [Value; 2] {
    let mut policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": [
            {"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]},
        ]}},
    });
    let mut binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": format!("{name}-all")},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    for (field, value) in spec["policy"].as_object().unwrap() {
        policy["spec"][field] = value.clone();
    }
    for (field, value) in spec["binding"].as_object().into_iter().flatten() {
        binding["spec"][field] = value.clone();
    }
    [policy, binding]
}

async fn establish(admin: &mut Client, name: &str, spec: &Value) {
    let [policy, binding] = policy(name, spec);
    for (plural, object) in
        [("validatingadmissionpolicies", policy), ("validatingadmissionpolicybindings", binding)]
    {
        let answer = admin.post(&format!("{REGISTRATION}/{plural}"), &object).await;
        assert_eq!(answer.code, 201, "{answer:?}");
    }
}

#[tokio::test]
async fn policies_refuse_warn_and_take_parameters() {
    let server = Running::start().await;
    let mut admin = server.client().await;
    let short = json!({"policy": {"validations": [{"expression": "size(object.data.k) < 5", "message": "too long"}]}});
    establish(&mut admin, "short", &short).await;
    let refused = admin.post(MAPS, &config_map("a", "123456")).await;
    let want = r#"configmaps "a" is forbidden: ValidatingAdmissionPolicy 'short' with binding 'short-all' denied request: too long"#;
    assert_eq!((refused.code, refused.message().as_str()), (422, want));
    assert_eq!(refused.json()["reason"], "Invalid");
    assert_eq!(admin.post(MAPS, &config_map("a", "1")).await.code, 201);
    let path = format!("{REGISTRATION}/validatingadmissionpolicies/short");
    let status = admin.get(&path).await.json()["status"].clone();
    assert_eq!(status["observedGeneration"], 1, "{status}");
    let warns = json!({
        "policy": {"validations": [{"expression": "object.data.k != '2'", "reason": "Forbidden"}]},
        "binding": {"validationActions": ["Warn"], "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}},
    });
    establish(&mut admin, "warns", &warns).await;
    let warned = admin.merge(&format!("{MAPS}/a"), &json!({"data": {"k": "2"}})).await;
    assert_eq!(warned.code, 200, "{warned:?}");
    let want = "299 - \"Validation failed for ValidatingAdmissionPolicy 'warns' with binding 'warns-all': failed expression: object.data.k != '2'\"";
    assert_eq!(warned.headers["warning"], want);
    let limits = json!({
        "policy": {
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConditions": [{"name": "others", "expression": "object.metadata.name != 'limits'"}],
            "variables": [{"name": "most", "expression": "int(params.data.most)"}],
            "validations": [{"expression": "size(object.data) <= variables.most", "messageExpression": "'at most ' + string(variables.most)"}],
        },
        "binding": {
            "paramRef": {"name": "limits", "namespace": "kube-public", "parameterNotFoundAction": "Deny"},
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}},
        },
    });
    establish(&mut admin, "limits", &limits).await;
    let refused = admin.post(MAPS, &config_map("b", "1")).await.message();
    assert!(
        refused.contains("no params found for policy binding with `Deny` parameterNotFoundAction"),
        "{refused}"
    );
    let mut parameters = config_map("limits", "1");
    parameters["data"]["most"] = json!("1");
    assert_eq!(admin.post("/api/v1/namespaces/kube-public/configmaps", &parameters).await.code, 201);
    assert_eq!(admin.post(MAPS, &config_map("b", "1")).await.code, 201);
    let mut more = config_map("c", "1");
    more["data"]["l"] = json!("2");
    let refused = admin.post(MAPS, &more).await.message();
    assert!(refused.ends_with("denied request: at most 1"), "{refused}");
    let [mut broken, _] = policy("broken", &short);
    broken["spec"]["validations"][0]["expression"] = json!("object.");
    let refused = admin.post(&format!("{REGISTRATION}/validatingadmissionpolicies"), &broken).await;
    assert_eq!(refused.code, 422);
    assert!(
        refused
            .message()
            .contains("spec.validations[0].expression: Invalid value: \"object.\": compilation failed"),
        "{}",
        refused.message()
    );
}
