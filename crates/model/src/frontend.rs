//! Which (address, protocol, port) belongs to which Service port.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::name::ServiceKey;
use crate::network::Network;
use crate::service::{PortNumber, Protocol, Service, ServicePort, VirtualIps};

/// The kinds of frontends. The order is the precedence when two claim the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
    /// A port on every node address.
    NodePort,
}

impl FrontendKind {
    /// Whether the external traffic policy applies.
    pub fn is_external(self) -> bool {
        self != Self::ClusterIp
    }
}

/// What clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address; `None` for a NodePort: every address of the node.
    pub address: Option<IpAddr>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its port.
    pub port: PortNumber,
}

/// A Service port's claim to a frontend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// What kind of frontend it is. First in the order: a cluster IP cannot be taken over by somebody's externalIPs.
    pub kind: FrontendKind,
    /// Creation of the Service in Unix seconds: the older keeps the address.
    pub created_s: i64,
    /// The Service.
    pub service: ServiceKey,
    /// Index into its ports.
    pub port_index: usize,
}

/// A claim that lost to an older or stronger one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What both claim.
    pub frontend: Frontend,
    /// Who has it.
    pub winner: Claim,
    /// Who does not.
    pub loser: Claim,
}

/// All frontends of a network, each with its one owner.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Frontends {
    /// The owner of each frontend.
    pub owners: BTreeMap<Frontend, Claim>,
    /// Every address that some frontend has, with the strongest kind: its unused ports are refused, not routed.
    pub addresses: BTreeMap<IpAddr, FrontendKind>,
    /// Claims that lost.
    pub conflicts: Vec<Conflict>,
}

impl Frontends {
    /// The frontends of all Services. The smallest claim wins (see [`Claim`]), whatever the order of the input.
    pub fn build(network: &Network) -> Self {
        let mut built = Self::default();
        for service in network.services.values() {
            for (frontend, claim) in claims(service) {
                built.add(frontend, claim);
            }
        }
        built
    }

    fn add(&mut self, frontend: Frontend, claim: Claim) {
        if let Some(address) = frontend.address {
            let kind = self.addresses.entry(address).or_insert(claim.kind);
            *kind = claim.kind.min(*kind);
        }
        let Some(owner) = self.owners.get_mut(&frontend) else {
            self.owners.insert(frontend, claim);
            return;
        };
        // One Service may name an address twice (as externalIP and as load-balancer address): not a conflict.
        let same_port = owner.service == claim.service && owner.port_index == claim.port_index;
        let (winner, loser) = if claim < *owner {
            (claim.clone(), std::mem::replace(owner, claim))
        } else {
            (owner.clone(), claim)
        };
        if !same_port {
            self.conflicts.push(Conflict { frontend, winner, loser });
        }
    }

    /// The owner of the frontend that a packet to `address`:`port` meets on a node with `node_addresses`.
    pub fn find(
        &self,
        address: IpAddr,
        protocol: Protocol,
        port: PortNumber,
        node_addresses: &[IpAddr],
    ) -> Option<(Frontend, &Claim)> {
        let exact = Frontend { address: Some(address), protocol, port };
        let node_port = Frontend { address: None, protocol, port };
        let at_node =
            || node_addresses.contains(&address).then(|| self.owners.get_key_value(&node_port)).flatten();
        self.owners.get_key_value(&exact).or_else(at_node).map(|(frontend, claim)| (*frontend, claim))
    }
}

/// What one Service claims.
pub fn claims(service: &Service) -> impl Iterator<Item = (Frontend, Claim)> {
    let ips = service.virtual_ips();
    service.ports.iter().enumerate().flat_map(move |(port_index, port)| {
        ips.into_iter().flat_map(move |ips| claims_of_port(service, ips, port_index, port))
    })
}

fn claims_of_port<'a>(
    service: &'a Service,
    ips: &'a VirtualIps,
    port_index: usize,
    port: &'a ServicePort,
) -> impl Iterator<Item = (Frontend, Claim)> + 'a {
    let claim =
        move |kind| Claim { kind, created_s: service.created_s, service: service.key.clone(), port_index };
    let at =
        move |address: Option<IpAddr>, number| Frontend { address, protocol: port.protocol, port: number };
    let of = move |kind: FrontendKind, addresses: &'a [IpAddr]| {
        addresses.iter().map(move |address| (at(Some(*address), port.port), claim(kind)))
    };
    of(FrontendKind::ClusterIp, &ips.cluster_ips)
        .chain(of(FrontendKind::LoadBalancer, &ips.load_balancer))
        .chain(of(FrontendKind::ExternalIp, &ips.external_ips))
        .chain(port.node_port.map(|number| (at(None, number), claim(FrontendKind::NodePort))))
}
