//! Small networks for tests.

use std::sync::Arc;

use fairway_model::{
    Affinity, Cluster, Condition, Endpoint, Network, Node, NodeName, PortEndpoint, PortNumber, Protocol,
    Service, ServiceKey, ServiceKind, ServicePort, VirtualIps,
};

/// Nodes a and b of the default ranges, no Services.
pub(crate) fn network() -> Network {
    let range = |text: &str| text.parse().unwrap();
    let cluster = Cluster {
        pod_ranges: vec![range("10.244.0.0/16")],
        service_ranges: vec![range("10.96.0.0/16")],
        node_ranges: vec![range("10.200.0.0/24")],
        domain: "cluster.local".into(),
    };
    let nodes = [node("a", 2), node("b", 3)].map(|node| (node.name.clone(), Arc::new(node)));
    Network { cluster, nodes: nodes.into(), ..Network::default() }
}

/// Node `name` at 10.200.0.`last` with pods in 10.244.(last - 1).0/24.
pub(crate) fn node(name: &str, last: u8) -> Node {
    Node {
        name: NodeName::from(name),
        addresses: vec![[10, 200, 0, last].into()],
        pod_ranges: vec![format!("10.244.{}.0/24", last - 1).parse().unwrap()],
        zone: None,
        ready: true,
    }
}

/// `shop/NAME` at 10.96.0.20, port http 80 to 8080 of (address, node) endpoints, all ready.
pub(crate) fn service(name: &str, endpoints: &[(&str, &str)]) -> Service {
    let endpoints: Vec<Arc<Endpoint>> =
        endpoints.iter().map(|(address, node)| Arc::new(endpoint(address, node, Condition::Ready))).collect();
    let port = PortNumber::new(8080).unwrap();
    let of_port =
        endpoints.iter().map(|endpoint| PortEndpoint { endpoint: endpoint.clone(), port }).collect();
    Service {
        key: ServiceKey::new("shop", name),
        created_s: 0,
        kind: ServiceKind::Virtual(VirtualIps {
            cluster_ips: vec![[10, 96, 0, 20].into()],
            affinity: Affinity::None,
            ..VirtualIps::default()
        }),
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: PortNumber::new(80).unwrap(),
            node_port: None,
            target: "web".into(),
            app_protocol: None,
            endpoints: of_port,
        }],
        endpoints,
    }
}

fn endpoint(address: &str, node: &str, condition: Condition) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        condition,
        node: Some(NodeName::from(node)),
        zone: None,
        hostname: None,
        pod: None,
        hint_zones: Vec::new(),
        hint_nodes: Vec::new(),
    }
}

/// The addresses of a virtual Service.
pub(crate) fn virtual_ips(service: &mut Service) -> &mut VirtualIps {
    match &mut service.kind {
        ServiceKind::Virtual(ips) => ips,
        other => panic!("not virtual: {other:?}"),
    }
}

/// Changes the condition of an endpoint.
pub(crate) fn set_condition(service: &mut Service, index: usize, condition: Condition) {
    let one = &mut service.ports[0].endpoints[index];
    one.endpoint = Arc::new(Endpoint { condition, ..Endpoint::clone(&one.endpoint) });
}
