//! Decisions about addresses and ports of Services.
//!
//! The caller keeps what is in use ([`Used`]), a function of the stored Services, and changes it in the same
//! transaction as the store: nothing leaks and nothing needs repair. Random picks avoid a lower band, so that people
//! who choose numbers by hand rarely collide with them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde_json::Value;

use crate::document::{self, Document};
use crate::field::{FieldError, Path};
use crate::status::{Qualified, Status};

mod address;

pub use address::{AddressError, cluster_ip};

/// The ranges that Services take from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// Cluster addresses of the family that Services have unless they ask for another.
    pub service: IpNet,
    /// Cluster addresses of the other family, in a cluster with both.
    pub secondary: Option<IpNet>,
    /// Node ports.
    pub node_ports: RangeInclusive<u16>,
}

/// What stored Services use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    addresses: BTreeSet<IpAddr>,
    node_ports: BTreeSet<u16>,
}

impl Used {
    /// What these Services use.
    pub fn of<'a>(services: impl IntoIterator<Item = &'a Value>) -> Used {
        let mut used = Used::default();
        services.into_iter().for_each(|service| used.add(service));
        used
    }

    /// Adds what a stored Service uses.
    pub fn add(&mut self, service: &Value) {
        self.addresses.extend(addresses(service));
        self.node_ports.extend(node_ports(service));
    }

    /// Takes away what a stored Service used.
    pub fn remove(&mut self, service: &Value) {
        for address in addresses(service) {
            self.addresses.remove(&address);
        }
        for port in node_ports(service) {
            self.node_ports.remove(&port);
        }
    }
}

fn addresses(service: &Value) -> impl Iterator<Item = IpAddr> {
    let ips = service.list(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str);
    ips.chain([service.text(&["spec", "clusterIP"])]).filter_map(|ip| ip.parse().ok())
}

fn node_ports(service: &Value) -> impl Iterator<Item = u16> {
    let ports = service.list(&["spec", "ports"]).iter().filter_map(|port| port.int(&["nodePort"]));
    ports.chain(service.int(&["spec", "healthCheckNodePort"])).filter_map(|port| u16::try_from(port).ok())
}

/// Why a node port is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Another Service has it.
    #[error("provided port is already allocated")]
    Taken,
    /// It is not in the range.
    #[error("provided port is not in the valid range. The range of valid ports is {first}-{last}")]
    OutOfRange {
        /// First valid port.
        first: u16,
        /// Last valid port.
        last: u16,
    },
    /// All are taken.
    #[error("range is full")]
    Full,
}

/// How many of `count` numbers are left to people: one in `divisor`, at least 16, at most `most`.
fn static_band(count: u32, divisor: u32, most: u32) -> u32 {
    if count <= 16 { 0 } else { (count / divisor).clamp(16, most) }
}

/// The first free offset of `0..count`, from a random place in the upper band, then in the lower.
fn pick(count: u32, band: u32, random: u64, is_free: impl Fn(u32) -> bool) -> Option<u32> {
    let around = |first: u32, length: u32| {
        let start = if length == 0 { 0 } else { u32::try_from(random % u64::from(length)).unwrap_or(0) };
        (start..length).chain(0..start).map(move |offset| first + offset)
    };
    let mut offsets = around(band, count - band).chain(around(0, band));
    offsets.find(|offset| is_free(*offset))
}

/// Picks a node port: the requested one, or a free one.
pub fn node_port(
    range: &RangeInclusive<u16>,
    used: &Used,
    requested: Option<u16>,
    random: u64,
) -> Result<u16, PortError> {
    pick_port(range, |port| used.node_ports.contains(&port), requested, random)
}

fn pick_port(
    range: &RangeInclusive<u16>,
    is_taken: impl Fn(u16) -> bool,
    requested: Option<u16>,
    random: u64,
) -> Result<u16, PortError> {
    let (first, last) = (*range.start(), *range.end());
    if let Some(port) = requested {
        return match port {
            port if !range.contains(&port) => Err(PortError::OutOfRange { first, last }),
            port if is_taken(port) => Err(PortError::Taken),
            port => Ok(port),
        };
    }
    let count = u32::from(last.saturating_sub(first)) + 1;
    let band = static_band(count, 32, 128);
    let port = |offset: u32| u16::try_from(u32::from(first) + offset).unwrap_or(last);
    pick(count, band, random, |offset| !is_taken(port(offset))).map(port).ok_or(PortError::Full)
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
    let mut view = View::new(used, old);
    if service.text(&["spec", "type"]) == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            service.take_at(&["spec", field]);
        }
        return Ok(());
    }
    address::families(service, old, ranges)?;
    address::give(service, ranges, &view, random)?;
    if matches!(service.text(&["spec", "type"]), "NodePort" | "LoadBalancer") {
        give_node_ports(service, ranges, &mut view, random)?;
    }
    give_health_check_port(service, ranges, &view, random)
}

/// What is in use, as one write sees it: without what the Service has already, with what it was given so far.
struct View<'a> {
    used: &'a Used,
    own_addresses: Vec<IpAddr>,
    own_ports: Vec<u16>,
    given_ports: Vec<u16>,
}

impl<'a> View<'a> {
    fn new(used: &'a Used, old: Option<&Value>) -> View<'a> {
        let own_addresses = old.into_iter().flat_map(addresses).collect();
        let own_ports = old.into_iter().flat_map(node_ports).collect();
        View { used, own_addresses, own_ports, given_ports: Vec::new() }
    }

    fn is_taken(&self, address: IpAddr) -> bool {
        self.used.addresses.contains(&address) && !self.own_addresses.contains(&address)
    }

    fn is_port_taken(&self, port: u16) -> bool {
        (self.used.node_ports.contains(&port) && !self.own_ports.contains(&port))
            || self.given_ports.contains(&port)
    }
}

fn invalid(service: &Value, path: &Path<'_>, value: impl Into<Value>, why: impl fmt::Display) -> Status {
    let error = FieldError::invalid(path, value, &why.to_string());
    Status::invalid_kind(Qualified { group: "", name: "Service" }, document::name(service), &[error])
}

const SPEC: Path<'_> = Path::new("spec");

/// Node ports of the Service's ports. Ports may share a number over different protocols.
fn give_node_ports(
    service: &mut Value,
    ranges: &Ranges,
    view: &mut View<'_>,
    random: u64,
) -> Result<(), Status> {
    let path = SPEC.field("ports");
    let ports = service.list(&["spec", "ports"]);
    let mut chosen: Vec<Option<u16>> = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        let Some(number) = port.int(&["nodePort"]).filter(|number| *number != 0) else {
            chosen.push(None);
            continue;
        };
        let asked = u16::try_from(number).unwrap_or(0);
        let protocol = port.text(&["protocol"]);
        let shared = ports
            .iter()
            .zip(&chosen)
            .any(|(other, theirs)| *theirs == Some(asked) && other.text(&["protocol"]) != protocol);
        if !shared {
            pick_port(&ranges.node_ports, |port| view.is_port_taken(port), Some(asked), random)
                .map_err(|error| invalid(service, &path.index(index).field("nodePort"), number, error))?;
        }
        chosen.push(Some(asked));
    }
    view.given_ports.extend(chosen.iter().flatten());
    let wanted = service.text(&["spec", "type"]) == "NodePort"
        || service.at(&["spec", "allocateLoadBalancerNodePorts"]) != false;
    for index in (0..ports.len()).filter(|_| wanted) {
        if chosen.get(index).is_some_and(Option::is_none) {
            let number = match twin(ports, &chosen, index) {
                Some(number) => number,
                None => {
                    let mixed = random.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index as u64);
                    pick_port(&ranges.node_ports, |port| view.is_port_taken(port), None, mixed)
                        .map_err(Status::internal)?
                }
            };
            view.given_ports.push(number);
            if let Some(place) = chosen.get_mut(index) {
                *place = Some(number);
            }
        }
    }
    for (port, number) in service.list_mut(&["spec", "ports"]).iter_mut().zip(chosen) {
        if let Some(number) = number {
            port.put(&["nodePort"], number);
        }
    }
    Ok(())
}

/// The node port of the same port over another protocol, unless this protocol has that number already.
fn twin(ports: &[Value], chosen: &[Option<u16>], index: usize) -> Option<u16> {
    let port = ports.get(index)?;
    let (number, protocol) = (port.int(&["port"]), port.text(&["protocol"]));
    let others = || ports.iter().zip(chosen);
    others()
        .filter(|(other, _)| other.int(&["port"]) == number && other.text(&["protocol"]) != protocol)
        .find_map(|(_, theirs)| *theirs)
        .filter(|found| {
            !others().any(|(other, theirs)| *theirs == Some(*found) && other.text(&["protocol"]) == protocol)
        })
}

fn give_health_check_port(
    service: &mut Value,
    ranges: &Ranges,
    view: &View<'_>,
    random: u64,
) -> Result<(), Status> {
    let needed = service.text(&["spec", "type"]) == "LoadBalancer"
        && service.text(&["spec", "externalTrafficPolicy"]) == "Local";
    if !needed {
        return Ok(());
    }
    let requested = service.int(&["spec", "healthCheckNodePort"]).and_then(|port| u16::try_from(port).ok());
    let path = SPEC.field("healthCheckNodePort");
    let taken = |port| view.is_port_taken(port);
    let port =
        pick_port(&ranges.node_ports, taken, requested, random.rotate_left(17)).map_err(
            |error| match error {
                PortError::Full => Status::internal(&error),
                PortError::Taken | PortError::OutOfRange { .. } => invalid(service, &path, requested, error),
            },
        )?;
    service.put(&["spec", "healthCheckNodePort"], port);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ranges() -> Ranges {
        Ranges { service: "10.96.0.0/16".parse().unwrap(), secondary: None, node_ports: 30_000..=32_767 }
    }

    fn allocate(spec: Value, used: &Used) -> Result<Value, String> {
        let mut object = json!({"metadata": {"name": "s"}, "spec": spec});
        service(&mut object, None, &ranges(), used, 7).map_err(|status| status.message)?;
        Ok(object["spec"].clone())
    }

    #[test]
    fn services_get_what_they_need() {
        let spec = allocate(json!({"type": "ClusterIP", "selector": {"a": "b"}}), &Used::default()).unwrap();
        assert_eq!(spec["clusterIPs"], json!([spec["clusterIP"]]));
        assert_eq!((&spec["ipFamilies"], &spec["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));

        let headless = allocate(json!({"clusterIP": "None"}), &Used::default()).unwrap();
        let want = json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv4", "IPv6"],
                          "ipFamilyPolicy": "RequireDualStack"});
        assert_eq!(headless, want);

        let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [
            {"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}, {"port": 80, "protocol": "TCP"}]});
        let spec = allocate(spec, &Used::default()).unwrap();
        let port = |index: usize| spec["ports"][index]["nodePort"].as_u64().unwrap();
        assert_eq!(port(0), port(1), "one number over two protocols");
        assert_ne!(port(0), port(2));
        assert!(spec["healthCheckNodePort"].as_u64().is_some_and(|port| port >= 30_086));

        let external = allocate(json!({"type": "ExternalName", "clusterIP": "x"}), &Used::default()).unwrap();
        assert_eq!(external, json!({"type": "ExternalName"}));
    }

    #[test]
    fn refusals_are_in_the_words_of_the_wire() {
        let taken = json!({"spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
                                    "ports": [{"nodePort": 30080}]}});
        let used = Used::of([&taken]);
        let cases = [
            (
                json!({"clusterIP": "10.96.0.1"}),
                r#"spec.clusterIPs: Invalid value: ["10.96.0.1"]: failed to allocate IP 10.96.0.1: provided IP is already allocated"#,
            ),
            (
                json!({"clusterIP": "10.97.0.1"}),
                r#"spec.clusterIPs: Invalid value: ["10.97.0.1"]: failed to allocate IP 10.97.0.1: the provided network does not match the current range"#,
            ),
            (
                json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30080}]}),
                "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
            ),
            (
                json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}),
                "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
            ),
            (
                json!({"ipFamilies": ["IPv6"]}),
                r#"spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster"#,
            ),
            (
                json!({"ipFamilyPolicy": "RequireDualStack"}),
                r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#,
            ),
        ];
        for (spec, want) in cases {
            assert_eq!(allocate(spec, &used).unwrap_err(), format!("Service \"s\" is invalid: {want}"));
        }
    }

    #[test]
    fn an_update_keeps_its_own_numbers() {
        let old = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.96.1.1",
            "clusterIPs": ["10.96.1.1"], "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30500}]}});
        let mut used = Used::of([&old]);
        let mut new = old.clone();
        service(&mut new, Some(&old), &ranges(), &used, 1).unwrap();
        assert_eq!(new["spec"]["ports"], old["spec"]["ports"]);
        assert_eq!(new["spec"]["clusterIP"], "10.96.1.1");
        used.remove(&old);
        assert_eq!(used, Used::default());
    }
}
