//! The agent as a whole: from objects in an API server to packets.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use fairway_kit::{ClientSource, shutdown};
use fairway_node::{Config, LoadBalancer};
use serde_json::{Value, json};

use crate::fake_api::{EVENTS, FakeApi, NODES, SERVICES, SLICES};
use crate::lab::{Lab, Outcome, PODS, POOL, net, network};

fn node(name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}, "status": {
        "addresses": [{"type": "InternalIP", "address": address}], "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "ports": [{"port": 80, "targetPort": 8080}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "10.200.0.130"}]}}})
}

fn slice(pods: &[&str]) -> Value {
    let endpoint = |name: &&str| {
        let (_, node, address) = PODS.iter().find(|(pod, ..)| pod == name).unwrap();
        json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}})
    };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(), "ports": [{"port": 8080, "protocol": "TCP"}]})
}

/// An agent in a runtime of its own, as a process would be.
struct Running {
    trigger: Option<shutdown::Trigger>,
    runtime: tokio::runtime::Runtime,
    task: tokio::task::JoinHandle<Result<(), fairway_node::Error>>,
}

impl Running {
    fn start(lab: &Lab, api: &FakeApi) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (trigger, requested) = shutdown::channel();
        let config = Config {
            node_name: "a".into(),
            client: ClientSource::Kubeconfig(api.kubeconfig.clone()),
            cluster: network().cluster,
            netns: lab.nodes["a"].netns.clone(),
            load_balancer: LoadBalancer { ranges: vec![net(POOL)], interface: "eth0".into() },
            admin: None,
        };
        let task = runtime.spawn(fairway_node::run(config, requested));
        Self { trigger: Some(trigger), runtime, task }
    }

    fn stop(mut self) {
        let trigger = self.trigger.take().unwrap();
        self.runtime.block_on(async {
            trigger.stop(Duration::from_secs(5)).await;
            (&mut self.task).await.unwrap().unwrap();
        });
    }
}

/// Connects until `wanted` answers, and only then; says what it saw otherwise.
fn await_served_by(lab: &Lab, to: SocketAddr, wanted: &str) -> Duration {
    let started = Instant::now();
    loop {
        let outcome = lab.pods["a1"].connect(to);
        if matches!(&outcome, Outcome::Served { by, .. } if by == wanted) {
            return started.elapsed();
        }
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "after 10 s {to} is not {wanted} but {outcome:?}"
        );
        std::thread::yield_now();
    }
}

#[test]
fn objects_become_rules_that_outlive_the_agent_and_are_repaired() {
    let lab = Lab::new();
    let api = FakeApi::start();
    api.put(NODES, node("a", "10.200.0.2"));
    api.put(SERVICES, service());
    api.put(SLICES, slice(&["a2"]));
    let cluster_ip: SocketAddr = "10.96.0.1:80".parse().unwrap();
    let agent = Running::start(&lab, &api);
    await_served_by(&lab, cluster_ip, "a2");
    let outside = lab.outside.connect("10.200.0.130:80".parse().unwrap());
    assert_eq!(outside, Outcome::Served { by: "a2".into(), source: lab.nodes["a"].address });

    api.put(SLICES, slice(&["b1"]));
    let took = await_served_by(&lab, cluster_ip, "b1");
    assert!(took < Duration::from_secs(1), "a change took {took:?}");

    agent.stop();
    assert!(
        matches!(lab.pods["a1"].connect(cluster_ip), Outcome::Served { .. }),
        "rules stay without the agent"
    );
    assert!(matches!(lab.outside.connect("10.200.0.130:80".parse().unwrap()), Outcome::Served { .. }));
    api.put(SLICES, slice(&["a2"]));

    let agent = Running::start(&lab, &api);
    await_served_by(&lab, cluster_ip, "a2");
    let mut nft = Command::new("nft");
    nft.args(["delete", "table", "ip", "fairway"]);
    lab.nodes["a"].netns.enter_on_spawn(&mut nft);
    assert!(nft.status().expect("nft (package nftables) is needed").success());
    await_served_by(&lab, cluster_ip, "a2");
    agent.stop();
}

#[test]
fn bad_input_is_told_once_on_the_service_and_costs_only_itself() {
    let lab = Lab::new();
    let api = FakeApi::start();
    api.put(NODES, node("a", "10.200.0.2"));
    let mut bad = service();
    bad["metadata"]["uid"] = json!("uid-web");
    bad["spec"]["externalIPs"] = json!(["127.0.0.1"]);
    bad["spec"]["loadBalancerSourceRanges"] = json!(["10.244.0.0/16", "everyone"]);
    api.put(SERVICES, bad);
    let mut rival = service();
    rival["metadata"] = json!({"name": "rival", "namespace": "shop", "uid": "uid-rival", "creationTimestamp": "2026-01-02T03:04:05Z"});
    rival["spec"]["clusterIP"] = json!("10.96.0.2");
    api.put(SERVICES, rival);
    api.put(SLICES, slice(&["a2"]));
    let agent = Running::start(&lab, &api);
    await_served_by(&lab, "10.200.0.130:80".parse().unwrap(), "a2");
    let started = Instant::now();
    while api.objects(EVENTS).len() < 3 {
        assert!(started.elapsed() < Duration::from_secs(15), "only {:#?}", api.objects(EVENTS));
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut told: Vec<String> = api
        .objects(EVENTS)
        .iter()
        .map(|event| {
            assert_eq!(
                (&event["type"], &event["involvedObject"]["kind"]),
                (&json!("Warning"), &json!("Service"))
            );
            let text = |pointer: &str| event.pointer(pointer).unwrap().as_str().unwrap().to_owned();
            format!("{} {}", text("/involvedObject/uid"), text("/reason"))
        })
        .collect();
    told.sort();
    assert_eq!(told, ["uid-rival AddressInUse", "uid-web InvalidAddress", "uid-web InvalidSourceRange"]);
    agent.stop();
}
