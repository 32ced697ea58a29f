//! What the kernel of one node is told, as data: the result of [`crate::compile`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_model::{Affinity, Frontend, Protocol};
use fairway_netfilter::{Comment, Data, Element, Family, Name, Verdict};
use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

use crate::affinity::endpoint_ids;
use crate::layout;

/// Everything that depends on Services, for one address family. Made of persistent maps: a changed copy costs the change, and so does comparing the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// The family.
    pub family: Family,
    frontends: OrdMap<Frontend, Arc<FrontendRules>>,
    /// How many frontends need each chain.
    chains: OrdMap<BalanceChain, u32>,
    /// Addresses of endpoints on this node, and how many Services have each.
    hairpin: OrdMap<IpAddr, u32>,
    /// Cluster IPs in use: their other ports are rejected.
    pub cluster_ips: OrdSet<IpAddr>,
    /// Load-balancer addresses that this node answers for.
    pub announced: OrdSet<IpAddr>,
    /// Ranges, which change only with the configuration.
    pub ranges: Ranges,
}

/// Address ranges, each list aggregated: no overlaps, sorted.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ranges {
    /// Of pods.
    pub pods: Vec<IpNet>,
    /// Of pods and nodes.
    pub cluster: Vec<IpNet>,
    /// Of cluster IPs.
    pub services: Vec<IpNet>,
}

/// What happens to connections to one frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendRules {
    /// `namespace/service:port`, for people who list the rules.
    pub label: Comment,
    /// For all sources, unless `outside` says something else for its ones.
    pub outcome: Outcome,
    /// For sources outside the cluster, where the external policy is Local.
    pub outside: Option<Outcome>,
    /// Who may connect, beside the node itself; `None`: everyone. No two overlap.
    pub sources: Option<Vec<IpNet>>,
}

/// What happens to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes to one of these: at random, or where the client's last one went.
    Balance {
        /// At least one; the index is the slot in the kernel's map.
        endpoints: Vec<SocketAddr>,
        /// With the address of this node as source.
        masquerade: bool,
        /// Whether clients stay with their endpoint.
        affinity: Affinity,
    },
    /// The client is told at once.
    Reject,
    /// Packets vanish: another node has endpoints, and the load balancer is meant to notice.
    Drop,
}

/// How a balancing chain finds its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keyed {
    /// By destination address, protocol and port.
    ByAddress,
    /// By protocol and port.
    ByNodePort,
}

/// What a balancing chain does beside choosing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BalanceKind {
    /// Nothing.
    Plain,
    /// Marks for masquerading.
    Masquerade,
    /// Chooses among the endpoints of this node.
    Local,
}

/// A chain that chooses one of `size` slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BalanceChain {
    /// How endpoints are found.
    pub keyed: Keyed,
    /// What else it does.
    pub kind: BalanceKind,
    /// How many there are.
    pub size: u32,
    /// Whether clients stay with their endpoint.
    pub affinity: Affinity,
}

impl BalanceChain {
    /// Its name: `balance-3`, `node-port-masquerade-2`, `balance-3-sticky-10800`.
    pub fn name(self) -> Name {
        const NAMES: [[Name; 3]; 2] = [
            [Name::fixed("balance"), Name::fixed("masquerade"), Name::fixed("local")],
            [
                Name::fixed("node-port-balance"),
                Name::fixed("node-port-masquerade"),
                Name::fixed("node-port-local"),
            ],
        ];
        let [by_address, by_node_port] = &NAMES;
        let [plain, masquerade, local] = match self.keyed {
            Keyed::ByAddress => by_address,
            Keyed::ByNodePort => by_node_port,
        };
        const STICKY: Name = Name::fixed("sticky");
        let name = match self.kind {
            BalanceKind::Plain => plain,
            BalanceKind::Masquerade => masquerade,
            BalanceKind::Local => local,
        }
        .numbered(self.size);
        match self.affinity {
            Affinity::None => name,
            Affinity::ClientIp { timeout_s } => name.joined(&STICKY.numbered(timeout_s)),
        }
    }
}

impl Outcome {
    /// Where its connections may go.
    pub fn endpoints(&self) -> &[SocketAddr] {
        match self {
            Self::Balance { endpoints, .. } => endpoints,
            Self::Reject | Self::Drop => &[],
        }
    }

    /// The chain that balances, if any.
    fn chain(&self, keyed: Keyed, local: bool) -> Option<BalanceChain> {
        match self {
            Self::Balance { endpoints, masquerade, affinity } => {
                let kind = match (local, masquerade) {
                    (true, _) => BalanceKind::Local,
                    (false, true) => BalanceKind::Masquerade,
                    (false, false) => BalanceKind::Plain,
                };
                let size = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
                Some(BalanceChain { keyed, kind, size, affinity: *affinity })
            }
            Self::Reject | Self::Drop => None,
        }
    }
}

/// An element and the set that it is in.
pub type Placed = (Name, Element);

impl FrontendRules {
    /// The chains that it needs.
    pub fn chains(&self, frontend: &Frontend) -> impl Iterator<Item = BalanceChain> {
        let keyed = keyed(frontend);
        self.outcome
            .chain(keyed, false)
            .into_iter()
            .chain(self.outside.as_ref().and_then(|outcome| outcome.chain(keyed, true)))
    }

    /// The kernel elements of a frontend.
    pub fn elements(&self, frontend: &Frontend) -> Vec<Placed> {
        let mut placed = Vec::with_capacity(1 + self.outcome.endpoints().len());
        self.place(frontend, &self.outcome, false, &mut placed);
        if let Some(outcome) = &self.outside {
            self.place(frontend, outcome, true, &mut placed);
        }
        if let Some(sources) = &self.sources {
            let limited = Element::member(key(frontend)).with_comment(self.label.clone());
            placed.push((layout::LIMITED_SERVICES, limited));
            placed.extend(sources.iter().map(|range| {
                let of = |address| key(frontend).address(address);
                let element = Element::field_ranges(of(range.network()), of(range.broadcast()));
                (layout::ALLOWED_SOURCES, element)
            }));
        }
        placed
    }

    fn place(&self, frontend: &Frontend, outcome: &Outcome, local: bool, placed: &mut Vec<Placed>) {
        let keyed = keyed(frontend);
        let verdicts = match (keyed, local) {
            (Keyed::ByAddress, false) => layout::SERVICES,
            (Keyed::ByAddress, true) => layout::LOCAL_SERVICES,
            (Keyed::ByNodePort, false) => layout::NODE_PORTS,
            (Keyed::ByNodePort, true) => layout::LOCAL_NODE_PORTS,
        };
        let verdict = match (outcome.chain(keyed, local), outcome) {
            (Some(chain), _) => Verdict::Goto(chain.name()),
            (None, Outcome::Drop) => Verdict::Drop,
            (None, Outcome::Reject | Outcome::Balance { .. }) => Verdict::Goto(layout::REJECT),
        };
        placed.push((verdicts, Element::verdict(key(frontend), verdict).with_comment(self.label.clone())));
        let first = if local { layout::LOCAL_SLOT } else { 0 };
        match outcome {
            Outcome::Balance { affinity: Affinity::ClientIp { .. }, endpoints, .. } => {
                place_sticky(frontend, first, endpoints, placed)
            }
            _ => {
                let endpoints = match keyed {
                    Keyed::ByAddress => layout::ENDPOINTS,
                    Keyed::ByNodePort => layout::NODE_PORT_ENDPOINTS,
                };
                for (slot, endpoint) in (first..).zip(outcome.endpoints()) {
                    placed.push((
                        endpoints.clone(),
                        Element::entry(key(frontend).word(slot), target(endpoint)),
                    ));
                }
            }
        }
    }
}

/// Slot to id and id to endpoint; `first` is in both.
fn place_sticky(frontend: &Frontend, first: u32, endpoints: &[SocketAddr], placed: &mut Vec<Placed>) {
    let (slots, sockets) = match keyed(frontend) {
        Keyed::ByAddress => (layout::AFFINITY_SLOTS, layout::AFFINITY_ENDPOINTS),
        Keyed::ByNodePort => (layout::NODE_PORT_AFFINITY_SLOTS, layout::NODE_PORT_AFFINITY_ENDPOINTS),
    };
    let ids = endpoint_ids(endpoints);
    for (slot, endpoint) in (first..).zip(endpoints) {
        let Some(id) = ids.get(endpoint).map(|id| id | first) else { continue };
        placed.push((slots.clone(), Element::entry(key(frontend).word(slot), Data::new().word(id))));
        placed.push((sockets.clone(), Element::entry(key(frontend).word(id), target(endpoint))));
    }
}

fn target(endpoint: &SocketAddr) -> Data {
    Data::new().address(endpoint.ip()).port(endpoint.port())
}

fn keyed(frontend: &Frontend) -> Keyed {
    if frontend.address.is_some() { Keyed::ByAddress } else { Keyed::ByNodePort }
}

fn key(frontend: &Frontend) -> Data {
    let data = Data::new();
    let data = match frontend.address {
        Some(address) => data.address(address),
        None => data,
    };
    data.protocol(protocol(frontend.protocol)).port(frontend.port.number())
}

/// The same protocol in nft words.
pub fn protocol(protocol: Protocol) -> fairway_netfilter::Protocol {
    match protocol {
        Protocol::Tcp => fairway_netfilter::Protocol::Tcp,
        Protocol::Udp => fairway_netfilter::Protocol::Udp,
        Protocol::Sctp => fairway_netfilter::Protocol::Sctp,
    }
}

impl Ranges {
    /// The elements of the three range sets.
    pub fn elements(&self) -> Vec<Placed> {
        let placed = |set: Name, ranges: &[IpNet]| -> Vec<Placed> {
            ranges
                .iter()
                .flat_map(|range| Element::address_range(range.network(), range.broadcast()))
                .map(|element| (set.clone(), element))
                .collect()
        };
        [
            placed(layout::POD_RANGES, &self.pods),
            placed(layout::CLUSTER_RANGES, &self.cluster),
            placed(layout::SERVICE_RANGES, &self.services),
        ]
        .concat()
    }
}

impl Ruleset {
    /// Nothing yet.
    pub fn empty(family: Family) -> Self {
        Self {
            family,
            frontends: OrdMap::new(),
            chains: OrdMap::new(),
            hairpin: OrdMap::new(),
            cluster_ips: OrdSet::new(),
            announced: OrdSet::new(),
            ranges: Ranges::default(),
        }
    }

    /// What happens at each frontend.
    pub fn frontends(&self) -> &OrdMap<Frontend, Arc<FrontendRules>> {
        &self.frontends
    }

    /// The chains that its frontends need, and how many need each.
    pub fn chains(&self) -> &OrdMap<BalanceChain, u32> {
        &self.chains
    }

    /// Addresses of endpoints on this node, and how many Services have each.
    pub fn hairpin(&self) -> &OrdMap<IpAddr, u32> {
        &self.hairpin
    }

    /// Says what happens at a frontend; `None`: nothing of ours.
    pub fn put(&mut self, frontend: Frontend, rules: Option<Arc<FrontendRules>>) {
        for chain in rules.iter().flat_map(|rules| rules.chains(&frontend)) {
            count(&mut self.chains, chain);
        }
        let before = match rules {
            Some(rules) => self.frontends.insert(frontend, rules),
            None => self.frontends.remove(&frontend),
        };
        for chain in before.iter().flat_map(|rules| rules.chains(&frontend)) {
            discount(&mut self.chains, chain);
        }
    }

    /// One more Service has this endpoint on this node.
    pub fn add_hairpin(&mut self, address: IpAddr) {
        count(&mut self.hairpin, address);
    }

    /// One Service fewer has it.
    pub fn remove_hairpin(&mut self, address: IpAddr) {
        discount(&mut self.hairpin, address);
    }

    /// All kernel elements.
    pub fn elements(&self) -> impl Iterator<Item = Placed> {
        let of_frontends = self.frontends.iter().flat_map(|(frontend, rules)| rules.elements(frontend));
        of_frontends
            .chain(self.cluster_ips.iter().map(|ip| address_member(layout::CLUSTER_IPS, *ip)))
            .chain(self.announced.iter().map(|ip| address_member(layout::ANNOUNCED, *ip)))
            .chain(self.hairpin.keys().map(|ip| hairpin_member(*ip)))
            .chain(self.ranges.elements())
    }
}

fn count<K: Ord + Clone>(counts: &mut OrdMap<K, u32>, key: K) {
    *counts.entry(key).or_insert(0) += 1;
}

fn discount<K: Ord + Clone>(counts: &mut OrdMap<K, u32>, key: K) {
    match counts.get_mut(&key) {
        Some(number) if *number > 1 => *number -= 1,
        Some(_) => drop(counts.remove(&key)),
        None => {}
    }
}

/// A member of a set of addresses.
pub fn address_member(set: Name, address: IpAddr) -> Placed {
    (set, Element::member(Data::new().address(address)))
}

/// A member of the hairpin set.
pub fn hairpin_member(address: IpAddr) -> Placed {
    (layout::HAIRPIN, Element::member(Data::new().address(address).address(address)))
}
