//! A Service, its ports and its endpoints.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;

use crate::name::{NodeName, PodKey, ServiceKey};

/// Transport protocol of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp,
    /// UDP, IP protocol 17.
    Udp,
    /// SCTP, IP protocol 132.
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A port that exists: 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortNumber(NonZeroU16);

impl PortNumber {
    /// 1.
    pub const MIN: Self = Self(NonZeroU16::MIN);
    /// 65535.
    pub const MAX: Self = Self(NonZeroU16::MAX);

    /// The port, if the number is one.
    pub fn new(number: i64) -> Option<Self> {
        u16::try_from(number).ok().and_then(NonZeroU16::new).map(Self)
    }

    /// 1 to 65535.
    pub fn number(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for PortNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A Service with everything that decides where its traffic goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub key: ServiceKey,
    /// Creation time in Unix seconds: the older of two Services that claim one address keeps it.
    pub created_s: i64,
    /// Virtual addresses, none, or a name elsewhere.
    pub kind: ServiceKind,
    /// Its ports, in the order of the object.
    pub ports: Vec<ServicePort>,
    /// Every endpoint address once, whatever its ports: what DNS shows for a headless Service.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// What the name of a Service stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Virtual addresses that nodes balance: ClusterIP, NodePort and LoadBalancer Services.
    Virtual(VirtualIps),
    /// `clusterIP: None`: names only, clients reach the endpoints themselves.
    Headless,
    /// `type: ExternalName`: a CNAME, without a trailing dot.
    ExternalName(Arc<str>),
}

/// The virtual addresses of a Service and the rules for traffic to them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct VirtualIps {
    /// `spec.clusterIPs`, the primary family first.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with `ipMode` VIP.
    pub load_balancer: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`; empty: everyone.
    pub source_ranges: Vec<IpNet>,
    /// For traffic to the cluster IPs.
    pub internal_policy: TrafficPolicy,
    /// For traffic to NodePorts, load-balancer addresses and external IPs.
    pub external_policy: TrafficPolicy,
    /// Whether a client stays with its endpoint.
    pub affinity: Affinity,
}

/// Which endpoints traffic may leave a node for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TrafficPolicy {
    /// Any endpoint.
    #[default]
    Cluster,
    /// Only endpoints on the node where the traffic is.
    Local,
}

/// Whether one client keeps one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Affinity {
    /// Every connection is balanced anew.
    #[default]
    None,
    /// The client address sticks to its endpoint for this long after its last connection.
    ClientIp {
        /// 1 to 86400.
        timeout_s: u32,
    },
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; "" when the only port has none.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of the virtual addresses.
    pub port: PortNumber,
    /// The port on every node.
    pub node_port: Option<PortNumber>,
    /// `targetPort` as written, for callers that refer to a port by it.
    pub target: Arc<str>,
    /// `appProtocol`.
    pub app_protocol: Option<Arc<str>>,
    /// The endpoints of this port, in every condition, ordered by address.
    pub endpoints: Vec<PortEndpoint>,
}

/// An endpoint at one of its ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortEndpoint {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The resolved target port.
    pub port: PortNumber,
}

impl PortEndpoint {
    /// Where packets go.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.endpoint.address, self.port.number())
    }
}

/// One address of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Whether it takes traffic.
    pub condition: Condition,
    /// The node it runs on, when known.
    pub node: Option<NodeName>,
    /// The zone it is in, when known.
    pub zone: Option<Arc<str>>,
    /// Its own DNS label under the Service's name.
    pub hostname: Option<Arc<str>>,
    /// The pod behind it.
    pub pod: Option<PodKey>,
    /// `hints.forZones`.
    pub hint_zones: Vec<Arc<str>>,
    /// `hints.forNodes`.
    pub hint_nodes: Vec<NodeName>,
}

/// The three condition flags of an EndpointSlice endpoint, as the four states that matter to traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// `ready` is true or absent.
    Ready,
    /// Not ready because it is terminating, but `serving`: used when nothing is ready (KEP-1669).
    Draining,
    /// Terminating and no longer serving.
    Terminating,
    /// Not ready, not terminating.
    NotReady,
}

impl Service {
    /// The port of that name or number. `targetPort` as text is the last resort, as ingress-nginx does.
    pub fn find_port(&self, name_or_number: &str) -> Option<&ServicePort> {
        let number = name_or_number.parse().ok().and_then(PortNumber::new);
        let by_number = || self.ports.iter().find(|port| Some(port.port) == number);
        let by_name = || self.ports.iter().find(|port| &*port.name == name_or_number);
        let by_target = || self.ports.iter().find(|port| &*port.target == name_or_number);
        by_number().or_else(by_name).or_else(by_target)
    }

    /// The virtual addresses, when the Service has some.
    pub fn virtual_ips(&self) -> Option<&VirtualIps> {
        match &self.kind {
            ServiceKind::Virtual(ips) => Some(ips),
            ServiceKind::Headless | ServiceKind::ExternalName(_) => None,
        }
    }
}
