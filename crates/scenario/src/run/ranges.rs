//! Address ranges for a cluster of the run's own, apart from what the host uses. Pure.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Clusters that can run side by side.
const CHOICES: u8 = 16;

/// The ranges of one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ranges {
    pub(super) underlay: Ipv4Net,
    pub(super) pods: Ipv4Net,
    pub(super) services: Ipv4Net,
}

impl Ranges {
    fn choice(number: u8) -> Option<Self> {
        let net = |second: u8, prefix| Ipv4Net::new(Ipv4Addr::new(10, second, 0, 0), prefix).ok();
        Some(Self {
            underlay: net(201 + number, 24)?,
            pods: net(220 + number, 16)?,
            services: net(100 + number, 16)?,
        })
    }

    fn meets(&self, used: &[Ipv4Net]) -> bool {
        let overlap = |one: &Ipv4Net, other: &Ipv4Net| one.contains(other) || other.contains(one);
        let own = [self.underlay, self.pods, self.services];
        // The default route says nothing about who uses what.
        used.iter().filter(|net| net.prefix_len() > 0).any(|net| own.iter().any(|own| overlap(own, net)))
    }
}

/// The first choice at or after `start` (clusters that start at the same time begin at different ones) that meets nothing in use.
pub(super) fn pick(used: &[Ipv4Net], start: u32) -> Option<Ranges> {
    let start = u8::try_from(start % u32::from(CHOICES)).unwrap_or(0);
    (0..CHOICES)
        .filter_map(|step| Ranges::choice((start + step) % CHOICES))
        .find(|ranges| !ranges.meets(used))
}

/// The destinations of `/proc/net/route`: lines of `interface destination gateway flags … mask …`, addresses in hexadecimal and in
/// the byte order of the host (proc(5)).
pub(super) fn parse_routes(text: &str) -> Vec<Ipv4Net> {
    let address = |word: &str| Some(Ipv4Addr::from(u32::from_str_radix(word, 16).ok()?.to_ne_bytes()));
    let route = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let destination = address(words.next()?)?;
        let mask = address(words.nth(5)?)?;
        Ipv4Net::with_netmask(destination, mask).ok()
    };
    text.lines().skip(1).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        fw-a\t0000C90A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn routes_are_read() {
        let want: Vec<Ipv4Net> = vec!["0.0.0.0/0".parse().unwrap(), "10.201.0.0/24".parse().unwrap()];
        assert_eq!(parse_routes(ROUTES), want);
    }

    #[test]
    fn ranges_in_use_are_passed_over() {
        let first = pick(&[], 0).unwrap();
        assert_eq!(first.underlay, "10.201.0.0/24".parse().unwrap());
        for used in ["10.201.0.7/32", "10.220.5.0/24", "10.100.0.0/16"] {
            assert_eq!(pick(&[used.parse().unwrap()], 0), Ranges::choice(1), "{used}");
        }
        assert_eq!(pick(&["0.0.0.0/0".parse().unwrap()], 3), Ranges::choice(3));
        assert_eq!(pick(&["10.0.0.0/8".parse().unwrap()], 0), None);
    }

    #[test]
    fn choices_do_not_meet_each_other() {
        let all: Vec<Ranges> = (0..CHOICES).filter_map(Ranges::choice).collect();
        for (index, one) in all.iter().enumerate() {
            for other in all.iter().skip(index + 1) {
                assert!(!one.meets(&[other.underlay, other.pods, other.services]), "{one:?} {other:?}");
            }
        }
    }
}
