//! Who answers for a Service, and at which address.

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use serde_json::{Value, json};

use crate::cluster::{Cluster, deployment};

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

/// Addresses of a Service's slices that are ready.
fn ready(slices: &[EndpointSlice], service: &str) -> usize {
    let label = "kubernetes.io/service-name";
    let ours = slices.iter().filter(|slice| {
        slice
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(label))
            .is_some_and(|name| name == service)
    });
    ours.flat_map(|slice| slice.endpoints.iter().flatten())
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_and_endpoints_follow_the_pods() {
    let cluster = Cluster::start().await;
    let ports = json!([{"name": "http", "port": 80, "targetPort": "http"}]);
    cluster
        .apply(&[
            deployment("web", 3, "v1"),
            service("web", json!({"selector": {"app": "web"}, "ports": ports})),
        ])
        .await;
    let slices = cluster.until_all("3 ready", |slices: &[EndpointSlice]| ready(slices, "web") == 3).await;
    let slice = slices.iter().find(|slice| slice.metadata.generate_name.as_deref() == Some("web-")).unwrap();
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    let endpoint = &slice.endpoints.as_ref().unwrap()[0];
    let node = endpoint.node_name.clone().unwrap();
    assert_eq!(endpoint.zone, Some(format!("zone-{node}")));
    assert_eq!(endpoint.target_ref.as_ref().and_then(|target| target.kind.as_deref()), Some("Pod"));
    let complete = |endpoints: &Endpoints| {
        let subsets = endpoints.subsets.iter().flatten();
        subsets.map(|subset| subset.addresses.as_ref().map_or(0, Vec::len)).sum::<usize>() == 3
    };
    cluster.until("web", "3 addresses", complete).await;
    let listed = cluster.kubectl(&["get", "endpointslices,endpoints"]).await;
    assert!(listed.contains("8080"), "{listed}");
    cluster.kubectl(&["scale", "deployment/web", "--replicas=0"]).await;
    cluster.until_all("none", |slices: &[EndpointSlice]| ready(slices, "web") == 0).await;
    cluster.kubectl(&["delete", "service", "web"]).await;
    cluster
        .until_all("slices go with the Service", |slices: &[EndpointSlice]| {
            slices.iter().all(|slice| slice.metadata.name.as_deref() == Some("kubernetes"))
        })
        .await;
    cluster
        .until_all("Endpoints go too", |all: &[Endpoints]| {
            all.iter().all(|one| one.metadata.name.as_deref() == Some("kubernetes"))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_made_endpoints_are_mirrored_and_those_of_the_server_left_alone() {
    let cluster = Cluster::start().await;
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "legacy"},
        "subsets": [{"addresses": [{"ip": "192.0.2.7"}, {"ip": "192.0.2.8"}], "ports": [{"name": "sql", "port": 5432}]}],
    });
    cluster.apply(&[service("legacy", json!({"ports": [{"name": "sql", "port": 5432}]})), endpoints]).await;
    let slices = cluster.until_all("mirrored", |slices: &[EndpointSlice]| ready(slices, "legacy") == 2).await;
    let kubernetes: Vec<_> = slices
        .iter()
        .filter(|slice| {
            slice
                .metadata
                .labels
                .as_ref()
                .is_some_and(|labels| labels["kubernetes.io/service-name"] == "kubernetes")
        })
        .collect();
    assert_eq!(kubernetes.len(), 1);
    cluster
        .kubectl(&[
            "patch",
            "endpoints",
            "legacy",
            "--type=json",
            r#"-p=[{"op":"remove","path":"/subsets/0/addresses/1"}]"#,
        ])
        .await;
    cluster.until_all("one left", |slices: &[EndpointSlice]| ready(slices, "legacy") == 1).await;
    cluster.kubectl(&["delete", "endpoints", "legacy"]).await;
    cluster.until_all("none left", |slices: &[EndpointSlice]| ready(slices, "legacy") == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_balancers_get_addresses_and_ingresses_show_the_gateway() {
    let cluster = Cluster::start().await;
    let balancer = |requested: Value| json!({"type": "LoadBalancer", "selector": {"app": "x"}, "ports": [{"port": 80}], "loadBalancerIP": requested});
    cluster
        .apply(&[service("a", balancer(json!(null))), service("b", balancer(json!("10.200.0.130")))])
        .await;
    let address = |service: &Service| {
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        balancer.and_then(|balancer| balancer.ingress.as_ref()?.first()?.ip.clone())
    };
    cluster.until("b", "its address", |service| address(service).as_deref() == Some("10.200.0.130")).await;
    cluster.until("a", "an address", |service| address(service).is_some()).await;
    cluster.apply(&[service("c", balancer(json!(null))), service("d", balancer(json!(null)))]).await;
    let event = cluster.event("d", "AllocationFailed").await;
    assert!(event.message.unwrap().contains("no address is left"));
    cluster.kubectl(&["delete", "service", "a"]).await;
    cluster.until("d", "the address that became free", |service| address(service).is_some()).await;
    cluster
        .kubectl(&["patch", "service", "b", r#"-p={"spec":{"type":"ClusterIP","loadBalancerIP":null}}"#])
        .await;
    cluster.until("b", "address released", |service| address(service).is_none()).await;

    let gateway = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "fairway-gateway", "namespace": "fairway-system"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    let class = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "fairway"},
        "spec": {"controller": "fairway.dev/ingress"}});
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "shop"},
        "spec": {"ingressClassName": "fairway", "defaultBackend": {"service": {"name": "a", "port": {"number": 80}}}}});
    cluster.apply(&[class, ingress, gateway]).await;
    let shown = |ingress: &Ingress| {
        let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        balancer
            .and_then(|balancer| balancer.ingress.as_ref())
            .is_some_and(|entries| entries.iter().any(|entry| entry.ip.is_some()))
    };
    cluster.until("shop", "address", shown).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headless_services_have_slices_even_without_ports() {
    let cluster = Cluster::start().await;
    let spec = json!({"clusterIP": "None", "selector": {"app": "db"}});
    cluster.apply(&[deployment("db", 2, "v1"), service("db", spec)]).await;
    let slices = cluster.until_all("2 ready", |slices: &[EndpointSlice]| ready(slices, "db") == 2).await;
    let slice = slices.iter().find(|slice| slice.metadata.generate_name.as_deref() == Some("db-")).unwrap();
    assert!(slice.ports.as_ref().is_none_or(Vec::is_empty));
    assert!(slice.metadata.labels.as_ref().unwrap().contains_key("service.kubernetes.io/headless"));
    let pods = cluster.pods().await;
    let lost = pods[0].metadata.name.clone().unwrap();
    cluster.kubectl(&["delete", "pod", &lost]).await;
    cluster
        .until_all("replaced", |pods: &[Pod]| {
            pods.len() == 2 && pods.iter().all(|pod| pod.metadata.name.as_deref() != Some(&lost))
        })
        .await;
    cluster.until_all("2 ready again", |slices: &[EndpointSlice]| ready(slices, "db") == 2).await;
}
