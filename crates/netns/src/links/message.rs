//! The pure part: names and routes to netlink messages, and netlink messages to what the callers see.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{LINK_NAME_BYTES_MAX, Link, LinkAddress, Mac, Route, RouteKind};
use crate::Error;

pub(super) fn named_link(name: &str) -> Result<LinkMessage, Error> {
    if name.is_empty()
        || name.len() > LINK_NAME_BYTES_MAX
        || !name.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
    {
        let rule = "1 to 15 printable bytes without '/' are allowed";
        return Err(Error::InvalidName { what: "link", name: name.to_owned(), rule });
    }
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    Ok(message)
}

pub(super) fn link_of(item: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = item else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        mac: None,
        mtu: 0,
        master: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => link.master = Some(index),
            _ => {}
        }
    }
    Some(link)
}

pub(super) fn address_of(item: RouteNetlinkMessage) -> Option<LinkAddress> {
    let RouteNetlinkMessage::NewAddress(message) = item else { return None };
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    // On point-to-point links "local" is our address and "address" the peer's; IPv6 has only "address".
    let local = find(
        |attribute| if let AddressAttribute::Local(address) = attribute { Some(*address) } else { None },
    );
    let plain = find(
        |attribute| if let AddressAttribute::Address(address) = attribute { Some(*address) } else { None },
    );
    let address = IpNet::new(local.or(plain)?, message.header.prefix_len).ok()?;
    Some(LinkAddress { link: message.header.index, address })
}

pub(super) fn route_to(destination: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    if destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(destination.network().into()));
    }
    message
}

pub(super) fn route_of(item: RouteNetlinkMessage, links: &[Link]) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = item else { return None };
    if message.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    let (mut destination, mut gateway, mut source, mut link, mut metric) = (None, None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(index) => {
                link = links.iter().find(|link| link.index == *index).map(|link| link.name.clone());
            }
            RouteAttribute::Priority(value) => metric = Some(*value),
            _ => {}
        }
    }
    let network = match destination {
        Some(address) => IpNet::new(address, message.header.destination_prefix_length).ok()?,
        None => unspecified_net(message.header.address_family == AddressFamily::Inet),
    };
    let kind = match (message.header.kind, gateway, link) {
        (RouteType::BlackHole, _, _) => RouteKind::Blackhole,
        (RouteType::Unreachable, _, _) => RouteKind::Unreachable,
        (RouteType::Unicast, Some(gateway), Some(link))
            if message.header.flags.contains(RouteFlags::Onlink) =>
        {
            RouteKind::GatewayOnLink { gateway, link }
        }
        (RouteType::Unicast, Some(gateway), _) => RouteKind::Gateway(gateway),
        (RouteType::Unicast, None, Some(link)) => RouteKind::Link(link),
        _ => return None,
    };
    Some(Route { destination: network, kind, source, metric })
}

pub(super) fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

pub(super) fn unspecified_net(v4: bool) -> IpNet {
    let address = if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    IpNet::new_assert(address, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_links_cannot_have_are_refused_before_the_kernel_sees_them() {
        for name in ["", "a/b", "a b", "a234567890123456"] {
            assert!(matches!(named_link(name), Err(Error::InvalidName { .. })), "{name:?}");
        }
    }
}
