//! Two nodes on a bridge, pods behind them, one host outside. Namespaces have no names: they go with the test.
//!
//! ```text
//! outside 10.200.0.1 (bridge) ─┬─ node a 10.200.0.2 ─┬─ a1 10.244.1.5
//!                              │                     └─ a2 10.244.1.6
//!                              └─ node b 10.200.0.3 ─── b1 10.244.2.5
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use fairway_model::{
    Cluster, Condition, Endpoint, Frontends, Network, Node, NodeName, PortEndpoint, PortNumber, Protocol,
    Service, ServiceKey, ServiceKind, ServicePort, VirtualIps,
};
use fairway_netfilter::Family;
use fairway_netns::{Links, Netns, Route, RouteKind, Veth, write_sysctl};
use fairway_node::change;
use fairway_node::compile::{Place, Replaced, Touched, compile, compile_changed};
use fairway_node::kernel::Kernel;
use fairway_node::ruleset::Ruleset;
use ipnet::IpNet;

/// Every pod serves TCP and UDP here: it answers with its name and the client's address.
pub(crate) const POD_PORT: u16 = 8080;
/// The load-balancer pool.
pub(crate) const POOL: &str = "10.200.0.128/25";
/// How long until an answer counts as missing.
const PATIENCE: Duration = Duration::from_millis(800);
/// What was accepted is answered, however busy the machine is.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A machine: a pod, a node, the outside host.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) netns: Netns,
    pub(crate) address: IpAddr,
}

/// What became of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A pod of that name answered and saw this source.
    Served { by: String, source: IpAddr },
    /// Told at once.
    Refused,
    /// Nothing came.
    Silence,
}

impl Machine {
    fn new(address: &str) -> Self {
        let netns = Netns::anonymous().unwrap();
        Links::open(&netns).unwrap().set_up("lo").unwrap();
        Self { netns, address: ip(address) }
    }

    /// One TCP connection.
    pub(crate) fn connect(&self, to: SocketAddr) -> Outcome {
        let connected = self.netns.run(|| TcpStream::connect_timeout(&to, PATIENCE));
        outcome(connected.and_then(|stream| read_greeting(&stream)))
    }

    /// One UDP question from a socket (whose port stays the same).
    pub(crate) fn ask(&self, socket: &UdpSocket, to: SocketAddr) -> Outcome {
        outcome(socket.send_to(b"?", to).and_then(|_| {
            let mut buffer = [0; 64];
            let len = socket.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
        }))
    }

    pub(crate) fn udp(&self) -> UdpSocket {
        let socket = self.netns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Serves until the test ends.
    fn serve(&self, name: &'static str) {
        self.serve_at(name, self.address);
    }

    /// Serves at one of its addresses until the test ends.
    pub(crate) fn serve_at(&self, name: &'static str, address: IpAddr) {
        let address = SocketAddr::new(address, POD_PORT);
        let (tcp, udp) =
            self.netns.run(|| Ok((TcpListener::bind(address)?, UdpSocket::bind(address)?))).unwrap();
        std::thread::spawn(move || {
            // The connection stays open until the client closes it, so that established ones can be tested.
            for mut stream in tcp.incoming().flatten() {
                std::thread::spawn(move || -> io::Result<()> {
                    let source = stream.peer_addr()?.ip();
                    stream.write_all(format!("{name} {source}\n").as_bytes())?;
                    let mut byte = [0];
                    while stream.read(&mut byte)? > 0 {
                        stream.write_all(format!("{name} {source}\n").as_bytes())?;
                    }
                    Ok(())
                });
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 8];
            while let Ok((_, client)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{name} {}", client.ip()).as_bytes(), client);
            }
        });
    }
}

/// A line of the pod's server.
pub(crate) fn read_greeting(mut stream: &TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        line.push(byte[0]);
    }
}

fn outcome(answer: io::Result<String>) -> Outcome {
    match answer {
        Ok(text) => {
            let (by, source) = text.split_once(' ').unwrap();
            Outcome::Served { by: by.into(), source: ip(source.trim()) }
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Outcome::Refused,
        // A UDP socket whose packet was rejected on the way out.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Outcome::Refused,
        Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
            Outcome::Silence
        }
        Err(error) => panic!("neither served nor refused nor silent: {error}"),
    }
}

/// The machines, and what each node's kernel was told last.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) outside: Machine,
    pub(crate) nodes: BTreeMap<&'static str, Machine>,
    pub(crate) pods: BTreeMap<&'static str, Machine>,
    kernels: BTreeMap<&'static str, (Kernel, Ruleset)>,
    /// What they were programmed from.
    network: Network,
    frontends: Frontends,
}

pub(crate) const PODS: [(&str, &str, &str); 3] =
    [("a1", "a", "10.244.1.5"), ("a2", "a", "10.244.1.6"), ("b1", "b", "10.244.2.5")];

impl Lab {
    pub(crate) fn new() -> Self {
        let outside = Machine::new("10.200.0.1");
        let mut hub = Links::open(&outside.netns).unwrap();
        hub.create_bridge("under").unwrap();
        hub.set_up("under").unwrap();
        hub.add_address("under", net("10.200.0.1/24")).unwrap();
        let nodes = BTreeMap::from([("a", Machine::new("10.200.0.2")), ("b", Machine::new("10.200.0.3"))]);
        for ((name, node), (pods, other, others_pods)) in nodes.iter().zip([
            ("10.244.1.0/24", "10.200.0.3", "10.244.2.0/24"),
            ("10.244.2.0/24", "10.200.0.2", "10.244.1.0/24"),
        ]) {
            hub.create_veth(&Veth { name, peer: "eth0", peer_netns: &node.netns, mtu: None }).unwrap();
            hub.set_master(name, "under").unwrap();
            hub.set_up(name).unwrap();
            let mut links = Links::open(&node.netns).unwrap();
            links.set_up("eth0").unwrap();
            links.add_address("eth0", IpNet::new(node.address, 24).unwrap()).unwrap();
            links.replace_route(&Route::default_via(outside.address)).unwrap();
            links.replace_route(&Route::new(net(others_pods), RouteKind::Gateway(ip(other)))).unwrap();
            hub.replace_route(&Route::new(net(pods), RouteKind::Gateway(node.address))).unwrap();
            write_sysctl(&node.netns, "net/ipv4/ip_forward", "1").unwrap();
        }
        // What clusters do not offer but an administrator may: cluster IPs and an external IP routed to a node.
        for routed in ["10.96.0.0/16", "192.0.2.1/32"] {
            hub.replace_route(&Route::new(net(routed), RouteKind::Gateway(nodes["a"].address))).unwrap();
        }
        let pods: BTreeMap<_, _> = PODS
            .iter()
            .map(|(name, node, address)| (*name, pod(name, address, &nodes[node].netns)))
            .collect();
        pods.iter().for_each(|(name, pod)| pod.serve(name));
        let kernel = |node: &Machine| (Kernel::open(&node.netns).unwrap(), Ruleset::empty(Family::Ip));
        let mut kernels: BTreeMap<_, _> = nodes.iter().map(|(name, node)| (*name, kernel(node))).collect();
        for (kernel, nothing) in kernels.values_mut() {
            kernel.repair(std::slice::from_ref(nothing)).unwrap();
        }
        Self { outside, nodes, pods, kernels, network: Network::default(), frontends: Frontends::default() }
    }

    /// Brings both nodes to this network, by the way of an agent that knows what it did before.
    pub(crate) fn program(&mut self, network: &Network) {
        let touched = touched(&self.network, network, &mut self.frontends);
        self.network = network.clone();
        for (name, (kernel, installed)) in &mut self.kernels {
            let node = &network.nodes[&NodeName::from(*name)];
            let place = Place { node, family: Family::Ip, load_balancer_ranges: &[net(POOL)] };
            let compiled = compile_changed(network, &self.frontends, &place, installed, &touched);
            kernel.apply(&change::update(installed, &compiled)).unwrap();
            let announced = compiled.announced.iter().copied().collect();
            let new = kernel.answer_for(&announced, &[net(POOL)]).unwrap();
            kernel.announce(&new, "eth0").unwrap();
            *installed = compiled;
        }
    }

    /// Restores what the kernels were told.
    pub(crate) fn repair(&mut self) {
        for (kernel, installed) in self.kernels.values_mut() {
            kernel.repair(std::slice::from_ref(installed)).unwrap();
        }
    }

    /// What a node's kernel was told.
    pub(crate) fn installed(&self, node: &str) -> &Ruleset {
        &self.kernels[node].1
    }
}

/// What is different in `new`.
fn touched(old: &Network, new: &Network, frontends: &mut Frontends) -> Touched {
    let mut touched = Touched::default();
    let keys: BTreeSet<&ServiceKey> = old.services.keys().chain(new.services.keys()).collect();
    for key in keys {
        let (before, after) = (old.services.get(key).cloned(), new.services.get(key).cloned());
        if before != after {
            touched.frontends.extend(frontends.replace(before.as_deref(), after.as_deref()));
            touched.services.push(Replaced { before, after });
        }
    }
    let nodes = new.nodes.iter().filter(|(name, node)| old.nodes.get(*name) != Some(*node));
    touched.nodes = nodes.map(|(name, _)| name.clone()).collect();
    touched
}

/// The ruleset of a node.
pub(crate) fn compiled(network: &Network, node: &str, installed: &Ruleset) -> Ruleset {
    let frontends = Frontends::build(network);
    let node = &network.nodes[&NodeName::from(node)];
    let place = Place { node, family: Family::Ip, load_balancer_ranges: &[net(POOL)] };
    compile(network, &frontends, &place, installed)
}

/// A pod: routed, without a bridge, behind a gateway that is only a hardware address.
fn pod(name: &str, address: &str, node: &Netns) -> Machine {
    let pod = Machine::new(address);
    let gateway = ip("169.254.1.1");
    let mut node_links = Links::open(node).unwrap();
    node_links.create_veth(&Veth { name, peer: "eth0", peer_netns: &pod.netns, mtu: None }).unwrap();
    node_links.set_up(name).unwrap();
    let mut links = Links::open(&pod.netns).unwrap();
    links.set_up("eth0").unwrap();
    links.add_address("eth0", IpNet::from(pod.address)).unwrap();
    let mac = node_links.find(name).unwrap().unwrap().mac.unwrap();
    links.replace_neighbour("eth0", gateway, mac).unwrap();
    let everything = RouteKind::GatewayOnLink { gateway, link: "eth0".into() };
    links.replace_route(&Route::new(net("0.0.0.0/0"), everything)).unwrap();
    node_links.replace_route(&Route::new(IpNet::from(pod.address), RouteKind::Link(name.into()))).unwrap();
    pod
}

/// The model of the lab, without Services.
pub(crate) fn network() -> Network {
    let node = |name: &str, address: &str, pods: &str| Node {
        name: name.into(),
        addresses: vec![ip(address)],
        pod_ranges: vec![net(pods)],
        zone: None,
        ready: true,
    };
    let nodes = [node("a", "10.200.0.2", "10.244.1.0/24"), node("b", "10.200.0.3", "10.244.2.0/24")];
    Network {
        cluster: Cluster {
            pod_ranges: vec![net("10.244.0.0/16")],
            service_ranges: vec![net("10.96.0.0/16")],
            node_ranges: vec![net("10.200.0.0/24")],
            domain: "cluster.local".into(),
        },
        nodes: nodes.map(|node| (node.name.clone(), Arc::new(node))).into(),
        ..Network::default()
    }
}

/// A Service on port 80, TCP and UDP, with these pods, addresses set by `ips`, node port 30000 + `number`.
pub(crate) fn service(number: u8, pods: &[(&str, Condition)], ips: VirtualIps) -> Service {
    let endpoint = |(name, condition): &(&str, Condition)| {
        let (_, node, address) = PODS.iter().find(|(pod, ..)| pod == name).unwrap();
        Arc::new(Endpoint {
            address: ip(address),
            condition: *condition,
            node: Some(NodeName::from(*node)),
            zone: None,
            hostname: None,
            pod: None,
            hint_zones: Vec::new(),
            hint_nodes: Vec::new(),
        })
    };
    let endpoints: Vec<Arc<Endpoint>> = pods.iter().map(endpoint).collect();
    let port = |name: &str, protocol| ServicePort {
        name: name.into(),
        protocol,
        port: PortNumber::new(80).unwrap(),
        node_port: PortNumber::new(30_000 + i64::from(number)),
        target: "8080".into(),
        app_protocol: None,
        endpoints: endpoints
            .iter()
            .map(|endpoint| PortEndpoint {
                endpoint: endpoint.clone(),
                port: PortNumber::new(POD_PORT.into()).unwrap(),
            })
            .collect(),
    };
    Service {
        key: ServiceKey::new("shop", &format!("s{number}")),
        created_s: 0,
        kind: ServiceKind::Virtual(ips),
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        endpoints,
    }
}

/// 10.96.0.NUMBER and nothing else.
pub(crate) fn cluster_ip(number: u8) -> VirtualIps {
    VirtualIps { cluster_ips: vec![[10, 96, 0, number].into()], ..VirtualIps::default() }
}

/// The lab's network with these Services.
pub(crate) fn with(services: impl IntoIterator<Item = Service>) -> Network {
    let services = services.into_iter().map(|service| (service.key.clone(), Arc::new(service))).collect();
    Network { services, ..network() }
}
