//! A pod's link to its node: a routed veth pair, no bridge, so that every packet meets the node's rules.
//!
//! The pod has one /32 address and its default route goes to 169.254.1.1, an address that nobody has: a fixed neighbour entry leads to
//! the node's end. The node has a /32 route to the pod and a fixed neighbour entry for it, so no ARP is spoken in either direction.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use fairway_netns::{Links, Netns, Route, RouteKind, Veth, link_name};
use ipnet::{IpNet, Ipv4Net};

/// The gateway as pods see it.
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The pod's own link.
const POD_LINK: &str = "eth0";

/// Addresses of a node's pods. Freed addresses are taken again last, so that a connection to a pod that is gone does not meet its
/// successor.
#[derive(Debug)]
pub(crate) struct Addresses {
    range: Ipv4Net,
    used: BTreeSet<Ipv4Addr>,
    next: Ipv4Addr,
}

/// No address is free.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {count} pod addresses of {range} are in use; delete pods or give the nodes a larger range")]
pub(crate) struct Exhausted {
    range: Ipv4Net,
    count: usize,
}

impl Addresses {
    /// All of `range` but its first and last address; `next` is where the last run stopped.
    pub(crate) fn new(range: Ipv4Net, next: Option<Ipv4Addr>) -> Self {
        let next = next.filter(|next| range.contains(next)).unwrap_or(range.network());
        Self { range, used: BTreeSet::new(), next }
    }

    /// Where to go on after a restart.
    pub(crate) fn next(&self) -> Ipv4Addr {
        self.next
    }

    /// Marks an address of a pod that is there already; false when another has it.
    pub(crate) fn claim(&mut self, ip: Ipv4Addr) -> bool {
        self.used.insert(ip)
    }

    /// Takes the next free address.
    pub(crate) fn take(&mut self) -> Result<Ipv4Addr, Exhausted> {
        let (first, last) = (u32::from(self.range.network()), u32::from(self.range.broadcast()));
        let hosts = last.saturating_sub(first).saturating_sub(1);
        let start = u32::from(self.next).saturating_sub(first);
        let candidates = (0..hosts).map(|step| Ipv4Addr::from(first + 1 + (start + step) % hosts));
        let free = candidates.into_iter().find(|ip| !self.used.contains(ip));
        let ip = free.ok_or(Exhausted { range: self.range, count: self.used.len() })?;
        self.used.insert(ip);
        self.next = ip;
        Ok(ip)
    }

    /// Gives an address back.
    pub(crate) fn release(&mut self, ip: Ipv4Addr) {
        self.used.remove(&ip);
    }
}

/// The names of a pod's namespace and of the node's end of its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodNet {
    pub netns: String,
    pub link: String,
}

impl PodNet {
    /// The names for a pod of a cluster.
    pub(crate) fn new(cluster: &str, uid: &str) -> Self {
        let short: String = uid.chars().filter(|c| *c != '-').take(8).collect();
        Self { netns: format!("fw-{cluster}-p-{short}"), link: link_name(&format!("fw-p-{short}")) }
    }

    /// Makes the namespace, the link and the routes. What an earlier attempt left behind is removed first. Blocking.
    pub(crate) fn create(&self, ip: Ipv4Addr) -> Result<(), fairway_netns::Error> {
        self.remove(Some(ip))?;
        let node = Netns::host()?;
        let mut node_links = Links::open(&node)?;
        let made = self.connect(&mut node_links, ip);
        if made.is_err() {
            let _ = self.remove(Some(ip));
        }
        made
    }

    fn connect(&self, node: &mut Links, ip: Ipv4Addr) -> Result<(), fairway_netns::Error> {
        let netns = Netns::create(&self.netns)?;
        node.create_veth(&Veth { name: &self.link, peer: POD_LINK, peer_netns: &netns, mtu: None })?;
        let mut pod = Links::open(&netns)?;
        pod.add_address(POD_LINK, IpNet::V4(host_net(ip)))?;
        pod.set_up(POD_LINK)?;
        node.set_up(&self.link)?;
        let mac = |found: Option<fairway_netns::Link>| found.and_then(|link| link.mac);
        if let Some(mac) = mac(node.find(&self.link)?) {
            pod.replace_neighbour(POD_LINK, GATEWAY, mac)?;
        }
        if let Some(mac) = mac(pod.find(POD_LINK)?) {
            node.replace_neighbour(&self.link, ip.into(), mac)?;
        }
        let default = RouteKind::GatewayOnLink { gateway: GATEWAY, link: POD_LINK.to_owned() };
        pod.replace_route(&Route::new(IpNet::V4(Ipv4Net::default()), default))?;
        node.replace_route(&Route::new(IpNet::V4(host_net(ip)), RouteKind::Link(self.link.clone())))
    }

    /// Removes all of it; what is not there is fine. The link goes first, and with it the node's route. Blocking.
    pub(crate) fn remove(&self, ip: Option<Ipv4Addr>) -> Result<(), fairway_netns::Error> {
        let mut node = Links::open(&Netns::host()?)?;
        let existed = node.delete(&self.link)?;
        if let (false, Some(ip)) = (existed, ip) {
            node.remove_route(IpNet::V4(host_net(ip)))?;
        }
        Netns::remove(&self.netns).map(|_| ())
    }
}

fn host_net(ip: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn freed_addresses_are_taken_last() {
        let mut addresses = Addresses::new(range("10.0.0.0/29"), None);
        let taken: Vec<_> = (0..6).map(|_| addresses.take().unwrap().octets()[3]).collect();
        assert_eq!(taken, [1, 2, 3, 4, 5, 6]);
        assert!(addresses.take().unwrap_err().to_string().contains("all 6 pod addresses"));
        addresses.release([10, 0, 0, 2].into());
        addresses.release([10, 0, 0, 5].into());
        assert_eq!((0..2).map(|_| addresses.take().unwrap().octets()[3]).collect::<Vec<_>>(), [2, 5]);
        addresses.release([10, 0, 0, 2].into());
        addresses.release([10, 0, 0, 6].into());
        assert_eq!(addresses.take().unwrap().octets()[3], 6, "after the last one taken");
    }

    #[test]
    fn allocation_goes_on_after_a_restart() {
        let mut addresses = Addresses::new(range("10.0.0.0/29"), Some([10, 0, 0, 3].into()));
        addresses.claim([10, 0, 0, 4].into());
        assert_eq!(addresses.take().unwrap().octets()[3], 5);
        let mut moved = Addresses::new(range("10.1.0.0/29"), Some([10, 0, 0, 3].into()));
        assert_eq!(moved.take().unwrap().octets(), [10, 1, 0, 1]);
    }

    #[test]
    fn names_fit() {
        let net = PodNet::new("dev", "0a1b2c3d-4e5f-6789-abcd-ef0123456789");
        assert_eq!((net.netns.as_str(), net.link.as_str()), ("fw-dev-p-0a1b2c3d", "fw-p-0a1b2c3d"));
    }
}
