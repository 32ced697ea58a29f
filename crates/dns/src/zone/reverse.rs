//! Reverse names (RFC 1035 §3.5, RFC 3596 §2.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::name::Name;

/// The address that a name under `in-addr.arpa` or `ip6.arpa` stands for; `None` for other names and for incomplete ones.
pub(super) fn address(name: &Name) -> Option<IpAddr> {
    let labels: Vec<&[u8]> = name.labels().collect();
    match labels.as_slice() {
        [d, c, b, a, b"in-addr", b"arpa"] => {
            let octet = |label: &[u8]| std::str::from_utf8(label).ok()?.parse::<u8>().ok();
            Some(IpAddr::V4(Ipv4Addr::new(octet(a)?, octet(b)?, octet(c)?, octet(d)?)))
        }
        [nibbles @ .., b"ip6", b"arpa"] if nibbles.len() == 32 => {
            let nibble = |label: &&[u8]| match **label {
                [digit] => char::from(digit).to_digit(16),
                _ => None,
            };
            let bits = nibbles
                .iter()
                .rev()
                .try_fold(0u128, |bits, label| Some(bits << 4 | u128::from(nibble(label)?)))?;
            Some(IpAddr::V6(Ipv6Addr::from(bits)))
        }
        _ => None,
    }
}

/// The zone that negative answers about this address name as theirs.
pub(super) fn zone(address: IpAddr) -> Name {
    let text = if address.is_ipv4() { "in-addr.arpa" } else { "ip6.arpa" };
    Name::from_text(text).unwrap_or_else(|_| Name::root())
}
