//! ServiceCIDRs and IPAddresses: the ranges of cluster addresses, and which of them are taken.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{Errors, IMMUTABLE, SPEC, invalid_all};
use crate::document::Document;
use crate::field::FieldError;
use crate::names;

const CIDR_FORM: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

pub(super) fn service_cidr(range: &Value, errors: &mut Errors) {
    let path = SPEC.field("cidrs");
    let cidrs: Vec<&str> = range.list(&["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
    if cidrs.is_empty() {
        errors.push(FieldError::required(&path, "at least one CIDR required"));
        return;
    }
    let shown = || Value::from(cidrs.clone());
    if cidrs.len() > 2 {
        errors.push(FieldError::invalid(&path, shown(), "may only hold up to 2 values"));
        return;
    }
    let networks: Vec<Option<IpNet>> = cidrs.iter().map(|cidr| cidr.parse().ok()).collect();
    if let [Some(first), Some(second)] = networks.as_slice()
        && first.addr().is_ipv4() == second.addr().is_ipv4()
    {
        let detail =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96";
        errors.push(FieldError::invalid(&path, shown(), detail));
    }
    for (index, (cidr, network)) in cidrs.iter().zip(&networks).enumerate() {
        match network {
            None => errors.push(FieldError::invalid(&path.index(index), *cidr, CIDR_FORM)),
            Some(network) if network.trunc().to_string() != **cidr => {
                let detail = format!("must be in canonical form ({:?})", network.trunc().to_string());
                errors.push(FieldError::invalid(&path.index(index), *cidr, &detail));
            }
            Some(_) => {}
        }
    }
}

/// Ranges never change, but one of the other family may join.
pub(super) fn update_service_cidr(new: &Value, old: &Value, errors: &mut Errors) {
    let (now, before) = (new.list(&["spec", "cidrs"]), old.list(&["spec", "cidrs"]));
    let grows = before.len() == 1 && now.len() == 2 && now.first() == before.first();
    if now != before && !grows {
        errors.push(FieldError::invalid(&SPEC.field("cidrs"), now.to_vec(), IMMUTABLE));
    }
}

/// What is wrong with the name of an IPAddress.
pub(super) fn address_name(name: &str) -> Vec<String> {
    match name.parse::<IpAddr>() {
        Ok(address) if address.to_string() == name => Vec::new(),
        Ok(address) => vec![format!("must be in canonical form ({:?})", address.to_string())],
        Err(_) => names::ip(name).err().into_iter().collect(),
    }
}

pub(super) fn ip_address(address: &Value, errors: &mut Errors) {
    let path = SPEC.field("parentRef");
    let parent = address.at(&["spec", "parentRef"]);
    if parent.is_null() {
        errors.push(FieldError::required(&path, ""));
        return;
    }
    for (field, form) in [
        ("group", names::dns_subdomain as fn(&str) -> Vec<String>),
        ("resource", names::path_segment),
        ("name", names::path_segment),
        ("namespace", names::path_segment),
    ] {
        match parent.text(&[field]) {
            "" if matches!(field, "resource" | "name") => {
                errors.push(FieldError::required(&path.field(field), ""));
            }
            "" => {}
            text => invalid_all(&path.field(field), text, form(text), errors),
        }
    }
}

pub(super) fn update_ip_address(new: &Value, old: &Value, errors: &mut Errors) {
    let parent = new.at(&["spec", "parentRef"]);
    if parent != old.at(&["spec", "parentRef"]) {
        errors.push(FieldError::invalid(&SPEC.field("parentRef"), parent.clone(), IMMUTABLE));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{errors, update_errors};

    const GROUP: &str = "networking.k8s.io";

    #[test]
    fn ranges_are_refused_in_the_words_of_the_wire() {
        let range = |cidrs: Value| json!({"metadata": {"namespace": null}, "spec": {"cidrs": cidrs}});
        let cases: [(Value, &[&str]); 5] = [
            (json!(["10.96.0.0/16", "fd00::/108"]), &[]),
            (json!([]), &["spec.cidrs: Required value: at least one CIDR required"]),
            (
                json!(["10.0.0.0/8", "fd00::/108", "10.1.0.0/16"]),
                &[
                    "spec.cidrs: Invalid value: [\"10.0.0.0/8\",\"fd00::/108\",\"10.1.0.0/16\"]: may only hold up to 2 values",
                ],
            ),
            (
                json!(["10.0.0.0/8", "11.0.0.0/8"]),
                &[
                    "spec.cidrs: Invalid value: [\"10.0.0.0/8\",\"11.0.0.0/8\"]: may specify no more than one IP for each IP \
                     family, i.e 192.168.0.0/24 and 2001:db8::/96",
                ],
            ),
            (
                json!(["nonsense"]),
                &[
                    "spec.cidrs[0]: Invalid value: \"nonsense\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or \
                     2001:db8::/64)",
                ],
            ),
        ];
        for (cidrs, want) in cases {
            assert_eq!(errors(GROUP, "ServiceCIDR", range(cidrs.clone())), want, "{cidrs}");
        }
        let old = range(json!(["10.0.0.0/8"]));
        let grown = range(json!(["10.0.0.0/8", "fd00::/108"]));
        assert_eq!(update_errors(GROUP, "ServiceCIDR", grown, old.clone()), Vec::<String>::new());
        let want = "spec.cidrs: Invalid value: [\"11.0.0.0/8\"]: field is immutable";
        assert_eq!(update_errors(GROUP, "ServiceCIDR", range(json!(["11.0.0.0/8"])), old), [want]);
    }

    #[test]
    fn addresses_are_their_names() {
        let address = |name: &str| {
            json!({"metadata": {"name": name}, "spec": {"parentRef": {
            "resource": "services", "name": "s", "namespace": "n"}}})
        };
        assert_eq!(errors(GROUP, "IPAddress", address("10.0.0.1")), Vec::<String>::new());
        assert_eq!(errors(GROUP, "IPAddress", address("fd00::1")), Vec::<String>::new());
        let want = "metadata.name: Invalid value: \"fd00:0::1\": must be in canonical form (\"fd00::1\")";
        assert_eq!(errors(GROUP, "IPAddress", address("fd00:0::1")), [want]);
        let refused = json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": {"resource": "services", "name": ""}}});
        assert_eq!(errors(GROUP, "IPAddress", refused), ["spec.parentRef.name: Required value"]);
    }
}
