//! Keys and values of sets and maps: typed fields, concatenated as the kernel stores them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

/// Types of fields in keys and data, with the numbers that `nft` prints them by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// `ipv4_addr`
    Ipv4,
    /// `ipv6_addr`
    Ipv6,
    /// `inet_proto`
    Protocol,
    /// `inet_service`: a port
    Port,
    /// `mark`: a 32-bit number in host order
    Word,
    /// `classid`: a packet's priority, a 32-bit number in host order that `nft` writes as `1234:abcd`
    Priority,
}

impl DataType {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Word => 19,
            Self::Priority => 23,
        }
    }

    /// Bytes of a value outside a concatenation.
    pub const fn size(self) -> usize {
        match self {
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Ipv4 | Self::Word | Self::Priority => 4,
            Self::Ipv6 => 16,
        }
    }
}

/// A transport protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// `IPPROTO_*`.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol of that number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A key or value as the kernel stores it. Fields of a concatenation are padded to 32 bits each; build it field by field in the order of the
/// set's types.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Data(SmallVec<[u8; 24]>);

impl Data {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes as they are (one field, or a concatenation already padded).
    pub fn raw(bytes: &[u8]) -> Self {
        Self(SmallVec::from_slice(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A one-field value of the type's own length: sets whose key is no concatenation.
    pub fn single_port(port: u16) -> Self {
        Self::raw(&port.to_be_bytes())
    }

    /// Appends an address.
    #[must_use]
    pub fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.bytes(&v4.octets()),
            IpAddr::V6(v6) => self.bytes(&v6.octets()),
        }
    }

    /// Appends a protocol.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Self {
        self.bytes(&[protocol.number(), 0, 0, 0])
    }

    /// Appends a port.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        let [high, low] = port.to_be_bytes();
        self.bytes(&[high, low, 0, 0])
    }

    /// Appends a number.
    #[must_use]
    pub fn word(self, word: u32) -> Self {
        self.bytes(&word.to_ne_bytes())
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Starts taking the fields apart again.
    pub fn fields(&self) -> Fields<'_> {
        Fields { rest: &self.0 }
    }
}

/// Takes a concatenation apart, field by field; `None` when there is no such field left.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    /// The next field as an IPv4 address.
    pub fn ipv4(&mut self) -> Option<Ipv4Addr> {
        self.take::<4>().map(Ipv4Addr::from)
    }

    /// The next field as an IPv6 address.
    pub fn ipv6(&mut self) -> Option<Ipv6Addr> {
        self.take::<16>().map(Ipv6Addr::from)
    }

    /// The next field as a protocol.
    pub fn protocol(&mut self) -> Option<Protocol> {
        self.take::<4>().and_then(|[number, ..]| Protocol::from_number(number))
    }

    /// The next field as a port.
    pub fn port(&mut self) -> Option<u16> {
        self.take::<4>().map(|[high, low, ..]| u16::from_be_bytes([high, low]))
    }

    /// The next field as a number.
    pub fn word(&mut self) -> Option<u32> {
        self.take::<4>().map(u32::from_ne_bytes)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_comes_apart_as_it_was_put_together() {
        let data = Data::new().address([10, 96, 0, 1].into()).protocol(Protocol::Udp).port(53).word(3);
        assert_eq!(data.as_bytes().len(), 16);
        let mut fields = data.fields();
        assert_eq!(fields.ipv4(), Some([10, 96, 0, 1].into()));
        assert_eq!(fields.protocol(), Some(Protocol::Udp));
        assert_eq!(fields.port(), Some(53));
        assert_eq!(fields.word(), Some(3));
        assert!(fields.is_empty());
        assert_eq!(fields.word(), None);
    }
}
