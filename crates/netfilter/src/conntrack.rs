//! Flows of connection tracking: listed, and deleted when the rules that made them no longer say the same.
//!
//! A TCP client notices that its endpoint is gone and connects anew; a UDP client goes on sending from the same port, and its flow keeps
//! rewriting packets to the old endpoint for as long as it sends. So flows to endpoints that left are deleted.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::codec::{Attributes, Writer};
use crate::data::Protocol;
use crate::error::Error;
use crate::netlink::{self, flow, flow_message, tuple, tuple_ip, tuple_protocol};
use crate::object::Family;
use crate::socket::Raw;

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// The sender.
    pub source: SocketAddr,
    /// The receiver.
    pub destination: SocketAddr,
}

/// A tracked flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Its protocol.
    pub protocol: Protocol,
    /// The first packet as it was sent.
    pub original: Tuple,
    /// A reply as it arrives: its source is the endpoint behind destination NAT.
    pub reply: Tuple,
    /// The kernel's number: what is deleted is this flow, not one that took its place.
    pub id: u32,
}

/// Which flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowFilter {
    /// Of this protocol,
    pub protocol: Protocol,
    /// sent to this address (any, if `None`: node ports answer on every address of a node)
    pub address: Option<IpAddr>,
    /// and this port,
    pub port: u16,
    /// rewritten to this endpoint; `None`: whatever answers, rewritten or not.
    pub endpoint: Option<SocketAddr>,
}

/// A set of [`FlowFilter`]s: a flow is looked up, not compared with each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilters(BTreeSet<FlowFilter>);

impl FlowFilters {
    /// Whether one of the filters takes the flow.
    pub fn matches(&self, flow: &Flow) -> bool {
        let (protocol, port) = (flow.protocol, flow.original.destination.port());
        [Some(flow.original.destination.ip()), None].into_iter().any(|address| {
            [Some(flow.reply.source), None]
                .into_iter()
                .any(|endpoint| self.0.contains(&FlowFilter { protocol, address, port, endpoint }))
        })
    }

    /// Whether there is no filter.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<FlowFilter> for FlowFilters {
    fn from_iter<I: IntoIterator<Item = FlowFilter>>(filters: I) -> Self {
        Self(filters.into_iter().collect())
    }
}

/// A socket to connection tracking of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Conntrack {
    raw: Raw,
}

impl Conntrack {
    /// Opens it. Needs CAP_NET_ADMIN.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { raw: Raw::open(netlink::subsystem::CONNTRACK)? })
    }

    /// All flows of a family whose protocol has ports.
    pub fn list(&mut self, family: Family) -> Result<Vec<Flow>, Error> {
        self.raw.list(family.number(), flow_message::GET, "conntrack flows", |_| {}, decode_flow)
    }

    /// Deletes the flows that `is_stale` takes ([`FlowFilters::matches`], say); returns how many. The cost is that of listing all flows.
    pub fn delete(&mut self, family: Family, is_stale: impl Fn(&Flow) -> bool) -> Result<usize, Error> {
        let mut deleted = 0;
        for flow in self.list(family)?.iter().filter(|flow| is_stale(flow)) {
            let ask = self.raw.ask(
                family.number(),
                flow_message::DELETE,
                0,
                "a conntrack flow",
                |body| encode_flow(body, flow),
                |_| {},
            );
            match ask {
                Ok(()) => deleted += 1,
                // It ended by itself.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }
}

fn decode_flow(attributes: &Attributes<'_>) -> Option<Flow> {
    let (protocol, original) = decode_tuple(&attributes.find(flow::ORIGINAL)?.nested())?;
    let (_, reply) = decode_tuple(&attributes.find(flow::REPLY)?.nested())?;
    Some(Flow { protocol, original, reply, id: attributes.find(flow::ID)?.u32()? })
}

fn decode_tuple(attributes: &Attributes<'_>) -> Option<(Protocol, Tuple)> {
    let ip = attributes.find(tuple::IP)?.nested();
    let address = |v4: u16, v6: u16| -> Option<IpAddr> {
        if let Some(attribute) = ip.find(v4) {
            return Some(Ipv4Addr::from(<[u8; 4]>::try_from(attribute.value).ok()?).into());
        }
        Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.find(v6)?.value).ok()?).into())
    };
    let source = address(tuple_ip::V4_SOURCE, tuple_ip::V6_SOURCE)?;
    let destination = address(tuple_ip::V4_DESTINATION, tuple_ip::V6_DESTINATION)?;
    let transport = attributes.find(tuple::PROTOCOL)?.nested();
    let protocol = Protocol::from_number(transport.find(tuple_protocol::NUMBER)?.u8()?)?;
    let port = |kind| transport.find(kind)?.u16();
    let tuple = Tuple {
        source: SocketAddr::new(source, port(tuple_protocol::SOURCE_PORT)?),
        destination: SocketAddr::new(destination, port(tuple_protocol::DESTINATION_PORT)?),
    };
    Some((protocol, tuple))
}

fn encode_flow(body: &mut Writer, flow: &Flow) {
    body.nested(flow::ORIGINAL, |attributes| {
        attributes.nested(tuple::IP, |ip| {
            match (flow.original.source.ip(), flow.original.destination.ip()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    ip.bytes(tuple_ip::V4_SOURCE, &source.octets());
                    ip.bytes(tuple_ip::V4_DESTINATION, &destination.octets());
                }
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    ip.bytes(tuple_ip::V6_SOURCE, &source.octets());
                    ip.bytes(tuple_ip::V6_DESTINATION, &destination.octets());
                }
                // The kernel never lists such a flow; without addresses it refuses to delete one.
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
            }
        });
        attributes.nested(tuple::PROTOCOL, |transport| {
            transport.u8(tuple_protocol::NUMBER, flow.protocol.number());
            transport.u16(tuple_protocol::SOURCE_PORT, flow.original.source.port());
            transport.u16(tuple_protocol::DESTINATION_PORT, flow.original.destination.port());
        });
    });
    body.u32(flow::ID, flow.id);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: [u8; 4], port: u16) -> SocketAddr {
        SocketAddr::new(address.into(), port)
    }

    fn dns_flow() -> Flow {
        let client = at([10, 244, 1, 5], 4000);
        Flow {
            protocol: Protocol::Udp,
            original: Tuple { source: client, destination: at([10, 96, 0, 10], 53) },
            reply: Tuple { source: at([10, 244, 2, 7], 5353), destination: client },
            id: 7,
        }
    }

    #[test]
    fn filters() {
        let (service, endpoint) = (at([10, 96, 0, 10], 53), at([10, 244, 2, 7], 5353));
        let filter = |address: Option<IpAddr>, port, endpoint| FlowFilter {
            protocol: Protocol::Udp,
            address,
            port,
            endpoint,
        };
        let cases = [
            ("service and endpoint", filter(Some(service.ip()), 53, Some(endpoint)), true),
            ("service, any endpoint", filter(Some(service.ip()), 53, None), true),
            ("node port and endpoint", filter(None, 53, Some(endpoint)), true),
            ("other endpoint", filter(Some(service.ip()), 53, Some(at([10, 244, 2, 8], 5353))), false),
            (
                "other port of the endpoint",
                filter(Some(service.ip()), 53, Some(at([10, 244, 2, 7], 53))),
                false,
            ),
            ("other service", filter(Some([10, 96, 0, 11].into()), 53, None), false),
            ("other protocol", FlowFilter { protocol: Protocol::Tcp, ..filter(None, 53, None) }, false),
        ];
        for (name, filter, want) in cases {
            assert_eq!(FlowFilters::from_iter([filter]).matches(&dns_flow()), want, "{name}");
        }
        assert!(!FlowFilters::default().matches(&dns_flow()));
    }

    #[test]
    fn the_original_direction_survives_the_wire() {
        let mut writer = Writer::default();
        encode_flow(&mut writer, &dns_flow());
        let bytes = writer.into_bytes();
        let attributes = Attributes::new(&bytes);
        let original = decode_tuple(&attributes.find(flow::ORIGINAL).unwrap().nested());
        assert_eq!(original, Some((Protocol::Udp, dns_flow().original)));
        assert_eq!(decode_flow(&attributes), None, "a flow without a reply direction is no flow");
    }
}
