//! What one endpoint change costs the agent before the kernel hears of it, with 10,000 Services of four endpoints: compiling, comparing, encoding.
//! Medians of 21; no privileges needed.
//!
//! ```text
//! cargo run --release -p fairway-node --example turn            # or: … --example turn -- 44000, … -- 10000 sticky
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot run ends"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_model::{
    Affinity, Condition, Endpoint, Frontends, Network, Node, NodeName, PortEndpoint, PortNumber, Protocol,
    Service, ServiceKey, ServiceKind, ServicePort, VirtualIps,
};
use fairway_netfilter::{Family, Transaction};
use fairway_node::change::update;
use fairway_node::compile::{Place, Replaced, Touched, compile_changed};
use fairway_node::ruleset::Ruleset;

const ENDPOINTS_EACH: u32 = 4;
const ROUNDS: u32 = 21;

fn address(base: [u8; 4], number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::from(base)) + number))
}

fn service(number: u32, first: u32, affinity: Affinity) -> Service {
    let endpoint = |number| {
        Arc::new(Endpoint {
            address: address([10, 128, 0, 0], number),
            condition: Condition::Ready,
            node: Some(NodeName::from("b")),
            zone: None,
            hostname: None,
            pod: None,
            hint_zones: Vec::new(),
            hint_nodes: Vec::new(),
        })
    };
    let endpoints: Vec<_> = (first..first + ENDPOINTS_EACH).map(endpoint).collect();
    let port = PortNumber::new(8080).unwrap();
    Service {
        key: ServiceKey::new("shop", &format!("s{number}")),
        created_s: 0,
        kind: ServiceKind::Virtual(VirtualIps {
            cluster_ips: vec![address([10, 96, 0, 0], number)],
            affinity,
            ..VirtualIps::default()
        }),
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: PortNumber::new(80).unwrap(),
            node_port: None,
            target: "8080".into(),
            app_protocol: None,
            endpoints: endpoints
                .iter()
                .map(|endpoint| PortEndpoint { endpoint: endpoint.clone(), port })
                .collect(),
        }],
        endpoints,
    }
}

fn main() {
    let services: u32 =
        std::env::args().nth(1).map_or(10_000, |text| text.parse().expect("a number of Services"));
    let sticky = std::env::args().nth(2).is_some_and(|word| word == "sticky");
    let affinity = if sticky { Affinity::ClientIp { timeout_s: 10_800 } } else { Affinity::None };
    let node =
        Node { name: "a".into(), addresses: Vec::new(), pod_ranges: Vec::new(), zone: None, ready: true };
    let place = Place { node: &node, family: Family::Ip, load_balancer_ranges: &[] };
    let mut network = Network::default();
    let mut frontends = Frontends::default();
    let mut installed = Ruleset::empty(Family::Ip);
    let mut times: Vec<[Duration; 4]> = Vec::new();
    for round in 0..=ROUNDS {
        let changed: Vec<Service> = match round {
            0 => (0..services).map(|number| service(number, number * ENDPOINTS_EACH, affinity)).collect(),
            _ => vec![service(round, 1_000_000 + round * ENDPOINTS_EACH, affinity)],
        };
        let started = Instant::now();
        let mut touched = Touched::default();
        for after in changed.into_iter().map(Arc::new) {
            let before = network.services.insert(after.key.clone(), after.clone());
            touched.frontends.extend(frontends.replace(before.as_deref(), Some(&after)));
            touched.services.push(Replaced { before, after: Some(after) });
        }
        let built = started.elapsed();
        let compiled = compile_changed(&network, &frontends, &place, &installed, &touched);
        let compiled_at = started.elapsed();
        let change = update(&installed, &compiled);
        let compared = started.elapsed();
        let encoded = Transaction::encode(&[change.transaction]).bytes.len();
        installed = compiled;
        if round == 0 {
            println!(
                "{services} Services: first compile and encode {:.1?}, {encoded} bytes",
                started.elapsed()
            );
        } else {
            times.push([built, compiled_at - built, compared - compiled_at, started.elapsed()]);
        }
    }
    for (part, name) in ["frontends", "compile", "compare", "whole"].into_iter().enumerate() {
        let mut of_part: Vec<Duration> = times.iter().map(|round| round[part]).collect();
        of_part.sort();
        println!("{name:<12}{:>10.1?}", of_part[of_part.len() / 2]);
    }
}
