use serde_json::{Value, json};

use super::*;

fn object<K: serde::de::DeserializeOwned>(name: &str, mut value: Value) -> (ObjectKey, Arc<K>) {
    let labels = value.get("labels").cloned().unwrap_or(json!({}));
    value["metadata"] = json!({"namespace": "ns", "name": name, "labels": labels});
    (ObjectKey::new("ns", name), Arc::new(serde_json::from_value(value).unwrap()))
}

fn path(path: &str, service: &str) -> Value {
    json!({"path": path, "pathType": "Prefix",
        "backend": {"service": {"name": service, "port": {"number": 80}}}})
}

fn ingress(host: &str, paths: &[Value], secret: &str) -> (ObjectKey, Arc<networking::Ingress>) {
    let tls = if secret.is_empty() { json!([]) } else { json!([{"hosts": [host], "secretName": secret}]) };
    let rules = json!([{"host": host, "http": {"paths": paths}}]);
    object(host, json!({"spec": {"ingressClassName": "fairway", "rules": rules, "tls": tls}}))
}

fn class() -> (ObjectKey, Arc<networking::IngressClass>) {
    let value = json!({"metadata": {"name": "fairway"}, "spec": {"controller": ingress::CONTROLLER}});
    (ObjectKey::new("", "fairway"), Arc::new(serde_json::from_value(value).unwrap()))
}

fn service(name: &str) -> (ObjectKey, Arc<core::Service>) {
    object(name, json!({"spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}}))
}

fn external(name: &str, target: &str) -> (ObjectKey, Arc<core::Service>) {
    object(name, json!({"spec": {"type": "ExternalName", "externalName": target}}))
}

fn slice(service: &str, addresses: &[&str]) -> (ObjectKey, Arc<discovery::EndpointSlice>) {
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    object(
        &format!("{service}-1"),
        json!({"labels": {service::SERVICE_NAME_LABEL: service}, "addressType": "IPv4",
            "ports": [{"port": 8080}], "endpoints": endpoints}),
    )
}

fn inputs() -> Inputs {
    Inputs {
        ingresses: [ingress("shop", &[path("/", "web"), path("/x", "gone")], "cert")].into_iter().collect(),
        classes: [class()].into_iter().collect(),
        services: [service("web"), external("out", "api.example")].into_iter().collect(),
        slices: [slice("web", &["10.244.1.2", "10.244.1.3"])].into_iter().collect(),
        secrets: BTreeMap::new(),
    }
}

fn compiler() -> Compiler {
    Compiler::new(2, Arc::new(Metrics::new(2)))
}

fn addresses(compiler: &Compiler, service: &str) -> Vec<String> {
    let state = compiler.backends.iter().find(|(backend, _)| &*backend.service.name == service);
    let pool = state.unwrap().1.cell.load();
    pool.endpoints().iter().map(|endpoint| endpoint.address.to_string()).collect()
}

#[test]
fn a_change_of_endpoints_replaces_one_pool_and_no_table() {
    let (mut compiler, mut inputs) = (compiler(), inputs());
    let first = compiler.update(inputs.clone());
    assert!(first.table.is_some() && first.certificates.is_some() && first.pools_replaced);
    assert_eq!(addresses(&compiler, "web"), ["10.244.1.2:8080", "10.244.1.3:8080"]);
    let leaving = compiler.endpoints[&"10.244.1.3:8080".parse().unwrap()].0.clone();
    let staying = compiler.endpoints[&"10.244.1.2:8080".parse().unwrap()].0.clone();

    inputs.slices = [slice("web", &["10.244.1.2", "10.244.1.4"])].into_iter().collect();
    let second = compiler.update(inputs.clone());
    assert!(second.table.is_none() && second.certificates.is_none() && second.pools_replaced);
    assert_eq!(addresses(&compiler, "web"), ["10.244.1.2:8080", "10.244.1.4:8080"]);
    assert!(leaving.has_left() && !staying.has_left());

    let third = compiler.update(inputs);
    assert!(third.table.is_none() && !third.pools_replaced, "nothing changed");
}

#[test]
fn a_change_of_rules_keeps_the_pools_of_the_others() {
    let (mut compiler, mut inputs) = (compiler(), inputs());
    compiler.update(inputs.clone());
    let web = compiler.backends.values().next_back().unwrap().cell.clone();
    inputs.ingresses.insert(ObjectKey::new("ns", "other"), ingress("other", &[path("/", "late")], "").1);
    assert!(compiler.update(inputs.clone()).table.is_some());
    assert!(compiler.backends.values().any(|state| Arc::ptr_eq(&state.cell, &web)));
    assert_eq!(addresses(&compiler, "late"), Vec::<String>::new());

    let (key, late) = service("late");
    inputs.services.insert(key, late);
    inputs.slices.insert(ObjectKey::new("ns", "late-1"), slice("late", &["10.244.2.2"]).1);
    assert!(compiler.update(inputs.clone()).table.is_none());
    assert_eq!(addresses(&compiler, "late"), ["10.244.2.2:8080"]);

    inputs.ingresses.remove(&ObjectKey::new("ns", "shop"));
    compiler.update(inputs);
    assert_eq!(compiler.backends.len(), 1, "backends that no rule names are let go");
    assert_eq!(compiler.endpoints.len(), 1);
}

#[test]
fn draining_endpoints_serve_only_when_nothing_is_ready() {
    let (mut compiler, mut inputs) = (compiler(), inputs());
    let draining = json!({"ready": false, "serving": true, "terminating": true});
    let with = |ready: bool| {
        let mut endpoints = vec![json!({"addresses": ["10.244.1.2"], "conditions": draining})];
        if ready {
            endpoints.push(json!({"addresses": ["10.244.1.3"]}));
        }
        object::<discovery::EndpointSlice>(
            "web-1",
            json!({"labels": {service::SERVICE_NAME_LABEL: "web"}, "addressType": "IPv4",
                "ports": [{"port": 8080}], "endpoints": endpoints}),
        )
    };
    inputs.slices = [with(true)].into_iter().collect();
    compiler.update(inputs.clone());
    assert_eq!(addresses(&compiler, "web"), ["10.244.1.3:8080"]);
    inputs.slices = [with(false)].into_iter().collect();
    compiler.update(inputs);
    assert_eq!(addresses(&compiler, "web"), ["10.244.1.2:8080"]);
}

#[test]
fn external_names_are_asked_for_and_loopback_is_refused() {
    let (mut compiler, mut inputs) = (compiler(), inputs());
    inputs.ingresses = [ingress("ext", &[path("/", "out"), path("/me", "me")], "")].into_iter().collect();
    inputs.services.insert(ObjectKey::new("ns", "me"), external("me", "localhost").1);
    compiler.update(inputs);
    let targets = compiler.external_targets();
    let (backend, target) = targets.iter().next().unwrap();
    assert_eq!((targets.len(), &*target.name, target.port), (1, "api.example", 80));
    let found = ["127.0.0.1", "192.0.2.7", "192.0.2.7"].map(|text| text.parse().unwrap());
    assert!(compiler.resolved(backend, target, &found));
    assert!(!compiler.resolved(backend, target, &found), "the same addresses are no change");
    assert_eq!(addresses(&compiler, "out"), ["192.0.2.7:80"]);
    let reasons: Vec<&str> = compiler.findings(|_| true).iter().map(|finding| finding.reason).collect();
    assert_eq!(reasons, ["ExternalNameRefused"]);
}

#[test]
fn what_is_wrong_is_found_and_put_right() {
    let (mut compiler, mut inputs) = (compiler(), inputs());
    compiler.update(inputs.clone());
    assert_eq!(compiler.wanted_secrets().len(), 1);
    let reasons = |compiler: &Compiler| -> Vec<&str> {
        compiler.findings(|_| true).iter().map(|finding| finding.reason).collect()
    };
    assert_eq!(reasons(&compiler), ["ServiceNotFound", "CertificateUnusable"]);
    let made = rcgen::generate_simple_self_signed(vec!["shop".into()]).unwrap();
    let text = |text: String| k8s_openapi::ByteString(text.into_bytes());
    let secret = core::Secret {
        data: Some(
            [
                ("tls.crt".to_owned(), text(made.cert.pem())),
                ("tls.key".to_owned(), text(made.signing_key.serialize_pem())),
            ]
            .into(),
        ),
        ..core::Secret::default()
    };
    inputs.secrets.insert(SecretKey::new("ns", "cert"), Arc::new(secret));
    let (key, gone) = service("gone");
    inputs.services.insert(key, gone);
    let update = compiler.update(inputs);
    assert!(update.table.is_none());
    assert!(update.certificates.unwrap().find("shop").is_some());
    assert_eq!(reasons(&compiler), Vec::<&str>::new());
}
