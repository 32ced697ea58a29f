//! The numbers by which the kernel remembers a client's endpoint (`sessionAffinity: ClientIP`). Pure.
//!
//! A number is made of the endpoint's socket address alone, so that it is the same after a restart and whatever else changes. It travels from rule to
//! rule as the packet's priority: that is why its low four bits are zero (queueing disciplines read them as a class of traffic), and its top bit tells
//! the lists of policy Local from the others, as in slots.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

const STEP: u32 = 0x10;
/// Without the top bit and the low four.
const BITS: u32 = 0x7fff_fff0;

/// The number of each endpoint; two endpoints of one frontend never share one. Where two would, the greater address takes the next that is free.
pub(crate) fn endpoint_ids(endpoints: &[SocketAddr]) -> BTreeMap<SocketAddr, u32> {
    number(endpoints, hash)
}

fn number(endpoints: &[SocketAddr], hash: impl Fn(&SocketAddr) -> u32) -> BTreeMap<SocketAddr, u32> {
    let mut taken = BTreeSet::new();
    let sorted: BTreeSet<SocketAddr> = endpoints.iter().copied().collect();
    let numbered = sorted.into_iter().map(|endpoint| {
        let mut id = hash(&endpoint) & BITS;
        while !taken.insert(id) {
            id = id.wrapping_add(STEP) & BITS;
        }
        (endpoint, id)
    });
    numbered.collect()
}

/// FNV-1a, its ends folded together.
fn hash(endpoint: &SocketAddr) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    match endpoint.ip() {
        IpAddr::V4(v4) => eat(&v4.octets()),
        IpAddr::V6(v6) => eat(&v6.octets()),
    }
    eat(&endpoint.port().to_be_bytes());
    let folded = hash ^ hash >> 32;
    // The lower half is all that is wanted.
    (folded & u64::from(u32::MAX)).try_into().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        ([10, 244, 1, last], 80).into()
    }

    #[test]
    fn a_number_depends_on_the_endpoint_alone() {
        let many: Vec<SocketAddr> = (1..200).map(at).collect();
        let ids = endpoint_ids(&many);
        for endpoint in &many {
            assert_eq!(endpoint_ids(&[*endpoint])[endpoint], ids[endpoint]);
        }
        let distinct: BTreeSet<u32> = ids.values().copied().collect();
        assert_eq!(distinct.len(), many.len());
        assert!(distinct.iter().all(|id| id & !BITS == 0));
        // Written down: another number after an update of this program would move every client.
        assert_eq!(ids[&at(1)], 0x7496_d980);
    }

    #[test]
    fn numbers_that_collide_are_told_apart_in_the_order_of_the_addresses() {
        for (hash, want) in [(0x10, [0x10, 0x20, 0x30]), (BITS, [BITS, 0, 0x10])] {
            let given = [at(3), at(1), at(2), at(1)];
            let ids = number(&given, |_| hash);
            assert_eq!(
                ids.into_iter().collect::<Vec<_>>(),
                [1, 2, 3].map(at).into_iter().zip(want).collect::<Vec<_>>()
            );
        }
    }
}
