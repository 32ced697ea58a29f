//! The cluster's wires: a bridge in the host, a namespace for each node, links, addresses, routes, forwarding.
//!
//! Every call may be repeated: it makes what is missing and leaves what is there.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use fairway_netns::{Error, Links, Mac, Netns, Route, RouteKind, Veth, write_sysctl};
use ipnet::{IpNet, Ipv4Net};

use crate::settings::{ClusterName, NODES_MAX, Node, Settings};

/// The node's end of its link.
const NODE_LINK: &str = "eth0";

/// The port of the discard service (RFC 863), on which nothing listens any more.
const DISCARD_PORT: u16 = 9;
/// Between two namespaces of one machine an answer takes less than a millisecond; this is for one of several tries.
const PROBE_LIMIT: Duration = Duration::from_millis(400);
const PROBES_MAX: usize = 4;

/// What a node's kernel has to do. The values of a new namespace are copied from the host, which may have any.
const NODE_SYSCTLS: [(&str, &str); 6] = [
    // A router for its pods.
    ("net/ipv4/ip_forward", "1"),
    // Answers of a pod on another node come back by the way they are routed, whatever way the question took.
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/eth0/rp_filter", "0"),
    // A load-balancer address lies on `lo` of the announcing node, and is answered for on the link.
    ("net/ipv4/conf/all/arp_ignore", "0"),
    ("net/ipv4/conf/eth0/arp_ignore", "0"),
];

/// Makes the bridge with the host's address. After this the API server can listen.
pub(crate) fn create_bridge(settings: &Settings) -> Result<(), Error> {
    let host = Netns::host()?;
    let mut links = Links::open(&host)?;
    let bridge = settings.name.bridge();
    if links.create_bridge(&bridge)? {
        // Without an own address a bridge takes the lowest of its ports', and changes it when a node is added.
        links.set_mac(&bridge, bridge_mac(&settings.name))?;
    }
    let underlay = settings.networks.underlay();
    links.add_address(&bridge, Ipv4Net::new_assert(settings.host_address(), underlay.prefix_len()))?;
    links.set_up(&bridge)?;
    write_sysctl(&host, &format!("net/ipv4/conf/{bridge}/forwarding"), "1")?;
    write_sysctl(&host, &format!("net/ipv4/conf/{bridge}/rp_filter"), "0")
}

/// Makes one node's namespace, joins it to the bridge, and gives both sides their routes.
pub(crate) fn create_node(settings: &Settings, node: &Node) -> Result<(), Error> {
    let netns = match Netns::open(&node.netns) {
        Ok(netns) => netns,
        Err(Error::NamespaceMissing { .. }) => Netns::create(&node.netns)?,
        Err(error) => return Err(error),
    };
    let mut host = Links::open(&Netns::host()?)?;
    let mut inside = Links::open(&netns)?;
    if inside.find(NODE_LINK)?.is_none() {
        // The host's end of a pair whose other end is gone, or was made for another namespace, is of no use.
        host.delete(&node.host_link)?;
        host.create_veth(&Veth { name: &node.host_link, peer: NODE_LINK, peer_netns: &netns, mtu: None })?;
    }
    host.set_master(&node.host_link, &settings.name.bridge())?;
    host.set_up(&node.host_link)?;
    inside.add_address(
        NODE_LINK,
        Ipv4Net::new_assert(node.address, settings.networks.underlay().prefix_len()),
    )?;
    inside.set_up(NODE_LINK)?;
    inside.set_up("lo")?;
    for route in node_routes(settings, node) {
        inside.replace_route(&route)?;
    }
    for (key, value) in NODE_SYSCTLS {
        write_sysctl(&netns, key, value)?;
    }
    host.replace_route(&route_to_pods(node))
}

/// Whether packets pass between nodes, found out by sending some: a packet filter of the host can be in the way of bridged packets
/// too. A closed port that refuses is as good an answer as any.
pub(crate) fn nodes_reach_each_other(settings: &Settings) -> Result<bool, Error> {
    let nodes = settings.nodes();
    let [from, to, ..] = nodes.as_slice() else { return Ok(true) };
    let target = SocketAddr::from((to.address, DISCARD_PORT));
    let from = Netns::open(&from.netns)?;
    // A link that was just set up may lose the first packet, which TCP sends again only after a second.
    let answered = || {
        let answer = from.run(|| TcpStream::connect_timeout(&target, PROBE_LIMIT));
        answer.map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionRefused, |_| true)
    };
    Ok((0..PROBES_MAX).any(|_| answered()))
}

/// The pods of the other nodes through those nodes, everything else through the host.
fn node_routes(settings: &Settings, node: &Node) -> Vec<Route> {
    let others = settings.nodes().into_iter().filter(|other| other.name != node.name);
    let host = Route::default_via(settings.host_address().into());
    std::iter::once(host).chain(others.map(|other| route_to_pods(&other))).collect()
}

fn route_to_pods(node: &Node) -> Route {
    Route::new(node.pods, RouteKind::Gateway(IpAddr::V4(node.address)))
}

/// A locally administered address that is always the same for a cluster.
fn bridge_mac(name: &ClusterName) -> Mac {
    let hash = name.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let [_, _, _, a, b, c, d, e] = hash.to_be_bytes();
    Mac([0x02, a, b, c, d, e])
}

/// The link through which the host reaches everything else, if it has a default route.
pub(crate) fn uplink(links: &mut Links) -> Result<Option<String>, Error> {
    let listed = links.list()?;
    let addresses = links.addresses()?;
    let routes = links.routes()?;
    let default = routes
        .iter()
        .filter(|route| route.destination.prefix_len() == 0 && route.destination.addr().is_ipv4());
    let best = default.min_by_key(|route| route.metric.unwrap_or(0));
    Ok(best.and_then(|route| match &route.kind {
        RouteKind::Link(link) | RouteKind::GatewayOnLink { link, .. } => Some(link.clone()),
        RouteKind::Gateway(gateway) => {
            let near = addresses.iter().find(|near| near.address.contains(gateway))?;
            listed.iter().find(|link| link.index == near.link).map(|link| link.name.clone())
        }
        RouteKind::Blackhole | RouteKind::Unreachable => None,
    }))
}

/// The host's links that belong to the cluster, found by name or as ports of its bridge; the bridge last.
pub(crate) fn owned_links(cluster: &ClusterName, links: &[fairway_netns::Link]) -> Vec<String> {
    let bridge = cluster.bridge();
    let bridge_index = links.iter().find(|link| link.name == bridge).map(|link| link.index);
    let names: Vec<String> = (1..=NODES_MAX)
        .map(|number| fairway_netns::link_name(&format!("fw-{cluster}-node-{number}")))
        .collect();
    let mut owned: Vec<String> = links
        .iter()
        .filter(|link| names.contains(&link.name) || (link.master.is_some() && link.master == bridge_index))
        .map(|link| link.name.clone())
        .collect();
    owned.extend(bridge_index.map(|_| bridge));
    owned
}

/// What is in the host's way: an address or route that shares addresses with `net` and is not on a link of the cluster itself.
pub(crate) fn conflict(net: Ipv4Net, taken: &[(IpNet, String)], own: &[String]) -> Option<(IpNet, String)> {
    let clashes = |other: &IpNet| match other {
        IpNet::V4(other) => other.prefix_len() > 0 && crate::settings::overlaps(net, other.trunc()),
        IpNet::V6(_) => false,
    };
    taken.iter().find(|(other, link)| clashes(other) && !own.contains(link)).cloned()
}

#[cfg(test)]
mod tests {
    use fairway_netns::Link;

    use super::*;
    use crate::settings::{Flags, Roots};

    fn settings() -> Settings {
        let name = ClusterName::parse("dev").unwrap();
        Settings::resolve(&name, &Roots::default(), &Flags { nodes: Some(3), ..Flags::default() }, None)
            .unwrap()
    }

    #[test]
    fn a_node_reaches_the_pods_of_all_others_and_the_rest_through_the_host() {
        let settings = settings();
        let shown: Vec<String> = node_routes(&settings, &settings.nodes()[1])
            .iter()
            .map(|route| format!("{} {:?}", route.destination, route.kind))
            .collect();
        let want = [
            "0.0.0.0/0 Gateway(10.200.0.1)",
            "10.244.1.0/24 Gateway(10.200.0.2)",
            "10.244.3.0/24 Gateway(10.200.0.4)",
        ];
        assert_eq!(shown, want);
    }

    #[test]
    fn owned_links_are_found_by_name_and_as_ports_and_the_bridge_comes_last() {
        let link = |index, name: &str, master| Link {
            index,
            name: name.into(),
            up: true,
            mac: None,
            mtu: 1500,
            master,
        };
        let links = [
            link(1, "lo", None),
            link(2, "fw-dev", None),
            link(3, "fw-dev-node-1", Some(2)),
            link(4, "anything", Some(2)),
            link(5, "fw-dev-node-2", None),
            link(6, "fw-dev-b", None),
            link(7, "fw-dev-b-node-1", Some(6)),
        ];
        let name = ClusterName::parse("dev").unwrap();
        assert_eq!(owned_links(&name, &links), ["fw-dev-node-1", "anything", "fw-dev-node-2", "fw-dev"]);
        assert!(owned_links(&ClusterName::parse("x").unwrap(), &links).is_empty());
    }

    #[test]
    fn a_range_in_use_is_told_with_its_link_but_not_our_own() {
        struct Case {
            name: &'static str,
            net: &'static str,
            taken: &'static str,
            link: &'static str,
            want: bool,
        }
        let cases = [
            Case { name: "same", net: "10.200.0.0/24", taken: "10.200.0.0/24", link: "eth1", want: true },
            Case { name: "inside", net: "10.200.0.0/24", taken: "10.200.0.7/32", link: "eth1", want: true },
            Case { name: "around", net: "10.200.0.0/24", taken: "10.0.0.0/8", link: "tun0", want: true },
            Case { name: "beside", net: "10.200.0.0/24", taken: "10.200.1.0/24", link: "eth1", want: false },
            Case {
                name: "default route",
                net: "10.200.0.0/24",
                taken: "0.0.0.0/0",
                link: "eth0",
                want: false,
            },
            Case {
                name: "our own leftover",
                net: "10.200.0.0/24",
                taken: "10.200.0.1/24",
                link: "fw-dev",
                want: false,
            },
            Case { name: "other family", net: "10.200.0.0/24", taken: "fd00::/8", link: "eth0", want: false },
        ];
        for case in cases {
            let taken = [(case.taken.parse().unwrap(), case.link.to_owned())];
            let got = conflict(case.net.parse().unwrap(), &taken, &["fw-dev".to_owned()]);
            assert_eq!(got.is_some(), case.want, "{}: {got:?}", case.name);
        }
    }
}
