//! Families and cluster addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{Ranges, SPEC, Used, View, invalid, pick, static_band};
use crate::document::Document;
use crate::status::Status;

/// Why an address is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Another Service has it.
    #[error("failed to allocate IP {0}: provided IP is already allocated")]
    Taken(IpAddr),
    /// It is not in the range.
    #[error("failed to allocate IP {0}: the provided network does not match the current range")]
    OutOfRange(IpAddr),
    /// All are taken.
    #[error("failed to allocate a serviceIP: range is full")]
    Full,
}

/// Picks a cluster address: the requested one, or a free one. The first address (`kubernetes`) is only given on request;
/// the network address and, of IPv4, the broadcast address are not given at all.
pub fn cluster_ip(
    range: IpNet,
    used: &Used,
    requested: Option<IpAddr>,
    random: u64,
) -> Result<IpAddr, AddressError> {
    pick_address(range, |address| used.addresses.contains(&address), requested, random)
}

fn u128_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn pick_address(
    range: IpNet,
    is_taken: impl Fn(IpAddr) -> bool,
    requested: Option<IpAddr>,
    random: u64,
) -> Result<IpAddr, AddressError> {
    let first = u128_of(range.network()).saturating_add(1);
    let last = match range {
        IpNet::V4(range) => u128::from(u32::from(range.broadcast())).saturating_sub(1),
        IpNet::V6(range) => u128::from(range.broadcast()),
    };
    if let Some(address) = requested {
        return match address {
            address if !range.contains(&address) || !(first..=last).contains(&u128_of(address)) => {
                Err(AddressError::OutOfRange(address))
            }
            address if is_taken(address) => Err(AddressError::Taken(address)),
            address => Ok(address),
        };
    }
    let count = u32::try_from(last.saturating_add(1).saturating_sub(first)).unwrap_or(u32::MAX);
    let band = static_band(count, 16, 256);
    let address = |offset: u32| {
        let number = first + u128::from(offset);
        match range {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or_default())),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
        }
    };
    let is_free = |offset: u32| offset > 0 && !is_taken(address(offset));
    pick(count, band, random, is_free).map(address).ok_or(AddressError::Full)
}

fn family(range: IpNet) -> &'static str {
    match range {
        IpNet::V4(_) => "IPv4",
        IpNet::V6(_) => "IPv6",
    }
}

fn family_of(address: &str) -> Option<&'static str> {
    Some(if address.parse::<IpAddr>().ok()?.is_ipv4() { "IPv4" } else { "IPv6" })
}

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

impl Ranges {
    /// The ranges of cluster addresses, one of each family.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> {
        [Some(self.service), self.secondary].into_iter().flatten()
    }

    /// The address of the Service `kubernetes`: the first of the range.
    pub fn first(&self) -> IpAddr {
        let first = u128_of(self.service.network()).saturating_add(1);
        match self.service {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(first).unwrap_or_default())),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(first)),
        }
    }

    fn of(&self, wanted: &str) -> Option<IpNet> {
        self.iter().find(|range| family(*range) == wanted)
    }
}

/// Sets policy and families that the Service leaves open. A headless Service without selector is agnostic of families.
pub(super) fn families(service: &mut Value, old: Option<&Value>, ranges: &Ranges) -> Result<(), Status> {
    let headless = service.text(&["spec", "clusterIP"]) == "None";
    let selectorless = service.map(&["spec", "selector"]).is_none_or(|selector| selector.is_empty());
    let given: Vec<String> = texts(service, "ipFamilies");
    let addresses = texts(service, "clusterIPs");
    let policy = match service.text(&["spec", "ipFamilyPolicy"]) {
        "" if headless && selectorless && given.is_empty() => "RequireDualStack",
        "" if given.len() > 1 || addresses.len() > 1 => "RequireDualStack",
        "" => "SingleStack",
        policy => policy,
    }
    .to_owned();
    service.put(&["spec", "ipFamilyPolicy"], policy.as_str());
    let dual = policy != "SingleStack";
    if !dual {
        release_second(service, old);
    }
    let of_addresses = texts(service, "clusterIPs");
    let mut wanted = texts(service, "ipFamilies");
    for address in of_addresses.iter().skip(wanted.len()) {
        wanted.extend(family_of(address).map(str::to_owned));
    }
    if wanted.is_empty() {
        wanted.push(family(ranges.service).to_owned());
    }
    for (field, several) in [("ipFamilies", wanted.len() > 1), ("clusterIPs", of_addresses.len() > 1)] {
        if !dual && several {
            let why =
                format!("must be RequireDualStack or PreferDualStack when multiple {field} are specified");
            return Err(invalid(service, &SPEC.field("ipFamilyPolicy"), policy, why));
        }
    }
    if !(headless && selectorless) {
        let path = SPEC.field("ipFamilies");
        if let Some(index) = wanted.iter().position(|family| ranges.of(family).is_none()) {
            let family = wanted.swap_remove(index);
            return Err(invalid(service, &path.index(index), family, "not configured on this cluster"));
        }
        if policy == "RequireDualStack" && ranges.secondary.is_none() {
            let why = "this cluster is not configured for dual-stack services";
            return Err(invalid(service, &SPEC.field("ipFamilyPolicy"), policy, why));
        }
    }
    let both = ranges.secondary.is_some() || (headless && selectorless && policy == "RequireDualStack");
    if let (true, true, [only]) = (dual, both, wanted.as_slice()) {
        wanted.push(other(only).to_owned());
    }
    service.put(&["spec", "ipFamilies"], json!(wanted));
    Ok(())
}

/// A Service that goes back to one family and otherwise left things as they were gives the second address up.
fn release_second(service: &mut Value, old: Option<&Value>) {
    let Some(old) = old else { return };
    for field in ["ipFamilies", "clusterIPs"] {
        let had = texts(old, field);
        if had.len() > 1 && texts(service, field) == had {
            service.put(&["spec", field], json!(had.get(..1).unwrap_or_default()));
        }
    }
}

fn texts(service: &Value, field: &str) -> Vec<String> {
    service.list(&["spec", field]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Gives an address of each family, those asked for or free ones.
pub(super) fn give(service: &mut Value, ranges: &Ranges, view: &View<'_>, random: u64) -> Result<(), Status> {
    let mut asked = texts(service, "clusterIPs");
    if let ("", Some(first)) = (service.text(&["spec", "clusterIP"]), asked.first()) {
        let first = first.clone();
        service.put(&["spec", "clusterIP"], first);
    }
    if asked.is_empty() {
        asked.extend(Some(service.text(&["spec", "clusterIP"]).to_owned()).filter(|ip| !ip.is_empty()));
    }
    let mut given: Vec<String> = Vec::new();
    if asked.first().is_some_and(|first| first == "None") {
        given.push("None".to_owned());
    } else {
        for (index, family) in texts(service, "ipFamilies").iter().enumerate() {
            let requested = asked.get(index).and_then(|ip| ip.parse().ok());
            let range = ranges.of(family).unwrap_or(ranges.service);
            let picked = pick_address(
                range,
                |address| view.is_taken(address),
                requested,
                random.rotate_left(7 * index as u32),
            );
            let address = picked.map_err(|error| match error {
                AddressError::Full => Status::internal(&error),
                AddressError::Taken(_) | AddressError::OutOfRange(_) => {
                    invalid(service, &SPEC.field("clusterIPs"), json!(asked), error)
                }
            })?;
            given.push(address.to_string());
        }
    }
    service.put(&["spec", "clusterIP"], given.first().cloned().unwrap_or_default());
    service.put(&["spec", "clusterIPs"], json!(given));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocate;

    #[test]
    fn addresses_come_from_the_upper_band_until_it_is_full() {
        let range: IpNet = "10.0.0.0/24".parse().unwrap();
        let mut used = Used::default();
        let mut order = Vec::new();
        for round in 0..253_u64 {
            let address = cluster_ip(range, &used, None, round * 977).unwrap();
            assert!(used.addresses.insert(address));
            order.push(u128_of(address) & 0xff);
        }
        assert!(order[..238].iter().all(|last| *last > 16), "the static band is spared");
        assert!(order[238..].iter().all(|last| (2..=16).contains(last)));
        assert_eq!(cluster_ip(range, &used, None, 0), Err(AddressError::Full));
    }

    fn ranges(secondary: Option<&str>) -> Ranges {
        Ranges {
            service: "10.96.0.0/16".parse().unwrap(),
            secondary: secondary.map(|range| range.parse().unwrap()),
            node_ports: 30_000..=32_767,
        }
    }

    fn allocated(spec: Value, old: Option<Value>, ranges: &Ranges) -> Result<Value, String> {
        let complete = |spec: Value| json!({"metadata": {"name": "s"}, "spec": spec});
        let (mut object, old) = (complete(spec), old.map(complete));
        let used = Used::of(old.as_ref());
        allocate::service(&mut object, old.as_ref(), ranges, &used, 7).map_err(|status| status.message)?;
        Ok(object["spec"].clone())
    }

    #[test]
    fn families_follow_the_policy() {
        let dual = ranges(Some("fd00:96::/108"));
        struct Case {
            name: &'static str,
            spec: Value,
            families: &'static [&'static str],
        }
        let selector = json!({"a": "b"});
        let cases = [
            Case { name: "one by default", spec: json!({"selector": selector}), families: &["IPv4"] },
            Case {
                name: "both where there are both",
                spec: json!({"selector": selector, "ipFamilyPolicy": "PreferDualStack"}),
                families: &["IPv4", "IPv6"],
            },
            Case {
                name: "the order asked for",
                spec: json!({"selector": selector, "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
                families: &["IPv6", "IPv4"],
            },
            Case {
                name: "the family of the address",
                spec: json!({"selector": selector, "clusterIP": "fd00:96::77", "clusterIPs": ["fd00:96::77"]}),
                families: &["IPv6"],
            },
        ];
        for case in cases {
            let spec = allocated(case.spec, None, &dual).unwrap();
            assert_eq!(spec["ipFamilies"], json!(case.families), "{}", case.name);
            let of_addresses: Vec<_> = texts(&json!({"spec": spec}), "clusterIPs")
                .iter()
                .filter_map(|address| family_of(address))
                .collect();
            assert_eq!(of_addresses, case.families, "{}", case.name);
            assert_eq!(spec["clusterIP"], spec["clusterIPs"][0], "{}", case.name);
        }
        let single = allocated(
            json!({"ipFamilyPolicy": "PreferDualStack", "selector": selector}),
            None,
            &ranges(None),
        );
        assert_eq!(single.unwrap()["ipFamilies"], json!(["IPv4"]));
    }

    #[test]
    fn the_second_family_comes_and_goes() {
        let dual = ranges(Some("fd00:96::/108"));
        let selector = json!({"a": "b"});
        let one = allocated(json!({"selector": selector}), None, &dual).unwrap();
        let mut upgrade = one.clone();
        upgrade["ipFamilyPolicy"] = json!("PreferDualStack");
        let both = allocated(upgrade, Some(one.clone()), &dual).unwrap();
        assert_eq!(both["clusterIP"], one["clusterIP"]);
        assert_eq!(both["clusterIPs"].as_array().unwrap().len(), 2);
        let mut downgrade = both.clone();
        downgrade["ipFamilyPolicy"] = json!("SingleStack");
        let back = allocated(downgrade, Some(both), &dual).unwrap();
        assert_eq!((&back["clusterIPs"], &back["ipFamilies"]), (&one["clusterIPs"], &one["ipFamilies"]));
        let refused = allocated(
            json!({"selector": selector, "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}),
            None,
            &dual,
        );
        assert_eq!(
            refused.unwrap_err(),
            "Service \"s\" is invalid: spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be RequireDualStack or \
             PreferDualStack when multiple ipFamilies are specified"
        );
    }
}
