//! The kernel's decisions are the model's: every source to every kind of frontend, in generated worlds.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use fairway_model::announce::announcers;
use fairway_model::connect::{connect, source_seen};
use fairway_model::{
    Condition, Destination, Frontends, Network, NoTrace, NodeName, PortNumber, Protocol, Source,
    SourceAddress, TrafficPolicy, Verdict,
};

use crate::lab::{Lab, Machine, Outcome, PODS, cluster_ip, ip, service, with};

/// Worlds of the law test; each takes about a second, most of it waiting for what must be dropped.
const WORLDS: u64 = 6;

/// A source, and where its packets meet rules first.
struct From<'a> {
    machine: &'a Machine,
    label: &'static str,
    handler: &'static str,
    source: Source,
}

/// Every source that reaches `to`, whose packets from outside arrive at `entry`.
fn sources<'a>(lab: &'a Lab, to: IpAddr, entry: &'static str) -> Vec<From<'a>> {
    let address = |name: &str| lab.pods[name].address;
    let mut sources = vec![
        From { machine: &lab.pods["a1"], label: "pod a1", handler: "a", source: Source::Pod(address("a1")) },
        From { machine: &lab.pods["b1"], label: "pod b1", handler: "b", source: Source::Pod(address("b1")) },
        From {
            machine: &lab.outside,
            label: "outside",
            handler: entry,
            source: Source::Outside(lab.outside.address),
        },
    ];
    for (name, node) in &lab.nodes {
        sources.push(From { machine: node, label: name, handler: name, source: Source::Node(node.address) });
    }
    // Another node's address is handled there, for which this node's sources are outside ones. Pods are left out: under policy Local the endpoint
    // answers them directly, past the node that translated (as with kube-proxy).
    if let Some((owner, _)) = lab.nodes.iter().find(|(_, node)| node.address == to) {
        sources.retain(|from| from.handler == *owner || from.label == "outside");
        for (name, node) in lab.nodes.iter().filter(|(name, _)| *name != owner) {
            sources.retain(|from| from.label != *name);
            sources.push(From {
                machine: node,
                label: name,
                handler: owner,
                source: Source::Outside(node.address),
            });
        }
    }
    sources
}

fn check(lab: &Lab, network: &Network, frontends: &Frontends, to: SocketAddr, entry: &'static str) {
    for from in sources(lab, to.ip(), entry) {
        let node = &network.nodes[&NodeName::from(from.handler)];
        let destination = Destination {
            address: to.ip(),
            protocol: Protocol::Tcp,
            port: PortNumber::new(to.port().into()).unwrap(),
        };
        let verdict = connect(network, frontends, node, from.source, destination, &mut NoTrace);
        let got = from.machine.connect(to);
        let context =
            format!("{} to {to}, handled by node {}: {verdict:#?}\n\ngot {got:?}", from.label, from.handler);
        match (&verdict, &got) {
            (Verdict::Balance { service, kind, endpoints, .. }, Outcome::Served { by, source }) => {
                let (_, _, address) = PODS.iter().find(|(name, ..)| name == by).unwrap();
                let endpoint =
                    endpoints.iter().find(|one| one.endpoint.address == ip(address)).expect(&context);
                let want = match source_seen(
                    network,
                    service.virtual_ips().unwrap(),
                    *kind,
                    from.source,
                    endpoint,
                ) {
                    // A node that has the address as its own uses it as source.
                    SourceAddress::Kept if *source == to.ip() && owns(from.machine, to.ip()) => to.ip(),
                    SourceAddress::Kept => from.machine.address,
                    SourceAddress::Masqueraded(_) => node.addresses[0],
                };
                assert_eq!(*source, want, "{context}");
            }
            (Verdict::Refused(refusal), Outcome::Refused) => assert!(refusal.is_rejected(), "{context}"),
            (Verdict::Refused(refusal), Outcome::Silence) => assert!(!refusal.is_rejected(), "{context}"),
            _ => panic!("{context}"),
        }
    }
}

fn owns(machine: &Machine, address: IpAddr) -> bool {
    let mut links = fairway_netns::Links::open(&machine.netns).unwrap();
    links.addresses().unwrap().iter().any(|one| one.address.addr() == address)
}

/// splitmix64: the same worlds in every run.
struct Seed(u64);

impl Seed {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }
}

/// Three Services; the first has every kind of address.
fn random_world(seed: &mut Seed) -> Network {
    let conditions = [
        Condition::Ready,
        Condition::Ready,
        Condition::NotReady,
        Condition::Draining,
        Condition::Terminating,
    ];
    let policies = [TrafficPolicy::Cluster, TrafficPolicy::Local];
    let ranges: [&[&str]; 3] = [&[], &["10.244.1.0/24", "10.200.0.0/30"], &["10.244.2.5/32", "192.0.2.0/24"]];
    with((1..=3).map(|number| {
        let mut pods: Vec<(&str, Condition)> =
            PODS.iter().map(|(name, ..)| (*name, conditions[seed.below(5)])).collect();
        pods.retain(|_| seed.below(4) > 0);
        let mut ips = cluster_ip(number);
        ips.internal_policy = policies[usize::from(seed.below(3) == 0)];
        ips.external_policy = policies[seed.below(2)];
        if number == 1 {
            ips.external_ips = vec![ip("192.0.2.1")];
            ips.load_balancer = vec![ip("10.200.0.130")];
            ips.source_ranges = ranges[seed.below(3)].iter().map(|range| crate::lab::net(range)).collect();
        }
        service(number, &pods, ips)
    }))
}

#[test]
fn real_connections_end_as_the_model_decides() {
    let mut lab = Lab::new();
    let mut seed = Seed(7);
    for _ in 0..WORLDS {
        let network = random_world(&mut seed);
        let frontends = Frontends::build(&network);
        lab.program(&network);
        for number in 1..=3u8 {
            let address = IpAddr::from([10, 96, 0, number]);
            check(&lab, &network, &frontends, SocketAddr::new(address, 80), "a");
            for node in ["a", "b"] {
                let to = SocketAddr::new(lab.nodes[node].address, 30_000 + u16::from(number));
                check(&lab, &network, &frontends, to, node);
            }
        }
        check(&lab, &network, &frontends, "192.0.2.1:80".parse().unwrap(), "a");
        for unused in ["10.96.0.1:81", "10.96.0.99:80"] {
            check(&lab, &network, &frontends, unused.parse().unwrap(), "a");
        }
        check_load_balancer(&lab, &network, &frontends);
    }
}

/// From everywhere; packets from outside arrive at the announcing node.
fn check_load_balancer(lab: &Lab, network: &Network, frontends: &Frontends) {
    let announcers = announcers(network);
    let Some((address, node)) = announcers.first_key_value() else { return };
    let entry = if &*node.0 == "a" { "a" } else { "b" };
    check(lab, network, frontends, SocketAddr::new(*address, 80), entry);
    assert_eq!(
        lab.outside.connect(SocketAddr::new(*address, 81)),
        Outcome::Refused,
        "an unused port of the address"
    );
}

#[test]
fn a_load_balancer_address_is_for_its_source_ranges_and_the_nodes() {
    let mut lab = Lab::new();
    let to: SocketAddr = "10.200.0.130:80".parse().unwrap();
    struct Case {
        name: &'static str,
        ranges: &'static [&'static str],
        /// Of pod a1, pod b1 and the outside host.
        served: [bool; 3],
    }
    // Each follows on the one before it: what was allowed must be gone, ranges in place of wider and narrower ones must be taken.
    let cases = [
        Case { name: "no ranges: everyone", ranges: &[], served: [true, true, true] },
        Case { name: "one pod range", ranges: &["10.244.1.0/24"], served: [true, false, false] },
        Case { name: "a wider one", ranges: &["10.244.0.0/16"], served: [true, true, false] },
        Case {
            name: "overlapping ones",
            ranges: &["10.244.2.0/24", "10.244.2.5/32", "10.200.0.1/32"],
            served: [false, true, true],
        },
        Case { name: "all addresses", ranges: &["0.0.0.0/0"], served: [true, true, true] },
        Case { name: "only the other family", ranges: &["fd00::/8"], served: [false, false, false] },
        Case { name: "no ranges again", ranges: &[], served: [true, true, true] },
    ];
    for case in cases {
        let mut ips = cluster_ip(1);
        ips.load_balancer = vec![to.ip()];
        ips.source_ranges = case.ranges.iter().map(|range| crate::lab::net(range)).collect();
        let network = with([service(1, &[("a1", Condition::Ready), ("b1", Condition::Ready)], ips)]);
        lab.program(&network);
        let clients = [&lab.pods["a1"], &lab.pods["b1"], &lab.outside];
        for (client, served) in clients.into_iter().zip(case.served) {
            let got = client.connect(to);
            let as_wanted =
                if served { matches!(got, Outcome::Served { .. }) } else { got == Outcome::Silence };
            assert!(as_wanted, "{}: {} got {got:?}", case.name, client.address);
        }
        for (name, node) in &lab.nodes {
            let got = node.connect(to);
            assert!(matches!(got, Outcome::Served { .. }), "{}: node {name} got {got:?}", case.name);
            let mut kernel = fairway_node::kernel::Kernel::open(&node.netns).unwrap();
            let wanted = std::slice::from_ref(lab.installed(name));
            assert!(!kernel.repair(wanted).unwrap(), "{}: a restart finds what it wants", case.name);
        }
        let node_port = SocketAddr::new(lab.nodes["a"].address, 30_001);
        assert!(matches!(lab.outside.connect(node_port), Outcome::Served { .. }), "{}", case.name);
    }
}

#[test]
fn refusals_come_at_once() {
    let mut lab = Lab::new();
    lab.program(&with([service(1, &[], cluster_ip(1))]));
    for to in ["10.96.0.1:80", "10.96.0.1:81", "10.96.0.99:80", "10.200.0.2:30001"] {
        for machine in [&lab.pods["a1"], &lab.nodes["a"], &lab.outside] {
            let started = Instant::now();
            assert_eq!(machine.connect(to.parse().unwrap()), Outcome::Refused, "{} to {to}", machine.address);
            assert!(started.elapsed() < Duration::from_millis(300), "{to}: {:?}", started.elapsed());
        }
    }
    let client = &lab.pods["a1"];
    let socket = client.udp();
    let to: SocketAddr = "10.96.0.1:80".parse().unwrap();
    socket.connect(to).unwrap();
    socket.send(b"?").unwrap();
    let error = socket.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "UDP clients get ICMP port unreachable");
}

#[test]
fn a_pod_reaches_itself_and_the_outside_sees_the_node() {
    let mut lab = Lab::new();
    lab.program(&with([service(1, &[("a1", Condition::Ready)], cluster_ip(1))]));
    let node = lab.nodes["a"].address;
    let hairpin = lab.pods["a1"].connect("10.96.0.1:80".parse().unwrap());
    assert_eq!(hairpin, Outcome::Served { by: "a1".into(), source: node });
    let direct = lab.pods["a2"].connect("10.244.1.5:8080".parse().unwrap());
    assert_eq!(direct, Outcome::Served { by: "a1".into(), source: lab.pods["a2"].address });

    // An address beyond the nodes' network, on the outside host.
    let mut links = fairway_netns::Links::open(&lab.outside.netns).unwrap();
    links.add_address("under", crate::lab::net("198.51.100.1/32")).unwrap();
    let listener = lab.outside.netns.run(|| std::net::TcpListener::bind("198.51.100.1:80")).unwrap();
    let seen = std::thread::spawn(move || listener.accept().unwrap().1.ip());
    let to: SocketAddr = "198.51.100.1:80".parse().unwrap();
    lab.pods["a1"].netns.run(|| std::net::TcpStream::connect_timeout(&to, Duration::from_secs(1))).unwrap();
    assert_eq!(seen.join().unwrap(), node);
}

#[test]
fn every_ready_endpoint_gets_its_share() {
    let mut lab = Lab::new();
    let ready: Vec<_> = PODS.iter().map(|(name, ..)| (*name, Condition::Ready)).collect();
    lab.program(&with([service(1, &ready, cluster_ip(1))]));
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..300 {
        match lab.pods["a1"].connect("10.96.0.1:80".parse().unwrap()) {
            Outcome::Served { by, .. } => *counts.entry(by).or_insert(0u32) += 1,
            other => panic!("{other:?}"),
        }
    }
    // 100 expected, 8 is one standard deviation.
    assert!(counts.len() == 3 && counts.values().all(|count| (60..140).contains(count)), "{counts:?}");
}
