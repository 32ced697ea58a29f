//! What happens to traffic while rules change, are damaged, or their agent is away.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use fairway_model::{Condition, Frontends, Node};
use fairway_netfilter::Family;
use fairway_node::compile::{Place, compile};
use fairway_node::kernel::Kernel;
use fairway_node::ruleset::Ruleset;

use crate::lab::{
    ANSWER_LIMIT, Lab, Machine, Outcome, cluster_ip, compiled, ip, net, read_greeting, service, with,
};

const READY: Condition = Condition::Ready;

fn service_address() -> SocketAddr {
    "10.96.0.1:80".parse().unwrap()
}

pub(crate) fn served_by(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Served { by, .. } => by,
        other => panic!("not served: {other:?}"),
    }
}

pub(crate) fn nft(machine: &Machine, command: &str) -> String {
    let mut nft = Command::new("nft");
    nft.arg(command);
    machine.netns.enter_on_spawn(&mut nft);
    let output = nft.output().expect("nft (package nftables) is needed");
    assert!(output.status.success(), "nft {command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn established_connections_stay_and_new_ones_go_elsewhere() {
    let mut lab = Lab::new();
    lab.program(&with([service(1, &[("a2", READY)], cluster_ip(1))]));
    let to = service_address();
    let mut old = lab.pods["a1"].netns.run(|| TcpStream::connect(to)).unwrap();
    assert!(read_greeting(&old).unwrap().starts_with("a2 "));
    lab.program(&with([service(1, &[("b1", READY)], cluster_ip(1))]));
    assert_eq!(served_by(&lab.pods["a1"].connect(to)), "b1");
    old.write_all(b"?").unwrap();
    assert!(read_greeting(&old).unwrap().starts_with("a2 "), "the old connection stays where it is");
}

#[test]
fn a_udp_client_moves_when_its_endpoint_leaves_or_the_first_one_comes() {
    let mut lab = Lab::new();
    lab.program(&with([service(1, &[], cluster_ip(1))]));
    let to = service_address();
    let socket = lab.pods["a1"].udp();
    assert_ne!(
        lab.pods["a1"].ask(&socket, to),
        Outcome::Served { by: "a2".into(), source: lab.pods["a1"].address }
    );
    for pod in ["a2", "b1", "a2"] {
        lab.program(&with([service(1, &[(pod, READY)], cluster_ip(1))]));
        // The refusal of the first question may be reported by the second.
        let answers = [lab.pods["a1"].ask(&socket, to), lab.pods["a1"].ask(&socket, to)];
        assert_eq!(served_by(&answers[1]), pod, "from the same port: {answers:?}");
    }
}

#[test]
fn no_connection_fails_while_endpoints_change_or_the_agent_is_replaced() {
    let mut lab = Lab::new();
    let worlds = [
        with([service(1, &[("a1", READY), ("a2", READY), ("b1", READY)], cluster_ip(1))]),
        with([service(1, &[("b1", READY)], cluster_ip(1)), service(2, &[("a1", READY)], cluster_ip(2))]),
        with([service(1, &[("a2", READY), ("b1", READY)], cluster_ip(1))]),
    ];
    lab.program(&worlds[0]);
    let (stop, connections) = (AtomicBool::new(false), AtomicU32::new(0));
    let client = lab.pods["a1"].netns.clone();
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            client.run(|| {
                while !stop.load(Ordering::Relaxed) {
                    let stream = TcpStream::connect_timeout(&service_address(), ANSWER_LIMIT)?;
                    read_greeting(&stream)?;
                    connections.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        for round in 1..60 {
            lab.program(&worlds[round % 3]);
            if round % 10 == 0 {
                restart(&lab, &worlds[round % 3]);
            }
            let seen = connections.load(Ordering::Relaxed);
            // At least one connection under each state.
            while connections.load(Ordering::Relaxed) == seen && !load.is_finished() {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap().expect("a connection failed");
    });
    assert!(connections.into_inner() >= 59);
}

/// An agent that knows nothing finds everything as it should be, or at least brings it there.
pub(crate) fn restart(lab: &Lab, network: &fairway_model::Network) {
    let mut kernel = Kernel::open(&lab.nodes["a"].netns).unwrap();
    kernel.repair(&[compiled(network, "a", lab.installed("a"))]).unwrap();
}

#[test]
fn a_restarted_agent_adopts_what_is_there_and_repairs_only_what_is_damaged() {
    let mut lab = Lab::new();
    let network =
        with([service(1, &[("a2", READY), ("b1", READY)], cluster_ip(1)), service(2, &[], cluster_ip(2))]);
    lab.program(&network);
    let node = &lab.nodes["a"];
    nft(node, "add table ip other; add chain ip other mine; add rule ip other mine counter accept");
    let wanted = [lab.installed("a").clone()];
    let undamaged = nft(node, "list table ip fairway");
    let mut kernel = Kernel::open(&node.netns).unwrap();
    assert!(!kernel.repair(&wanted).unwrap(), "nothing to do");
    assert!(!kernel.was_touched().unwrap());
    let damages = [
        "flush chain ip fairway dispatch",
        "insert rule ip fairway prerouting accept",
        "delete element ip fairway services { 10.96.0.1 . tcp . 80 }",
        "add element ip fairway endpoints { 10.96.0.1 . tcp . 80 . 9 : 10.0.0.1 . 1 }",
        "flush set ip fairway service-ranges",
        "add chain ip fairway extra; add rule ip fairway extra jump dispatch",
        "add set ip fairway more { type ipv4_addr; }",
        "add chain ip fairway early { type filter hook prerouting priority 0; policy drop; }",
        "flush chain ip fairway postrouting; flush chain ip fairway output; flush map ip fairway services; flush map ip fairway endpoints",
        "delete table ip fairway",
    ];
    for damage in damages {
        nft(node, damage);
        assert!(kernel.was_touched().unwrap(), "{damage}");
        assert!(kernel.repair(&wanted).unwrap(), "{damage}");
        assert!(!kernel.was_touched().unwrap(), "{damage}");
        assert!(!kernel.repair(&wanted).unwrap(), "repaired at once: {damage}");
        let mut repaired: Vec<_> = nft(node, "list table ip fairway").lines().map(str::to_owned).collect();
        let mut want: Vec<_> = undamaged.lines().map(str::to_owned).collect();
        // Chains made anew stand behind the others.
        repaired.sort();
        want.sort();
        assert_eq!(repaired, want, "{damage}");
        served_by(&lab.pods["a1"].connect(service_address()));
    }
    assert!(nft(node, "list table ip other").contains("accept"), "foreign rules stay");
}

#[test]
fn cleaning_up_removes_our_table_and_addresses_and_nothing_else() {
    let mut lab = Lab::new();
    let mut ips = cluster_ip(1);
    ips.load_balancer = vec![ip("10.200.0.130")];
    lab.program(&with([service(1, &[("b1", READY)], ips)]));
    for node in lab.nodes.values() {
        nft(node, "add table ip other");
        let balancer =
            fairway_node::LoadBalancer { ranges: vec![net(crate::lab::POOL)], interface: "eth0".into() };
        fairway_node::clean_up(&node.netns, &balancer).unwrap();
        fairway_node::clean_up(&node.netns, &balancer).unwrap();
        assert_eq!(nft(node, "list tables").trim(), "table ip other");
    }
    assert_eq!(lab.outside.connect("10.200.0.130:80".parse().unwrap()), Outcome::Silence);
}

#[test]
fn a_load_balancer_address_moves_to_another_node_and_neighbours_learn_it_at_once() {
    let mut lab = Lab::new();
    let mut ips = cluster_ip(1);
    ips.load_balancer = vec![ip("10.200.0.130")];
    let mut network = with([service(1, &[("a1", READY), ("b1", READY)], ips)]);
    let to: SocketAddr = "10.200.0.130:80".parse().unwrap();
    // Back and forth, whoever was first.
    for down in ["a", "b", "a"] {
        for (name, node) in &mut network.nodes {
            *node = std::sync::Arc::new(Node { ready: &*name.0 != down, ..Node::clone(node) });
        }
        lab.program(&network);
        served_by(&lab.outside.connect(to));
        for node in ["a", "b"] {
            assert_eq!(lab.installed(node).announced.is_empty(), node == down);
        }
    }
    let mut links = fairway_netns::Links::open(&lab.nodes["b"].netns).unwrap();
    assert!(links.addresses().unwrap().iter().any(|one| one.address == net("10.200.0.130/32")));
}

#[test]
fn the_table_of_the_other_family_loads_and_reads_back() {
    let lab = Lab::new();
    let mut network = with([]);
    network.cluster.pod_ranges.push(net("fd00:10::/48"));
    let mut service = service(1, &[], cluster_ip(1));
    service.kind = fairway_model::ServiceKind::Virtual(fairway_model::VirtualIps {
        cluster_ips: vec![ip("fd00:96::1")],
        load_balancer: vec![ip("fd00:200::130")],
        source_ranges: vec![net("fd00:200::/64"), net("::/1"), net("10.0.0.0/8")],
        ..fairway_model::VirtualIps::default()
    });
    network.services.insert(service.key.clone(), std::sync::Arc::new(service));
    let place = Place { node: &network.nodes[&"a".into()], family: Family::Ip6, load_balancer_ranges: &[] };
    let nothing = Ruleset::empty(Family::Ip6);
    let wanted = [compile(&network, &Frontends::build(&network), &place, &nothing)];
    let mut kernel = Kernel::open(&lab.nodes["a"].netns).unwrap();
    assert!(kernel.repair(&wanted).unwrap());
    assert!(!kernel.repair(&wanted).unwrap(), "what reads back is what was loaded");
    let listed = nft(&lab.nodes["a"], "list set ip6 fairway allowed-sources");
    assert!(listed.contains("fd00:200::130 . tcp . 80 . fd00:200::/64"), "{listed}");
}

#[test]
fn the_whole_table_reads_well() {
    let mut lab = Lab::new();
    let mut ips = cluster_ip(1);
    ips.load_balancer = vec![ip("10.200.0.130")];
    ips.source_ranges = vec![net("10.200.0.0/24"), net("198.51.100.7/32")];
    let mut sticky = cluster_ip(3);
    sticky.affinity = fairway_model::Affinity::ClientIp { timeout_s: 10_800 };
    sticky.external_policy = fairway_model::TrafficPolicy::Local;
    let pods = [("a2", READY), ("b1", READY)];
    lab.program(&with([service(1, &pods, ips), service(2, &[], cluster_ip(2)), service(3, &pods, sticky)]));
    let listed = nft(&lab.nodes["a"], "list table ip fairway");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/table.nft");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, &listed).unwrap();
    }
    assert_eq!(listed, std::fs::read_to_string(golden).unwrap(), "UPDATE_GOLDEN=1 writes {golden}");
    // The empty ruleset of this program and the listing of the kernel agree.
    let mut kernel = Kernel::open(&lab.nodes["a"].netns).unwrap();
    assert!(kernel.repair(&[Ruleset::empty(Family::Ip)]).unwrap());
}
