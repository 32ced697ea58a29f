//! EndpointSlices and Endpoints.

use serde_json::Value;

use super::{Errors, IMMUTABLE, invalid_all, labels, one_of, port_number, routable_ip};
use crate::document::Document;
use crate::field::{FieldError, Path};
use crate::names;

const ADDRESS_TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;
const TOPOLOGY_MAX: usize = 16;

pub(super) fn slice(slice: &Value, errors: &mut Errors) {
    let address_type = slice.text(&["addressType"]);
    one_of(address_type, ADDRESS_TYPES, &Path::new("addressType"), errors);
    let path = Path::new("endpoints");
    let endpoints = slice.list(&["endpoints"]);
    if endpoints.len() > ENDPOINTS_MAX {
        errors.push(FieldError::too_many(&path, endpoints.len(), ENDPOINTS_MAX));
        return;
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        self::endpoint(endpoint, address_type, &path.index(index), errors);
    }
    slice_ports(slice, errors);
}

fn endpoint(endpoint: &Value, address_type: &str, path: &Path<'_>, errors: &mut Errors) {
    let addresses = endpoint.list(&["addresses"]);
    let addresses_path = path.field("addresses");
    match addresses.len() {
        0 => errors.push(FieldError::required(&addresses_path, "must contain at least 1 address")),
        count if count > ADDRESSES_MAX => {
            errors.push(FieldError::too_many(&addresses_path, count, ADDRESSES_MAX));
        }
        _ => {}
    }
    for (index, address) in addresses.iter().enumerate() {
        slice_address(
            address.as_str().unwrap_or_default(),
            address_type,
            &addresses_path.index(index),
            errors,
        );
    }
    let hostname = endpoint.text(&["hostname"]);
    if !hostname.is_empty() {
        invalid_all(&path.field("hostname"), hostname, names::dns_label(hostname), errors);
    }
    let node = endpoint.text(&["nodeName"]);
    if !node.is_empty() {
        invalid_all(&path.field("nodeName"), node, names::dns_subdomain(node), errors);
    }
    let topology = endpoint.map(&["deprecatedTopology"]).map_or(0, crate::document::Object::len);
    if topology > TOPOLOGY_MAX {
        errors.push(FieldError::too_many(&path.field("deprecatedTopology"), topology, TOPOLOGY_MAX));
    }
    labels(endpoint.at(&["deprecatedTopology"]), &path.field("deprecatedTopology"), errors);
    let hints = path.field("hints");
    for (field, name_form) in
        [("forZones", names::qualified_name as fn(&str) -> Vec<String>), ("forNodes", names::dns_subdomain)]
    {
        let path = hints.field(field);
        let given = endpoint.list(&["hints", field]);
        if given.len() > HINTS_MAX {
            errors.push(FieldError::too_many(&path, given.len(), HINTS_MAX));
            continue;
        }
        for (index, hint) in given.iter().enumerate() {
            let (path, name) = (path.index(index), hint.text(&["name"]));
            if given.iter().take(index).any(|other| other == hint) {
                errors.push(FieldError::duplicate(&path.field("name"), name));
            }
            invalid_all(&path.field("name"), name, name_form(name), errors);
        }
    }
}

fn slice_address(address: &str, address_type: &str, path: &Path<'_>, errors: &mut Errors) {
    use std::net::IpAddr;
    match (address_type, names::ip(address)) {
        ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => routable_ip(address, path, errors),
        ("IPv4", Ok(IpAddr::V6(_))) => {
            errors.push(FieldError::invalid(path, address, "must be an IPv4 address"));
        }
        ("IPv6", Ok(IpAddr::V4(_))) => {
            errors.push(FieldError::invalid(path, address, "must be an IPv6 address"));
        }
        ("IPv4" | "IPv6", Err(message)) => errors.push(FieldError::invalid(path, address, &message)),
        ("FQDN", _) => invalid_all(path, address, names::dns_subdomain(address), errors),
        _ => {}
    }
}

fn slice_ports(slice: &Value, errors: &mut Errors) {
    let path = Path::new("ports");
    let ports = slice.list(&["ports"]);
    if ports.len() > PORTS_MAX {
        errors.push(FieldError::too_many(&path, ports.len(), PORTS_MAX));
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = port.text(&["name"]);
        if !name.is_empty() {
            invalid_all(&path.field("name"), name, names::dns_label(name), errors);
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&path.field("name"), name));
        }
        one_of(port.text(&["protocol"]), PROTOCOLS, &path.field("protocol"), errors);
        if let Some(number) = port.int(&["port"]) {
            port_number(number, &path.field("port"), errors);
        }
        let protocol = port.text(&["appProtocol"]);
        if !protocol.is_empty() {
            invalid_all(&path.field("appProtocol"), protocol, names::qualified_name(protocol), errors);
        }
    }
}

pub(super) fn update_slice(new: &Value, old: &Value, errors: &mut Errors) {
    let address_type = new.at(&["addressType"]);
    if address_type != old.at(&["addressType"]) {
        errors.push(FieldError::invalid(&Path::new("addressType"), address_type.clone(), IMMUTABLE));
    }
}

pub(super) fn endpoints(endpoints: &Value, errors: &mut Errors) {
    let path = Path::new("subsets");
    for (index, subset) in endpoints.list(&["subsets"]).iter().enumerate() {
        let path = path.index(index);
        let (ready, not_ready) = (subset.list(&["addresses"]), subset.list(&["notReadyAddresses"]));
        if ready.is_empty() && not_ready.is_empty() {
            errors.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            let path = path.field(field);
            for (index, address) in addresses.iter().enumerate() {
                let path = path.index(index);
                routable_ip(address.text(&["ip"]), &path.field("ip"), errors);
                let hostname = address.text(&["hostname"]);
                if !hostname.is_empty() {
                    invalid_all(&path.field("hostname"), hostname, names::dns_label(hostname), errors);
                }
            }
        }
        let ports_path = path.field("ports");
        let ports = subset.list(&["ports"]);
        for (index, port) in ports.iter().enumerate() {
            let path = ports_path.index(index);
            let name = port.text(&["name"]);
            if name.is_empty() && ports.len() > 1 {
                errors.push(FieldError::required(&path.field("name"), ""));
            } else if !name.is_empty() {
                invalid_all(&path.field("name"), name, names::dns_label(name), errors);
            }
            port_number(port.int(&["port"]).unwrap_or(0), &path.field("port"), errors);
            one_of(port.text(&["protocol"]), PROTOCOLS, &path.field("protocol"), errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{errors, update_errors};

    #[test]
    fn slices_are_refused_in_the_words_of_the_wire() {
        let one = |address: &str| json!([{"addresses": [address]}]);
        let many: Vec<Value> = (0..1001).map(|_| json!({"addresses": ["10.0.0.1"]})).collect();
        let cases: [(Value, &[&str]); 8] = [
            (json!({"addressType": "IPv4", "endpoints": one("10.0.0.1"), "ports": [{"port": 80}]}), &[]),
            (json!({}), &["addressType: Required value"]),
            (
                json!({"addressType": "IPv4", "endpoints": one("::1")}),
                &["endpoints[0].addresses[0]: Invalid value: \"::1\": must be an IPv4 address"],
            ),
            (
                json!({"addressType": "IPv4", "endpoints": one("127.0.0.1")}),
                &[
                    "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range \
                   (127.0.0.0/8, ::1/128)",
                ],
            ),
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": []}]}),
                &["endpoints[0].addresses: Required value: must contain at least 1 address"],
            ),
            (
                json!({"addressType": "IPv4", "endpoints": many}),
                &["endpoints: Too many: 1001: must have at most 1000 items"],
            ),
            (
                json!({"addressType": "IPv4", "ports": [{"port": 1}, {"port": 2}]}),
                &["ports[1].name: Duplicate value: \"\""],
            ),
            (json!({"addressType": "FQDN", "endpoints": one("a.b")}), &[]),
        ];
        for (object, want) in cases {
            assert_eq!(errors("discovery.k8s.io", "EndpointSlice", object), want);
        }
    }

    #[test]
    fn the_address_type_stays() {
        let slice = |address_type: &str| json!({"addressType": address_type});
        assert_eq!(
            update_errors("discovery.k8s.io", "EndpointSlice", slice("IPv6"), slice("IPv4")),
            ["addressType: Invalid value: \"IPv6\": field is immutable"]
        );
    }

    #[test]
    fn endpoints_need_addresses_and_names() {
        let subset =
            json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}, {"port": 2, "name": "b"}]});
        assert_eq!(
            errors("", "Endpoints", json!({"subsets": [{}, subset]})),
            [
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
                "subsets[1].ports[0].name: Required value",
            ]
        );
    }
}
