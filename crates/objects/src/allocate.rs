//! Decisions about addresses and ports of Services. The caller keeps what is in use and commits both together.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;
use serde_json::Value;

use crate::status::Status;

/// The ranges that Services take from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// Cluster addresses.
    pub service: Ipv4Net,
    /// Node ports.
    pub node_ports: RangeInclusive<u16>,
}

/// What Services use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    addresses: BTreeSet<IpAddr>,
    node_ports: BTreeSet<u16>,
}

impl Used {
    /// Adds what a stored Service uses.
    pub fn add(&mut self, service: &Value) {
        let _ = service;
    }

    /// Takes away what a stored Service used.
    pub fn remove(&mut self, service: &Value) {
        let _ = service;
    }
}

/// Gives a Service that is about to be stored its addresses and ports. `old` is what it replaces and still in `used`.
///
/// Fills cluster addresses, families, node ports and the health-check port that the Service needs and does not name;
/// checks those it names. The caller then replaces `old` by the result in `used`.
pub fn service(
    service: &mut Value,
    old: Option<&Value>,
    ranges: &Ranges,
    used: &Used,
    random: u64,
) -> Result<(), Status> {
    let _ = (service, old, ranges, used, random);
    Ok(())
}

/// Picks a cluster address: the requested one, or a random one from the upper band first.
pub fn cluster_ip(
    range: Ipv4Net,
    used: &Used,
    requested: Option<Ipv4Addr>,
    random: u64,
) -> Result<Ipv4Addr, AllocateError> {
    let _ = (used, requested, random);
    Ok(range.addr())
}

/// Why an address or port is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// Someone has it.
    #[error("provided IP is already allocated")]
    AddressTaken,
}
