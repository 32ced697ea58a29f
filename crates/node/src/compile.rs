//! The model's decisions, compiled for the kernel of one node. Pure.
//!
//! Nothing is decided here: which endpoints serve comes from [`fairway_model::select()`], who owns a frontend from
//! [`fairway_model::Frontends`], who may connect from [`fairway_model::connect::allowed_sources`], which policy is in force for which source from [`fairway_model::connect::effective_policy`], and who is
//! masqueraded from [`fairway_model::connect::source_seen`]. What is left is the order of the slots.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use fairway_model::connect::{Masquerade, allowed_sources, effective_policy, source_seen};
use fairway_model::{
    Claim, Empty, Endpoint, Frontend, FrontendKind, Frontends, Network, NoTrace, Node, NodeName,
    PortEndpoint, Selection, Service, ServicePort, Source, SourceAddress, VirtualIps, select,
};
use fairway_netfilter::{Comment, Family};
use imbl::OrdSet;
use ipnet::IpNet;

use crate::ruleset::{FrontendRules, Outcome, Ranges, Ruleset};

/// Whose kernel is compiled for.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The node.
    pub node: &'a Node,
    /// The address family.
    pub family: Family,
    /// Load-balancer addresses outside these are somebody else's to announce.
    pub load_balancer_ranges: &'a [IpNet],
}

/// What is different from the last time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Each Service that changed, as it was and as it is.
    pub services: Vec<Replaced>,
    /// What they claim or claimed: see [`Frontends::replace`].
    pub frontends: BTreeSet<Frontend>,
    /// Nodes that changed.
    pub nodes: BTreeSet<NodeName>,
}

/// A Service that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// As it was; `None`: it is new.
    pub before: Option<Arc<Service>>,
    /// As it is; `None`: it is gone.
    pub after: Option<Arc<Service>>,
}

impl Touched {
    /// Whether a node or a load-balancer Service is among it: only these decide who announces an address.
    fn may_move_addresses(&self) -> bool {
        let has_addresses = |service: &Option<Arc<Service>>| {
            let ips = service.as_ref().and_then(|service| service.virtual_ips());
            ips.is_some_and(|ips| !ips.load_balancer.is_empty())
        };
        !self.nodes.is_empty()
            || self.services.iter().any(|one| has_addresses(&one.before) || has_addresses(&one.after))
    }
}

/// The rules for `place` in `network`. `installed` gives the slots: an endpoint that stays keeps its slot, so that a change
/// costs as many elements as endpoints changed.
pub fn compile(network: &Network, frontends: &Frontends, place: &Place<'_>, installed: &Ruleset) -> Ruleset {
    let mut compiled = Ruleset::empty(place.family);
    compiled.ranges = ranges(network, place.family);
    for (frontend, claim) in &frontends.owners {
        compiled.put(*frontend, rules_of(network, place, frontend, claim, installed));
    }
    for service in network.services.values() {
        hairpins(place, service).for_each(|address| compiled.add_hairpin(address));
    }
    let cluster_ips = frontends.addresses.iter().filter(|(_, kind)| **kind == FrontendKind::ClusterIp);
    let cluster_ips = cluster_ips.map(|(address, _)| *address);
    compiled.cluster_ips = cluster_ips.filter(|address| is_of(place.family, *address)).collect();
    compiled.announced = announced(network, place);
    compiled
}

/// As [`compile`], where `installed` was compiled before what is `touched` changed: at the cost of the change.
pub fn compile_changed(
    network: &Network,
    frontends: &Frontends,
    place: &Place<'_>,
    installed: &Ruleset,
    touched: &Touched,
) -> Ruleset {
    if touched.nodes.contains(&place.node.name) {
        // Which endpoints are local and which hints apply may be different for every Service.
        return compile(network, frontends, place, installed);
    }
    let mut compiled = installed.clone();
    compiled.ranges = ranges(network, place.family);
    for frontend in &touched.frontends {
        let claim = frontends.owners.get(frontend);
        let rules = claim.and_then(|claim| rules_of(network, place, frontend, claim, installed));
        compiled.put(*frontend, rules);
        let Some(address) = frontend.address.filter(|address| is_of(place.family, *address)) else {
            continue;
        };
        match frontends.addresses.get(&address) {
            Some(FrontendKind::ClusterIp) => compiled.cluster_ips.insert(address),
            _ => compiled.cluster_ips.remove(&address),
        };
    }
    for Replaced { before, after } in &touched.services {
        let of = |service| hairpins(place, service);
        after.iter().flat_map(|service| of(service)).for_each(|address| compiled.add_hairpin(address));
        before.iter().flat_map(|service| of(service)).for_each(|address| compiled.remove_hairpin(address));
    }
    if touched.may_move_addresses() {
        compiled.announced = announced(network, place);
    }
    compiled
}

/// The rules of a frontend; `None` when it is not of this family. What did not change is shared with `installed`.
fn rules_of(
    network: &Network,
    place: &Place<'_>,
    frontend: &Frontend,
    claim: &Claim,
    installed: &Ruleset,
) -> Option<Arc<FrontendRules>> {
    let Place { node, family, .. } = *place;
    if frontend.address.is_some_and(|address| !is_of(family, address)) {
        return None;
    }
    let (service, port, ips) = owner(network, claim)?;
    let before = installed.frontends().get(frontend);
    let rules = Compiling { network, node, family, service, port, ips, kind: claim.kind }
        .rules(before.map(Arc::as_ref));
    let unchanged = before.filter(|before| ***before == rules);
    Some(unchanged.cloned().unwrap_or_else(|| Arc::new(rules)))
}

/// Endpoints of a balanced Service on this node: they may reach themselves through it.
fn hairpins<'a>(place: &'a Place<'_>, service: &'a Service) -> impl Iterator<Item = IpAddr> + 'a {
    let balanced = service.virtual_ips().is_some().then_some(&service.endpoints);
    let here = balanced.into_iter().flatten().filter(|endpoint| is_on(place.node, endpoint));
    here.map(|endpoint| endpoint.address).filter(|address| is_of(place.family, *address))
}

fn announced(network: &Network, place: &Place<'_>) -> OrdSet<IpAddr> {
    let ours = |address: &IpAddr| place.load_balancer_ranges.iter().any(|range| range.contains(address));
    let announced = fairway_model::announce::announced_by(network, &place.node.name).filter(ours);
    announced.filter(|address| is_of(place.family, *address)).collect()
}

fn owner<'a>(network: &'a Network, claim: &Claim) -> Option<(&'a Service, &'a ServicePort, &'a VirtualIps)> {
    let service = network.services.get(&claim.service)?;
    Some((service, service.ports.get(claim.port_index)?, service.virtual_ips()?))
}

fn is_of(family: Family, address: IpAddr) -> bool {
    match family {
        Family::Ip => address.is_ipv4(),
        Family::Ip6 => address.is_ipv6(),
        Family::Inet => true,
    }
}

/// Whether the endpoint runs here: its slice says so, or its address is of this node's pods.
fn is_on(node: &Node, endpoint: &Endpoint) -> bool {
    match &endpoint.node {
        Some(name) => *name == node.name,
        None => node.pod_ranges.iter().any(|range| range.contains(&endpoint.address)),
    }
}

/// One frontend and its owner.
struct Compiling<'a> {
    network: &'a Network,
    node: &'a Node,
    family: Family,
    service: &'a Service,
    port: &'a ServicePort,
    ips: &'a VirtualIps,
    kind: FrontendKind,
}

impl Compiling<'_> {
    fn rules(&self, before: Option<&FrontendRules>) -> FrontendRules {
        // Sources differ only in where they are; any address of the family stands for them.
        let any = match self.family {
            Family::Ip | Family::Inet => Ipv4Addr::UNSPECIFIED.into(),
            Family::Ip6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let policy = |source| effective_policy(self.ips, self.kind, source);
        let (inside, outside) = (Source::Pod(any), Source::Outside(any));
        FrontendRules {
            label: self.label(),
            outcome: self.outcome(inside, before.map(|rules| &rules.outcome)),
            outside: (policy(inside) != policy(outside))
                .then(|| self.outcome(outside, before.and_then(|rules| rules.outside.as_ref()))),
            sources: allowed_sources(self.ips, self.kind).map(|ranges| of_family(self.family, ranges)),
        }
    }

    fn outcome(&self, source: Source, before: Option<&Outcome>) -> Outcome {
        let policy = effective_policy(self.ips, self.kind, source);
        match select(&self.port.endpoints, policy, self.node, source.address(), &mut NoTrace) {
            Selection::Endpoints(taken) => {
                let external = SourceAddress::Masqueraded(Masquerade::ExternalTraffic);
                let seen = |one: &&PortEndpoint| source_seen(self.network, self.ips, self.kind, source, one);
                Outcome::Balance {
                    masquerade: taken.first().map(seen) == Some(external),
                    affinity: self.ips.affinity,
                    endpoints: arrange(
                        before.map_or(&[], Outcome::endpoints),
                        taken.iter().map(|one| one.socket()),
                    ),
                }
            }
            Selection::Empty(Empty::NoEndpoints) => Outcome::Reject,
            Selection::Empty(Empty::NoneOnThisNode) => Outcome::Drop,
        }
    }

    fn label(&self) -> Comment {
        let name = if self.port.name.is_empty() { &self.port.target } else { &self.port.name };
        let colon = if name.is_empty() { "" } else { ":" };
        Comment::new(&format!("{}{colon}{name}", self.service.key))
    }
}

/// Puts the wanted endpoints into slots: who is in a slot below the new count stays there, the others fill the holes in order.
fn arrange(installed: &[SocketAddr], wanted: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut waiting = BTreeSet::new();
    let mut in_order: Vec<SocketAddr> = wanted.filter(|endpoint| waiting.insert(*endpoint)).collect();
    let mut slots: Vec<Option<SocketAddr>> = vec![None; in_order.len()];
    for (slot, endpoint) in slots.iter_mut().zip(installed) {
        *slot = waiting.take(endpoint);
    }
    in_order.retain(|endpoint| waiting.contains(endpoint));
    let mut others = in_order.into_iter();
    slots.into_iter().filter_map(|slot| slot.or_else(|| others.next())).collect()
}

fn ranges(network: &Network, family: Family) -> Ranges {
    let cluster = &network.cluster;
    Ranges {
        cluster: of_family(family, &[cluster.pod_ranges.clone(), cluster.node_ranges.clone()].concat()),
        pods: of_family(family, &cluster.pod_ranges),
        services: of_family(family, &cluster.service_ranges),
    }
}

/// Those of the family, sorted and without overlaps.
fn of_family(family: Family, ranges: &[IpNet]) -> Vec<IpNet> {
    let of_family = ranges.iter().filter(|range| is_of(family, range.addr()));
    IpNet::aggregate(&of_family.map(IpNet::trunc).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use fairway_model::{Condition, TrafficPolicy};

    fn at(last: u8) -> SocketAddr {
        SocketAddr::new([10, 244, 1, last].into(), 80)
    }

    #[test]
    fn who_stays_keeps_the_slot_and_holes_are_filled_from_the_end() {
        struct Case {
            name: &'static str,
            installed: &'static [u8],
            wanted: &'static [u8],
            want: &'static [u8],
        }
        let cases = [
            Case { name: "first time: in order", installed: &[], wanted: &[1, 2, 3], want: &[1, 2, 3] },
            Case { name: "one more goes behind", installed: &[1, 2], wanted: &[0, 1, 2], want: &[1, 2, 0] },
            Case {
                name: "the last moves into the hole",
                installed: &[1, 2, 3, 4],
                wanted: &[1, 3, 4],
                want: &[1, 4, 3],
            },
            Case { name: "one for another", installed: &[1, 2, 3], wanted: &[1, 3, 5], want: &[1, 5, 3] },
            Case { name: "all others", installed: &[1, 2], wanted: &[3, 4], want: &[3, 4] },
            Case { name: "named twice", installed: &[], wanted: &[1, 1, 2], want: &[1, 2] },
            Case { name: "none left", installed: &[1], wanted: &[], want: &[] },
        ];
        for case in cases {
            let installed: Vec<SocketAddr> = case.installed.iter().map(|last| at(*last)).collect();
            let got = arrange(&installed, case.wanted.iter().map(|last| at(*last)));
            assert_eq!(got, case.want.iter().map(|last| at(*last)).collect::<Vec<_>>(), "{}", case.name);
        }
    }

    fn compiled(service: Service) -> Ruleset {
        let mut network = example::network();
        network.services.insert(service.key.clone(), Arc::new(service));
        let frontends = Frontends::build(&network);
        let node = example::node("a", 2);
        let place = Place { node: &node, family: Family::Ip, load_balancer_ranges: &[] };
        compile(&network, &frontends, &place, &Ruleset::empty(Family::Ip))
    }

    /// The rules of the Service in one line each.
    fn render(ruleset: &Ruleset) -> Vec<String> {
        let address =
            |frontend: &fairway_model::Frontend| frontend.address.map_or("*".to_owned(), |ip| ip.to_string());
        let outcome = |outcome: &Outcome| match outcome {
            Outcome::Balance { endpoints, masquerade, .. } => {
                let list: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
                format!("{}{}", list.join(" "), if *masquerade { " masquerade" } else { "" })
            }
            Outcome::Reject => "reject".into(),
            Outcome::Drop => "drop".into(),
        };
        let line = |(frontend, rules): (&fairway_model::Frontend, &Arc<FrontendRules>)| {
            let outside = rules
                .outside
                .as_ref()
                .map_or(String::new(), |rules| format!(" | outside {}", outcome(rules)));
            format!("{}:{} {}{outside}", address(frontend), frontend.port, outcome(&rules.outcome))
        };
        ruleset.frontends().iter().map(line).collect()
    }

    #[test]
    fn every_frontend_kind_under_both_policies() {
        let endpoints = [("10.244.1.5", "a"), ("10.244.2.6", "b")];
        let mut service = example::service("web", &endpoints);
        let ips = example::virtual_ips(&mut service);
        ips.load_balancer = vec![[10, 200, 0, 130].into()];
        ips.external_ips = vec![[192, 0, 2, 1].into()];
        service.ports[0].node_port = fairway_model::PortNumber::new(30080);
        let both = "10.244.1.5:8080 10.244.2.6:8080";
        let ruleset = compiled(service.clone());
        assert_eq!(
            render(&ruleset),
            [
                format!("*:30080 {both} masquerade"),
                format!("10.96.0.20:80 {both}"),
                format!("10.200.0.130:80 {both} masquerade"),
                format!("192.0.2.1:80 {both} masquerade"),
            ]
        );
        assert_eq!(
            ruleset.hairpin().keys().copied().collect::<Vec<IpAddr>>(),
            [IpAddr::from([10, 244, 1, 5])],
            "the other runs on another node"
        );
        assert_eq!(ruleset.cluster_ips, OrdSet::unit([10, 96, 0, 20].into()));
        assert_eq!(ruleset.frontends().values().next().unwrap().label.as_str(), "shop/web:http");

        example::virtual_ips(&mut service).external_policy = TrafficPolicy::Local;
        let local = format!("{both} | outside 10.244.1.5:8080");
        assert_eq!(
            render(&compiled(service.clone()))[..2],
            [format!("*:30080 {local}"), format!("10.96.0.20:80 {both}")]
        );

        service.ports[0].endpoints.remove(0);
        assert_eq!(render(&compiled(service.clone()))[0], "*:30080 10.244.2.6:8080 | outside drop");
        example::virtual_ips(&mut service).internal_policy = TrafficPolicy::Local;
        assert_eq!(render(&compiled(service.clone()))[1], "10.96.0.20:80 drop");
        service.ports[0].endpoints.clear();
        assert_eq!(
            render(&compiled(service))[..2],
            ["*:30080 reject | outside reject", "10.96.0.20:80 reject"]
        );
    }

    #[test]
    fn only_ready_endpoints_of_the_family_get_traffic() {
        let endpoints = [("10.244.1.5", "a"), ("fd00::5", "a"), ("10.244.1.6", "a")];
        let mut service = example::service("web", &endpoints);
        example::set_condition(&mut service, 2, Condition::NotReady);
        assert_eq!(render(&compiled(service)), ["10.96.0.20:80 10.244.1.5:8080"]);
    }
}
