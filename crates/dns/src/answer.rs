//! Answers as data.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::message::{Rcode, number};
use crate::name::Name;

/// What goes back to a client, before it is cut to size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The code.
    pub rcode: Rcode,
    /// AA: it comes from our zone.
    pub authoritative: bool,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section: the SOA of negative answers (RFC 2308).
    pub authority: Vec<Record>,
    /// The additional section: addresses of SRV targets.
    pub additional: Vec<Record>,
    /// True when the answer section is one set of equal records, of which any may come first.
    pub rotates: bool,
}

impl Answer {
    /// The name exists, the type does not; without SOA.
    pub fn no_data() -> Self {
        Self {
            rcode: Rcode::NoError,
            authoritative: true,
            answers: vec![],
            authority: vec![],
            additional: vec![],
            rotates: false,
        }
    }

    /// Only a code.
    pub fn code(rcode: Rcode) -> Self {
        Self { rcode, authoritative: false, ..Self::no_data() }
    }
}

/// One record of class IN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub owner: Name,
    /// Its time to live.
    pub ttl_s: u32,
    /// Its data.
    pub data: Data,
}

/// Record data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the standard's")]
pub enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(Name),
    Ptr(Name),
    Ns(Name),
    Txt(&'static str),
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: Name,
    },
    Soa {
        primary: Name,
        contact: Name,
        serial: u32,
        refresh_s: u32,
        retry_s: u32,
        expire_s: u32,
        negative_ttl_s: u32,
    },
    /// A record of an upstream, passed through (RFC 3597); its data holds no compressed name.
    Other {
        kind: u16,
        data: Vec<u8>,
    },
}

impl Data {
    /// An address record of the address's family.
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::A(address),
            IpAddr::V6(address) => Self::Aaaa(address),
        }
    }

    /// The type number.
    pub fn kind(&self) -> u16 {
        match self {
            Self::A(_) => number::A,
            Self::Aaaa(_) => number::AAAA,
            Self::Cname(_) => number::CNAME,
            Self::Ptr(_) => number::PTR,
            Self::Ns(_) => number::NS,
            Self::Txt(_) => number::TXT,
            Self::Srv { .. } => number::SRV,
            Self::Soa { .. } => number::SOA,
            Self::Other { kind, .. } => *kind,
        }
    }
}
