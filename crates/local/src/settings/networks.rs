//! The address ranges of a cluster.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::SettingsError;

/// The ranges of a cluster by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Range {
    /// Node and load-balancer addresses, on the bridge.
    Underlay,
    /// Addresses for Services of type LoadBalancer, within the underlay.
    LoadBalancers,
    /// Pod addresses.
    Pods,
    /// ClusterIPs.
    Services,
}

impl Range {
    /// The flag that sets it.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Underlay => "--underlay",
            Self::LoadBalancers => "--load-balancers",
            Self::Pods => "--pods",
            Self::Services => "--services",
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Underlay => "underlay",
            Self::LoadBalancers => "load-balancer",
            Self::Pods => "pod",
            Self::Services => "service",
        })
    }
}

/// The four ranges, checked against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawNetworks")]
pub struct Networks {
    underlay: Ipv4Net,
    load_balancers: Ipv4Net,
    pods: Ipv4Net,
    services: Ipv4Net,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNetworks {
    underlay: Ipv4Net,
    load_balancers: Ipv4Net,
    pods: Ipv4Net,
    services: Ipv4Net,
}

impl TryFrom<RawNetworks> for Networks {
    type Error = SettingsError;
    fn try_from(raw: RawNetworks) -> Result<Self, SettingsError> {
        Self::check(raw.underlay, raw.load_balancers, raw.pods, raw.services)
    }
}

impl Networks {
    /// Checks that each range fits its purpose and that they are disjoint (the load-balancer range lies in the underlay).
    pub fn check(
        underlay: Ipv4Net,
        load_balancers: Ipv4Net,
        pods: Ipv4Net,
        services: Ipv4Net,
    ) -> Result<Self, SettingsError> {
        let [underlay, load_balancers, pods, services] =
            [underlay, load_balancers, pods, services].map(|net| net.trunc());
        let refused = |range, net, rule| Err(SettingsError::Range { range, net, rule });
        if !(16..=28).contains(&underlay.prefix_len()) {
            return refused(Range::Underlay, underlay, "the prefix length has to be 16 to 28");
        }
        if !underlay.contains(&load_balancers) || load_balancers.contains(&underlay.network()) {
            return refused(
                Range::LoadBalancers,
                load_balancers,
                "it has to lie inside the underlay, above its first addresses",
            );
        }
        if pods.prefix_len() > 22 || pods.prefix_len() < 8 {
            return refused(Range::Pods, pods, "the prefix length has to be 8 to 22, for a /24 on each node");
        }
        if !(8..=27).contains(&services.prefix_len()) {
            return refused(Range::Services, services, "the prefix length has to be 8 to 27");
        }
        let all = [(Range::Underlay, underlay), (Range::Pods, pods), (Range::Services, services)];
        for (index, (one, one_net)) in all.into_iter().enumerate() {
            for (other, other_net) in all.into_iter().skip(index + 1) {
                if overlaps(one_net, other_net) {
                    return Err(SettingsError::Overlap { one, one_net, other, other_net });
                }
            }
        }
        Ok(Self { underlay, load_balancers, pods, services })
    }

    /// Node and load-balancer addresses.
    pub fn underlay(&self) -> Ipv4Net {
        self.underlay
    }
    /// Addresses for Services of type LoadBalancer.
    pub fn load_balancers(&self) -> Ipv4Net {
        self.load_balancers
    }
    /// Pod addresses of all nodes.
    pub fn pods(&self) -> Ipv4Net {
        self.pods
    }
    /// ClusterIPs.
    pub fn services(&self) -> Ipv4Net {
        self.services
    }
}

impl Default for Networks {
    fn default() -> Self {
        let net = |a, b, c, d, prefix| Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix);
        Self {
            underlay: net(10, 200, 0, 0, 24),
            load_balancers: net(10, 200, 0, 128, 25),
            pods: net(10, 244, 0, 0, 16),
            services: net(10, 96, 0, 0, 16),
        }
    }
}

/// Whether two ranges share an address.
pub(crate) fn overlaps(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}
