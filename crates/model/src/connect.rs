//! What happens to one connection (or UDP flow): the decision that node agents compile into kernel tables.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::frontend::{Claim, Frontend, FrontendKind, Frontends};
use crate::network::{Network, Node};
use crate::select::{self, Empty, Selection, select};
use crate::service::{PortEndpoint, PortNumber, Protocol, Service, ServicePort, TrafficPolicy, VirtualIps};
use crate::trace::Trace;

/// Who connects, as the rules of the node that handles the packet see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A pod of the cluster.
    Pod(IpAddr),
    /// A process of the node itself (or a host-network pod).
    Node(IpAddr),
    /// Anything else.
    Outside(IpAddr),
}

impl Source {
    /// Its address.
    pub fn address(self) -> IpAddr {
        match self {
            Self::Pod(address) | Self::Node(address) | Self::Outside(address) => address,
        }
    }
}

/// What it connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// The address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: PortNumber,
}

/// The source address that the endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceAddress {
    /// The client's own.
    Kept,
    /// The address of the node that balanced, for this reason.
    Masqueraded(Masquerade),
}

/// Why the source address is replaced: always so that replies come back through the node that translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Masquerade {
    /// External traffic under policy Cluster.
    ExternalTraffic,
    /// A source outside the pod ranges to a cluster IP.
    OffClusterSource,
    /// The endpoint is the client itself.
    Hairpin,
}

/// Why a connection is refused or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// No endpoint serves: rejected at once.
    NoEndpoints,
    /// Policy Local and no endpoint on this node: dropped.
    NoneOnThisNode,
    /// The cluster IP exists, this port of it does not: rejected.
    UnusedPort,
    /// An address of the Service range that no Service has: rejected, never routed to the internet.
    UnallocatedAddress,
    /// `loadBalancerSourceRanges` does not hold the source: dropped.
    SourceRange,
}

impl Refusal {
    /// True when the client is told at once (TCP reset, ICMP port unreachable); false when its packets vanish.
    pub fn is_rejected(self) -> bool {
        match self {
            Self::NoEndpoints | Self::UnusedPort | Self::UnallocatedAddress => true,
            Self::NoneOnThisNode | Self::SourceRange => false,
        }
    }
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// No frontend: the packet is routed as it is.
    NotAService,
    /// Sent to one of `endpoints`, chosen at random.
    Balance {
        /// Through this Service.
        service: &'a Service,
        /// And this port of it.
        port: &'a ServicePort,
        /// The frontend kind that matched.
        kind: FrontendKind,
        /// At least one.
        endpoints: Vec<&'a PortEndpoint>,
    },
    /// Not sent anywhere.
    Refused(Refusal),
}

/// A step of [`connect`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This frontend has the address.
    FrontendMatched(Frontend, Claim),
    /// Nothing claims the address and port.
    NoFrontend,
    /// The external policy is Local, but traffic from inside the cluster goes to all endpoints ("short-circuit").
    ShortCircuit,
    /// What [`select`] did with an endpoint.
    Endpoint(select::Step),
}

/// Lets [`select`] report into a trace of [`Step`].
struct OfEndpoints<'t, T>(&'t mut T);

impl<T: Trace<Step>> Trace<select::Step> for OfEndpoints<'_, T> {
    const RECORDS: bool = T::RECORDS;

    fn record(&mut self, step: impl FnOnce() -> select::Step) {
        self.0.record(|| Step::Endpoint(step()));
    }
}

/// Decides a connection whose first packet is handled by `node`.
pub fn connect<'a>(
    network: &'a Network,
    frontends: &Frontends,
    node: &Node,
    from: Source,
    to: Destination,
    trace: &mut impl Trace<Step>,
) -> Verdict<'a> {
    let found =
        frontends.find(to.address, to.protocol, to.port, &node.addresses).and_then(|(frontend, claim)| {
            let service = network.services.get(&claim.service)?;
            Some((frontend, claim, service, service.ports.get(claim.port_index)?, service.virtual_ips()?))
        });
    let Some((frontend, claim, service, port, ips)) = found else {
        trace.record(|| Step::NoFrontend);
        return match frontends.addresses.get(&to.address) {
            Some(FrontendKind::ClusterIp) => Verdict::Refused(Refusal::UnusedPort),
            None if network.cluster.is_service(to.address) => Verdict::Refused(Refusal::UnallocatedAddress),
            _ => Verdict::NotAService,
        };
    };
    trace.record(|| Step::FrontendMatched(frontend, claim.clone()));
    if !source_allowed(ips, claim.kind, from) {
        return Verdict::Refused(Refusal::SourceRange);
    }
    let policy = effective_policy(ips, claim.kind, from);
    if policy == TrafficPolicy::Cluster
        && claim.kind.is_external()
        && ips.external_policy == TrafficPolicy::Local
    {
        trace.record(|| Step::ShortCircuit);
    }
    match select(&port.endpoints, policy, node, to.address, &mut OfEndpoints(trace)) {
        Selection::Endpoints(endpoints) => Verdict::Balance { service, port, kind: claim.kind, endpoints },
        Selection::Empty(Empty::NoEndpoints) => Verdict::Refused(Refusal::NoEndpoints),
        Selection::Empty(Empty::NoneOnThisNode) => Verdict::Refused(Refusal::NoneOnThisNode),
    }
}

/// The policy in force: external traffic that starts inside the cluster is not bound by a Local external policy.
pub fn effective_policy(ips: &VirtualIps, kind: FrontendKind, from: Source) -> TrafficPolicy {
    match (kind, from) {
        (FrontendKind::ClusterIp, _) => ips.internal_policy,
        (_, Source::Outside(_)) => ips.external_policy,
        (_, Source::Pod(_) | Source::Node(_)) => TrafficPolicy::Cluster,
    }
}

/// Whether `loadBalancerSourceRanges` lets the source in. The node itself always may.
pub fn source_allowed(ips: &VirtualIps, kind: FrontendKind, from: Source) -> bool {
    let Some(ranges) = allowed_sources(ips, kind) else { return true };
    matches!(from, Source::Node(_)) || ranges.iter().any(|range| range.contains(&from.address()))
}

/// Who may connect to a frontend of that kind, beside the node itself: `loadBalancerSourceRanges`. `None`: everyone.
pub fn allowed_sources(ips: &VirtualIps, kind: FrontendKind) -> Option<&[IpNet]> {
    (kind == FrontendKind::LoadBalancer && !ips.source_ranges.is_empty()).then_some(&ips.source_ranges)
}

/// The source address that `endpoint` will see.
pub fn source_seen(
    network: &Network,
    ips: &VirtualIps,
    kind: FrontendKind,
    from: Source,
    endpoint: &PortEndpoint,
) -> SourceAddress {
    if endpoint.endpoint.address == from.address() {
        return SourceAddress::Masqueraded(Masquerade::Hairpin);
    }
    let external = kind.is_external();
    match from {
        _ if external && ips.external_policy == TrafficPolicy::Cluster => {
            SourceAddress::Masqueraded(Masquerade::ExternalTraffic)
        }
        Source::Outside(address) if !external && !network.cluster.is_pod(address) => {
            SourceAddress::Masqueraded(Masquerade::OffClusterSource)
        }
        Source::Pod(_) | Source::Node(_) | Source::Outside(_) => SourceAddress::Kept,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::name::ServiceKey;
    use crate::network::Cluster;
    use crate::service::{Condition, Endpoint, ServiceKind};
    use crate::trace::NoTrace;

    const VIP: [u8; 4] = [10, 96, 0, 20];
    const LB: [u8; 4] = [10, 200, 0, 130];
    const NODE: [u8; 4] = [10, 200, 0, 2];

    fn port(number: i64) -> PortNumber {
        PortNumber::new(number).unwrap()
    }

    fn service(
        name: &str,
        created_s: i64,
        ips: VirtualIps,
        node_port: Option<i64>,
        endpoints: &[(u8, Condition, &str)],
    ) -> Service {
        let endpoint = |(last, condition, node): &(u8, Condition, &str)| PortEndpoint {
            endpoint: Arc::new(Endpoint {
                address: IpAddr::from([10, 244, 1, *last]),
                condition: *condition,
                node: Some((*node).into()),
                zone: None,
                hostname: None,
                pod: None,
                hint_zones: vec![],
                hint_nodes: vec![],
            }),
            port: port(8080),
        };
        Service {
            key: ServiceKey::new("ns", name),
            created_s,
            kind: ServiceKind::Virtual(ips),
            ports: vec![ServicePort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: port(80),
                node_port: node_port.and_then(PortNumber::new),
                target: "8080".into(),
                app_protocol: None,
                endpoints: endpoints.iter().map(endpoint).collect(),
            }],
            endpoints: vec![],
        }
    }

    fn network(services: Vec<Service>) -> (Network, Node) {
        let node = Node {
            name: "n1".into(),
            addresses: vec![NODE.into()],
            pod_ranges: vec![],
            zone: None,
            ready: true,
        };
        let cluster = Cluster {
            pod_ranges: vec!["10.244.0.0/16".parse().unwrap()],
            service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
            node_ranges: vec!["10.200.0.0/24".parse().unwrap()],
            domain: "cluster.local".into(),
        };
        let services = services.into_iter().map(|one| (one.key.clone(), Arc::new(one))).collect();
        (Network { cluster, services, nodes: [(node.name.clone(), Arc::new(node.clone()))].into() }, node)
    }

    fn outcome(verdict: &Verdict<'_>) -> String {
        match verdict {
            Verdict::NotAService => "routed".into(),
            Verdict::Refused(why) => format!("{why:?}"),
            Verdict::Balance { endpoints, .. } => {
                endpoints.iter().map(|one| one.socket().to_string()).collect::<Vec<_>>().join(" ")
            }
        }
    }

    type Case<'a> = (&'a str, TrafficPolicy, &'a [(u8, Condition, &'a str)], Source, [u8; 4], i64, &'a str);

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn a_connection_meets_the_frontend_that_the_spec_names() {
        use Condition::{NotReady, Ready};
        let pod = Source::Pod([10, 244, 2, 9].into());
        let outside = Source::Outside([10, 200, 0, 1].into());
        let own = Source::Node(NODE.into());
        let full = |external_policy| VirtualIps {
            cluster_ips: vec![VIP.into()],
            load_balancer: vec![LB.into()],
            source_ranges: vec!["10.200.0.0/24".parse().unwrap()],
            external_policy,
            ..VirtualIps::default()
        };
        let on_n1 = [(1, Ready, "n1"), (2, NotReady, "n1")];
        let on_n2 = [(3, Ready, "n2")];
        let cases: [Case<'_>; 15] = [
            ("cluster IP", TrafficPolicy::Cluster, &on_n1, pod, VIP, 80, "10.244.1.1:8080"),
            ("unused port of a cluster IP", TrafficPolicy::Cluster, &on_n1, pod, VIP, 81, "UnusedPort"),
            (
                "unallocated address",
                TrafficPolicy::Cluster,
                &on_n1,
                pod,
                [10, 96, 0, 99],
                80,
                "UnallocatedAddress",
            ),
            ("not a service at all", TrafficPolicy::Cluster, &on_n1, pod, [192, 0, 2, 1], 80, "routed"),
            ("no endpoints", TrafficPolicy::Cluster, &[], pod, VIP, 80, "NoEndpoints"),
            ("node port", TrafficPolicy::Cluster, &on_n1, outside, NODE, 30080, "10.244.1.1:8080"),
            ("another port of the node", TrafficPolicy::Cluster, &on_n1, outside, NODE, 22, "routed"),
            ("node port without endpoints", TrafficPolicy::Cluster, &[], outside, NODE, 30080, "NoEndpoints"),
            ("load balancer", TrafficPolicy::Cluster, &on_n2, outside, LB, 80, "10.244.1.3:8080"),
            ("load balancer, other port", TrafficPolicy::Cluster, &on_n2, outside, LB, 81, "routed"),
            ("load balancer, other source", TrafficPolicy::Cluster, &on_n2, pod, LB, 80, "SourceRange"),
            (
                "load balancer, the node itself",
                TrafficPolicy::Cluster,
                &on_n2,
                own,
                LB,
                80,
                "10.244.1.3:8080",
            ),
            (
                "Local from outside, none here",
                TrafficPolicy::Local,
                &on_n2,
                outside,
                NODE,
                30080,
                "NoneOnThisNode",
            ),
            (
                "Local from a pod short-circuits",
                TrafficPolicy::Local,
                &on_n2,
                pod,
                NODE,
                30080,
                "10.244.1.3:8080",
            ),
            (
                "Local from outside, one here",
                TrafficPolicy::Local,
                &on_n1,
                outside,
                NODE,
                30080,
                "10.244.1.1:8080",
            ),
        ];
        for (name, policy, endpoints, from, address, number, want) in cases {
            let (network, node) = network(vec![service("web", 1, full(policy), Some(30080), endpoints)]);
            let frontends = Frontends::build(&network);
            let to = Destination { address: address.into(), protocol: Protocol::Tcp, port: port(number) };
            assert_eq!(
                outcome(&connect(&network, &frontends, &node, from, to, &mut NoTrace)),
                want,
                "{name}"
            );
            let mut steps = Vec::new();
            assert_eq!(
                outcome(&connect(&network, &frontends, &node, from, to, &mut steps)),
                want,
                "traced: {name}"
            );
            assert!(!steps.is_empty(), "{name}");
        }
    }

    #[test]
    fn of_two_services_with_one_external_ip_the_older_keeps_it() {
        let ips = VirtualIps { external_ips: vec![LB.into()], ..VirtualIps::default() };
        let ready = [(1, Condition::Ready, "n1")];
        let (network, node) = network(vec![
            service("a-newer", 20, ips.clone(), None, &[]),
            service("b-older", 10, ips, None, &ready),
        ]);
        let frontends = Frontends::build(&network);
        let to = Destination { address: LB.into(), protocol: Protocol::Tcp, port: port(80) };
        let verdict =
            connect(&network, &frontends, &node, Source::Outside([1, 2, 3, 4].into()), to, &mut NoTrace);
        assert_eq!(outcome(&verdict), "10.244.1.1:8080");
        let conflicts: Vec<_> = frontends.conflicts().collect();
        assert_eq!(conflicts.len(), 1);
        assert_eq!(&*conflicts[0].loser.service.name, "a-newer");
    }

    #[test]
    fn the_endpoint_sees_the_client_unless_replies_would_get_lost() {
        use Masquerade::{ExternalTraffic, Hairpin, OffClusterSource};
        let (network, _) = network(vec![]);
        let endpoint = service("x", 0, VirtualIps::default(), None, &[(1, Condition::Ready, "n1")]).ports[0]
            .endpoints[0]
            .clone();
        let pod = |last| Source::Pod([10, 244, 1, last].into());
        let outside = Source::Outside([192, 0, 2, 7].into());
        let cases = [
            (FrontendKind::ClusterIp, TrafficPolicy::Cluster, pod(9), SourceAddress::Kept),
            (FrontendKind::ClusterIp, TrafficPolicy::Cluster, pod(1), SourceAddress::Masqueraded(Hairpin)),
            (
                FrontendKind::ClusterIp,
                TrafficPolicy::Cluster,
                outside,
                SourceAddress::Masqueraded(OffClusterSource),
            ),
            (
                FrontendKind::NodePort,
                TrafficPolicy::Cluster,
                outside,
                SourceAddress::Masqueraded(ExternalTraffic),
            ),
            (FrontendKind::LoadBalancer, TrafficPolicy::Local, outside, SourceAddress::Kept),
            (FrontendKind::LoadBalancer, TrafficPolicy::Local, pod(9), SourceAddress::Kept),
        ];
        for (kind, external_policy, from, want) in cases {
            let ips = VirtualIps { external_policy, ..VirtualIps::default() };
            assert_eq!(
                source_seen(&network, &ips, kind, from, &endpoint),
                want,
                "{kind:?} {external_policy:?} {from:?}"
            );
        }
    }
}
