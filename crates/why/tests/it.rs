//! Explanations of a small shop, as a user reads them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a failed step is a failed test"
)]

use fairway_dns::name::Name;
use fairway_dns::zone::{PodRecords, Settings};
use fairway_model::{Cluster, ServiceKey};
use fairway_why::{Objects, Question, Setting, World, explain};
use serde_json::{Value, json};

fn list<T: serde::de::DeserializeOwned>(values: Vec<Value>) -> Vec<T> {
    values.into_iter().map(|value| serde_json::from_value(value).expect("a Kubernetes object")).collect()
}

fn meta(namespace: &str, name: &str) -> Value {
    json!({"namespace": namespace, "name": name, "creationTimestamp": "2026-11-01T00:00:00Z"})
}

fn service(namespace: &str, name: &str, spec: Value) -> Value {
    let ingress: Vec<Value> = spec["lb"].as_str().map(|ip| json!({"ip": ip})).into_iter().collect();
    json!({"metadata": meta(namespace, name), "spec": spec, "status": {"loadBalancer": {"ingress": ingress}}})
}

fn slice(namespace: &str, name: &str, port: u16, protocol: &str, endpoints: Vec<Value>) -> Value {
    let mut meta = meta(namespace, name);
    meta["labels"] = json!({"kubernetes.io/service-name": name});
    json!({"metadata": meta, "addressType": "IPv4", "ports": [{"name": "p", "port": port, "protocol": protocol}], "endpoints": endpoints})
}

fn endpoint(ip: &str, node: &str, pod: &str, ready: bool) -> Value {
    json!({"addresses": [ip], "nodeName": node, "targetRef": {"kind": "Pod", "name": pod}, "conditions": {"ready": ready}})
}

fn pod(name: &str, ip: &str, node: &str) -> Value {
    json!({"metadata": meta("shop", name), "spec": {"nodeName": node, "containers": []}, "status": {"podIP": ip}})
}

fn node(name: &str, address: &str) -> Value {
    json!({"metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": address}], "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn world() -> World {
    let port = |number: u16| json!([{"name": "p", "port": number}]);
    let dns_port = json!([{"name": "p", "port": 53, "protocol": "UDP"}]);
    let path = |path: &str, service: &str| json!({"path": path, "pathType": "Prefix", "backend": {"service": {"name": service, "port": {"number": 80}}}});
    let rules = json!([{"host": "shop.example.test", "http": {"paths": [path("/", "web"), path("/cart", "cart"), path("/gone", "gone")]}}]);
    let objects = Objects {
        services: list(vec![
            service("kube-system", "kube-dns", json!({"clusterIP": "10.96.0.10", "ports": dns_port})),
            service(
                "fairway-system",
                "fairway-gateway",
                json!({"type": "LoadBalancer", "clusterIP": "10.96.0.30", "lb": "10.200.0.128", "ports": port(80)}),
            ),
            service(
                "shop",
                "web",
                json!({"clusterIP": "10.96.0.20", "ports": port(80), "sessionAffinity": "ClientIP"}),
            ),
            service("shop", "cart", json!({"clusterIP": "10.96.0.21", "ports": port(80)})),
            service(
                "shop",
                "pay",
                json!({"type": "ExternalName", "externalName": "cart.shop.svc.cluster.local"}),
            ),
            service("shop", "bank", json!({"type": "ExternalName", "externalName": "bank.example.com"})),
        ]),
        slices: list(vec![
            slice("kube-system", "kube-dns", 53, "UDP", vec![endpoint("10.244.1.2", "n1", "dns-1", true)]),
            slice(
                "fairway-system",
                "fairway-gateway",
                8080,
                "TCP",
                vec![endpoint("10.244.2.2", "n2", "gateway-1", true)],
            ),
            slice(
                "shop",
                "web",
                8080,
                "TCP",
                vec![
                    endpoint("10.244.1.5", "n1", "web-1", true),
                    endpoint("10.244.2.5", "n2", "web-2", false),
                ],
            ),
        ]),
        nodes: list(vec![node("n1", "10.200.0.2"), node("n2", "10.200.0.3")]),
        pods: list(vec![pod("web-1", "10.244.1.5", "n1"), pod("web-2", "10.244.2.5", "n2")]),
        namespaces: list(vec![json!({"metadata": {"name": "shop"}})]),
        ingresses: list(vec![
            json!({"metadata": meta("shop", "shop"), "spec": {"ingressClassName": "fairway", "rules": rules}}),
        ]),
        ingress_classes: list(vec![
            json!({"metadata": {"name": "fairway"}, "spec": {"controller": "fairway.dev/ingress"}}),
        ]),
    };
    let setting = Setting {
        cluster: Cluster {
            pod_ranges: vec!["10.244.0.0/16".parse().unwrap()],
            service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
            node_ranges: vec!["10.200.0.0/24".parse().unwrap()],
            domain: "cluster.local".into(),
        },
        zone: Settings {
            origin: Name::from_text("cluster.local").unwrap(),
            ttl_s: 5,
            negative_ttl_s: 5,
            pods: PodRecords::Insecure,
            reverse_ranges: vec![],
            server: Some([10, 96, 0, 10].into()),
        },
        gateway: ServiceKey::new("fairway-system", "fairway-gateway"),
        outside: [10, 200, 0, 1].into(),
    };
    World::new(&objects, setting)
}

fn ask(from: &str, to: &str) -> (bool, String) {
    let explanation = explain(&world(), &Question::parse(from, to, "shop").unwrap());
    (explanation.reaches, explanation.to_string())
}

#[test]
fn a_pod_asks_a_service_by_name() {
    let (reaches, text) = ask("pod/web-2", "http://web/");
    assert!(reaches, "{text}");
    for part in [
        "asked of 10.96.0.10 (Service kube-system/kube-dns), 1 of its endpoints ready",
        "+ web.shop.svc.cluster.local. 10.96.0.20",
        "Connection 10.244.2.5 -> 10.96.0.20:80/TCP, decided on n2",
        "+ a cluster IP of Service shop/web",
        "+ 10.244.1.5:8080 (pod web-1 on n1)",
        "- 10.244.2.5:8080 (pod web-2 on n2): not ready",
        "the endpoint sees 10.244.2.5, the client itself",
        "sessionAffinity is ClientIP: this client stays with the endpoint of its last connection, if that is less than 10800 s ago",
        "10.244.1.5 is on n1, reached through 10.200.0.2",
        "Reaches: Service shop/web port 80: pod web-1 at 10.244.1.5:8080",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn a_request_from_outside_goes_through_the_gateway_and_every_rule_says_why() {
    let (reaches, text) = ask("outside", "http://shop.example.test/items");
    assert!(reaches, "{text}");
    for part in [
        "taken as 10.200.0.128, the gateway's address",
        "+ a load-balancer address of Service fairway-system/fairway-gateway",
        "answers for this load-balancer address",
        "external traffic under policy Cluster",
        "+ host shop.example.test",
        "+ Prefix / (Ingress shop/shop rules[0].paths[0])",
        "- Prefix /cart (Ingress shop/shop rules[0].paths[1]): the path is another",
        "- 10.244.2.5:8080 (pod web-2 on n2): not ready",
        "Reaches: Service shop/web port 80: pod web-1 at 10.244.1.5:8080",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn what_does_not_work_says_at_which_hop() {
    let cases = [
        (
            "outside",
            "http://shop.example.test/cart/1",
            "the gateway, which answers 503: Service shop/cart has no ready endpoint",
        ),
        (
            "outside",
            "http://shop.example.test/gone",
            "the gateway, which answers 503: there is no such Service",
        ),
        ("outside", "http://other.example.test/", "the gateway, which answers 404"),
        ("outside", "10.96.0.20:80", "10.96.0.20 is a cluster IP: it is reached from pods and nodes only"),
        ("outside", "db.shop:5432", "is resolved by the client's own DNS"),
        (
            "pod/web-1",
            "http://cart/",
            "10.96.0.21:80 is rejected at once: the Service has no endpoint that serves",
        ),
        ("pod/web-1", "http://pay/", "10.96.0.21:80 is rejected at once"),
        ("pod/web-1", "http://bank/", "bank.example.com. is decided by upstream DNS"),
        ("pod/web-1", "http://missing/", "missing. is decided by upstream DNS"),
        (
            "pod/web-1",
            "http://missing.shop.svc.cluster.local./",
            "the name missing.shop.svc.cluster.local. does not exist",
        ),
        ("pod/web-1", "10.96.0.20:81", "rejected at once: the Service has no such port"),
        ("pod/web-1", "10.96.9.9:80", "rejected at once: no Service has this address"),
        ("pod/web-1", "10.244.9.9:80", "is in the pod range, but no pod has it"),
        ("pod/nobody", "http://web/", "there is no pod shop/nobody"),
        ("node/n9", "http://web/", "there is no node n9"),
    ];
    for (from, to, want) in cases {
        let (reaches, text) = ask(from, to);
        assert!(!reaches && text.contains(want), "{from} {to}: {want:?} is not in:\n{text}");
    }
}

#[test]
fn a_pod_that_reaches_itself_is_masqueraded() {
    let (_, text) = ask("pod/web-1", "http://web/");
    assert!(
        text.contains("the endpoint sees the address of n1: the endpoint is the client itself"),
        "{text}"
    );
}
