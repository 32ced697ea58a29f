use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod};
use k8s_openapi::api::discovery::v1::Endpoint;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::simulation::{Cluster, merge};

fn cluster(service: Value) -> Cluster {
    let mut cluster = Cluster::with_nodes(2);
    let mut object = json!({"metadata": {"name": "web", "labels": {"team": "shop"}}, "spec": {
        "clusterIP": "10.96.0.7", "ipFamilies": ["IPv4"], "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    }});
    merge(&mut object, service);
    cluster.create::<Service>(object);
    cluster
}

/// A pod with label `app: web` on n1 that is ready at `address`.
fn pod(cluster: &mut Cluster, name: &str, address: &str, extra: Value) {
    let mut object = json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": "True"}]},
    });
    merge(&mut object, extra);
    cluster.create::<Pod>(object);
}

fn slices(cluster: &Cluster) -> Vec<Arc<EndpointSlice>> {
    cluster.world.endpoint_slices.values().cloned().collect()
}

/// `address:port rst`: letters for ready, serving, terminating.
fn lines(cluster: &Cluster) -> Vec<String> {
    let mut lines = Vec::new();
    for slice in slices(cluster) {
        let ports: Vec<_> =
            slice.ports.iter().flatten().filter_map(|port| port.port).map(|port| port.to_string()).collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap();
            let letter = |on: Option<bool>, letter: &'static str| if on == Some(true) { letter } else { "-" };
            let letters = [
                letter(conditions.ready, "r"),
                letter(conditions.serving, "s"),
                letter(conditions.terminating, "t"),
            ]
            .concat();
            lines.push(format!("{}:{} {letters}", endpoint.addresses[0], ports.join(",")));
        }
    }
    lines.sort();
    lines
}

#[test]
fn who_is_in_a_slice_and_in_which_state() {
    struct Case {
        name: &'static str,
        service: Value,
        pod: Value,
        want: &'static [&'static str],
    }
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    for case in [
        Case { name: "ready", service: json!({}), pod: json!({}), want: &["10.244.1.1:8080 rs-"] },
        Case { name: "unready", service: json!({}), pod: unready.clone(), want: &["10.244.1.1:8080 ---"] },
        Case { name: "terminating", service: json!({}), pod: deleted, want: &["10.244.1.1:8080 -st"] },
        Case {
            name: "published unready",
            service: json!({"spec": {"publishNotReadyAddresses": true}}),
            pod: unready,
            want: &["10.244.1.1:8080 r--"],
        },
        Case {
            name: "finished",
            service: json!({}),
            pod: json!({"status": {"phase": "Succeeded"}}),
            want: &[],
        },
        Case {
            name: "no address",
            service: json!({}),
            pod: json!({"status": {"podIP": null, "podIPs": null}}),
            want: &[],
        },
        Case {
            name: "not selected",
            service: json!({}),
            pod: json!({"metadata": {"labels": {"app": "db"}}}),
            want: &[],
        },
        Case {
            name: "other family",
            service: json!({"spec": {"ipFamilies": ["IPv6"]}}),
            pod: json!({}),
            want: &[],
        },
        Case {
            name: "number",
            service: json!({"spec": {"ports": [{"port": 80, "targetPort": 9000}]}}),
            pod: json!({}),
            want: &["10.244.1.1:9000 rs-"],
        },
        Case {
            name: "defaults to port",
            service: json!({"spec": {"ports": [{"port": 80}]}}),
            pod: json!({}),
            want: &["10.244.1.1:80 rs-"],
        },
        Case {
            name: "name of another protocol",
            service: json!({"spec": {"ports": [{"port": 80, "protocol": "UDP", "targetPort": "http"}]}}),
            pod: json!({}),
            want: &["10.244.1.1: rs-"],
        },
        Case {
            name: "headless without ports",
            service: json!({"spec": {"clusterIP": "None", "ports": null}}),
            pod: json!({}),
            want: &["10.244.1.1: rs-"],
        },
    ] {
        let mut cluster = cluster(case.service);
        pod(&mut cluster, "p", "10.244.1.1", case.pod);
        cluster.settle();
        assert_eq!(lines(&cluster), case.want, "{}", case.name);
    }
}

#[test]
fn services_without_pods_of_their_own_are_left_alone() {
    for spec in
        [json!({"selector": null}), json!({"selector": {"app": null}}), json!({"type": "ExternalName"})]
    {
        let mut cluster = cluster(json!({"spec": spec}));
        cluster.settle();
        assert_eq!((slices(&cluster).len(), cluster.world.endpoints.len()), (0, 0));
    }
}

#[test]
fn what_an_endpoint_tells() {
    let mut cluster =
        cluster(json!({"spec": {"clusterIP": "None", "trafficDistribution": "PreferSameZone"}}));
    cluster.create::<Node>(json!({"metadata": {"name": "z", "labels": {"topology.kubernetes.io/zone": "a"}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
    pod(
        &mut cluster,
        "p",
        "10.244.1.1",
        json!({"spec": {"nodeName": "z", "hostname": "p-0", "subdomain": "web"}}),
    );
    cluster.settle();
    let slice = slices(&cluster).remove(0);
    let endpoint: Endpoint = slice.endpoints.clone().unwrap().remove(0);
    assert_eq!(
        (endpoint.hostname.as_deref(), endpoint.node_name.as_deref(), endpoint.zone.as_deref()),
        (Some("p-0"), Some("z"), Some("a"))
    );
    assert_eq!(endpoint.hints.unwrap().for_zones.unwrap()[0].name, "a");
    assert_eq!(endpoint.target_ref.unwrap().name.as_deref(), Some("p"));
    let labels = slice.metadata.labels.clone().unwrap();
    assert_eq!((labels["team"].as_str(), labels[SERVICE_NAME_LABEL].as_str()), ("shop", "web"));
    assert!(labels.contains_key(HEADLESS_LABEL));
    assert_eq!(slice.metadata.annotations.as_ref().unwrap()[TRIGGER_TIME], cluster.now.to_string());
    let legacy = cluster.world.endpoints.values().next().unwrap();
    assert_eq!(
        legacy.subsets.as_ref().unwrap()[0].addresses.as_ref().unwrap()[0].hostname.as_deref(),
        Some("p-0")
    );
}

#[test]
fn pods_that_resolve_a_name_differently_are_in_different_slices() {
    let mut cluster = cluster(json!({}));
    pod(&mut cluster, "a", "10.244.1.1", json!({}));
    pod(
        &mut cluster,
        "b",
        "10.244.1.2",
        json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 9090}]}]}}),
    );
    cluster.settle();
    assert_eq!(lines(&cluster), ["10.244.1.1:8080 rs-", "10.244.1.2:9090 rs-"]);
    assert_eq!(slices(&cluster).len(), 2);
    let legacy = cluster.world.endpoints.values().next().unwrap();
    assert_eq!(legacy.subsets.as_ref().unwrap().len(), 2);
}

#[test]
fn an_empty_service_shows_one_slice_which_is_then_used() {
    let mut cluster = cluster(json!({}));
    cluster.settle();
    let [placeholder] = slices(&cluster).try_into().unwrap();
    pod(&mut cluster, "a", "10.244.1.1", json!({}));
    cluster.settle();
    let [used] = slices(&cluster).try_into().unwrap();
    assert_eq!(used.metadata.name, placeholder.metadata.name);
}

#[test]
fn slices_hold_a_hundred_and_one_pod_is_one_write() {
    let mut cluster = cluster(json!({}));
    for at in 0..250 {
        pod(&mut cluster, &format!("p{at:03}"), &format!("10.244.1.{at}"), json!({}));
    }
    cluster.settle();
    let mut sizes: Vec<_> =
        slices(&cluster).iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
    let slice_writes =
        |cluster: &Cluster| cluster.log.iter().filter(|line| line.contains("EndpointSlice")).count();
    let before = slice_writes(&cluster);
    cluster.ready("p007", false);
    cluster.settle();
    assert_eq!(slice_writes(&cluster) - before, 1);
    cluster.vanish("p008");
    cluster.settle();
    assert_eq!(slice_writes(&cluster) - before, 2);
    pod(&mut cluster, "p900", "10.244.2.1", json!({}));
    cluster.settle();
    assert_eq!(slice_writes(&cluster) - before, 3);
}

#[test]
fn a_damaged_slice_and_a_damaged_object_are_repaired() {
    let mut cluster = cluster(json!({}));
    pod(&mut cluster, "a", "10.244.1.1", json!({}));
    cluster.settle();
    let name = slices(&cluster)[0].metadata.name.clone().unwrap();
    cluster.patch(|world| &world.endpoint_slices, &name, json!({"endpoints": []}));
    cluster.patch(|world| &world.endpoints, "web", json!({"subsets": []}));
    cluster.settle();
    assert_eq!(lines(&cluster), ["10.244.1.1:8080 rs-"]);
    assert_eq!(cluster.world.endpoints.values().next().unwrap().subsets.as_ref().unwrap().len(), 1);
}

#[test]
fn endpoints_are_truncated_and_that_is_said() {
    let mut cluster = cluster(json!({}));
    for at in 0..1010 {
        pod(&mut cluster, &format!("p{at:04}"), &format!("10.244.{}.{}", at / 250, at % 250), json!({}));
    }
    cluster.settle();
    let legacy = cluster.world.endpoints.values().next().unwrap();
    assert_eq!(legacy.subsets.as_ref().unwrap()[0].addresses.as_ref().unwrap().len(), 1000);
    assert_eq!(
        legacy.metadata.annotations.as_ref().unwrap()["endpoints.kubernetes.io/over-capacity"],
        "truncated"
    );
}

#[test]
fn hand_made_endpoints_are_mirrored_unless_they_say_no() {
    let endpoints = |extra: Value| {
        let mut object = json!({"metadata": {"name": "web"}, "subsets": [
            {"addresses": [{"ip": "192.0.2.1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 5432}]},
            {"addresses": [{"ip": "2001:db8::1"}], "ports": [{"port": 5432}]},
        ]});
        merge(&mut object, extra);
        object
    };
    let mut mirrored = cluster(json!({"spec": {"selector": null}}));
    mirrored.create::<Endpoints>(endpoints(json!({})));
    mirrored.settle();
    assert_eq!(lines(&mirrored), ["192.0.2.1:5432 r--", "192.0.2.2:5432 ---", "2001:db8::1:5432 r--"]);
    assert_eq!(slices(&mirrored).len(), 2, "one a family");
    mirrored.patch(
        |world| &world.endpoints,
        "web",
        json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}}),
    );
    mirrored.settle();
    assert_eq!(slices(&mirrored).len(), 0);

    let mut selected = cluster(json!({}));
    selected.create::<Endpoints>(endpoints(json!({})));
    selected.settle();
    assert_eq!(lines(&selected), [""; 0], "a Service with a selector owns its Endpoints");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn slices_always_end_up_with_exactly_the_pods(steps in prop::collection::vec((0..12usize, 0..5u8), 1..60)) {
        let mut cluster = cluster(json!({}));
        for (at, what) in steps {
            let name = format!("p{at}");
            let known = cluster.world.pods.contains_key(&ObjectKey::new("ns", &name));
            match what {
                0 if known => cluster.vanish(&name),
                1 if known => cluster.ready(&name, false),
                2 if known => cluster.ready(&name, true),
                3 => cluster.settle(),
                _ if !known => {
                    let port = if at % 3 == 0 { 9090 } else { 8080 };
                    let spec = json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]}});
                    pod(&mut cluster, &name, &format!("10.244.1.{at}"), spec);
                }
                _ => {}
            }
        }
        cluster.settle();
        let wanted: BTreeSet<_> = cluster.world.pods.values().map(|pod| pod.metadata.uid.clone()).collect();
        let found: Vec<_> = slices(&cluster)
            .iter()
            .flat_map(|slice| slice.endpoints.clone().unwrap_or_default())
            .map(|endpoint| endpoint.target_ref.unwrap().uid)
            .collect();
        prop_assert_eq!(found.len(), wanted.len());
        prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted.clone());
        let empty = slices(&cluster).iter().filter(|slice| slice.endpoints.as_ref().is_none_or(Vec::is_empty)).count();
        prop_assert_eq!(empty, usize::from(wanted.is_empty()), "an empty slice only for an empty Service");
        let before = cluster.log.len();
        cluster.wait(1);
        cluster.settle();
        prop_assert_eq!(cluster.log[before..].iter().filter(|line| line.contains("Endpoint")).count(), 0);
    }
}
