//! Links, addresses, routes and neighbours of one namespace, through route netlink.

mod message;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use self::message::{address_of, family_of, link_of, named_link, route_of, route_to, unspecified_net};
use crate::Error;
use crate::error::Subject;
use crate::namespace::Netns;
use crate::socket::RouteSocket;

/// The longest link name of Linux (IFNAMSIZ less the closing zero).
const LINK_NAME_BYTES_MAX: usize = 15;

/// Requests about the links of one namespace. Not shared between threads at once (`&mut self`), but free to move.
#[derive(Debug)]
pub struct Links {
    netns: String,
    socket: RouteSocket,
}

/// A link as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The number that the kernel uses; not the same in two namespaces.
    pub index: u32,
    /// The name.
    pub name: String,
    /// Set up by the administrator (not: has a carrier).
    pub up: bool,
    /// The hardware address, where the link has one.
    pub mac: Option<Mac>,
    /// The largest packet in bytes.
    pub mtu: u32,
    /// The index of the bridge that it is a port of.
    pub master: Option<u32>,
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An address on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    /// The link's index.
    pub link: u32,
    /// The address with the length of its network's prefix.
    pub address: IpNet,
}

/// A pair of virtual links: what enters one leaves the other.
#[derive(Clone, Debug)]
pub struct Veth<'a> {
    /// The name of the end in this namespace.
    pub name: &'a str,
    /// The name of the other end.
    pub peer: &'a str,
    /// Where the other end is made.
    pub peer_netns: &'a Netns,
    /// The largest packet in bytes, for both ends; `None`: 1500.
    pub mtu: Option<u32>,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination; a prefix length of 0 is the default route.
    pub destination: IpNet,
    /// What happens to a packet.
    pub kind: RouteKind,
    /// The source address that local sockets get.
    pub source: Option<IpAddr>,
    /// The smaller of two metrics wins; `None`: 0.
    pub metric: Option<u32>,
}

/// What a route does to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// The destination is on the link itself.
    Link(String),
    /// Through a gateway that is reached by another route.
    Gateway(IpAddr),
    /// Through a gateway that is taken to be on that link, whatever the addresses say.
    GatewayOnLink {
        /// The gateway's address.
        gateway: IpAddr,
        /// The link's name.
        link: String,
    },
    /// Dropped without an answer.
    Blackhole,
    /// Answered with ICMP "host unreachable".
    Unreachable,
}

impl Route {
    /// A route without preferred source or metric.
    pub fn new(destination: impl Into<IpNet>, kind: RouteKind) -> Self {
        Self { destination: destination.into(), kind, source: None, metric: None }
    }

    /// The default route through a gateway.
    pub fn default_via(gateway: IpAddr) -> Self {
        Self::new(unspecified_net(gateway.is_ipv4()), RouteKind::Gateway(gateway))
    }
}

/// A link name for any wish: the wish itself when it fits, otherwise its beginning and a hash of all of it, 15 bytes. Bytes that link
/// names cannot have become '-'.
pub fn link_name(wish: &str) -> String {
    let clean: String =
        wish.chars().map(|c| if c.is_ascii_graphic() && c != '/' && c != ':' { c } else { '-' }).collect();
    if clean.len() <= LINK_NAME_BYTES_MAX && clean == wish {
        return clean;
    }
    // FNV-1a of the wish: stable between runs and versions, because a leftover is found again by its name.
    let hash = wish.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let head: String = clean.chars().take(LINK_NAME_BYTES_MAX - 8).collect();
    format!("{head}{:08x}", (hash ^ (hash >> 32)) & 0xffff_ffff)
}

impl Links {
    /// Opens a socket in the namespace.
    pub fn open(netns: &Netns) -> Result<Self, Error> {
        let socket = netns.run(RouteSocket::open).map_err(|source| Error::Namespace {
            netns: netns.label().to_owned(),
            action: "open a netlink socket in it",
            source,
        })?;
        Ok(Self { netns: netns.label().to_owned(), socket })
    }

    /// All links.
    pub fn list(&mut self) -> Result<Vec<Link>, Error> {
        let items = self.socket.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()));
        let items = items.map_err(|source| self.failed(Subject::Links, "list them", source))?;
        Ok(items.into_iter().filter_map(link_of).collect())
    }

    /// The link of that name.
    pub fn find(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let request = RouteNetlinkMessage::GetLink(named_link(name)?);
        match self.socket.request(request, 0) {
            Ok(items) => Ok(items.into_iter().find_map(link_of)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(source) => Err(self.failed(Subject::Link(name.to_owned()), "look it up", source)),
        }
    }

    /// Makes a veth pair in one step. An existing name on either side is an error ([`io::ErrorKind::AlreadyExists`]).
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<(), Error> {
        let mut peer = named_link(veth.peer)?;
        peer.attributes.push(LinkAttribute::NetNsFd(veth.peer_netns.as_fd().as_raw_fd()));
        let mut message = named_link(veth.name)?;
        for end in [&mut peer, &mut message] {
            end.attributes.extend(veth.mtu.map(LinkAttribute::Mtu));
        }
        let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))];
        message.attributes.push(LinkAttribute::LinkInfo(info));
        let request = RouteNetlinkMessage::NewLink(message);
        self.apply(
            request,
            NLM_F_CREATE | NLM_F_EXCL,
            Subject::Link(veth.name.to_owned()),
            "create it as a veth pair",
        )
    }

    /// Makes a bridge; false when a link of that name was there already.
    pub fn create_bridge(&mut self, name: &str) -> Result<bool, Error> {
        let mut message = named_link(name)?;
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        let request = RouteNetlinkMessage::NewLink(message);
        let subject = Subject::Link(name.to_owned());
        let outcome = self.apply(request, NLM_F_CREATE | NLM_F_EXCL, subject, "create it as a bridge");
        unless_kind(outcome, io::ErrorKind::AlreadyExists)
    }

    /// Removes a link (and the other end of a veth pair) at once; false when it was not there.
    pub fn delete(&mut self, name: &str) -> Result<bool, Error> {
        let request = RouteNetlinkMessage::DelLink(named_link(name)?);
        let outcome = self.apply(request, 0, Subject::Link(name.to_owned()), "delete it");
        unless_errno(outcome, libc::ENODEV)
    }

    /// Sets the link up.
    pub fn set_up(&mut self, name: &str) -> Result<(), Error> {
        self.set(name, "set it up", |message| {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        })
    }

    /// Sets the link down.
    pub fn set_down(&mut self, name: &str) -> Result<(), Error> {
        self.set(name, "set it down", |message| message.header.change_mask = LinkFlags::Up)
    }

    /// Makes the link a port of a bridge.
    pub fn set_master(&mut self, name: &str, bridge: &str) -> Result<(), Error> {
        let master = self.index(bridge)?;
        self.set(name, "make it a port of the bridge", |message| {
            message.attributes.push(LinkAttribute::Controller(master));
        })
    }

    /// Sets the largest packet in bytes.
    pub fn set_mtu(&mut self, name: &str, mtu: u32) -> Result<(), Error> {
        self.set(name, "set its MTU", |message| message.attributes.push(LinkAttribute::Mtu(mtu)))
    }

    /// Sets the hardware address.
    pub fn set_mac(&mut self, name: &str, mac: Mac) -> Result<(), Error> {
        self.set(name, "set its hardware address", |message| {
            message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        })
    }

    fn set(
        &mut self,
        name: &str,
        action: &'static str,
        change: impl FnOnce(&mut LinkMessage),
    ) -> Result<(), Error> {
        let mut message = named_link(name)?;
        change(&mut message);
        self.apply(RouteNetlinkMessage::SetLink(message), 0, Subject::Link(name.to_owned()), action)
    }

    /// All addresses of all links.
    pub fn addresses(&mut self) -> Result<Vec<LinkAddress>, Error> {
        let items = self.socket.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()));
        let items = items.map_err(|source| self.failed(Subject::Addresses, "list them", source))?;
        Ok(items.into_iter().filter_map(address_of).collect())
    }

    /// Adds an address to a link; false when it had it already. On `lo` it gets scope host: answered for, but never chosen as the source of
    /// packets that leave (nor by masquerading, which looks at `lo` first).
    pub fn add_address(&mut self, link: &str, address: impl Into<IpNet>) -> Result<bool, Error> {
        let address = address.into();
        let request = RouteNetlinkMessage::NewAddress(self.address_message(link, address)?);
        let subject = Subject::Address { link: link.to_owned(), address };
        let outcome = self.apply(request, NLM_F_CREATE | NLM_F_EXCL, subject, "add it");
        unless_kind(outcome, io::ErrorKind::AlreadyExists)
    }

    /// Takes an address from a link; false when it did not have it.
    pub fn remove_address(&mut self, link: &str, address: impl Into<IpNet>) -> Result<bool, Error> {
        let address = address.into();
        let request = RouteNetlinkMessage::DelAddress(self.address_message(link, address)?);
        let subject = Subject::Address { link: link.to_owned(), address };
        let outcome = self.apply(request, 0, subject, "remove it");
        unless_kind(outcome, io::ErrorKind::AddrNotAvailable)
    }

    fn address_message(&mut self, link: &str, address: IpNet) -> Result<AddressMessage, Error> {
        let mut message = AddressMessage::default();
        message.header.family = family_of(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.index = self.index(link)?;
        if link == "lo" || address.addr().is_loopback() {
            message.header.scope = AddressScope::Host;
        }
        message.attributes =
            vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
        if let IpNet::V4(net) = address
            && net.prefix_len() < 31
        {
            message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
        }
        Ok(message)
    }

    /// The routes of the main table.
    pub fn routes(&mut self) -> Result<Vec<Route>, Error> {
        let links = self.list()?;
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let items = self.socket.dump(&RouteNetlinkMessage::GetRoute(message));
            let items = items.map_err(|source| self.failed(Subject::Routes, "list them", source))?;
            routes.extend(items.into_iter().filter_map(|item| route_of(item, &links)));
        }
        Ok(routes)
    }

    /// Makes this the route to its destination (and metric), in place of another.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), Error> {
        let request = RouteNetlinkMessage::NewRoute(self.route_message(route)?);
        self.apply(request, NLM_F_CREATE | NLM_F_REPLACE, Subject::Route(route.destination), "set it")
    }

    /// Adds a route; false when there was one to that destination (and metric) already.
    pub fn add_route(&mut self, route: &Route) -> Result<bool, Error> {
        let request = RouteNetlinkMessage::NewRoute(self.route_message(route)?);
        let outcome =
            self.apply(request, NLM_F_CREATE | NLM_F_EXCL, Subject::Route(route.destination), "add it");
        unless_kind(outcome, io::ErrorKind::AlreadyExists)
    }

    /// Removes the route to a destination, whatever it does; false when there was none.
    pub fn remove_route(&mut self, destination: impl Into<IpNet>) -> Result<bool, Error> {
        let destination = destination.into();
        let mut message = route_to(destination);
        // No scope, no type and no protocol given: any matches.
        message.header.scope = RouteScope::NoWhere;
        let request = RouteNetlinkMessage::DelRoute(message);
        let outcome = self.apply(request, 0, Subject::Route(destination), "remove it");
        unless_errno(outcome, libc::ESRCH)
    }

    fn route_message(&mut self, route: &Route) -> Result<RouteMessage, Error> {
        let mut message = route_to(route.destination);
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.scope = RouteScope::Universe;
        match &route.kind {
            RouteKind::Link(link) => {
                if route.destination.addr().is_ipv4() {
                    message.header.scope = RouteScope::Link;
                }
                message.attributes.push(RouteAttribute::Oif(self.index(link)?));
            }
            RouteKind::Gateway(gateway) => {
                message.attributes.push(RouteAttribute::Gateway((*gateway).into()))
            }
            RouteKind::GatewayOnLink { gateway, link } => {
                message.header.flags = RouteFlags::Onlink;
                message.attributes.push(RouteAttribute::Gateway((*gateway).into()));
                message.attributes.push(RouteAttribute::Oif(self.index(link)?));
            }
            RouteKind::Blackhole => message.header.kind = RouteType::BlackHole,
            RouteKind::Unreachable => message.header.kind = RouteType::Unreachable,
        }
        message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
        message.attributes.extend(route.metric.map(RouteAttribute::Priority));
        Ok(message)
    }

    /// Makes this the hardware address of a neighbour for ever: it is never asked for.
    pub fn replace_neighbour(&mut self, link: &str, address: IpAddr, mac: Mac) -> Result<(), Error> {
        let mut message = self.neighbour_message(link, address)?;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let subject = Subject::Neighbour { link: link.to_owned(), address };
        self.apply(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            subject,
            "set it",
        )
    }

    /// Removes a neighbour entry; false when there was none.
    pub fn remove_neighbour(&mut self, link: &str, address: IpAddr) -> Result<bool, Error> {
        let message = self.neighbour_message(link, address)?;
        let subject = Subject::Neighbour { link: link.to_owned(), address };
        let outcome = self.apply(RouteNetlinkMessage::DelNeighbour(message), 0, subject, "remove it");
        unless_errno(outcome, libc::ENOENT)
    }

    fn neighbour_message(&mut self, link: &str, address: IpAddr) -> Result<NeighbourMessage, Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(address);
        message.header.ifindex = self.index(link)?;
        message.attributes.push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        }));
        Ok(message)
    }

    /// The index of a link, which other sockets of the namespace need too.
    pub fn index(&mut self, link: &str) -> Result<u32, Error> {
        match self.find(link)? {
            Some(found) => Ok(found.index),
            None => Err(Error::LinkMissing { netns: self.netns.clone(), link: link.to_owned() }),
        }
    }

    fn apply(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        subject: Subject,
        action: &'static str,
    ) -> Result<(), Error> {
        self.socket.request(request, flags).map(drop).map_err(|source| self.failed(subject, action, source))
    }

    fn failed(&self, subject: Subject, action: &'static str, source: io::Error) -> Error {
        Error::Kernel { netns: self.netns.clone(), subject, action, source }
    }
}

/// False instead of an error of that kind.
fn unless_kind(outcome: Result<(), Error>, kind: io::ErrorKind) -> Result<bool, Error> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == Some(kind) => Ok(false),
        Err(error) => Err(error),
    }
}

/// False instead of an error of that number.
fn unless_errno(outcome: Result<(), Error>, errno: i32) -> Result<bool, Error> {
    match outcome {
        Ok(()) => Ok(true),
        Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(errno) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_stay_apart_and_are_stable() {
        struct Case {
            name: &'static str,
            given: &'static str,
            want: &'static str,
        }
        let cases = [
            Case { name: "fits", given: "fw-dev", want: "fw-dev" },
            Case { name: "fits exactly", given: "fw-dev-node-100", want: "fw-dev-node-100" },
            Case { name: "too long", given: "fw-production-node-1", want: "fw-prod" },
            Case { name: "a byte that links cannot have", given: "fw-a/b", want: "fw-a-b" },
        ];
        for case in cases {
            let got = link_name(case.given);
            assert!(got.starts_with(case.want) && got.len() <= LINK_NAME_BYTES_MAX, "{}: {got}", case.name);
            assert_eq!(got, link_name(case.given), "{}", case.name);
        }
        assert_ne!(link_name("fw-production-node-1"), link_name("fw-production-node-2"));
        assert_ne!(link_name("fw-a/b"), link_name("fw-a:b"));
    }
}
