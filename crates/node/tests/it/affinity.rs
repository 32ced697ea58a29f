//! `sessionAffinity: ClientIP` in real kernels: who stays, who moves, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use fairway_model::{Affinity, Condition, Service, TrafficPolicy, VirtualIps};
use fairway_netns::{Links, Netns, Route, RouteKind, write_sysctl};
use ipnet::IpNet;

use crate::changes::{nft, restart, served_by};
use crate::lab::{ANSWER_LIMIT, Lab, Machine, PODS, cluster_ip, ip, net, read_greeting, service, with};

const READY: Condition = Condition::Ready;
const ALL: [&str; 3] = ["a1", "a2", "b1"];
/// Longer than any test.
const LONG_S: u32 = 10_800;

fn sticky(timeout_s: u32) -> VirtualIps {
    VirtualIps { affinity: Affinity::ClientIp { timeout_s }, ..cluster_ip(1) }
}

fn service_of(pods: &[&str], ips: VirtualIps) -> Service {
    service(1, &pods.iter().map(|pod| (*pod, READY)).collect::<Vec<_>>(), ips)
}

fn service_address() -> SocketAddr {
    "10.96.0.1:80".parse().unwrap()
}

/// As many client addresses as are needed to see a distribution.
const CLIENTS: u8 = 60;

/// The outside host with many addresses, all of which may use the cluster IP through node a.
fn clients(lab: &Lab) -> Vec<IpAddr> {
    let mut links = Links::open(&lab.outside.netns).unwrap();
    let of = |last| IpAddr::from([198, 51, 100, last]);
    (1..=CLIENTS)
        .map(|last| {
            links.add_address("under", IpNet::from(of(last))).unwrap();
            of(last)
        })
        .collect()
}

/// The pod that answers a connection from that address of the machine.
fn pod_for(machine: &Machine, source: IpAddr, to: SocketAddr) -> String {
    let stream = machine.netns.run(|| connect_from(source, to)).unwrap();
    let greeting = read_greeting(&stream).unwrap();
    greeting.split_once(' ').unwrap().0.to_owned()
}

fn connect_from(source: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&to.into(), ANSWER_LIMIT)?;
    Ok(socket.into())
}

fn places(lab: &Lab, clients: &[IpAddr], to: SocketAddr) -> BTreeMap<IpAddr, String> {
    clients.iter().map(|client| (*client, pod_for(&lab.outside, *client, to))).collect()
}

#[test]
fn clients_spread_and_each_stays_over_restarts_and_unrelated_updates() {
    let mut lab = Lab::new();
    let network = with([service_of(&ALL, sticky(LONG_S))]);
    lab.program(&network);
    let clients = clients(&lab);
    let first = places(&lab, &clients, service_address());
    let of = |pod: &str| first.values().filter(|place| *place == pod).count();
    // 20 expected, 3.7 is one standard deviation.
    assert!(ALL.iter().all(|pod| (4..=40).contains(&of(pod))), "{first:?}");
    assert_eq!(places(&lab, &clients, service_address()), first, "each stays");
    restart(&lab, &network);
    assert_eq!(places(&lab, &clients, service_address()), first, "after a restart of the agent");
    let more = with([service_of(&ALL, sticky(LONG_S)), service(2, &[("a1", READY)], cluster_ip(2))]);
    lab.program(&more);
    assert_eq!(places(&lab, &clients, service_address()), first, "after another Service came");
    let node = &lab.nodes["a"];
    nft(node, "flush chain ip fairway balance-3-sticky-10800");
    restart(&lab, &more);
    assert_eq!(places(&lab, &clients, service_address()), first, "after a repair");
    assert!(nft(node, "list ruleset").contains("shop/s1:tcp"));
}

#[test]
fn an_endpoint_that_leaves_moves_its_clients_at_once_and_no_others() {
    let mut lab = Lab::new();
    lab.program(&with([service_of(&ALL, sticky(LONG_S))]));
    let clients = clients(&lab);
    let before = places(&lab, &clients, service_address());
    lab.program(&with([service_of(&["a2", "b1"], sticky(LONG_S))]));
    let after = places(&lab, &clients, service_address());
    for (client, pod) in &before {
        let stayed = after[client] == *pod;
        assert_eq!(stayed, pod != "a1", "{client} was at {pod} and is at {}", after[client]);
    }
    assert_eq!(places(&lab, &clients, service_address()), after, "who moved stays there");
    lab.program(&with([service_of(&ALL, sticky(LONG_S))]));
    assert_eq!(places(&lab, &clients, service_address()), after, "an endpoint that comes takes nobody away");
}

#[test]
fn a_client_is_forgotten_when_its_time_is_up_and_every_use_begins_it_anew() {
    const TIMEOUT_S: u32 = 3;
    let mut lab = Lab::new();
    lab.program(&with([service_of(&ALL, sticky(TIMEOUT_S))]));
    let clients = clients(&lab);
    let (user, sleepers) = clients.split_first().unwrap();
    let first = places(&lab, sleepers, service_address());
    let pod = pod_for(&lab.outside, *user, service_address());
    let deadline = Instant::now() + Duration::from_secs(2 * u64::from(TIMEOUT_S));
    // Twice its time, in steps far below it.
    let mut last = Instant::now();
    while Instant::now() < deadline {
        let place = pod_for(&lab.outside, *user, service_address());
        // On a machine that stands still for that long, nothing is learnt.
        if last.elapsed() < Duration::from_secs(u64::from(TIMEOUT_S) - 1) {
            assert_eq!(place, pod, "in use");
        }
        last = Instant::now();
        std::thread::sleep(Duration::from_millis(200));
    }
    let listed = nft(&lab.nodes["a"], "list map ip fairway affinity");
    assert!(!listed.contains("198.51.100.2 "), "forgotten: {listed}");
    // All 59 at the same pod again: once in 10^28 runs.
    assert_ne!(places(&lab, sleepers, service_address()), first, "balanced anew");
}

#[test]
fn local_policy_node_ports_and_load_balancers_remember_clients_too() {
    let mut lab = Lab::new();
    let clients = clients(&lab);
    for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
        let mut ips = sticky(LONG_S);
        ips.external_policy = policy;
        ips.external_ips = vec![ip("192.0.2.1")];
        lab.program(&with([service_of(&ALL, ips.clone())]));
        let targets = [SocketAddr::new(lab.nodes["a"].address, 30_001), "192.0.2.1:80".parse().unwrap()];
        for to in targets {
            let first = places(&lab, &clients, to);
            assert_eq!(places(&lab, &clients, to), first, "{policy:?} {to}");
            let want: BTreeSet<&str> = match policy {
                TrafficPolicy::Cluster => ALL.into(),
                TrafficPolicy::Local => ["a1", "a2"].into(),
            };
            let used: BTreeSet<&str> = first.values().map(String::as_str).collect();
            assert_eq!(used, want, "{policy:?} {to}");
        }
        let (client, to) = (clients[0], targets[0]);
        let pod = pod_for(&lab.outside, client, to);
        let others: Vec<&str> = ALL.into_iter().filter(|other| *other != pod).collect();
        lab.program(&with([service_of(&others, ips)]));
        assert_ne!(pod_for(&lab.outside, client, to), pod, "{policy:?} {to}");
        lab.program(&with([]));
        nft(&lab.nodes["a"], "flush map ip fairway affinity");
        nft(&lab.nodes["a"], "flush map ip fairway node-port-affinity");
    }
}

#[test]
fn udp_clients_and_pods_and_nodes_stay() {
    let mut lab = Lab::new();
    lab.program(&with([service_of(&ALL, sticky(LONG_S))]));
    let to = service_address();
    for machine in [&lab.pods["a1"], &lab.pods["b1"], &lab.nodes["a"], &lab.nodes["b"]] {
        // Each question is a flow of its own.
        let mut asked = (0..20).map(|_| served_by(&machine.ask(&machine.udp(), to)).to_owned());
        let first = asked.next().unwrap();
        assert!(asked.all(|pod| pod == first), "UDP from {}", machine.address);
        let mut connected = (0..20).map(|_| served_by(&machine.connect(to)).to_owned());
        let first = connected.next().unwrap();
        assert!(connected.all(|pod| pod == first), "TCP from {}", machine.address);
    }
    let socket = lab.pods["a1"].udp();
    let pod = served_by(&lab.pods["a1"].ask(&socket, to)).to_owned();
    let others: Vec<&str> = ALL.into_iter().filter(|other| *other != pod).collect();
    lab.program(&with([service_of(&others, sticky(LONG_S))]));
    assert_ne!(served_by(&lab.pods["a1"].ask(&socket, to)), pod, "its flow is cut, its entry is gone");
}

#[test]
fn affinity_is_switched_on_and_off_and_its_time_changed() {
    let mut lab = Lab::new();
    let to = service_address();
    let clients = clients(&lab);
    let stays = |lab: &Lab| {
        let first = places(lab, &clients, to);
        places(lab, &clients, to) == first
    };
    for (ips, want) in
        [(cluster_ip(1), false), (sticky(60), true), (sticky(LONG_S), true), (cluster_ip(1), false)]
    {
        lab.program(&with([service_of(&ALL, ips.clone())]));
        assert_eq!(stays(&lab), want, "{:?}", ips.affinity);
    }
}

#[test]
fn a_full_map_balances_without_affinity() {
    let mut lab = Lab::new();
    let network = with([service_of(&ALL, sticky(LONG_S))]);
    let node = &lab.nodes["a"];
    // The agent adopts a map of our kind whatever its size.
    nft(node, "delete table ip fairway");
    nft(
        node,
        "add table ip fairway; add map ip fairway affinity { type ipv4_addr . inet_proto . inet_service . ipv4_addr : classid; size 4; flags dynamic,timeout; }",
    );
    lab.repair();
    lab.program(&network);
    let clients = clients(&lab);
    let first = places(&lab, &clients, service_address());
    let second = places(&lab, &clients, service_address());
    let stayed = clients.iter().filter(|client| first[*client] == second[*client]).count();
    // Four stay, a third of the others by chance.
    assert!((4..45).contains(&stayed), "{stayed} of {CLIENTS}");
    for client in &clients[..4] {
        assert_eq!(first[client], second[client], "who is in stays");
    }
    let listed = nft(&lab.nodes["a"], "list map ip fairway affinity");
    assert_eq!(listed.matches("expires").count(), 4, "{listed}");
}

/// A second address, of the other family, behind the same link.
fn add_v6(lab: &Lab, pod: &str, address: &str) {
    let (_, node, _) = PODS.iter().find(|(name, ..)| *name == pod).unwrap();
    let (node, pod_netns): (&Netns, &Netns) = (&lab.nodes[node].netns, &lab.pods[pod].netns);
    let gateway = ip("fe80::1");
    let mut node_links = Links::open(node).unwrap();
    let mut links = Links::open(pod_netns).unwrap();
    // Usable at once: nobody else can have the address.
    write_sysctl(pod_netns, "net/ipv6/conf/eth0/accept_dad", "0").unwrap();
    links.add_address("eth0", IpNet::from(ip(address))).unwrap();
    let mac = node_links.find(pod).unwrap().unwrap().mac.unwrap();
    links.replace_neighbour("eth0", gateway, mac).unwrap();
    links
        .replace_route(&Route::new(net("::/0"), RouteKind::GatewayOnLink { gateway, link: "eth0".into() }))
        .unwrap();
    let pod_mac = links.find("eth0").unwrap().unwrap().mac.unwrap();
    node_links.replace_neighbour(pod, ip(address), pod_mac).unwrap();
    node_links.replace_route(&Route::new(IpNet::from(ip(address)), RouteKind::Link(pod.into()))).unwrap();
}

#[test]
fn clients_stay_over_ipv6() {
    let lab = Lab::new();
    let node = &lab.nodes["a"].netns;
    write_sysctl(node, "net/ipv6/conf/all/forwarding", "1").unwrap();
    // What hairpin connections are masqueraded with.
    Links::open(node).unwrap().add_address("lo", net("fd00:200::2/128")).unwrap();
    add_v6(&lab, "a1", "fd00:244::5");
    add_v6(&lab, "a2", "fd00:244::6");
    let mut service = service_of(&["a1", "a2"], sticky(LONG_S));
    let ServiceEnds { network, to } = v6_world(&mut service);
    let place = fairway_node::compile::Place {
        node: &network.nodes[&"a".into()],
        family: fairway_netfilter::Family::Ip6,
        load_balancer_ranges: &[],
    };
    let nothing = fairway_node::ruleset::Ruleset::empty(fairway_netfilter::Family::Ip6);
    let frontends = fairway_model::Frontends::build(&network);
    let wanted = [fairway_node::compile::compile(&network, &frontends, &place, &nothing)];
    let node = &lab.nodes["a"];
    let mut kernel = fairway_node::kernel::Kernel::open(&node.netns).unwrap();
    kernel.repair(&wanted).unwrap();
    for (pod, address) in [("a1", "fd00:244::5"), ("a2", "fd00:244::6")] {
        lab.pods[pod].serve_at(pod, ip(address));
    }
    let client = &lab.pods["a1"];
    let mut moved = BTreeSet::new();
    for _ in 0..12 {
        let mut asked = (0..5).map(|_| served_by(&client.connect(to)).to_owned());
        let first = asked.next().unwrap();
        assert!(asked.all(|pod| pod == first));
        moved.insert(first);
        nft(node, "flush map ip6 fairway affinity");
    }
    assert_eq!(moved.len(), 2, "forgotten, it is balanced anew: {moved:?}");
    client.connect(to);
    assert!(!kernel.repair(&wanted).unwrap(), "entries of clients are no damage");
    assert!(nft(node, "list ruleset").contains("update @affinity { ip6 daddr"));
}

struct ServiceEnds {
    network: fairway_model::Network,
    to: SocketAddr,
}

/// The same Service with addresses of the other family.
fn v6_world(service: &mut Service) -> ServiceEnds {
    let v6 = |address: IpAddr| match address {
        IpAddr::V4(v4) => ip(&format!("fd00:244::{}", v4.octets()[3])),
        v6 => v6,
    };
    for port in &mut service.ports {
        for one in &mut port.endpoints {
            let mut endpoint = one.endpoint.as_ref().clone();
            endpoint.address = v6(endpoint.address);
            one.endpoint = endpoint.into();
        }
    }
    service.endpoints = service.ports[0].endpoints.iter().map(|one| one.endpoint.clone()).collect();
    let cluster_ip = ip("fd00:96::1");
    service.kind =
        fairway_model::ServiceKind::Virtual(VirtualIps { cluster_ips: vec![cluster_ip], ..sticky(LONG_S) });
    let mut network = with([service.clone()]);
    network.cluster.pod_ranges.push(net("fd00:244::/64"));
    network.cluster.service_ranges.push(net("fd00:96::/112"));
    ServiceEnds { network, to: SocketAddr::new(cluster_ip, 80) }
}
