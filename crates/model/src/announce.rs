//! Which node answers for a load-balancer address. Pure: every node computes the same answer from the same objects.
//!
//! Rendezvous hashing: each (address, node) pair has a weight, the heaviest ready node wins. When a node comes or goes, only the addresses that it
//! wins or loses move, and no node has to be asked.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::{Condition, Network, Node, NodeName, Service, TrafficPolicy};

/// The node that answers for each load-balancer address. An address that is a node's own, or that nobody can answer for, is not in it.
pub fn announcers(network: &Network) -> BTreeMap<IpAddr, &NodeName> {
    let mut announcers = BTreeMap::new();
    for service in network.services.values() {
        let Some(ips) = service.virtual_ips() else { continue };
        for address in &ips.load_balancer {
            if network.node_of(*address).is_some() {
                continue;
            }
            // Two Services may share an address; the one that is first by name says where it is.
            if !announcers.contains_key(address)
                && let Some(node) = announcer(network, service, *address)
            {
                announcers.insert(*address, node);
            }
        }
    }
    announcers
}

/// The load-balancer addresses that `node` answers for.
pub fn announced_by<'a>(network: &'a Network, node: &'a NodeName) -> impl Iterator<Item = IpAddr> + 'a {
    announcers(network).into_iter().filter(move |(_, winner)| *winner == node).map(|(address, _)| address)
}

/// With external policy Local a node without an endpoint would drop the traffic, so one with an endpoint is preferred.
fn announcer<'a>(network: &'a Network, service: &Service, address: IpAddr) -> Option<&'a NodeName> {
    let policy = service.virtual_ips().map_or(TrafficPolicy::Cluster, |ips| ips.external_policy);
    let useful = |node: &Node| policy == TrafficPolicy::Cluster || has_endpoint(service, &node.name);
    let rank = |node: &Node| (useful(node), weight(address, &node.name));
    network.nodes.values().filter(|node| node.ready).max_by_key(|node| rank(node)).map(|node| &node.name)
}

fn has_endpoint(service: &Service, node: &NodeName) -> bool {
    service.endpoints.iter().any(|one| one.condition == Condition::Ready && one.node.as_ref() == Some(node))
}

/// FNV-1a over both, then mixed so that names which differ in one digit have unrelated weights.
fn weight(address: IpAddr, node: &NodeName) -> u64 {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let bytes = octets.iter().chain(node.0.as_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::{Endpoint, ServiceKey, ServiceKind, VirtualIps};

    /// A Service with these load-balancer addresses and one ready endpoint on each of `on`.
    fn service(
        name: &str,
        addresses: &[[u8; 4]],
        on: &[&str],
        external_policy: TrafficPolicy,
    ) -> Arc<Service> {
        let endpoint = |node: &&str| {
            Arc::new(Endpoint {
                address: [10, 244, 1, 5].into(),
                condition: Condition::Ready,
                node: Some(NodeName::from(*node)),
                zone: None,
                hostname: None,
                pod: None,
                hint_zones: vec![],
                hint_nodes: vec![],
            })
        };
        let load_balancer = addresses.iter().map(|address| IpAddr::from(*address)).collect();
        Arc::new(Service {
            key: ServiceKey::new("shop", name),
            created_s: 0,
            kind: ServiceKind::Virtual(VirtualIps {
                load_balancer,
                external_policy,
                ..VirtualIps::default()
            }),
            ports: vec![],
            endpoints: on.iter().map(endpoint).collect(),
        })
    }

    fn network(nodes: &[(&str, bool)], services: Vec<Arc<Service>>) -> Network {
        let node = |(last, (name, ready)): (u8, &(&str, bool))| {
            let name = NodeName::from(*name);
            let addresses = vec![[10, 200, 0, last].into()];
            (name.clone(), Arc::new(Node { name, addresses, pod_ranges: vec![], zone: None, ready: *ready }))
        };
        Network {
            nodes: (2u8..).zip(nodes).map(node).collect(),
            services: services.into_iter().map(|service| (service.key.clone(), service)).collect(),
            ..Network::default()
        }
    }

    fn hundred() -> Vec<Arc<Service>> {
        (0..100)
            .map(|last| {
                service(&format!("s{last}"), &[[10, 200, 0, 128 + last]], &[], TrafficPolicy::Cluster)
            })
            .collect()
    }

    #[test]
    fn every_address_has_one_announcer_and_only_ready_nodes_announce() {
        let network = network(&[("a", true), ("b", false), ("c", true)], hundred());
        let announcers = announcers(&network);
        assert_eq!(announcers.len(), 100);
        let names: BTreeSet<&str> = announcers.values().map(|name| &*name.0).collect();
        assert_eq!(names, BTreeSet::from(["a", "c"]));
        let of_a = announced_by(&network, &NodeName::from("a")).count();
        assert!((30..70).contains(&of_a), "{of_a} of 100 at one of two nodes");
    }

    #[test]
    fn only_addresses_of_a_lost_node_move() {
        let (before, after) = (
            network(&[("a", true), ("b", true), ("c", true)], hundred()),
            network(&[("a", true), ("b", true)], hundred()),
        );
        let (before, after) = (announcers(&before), announcers(&after));
        for (address, node) in before {
            assert!(&*node.0 == "c" || after[&address] == node, "{address} moved from {node}");
        }
    }

    #[test]
    fn nobody_announces_without_a_ready_node_nor_the_address_of_a_node() {
        assert!(announcers(&network(&[("a", false)], hundred())).is_empty());
        let own = service("own", &[[10, 200, 0, 2]], &[], TrafficPolicy::Cluster);
        assert!(announcers(&network(&[("a", true)], vec![own])).is_empty());
    }

    #[test]
    fn policy_local_prefers_a_node_with_an_endpoint() {
        for on in ["a", "b", "c"] {
            let service = service("s", &[[10, 200, 0, 130]], &[on], TrafficPolicy::Local);
            let network = network(&[("a", true), ("b", true), ("c", true)], vec![service]);
            assert_eq!(announcers(&network).into_values().collect::<Vec<_>>(), [&NodeName::from(on)]);
        }
    }
}
