//! Which (address, protocol, port) belongs to which Service port.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
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
    /// Claims that lost; the smallest of a frontend takes over when its owner goes.
    losers: BTreeMap<Frontend, BTreeSet<Claim>>,
}

impl Frontends {
    /// The frontends of all Services. The smallest claim wins (see [`Claim`]), whatever the order of the input.
    pub fn build(network: &Network) -> Self {
        let mut built = Self::default();
        for service in network.services.values() {
            built.replace(None, Some(service));
        }
        built
    }

    /// Follows a Service from what it was to what it is; the result is that of [`Frontends::build`], at the cost of this Service's claims.
    /// Returns every frontend that it claims or claimed: no other's owner is different now.
    pub fn replace(&mut self, before: Option<&Service>, after: Option<&Service>) -> BTreeSet<Frontend> {
        let mut touched = BTreeSet::new();
        for (frontend, claim) in before.into_iter().flat_map(claims) {
            self.remove(frontend, &claim);
            touched.insert(frontend);
        }
        for (frontend, claim) in after.into_iter().flat_map(claims) {
            self.add(frontend, claim);
            touched.insert(frontend);
        }
        touched
    }

    /// Claims that lost, without what a Service claims twice for the same port.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.losers.iter().flat_map(|(frontend, losers)| {
            let winner = self.owners.get(frontend);
            losers.iter().filter_map(move |loser| {
                let winner = winner?;
                // One Service may name an address twice (as externalIP and as load-balancer address): not a conflict.
                let same_port = winner.service == loser.service && winner.port_index == loser.port_index;
                (!same_port).then(|| Conflict {
                    frontend: *frontend,
                    winner: winner.clone(),
                    loser: loser.clone(),
                })
            })
        })
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
        let loser = match claim.cmp(owner) {
            Ordering::Less => std::mem::replace(owner, claim),
            Ordering::Equal => return,
            Ordering::Greater => claim,
        };
        self.losers.entry(frontend).or_default().insert(loser);
    }

    fn remove(&mut self, frontend: Frontend, claim: &Claim) {
        let mut losers = self.losers.get_mut(&frontend);
        if self.owners.get(&frontend) == Some(claim) {
            match losers.as_mut().and_then(|losers| losers.pop_first()) {
                Some(next) => self.owners.insert(frontend, next),
                None => self.owners.remove(&frontend),
            };
        } else if let Some(losers) = &mut losers {
            losers.remove(claim);
        }
        if losers.is_some_and(|losers| losers.is_empty()) {
            self.losers.remove(&frontend);
        }
        if let Some(address) = frontend.address
            && self.addresses.get(&address) == Some(&claim.kind)
        {
            match self.strongest(address) {
                Some(kind) => self.addresses.insert(address, kind),
                None => self.addresses.remove(&address),
            };
        }
    }

    /// The strongest kind among the frontends of an address. Owners are enough: of each frontend they have the strongest claim.
    fn strongest(&self, address: IpAddr) -> Option<FrontendKind> {
        let at = |protocol, port| Frontend { address: Some(address), protocol, port };
        let all = at(Protocol::Tcp, PortNumber::MIN)..=at(Protocol::Sctp, PortNumber::MAX);
        self.owners.range(all).map(|(_, claim)| claim.kind).min()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::ServiceKind;

    fn service(name: &str, created_s: i64, external: &[u8], cluster: u8) -> Service {
        let address = |last: &u8| IpAddr::from([10, 0, 0, *last]);
        let port = |number| ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: PortNumber::new(number).unwrap(),
            node_port: PortNumber::new(30_000 + number),
            target: "".into(),
            app_protocol: None,
            endpoints: Vec::new(),
        };
        Service {
            key: ServiceKey::new("ns", name),
            created_s,
            kind: ServiceKind::Virtual(VirtualIps {
                cluster_ips: vec![address(&cluster)],
                external_ips: external.iter().map(address).collect(),
                load_balancer: external.iter().take(1).map(address).collect(),
                ..VirtualIps::default()
            }),
            ports: vec![port(80), port(81)],
            endpoints: Vec::new(),
        }
    }

    #[test]
    fn following_changes_ends_where_building_anew_does() {
        let versions = [
            [None, Some(service("a", 3, &[1, 1], 1)), Some(service("a", 1, &[2], 9)), None],
            [Some(service("b", 2, &[1], 2)), None, Some(service("b", 2, &[1, 9], 2)), None],
            [
                Some(service("c", 2, &[2, 1], 3)),
                Some(service("c", 2, &[], 1)),
                Some(service("c", 0, &[9], 3)),
                None,
            ],
        ];
        // Many orders of ten replacements of one of the three by one of its versions, as digits of a number in base 12.
        for mut order in (0..12u64.pow(10)).step_by(30_000_001) {
            let (mut network, mut frontends) = (Network::default(), Frontends::default());
            for _ in 0..10 {
                let digit = usize::try_from(order % 12).unwrap();
                order /= 12;
                let after = versions[digit / 4][digit % 4].clone().map(std::sync::Arc::new);
                let key = ServiceKey::new("ns", ["a", "b", "c"][digit / 4]);
                let before = match &after {
                    Some(after) => network.services.insert(key, after.clone()),
                    None => network.services.remove(&key),
                };
                let old = frontends.owners.clone();
                let touched = frontends.replace(before.as_deref(), after.as_deref());
                assert_eq!(frontends, Frontends::build(&network));
                let same = |frontend: &Frontend| old.get(frontend) == frontends.owners.get(frontend);
                assert!(
                    old.keys().chain(frontends.owners.keys()).all(|one| touched.contains(one) || same(one))
                );
            }
        }
    }
}
