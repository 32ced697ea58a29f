//! NetworkPolicies.

use ipnet::IpNet;
use serde_json::Value;

use super::{Errors, SPEC, label_selector, one_of, port_reference};
use crate::document::Document;
use crate::field::{FieldError, Path};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const CIDR_FORM: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

pub(super) fn network_policy(policy: &Value, errors: &mut Errors) {
    label_selector(policy.at(&["spec", "podSelector"]), &SPEC.field("podSelector"), errors);
    for (direction, side) in [("ingress", "from"), ("egress", "to")] {
        let path = SPEC.field(direction);
        for (index, rule) in policy.list(&["spec", direction]).iter().enumerate() {
            let path = path.index(index);
            let ports = path.field("ports");
            for (index, port) in rule.list(&["ports"]).iter().enumerate() {
                self::port(port, &ports.index(index), errors);
            }
            let peers = path.field(side);
            for (index, peer) in rule.list(&[side]).iter().enumerate() {
                self::peer(peer, &peers.index(index), errors);
            }
        }
    }
    let path = SPEC.field("policyTypes");
    let types = policy.list(&["spec", "policyTypes"]);
    if types.len() > 2 {
        errors.push(FieldError::invalid(&path, types.to_vec(), "may not specify more than two policyTypes"));
        return;
    }
    for (index, policy_type) in types.iter().enumerate() {
        one_of(policy_type.as_str().unwrap_or_default(), &["Egress", "Ingress"], &path.index(index), errors);
    }
}

fn port(port: &Value, path: &Path<'_>, errors: &mut Errors) {
    one_of(port.text(&["protocol"]), PROTOCOLS, &path.field("protocol"), errors);
    port_reference(port.at(&["port"]), &path.field("port"), errors);
    let Some(end) = port.int(&["endPort"]) else { return };
    let path = path.field("endPort");
    match port.at(&["port"]) {
        Value::Number(number) => {
            if number.as_i64().is_some_and(|first| end < first) {
                errors.push(FieldError::invalid(&path, end, "must be greater than or equal to `port`"));
            }
            if !(1..=65_535).contains(&end) {
                errors.push(FieldError::invalid(&path, end, "must be between 1 and 65535, inclusive"));
            }
        }
        Value::Null => {
            errors.push(FieldError::invalid(&path, end, "may not be specified when `port` is not specified"))
        }
        _ => errors.push(FieldError::invalid(&path, end, "may not be specified when `port` is non-numeric")),
    }
}

fn peer(peer: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut given = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if peer.has(&[field]) {
            given += 1;
            label_selector(peer.at(&[field]), &path.field(field), errors);
        }
    }
    if peer.has(&["ipBlock"]) {
        given += 1;
        ip_block(peer.at(&["ipBlock"]), &path.field("ipBlock"), errors);
    }
    if given == 0 {
        errors.push(FieldError::required(path, "must specify a peer"));
    } else if given > 1 && peer.has(&["ipBlock"]) {
        errors.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer"));
    }
}

fn ip_block(block: &Value, path: &Path<'_>, errors: &mut Errors) {
    let text = block.text(&["cidr"]);
    if text.is_empty() {
        errors.push(FieldError::required(&path.field("cidr"), ""));
        return;
    }
    let Ok(cidr) = text.parse::<IpNet>() else {
        errors.push(FieldError::invalid(&path.field("cidr"), text, CIDR_FORM));
        return;
    };
    let except = path.field("except");
    for (index, text) in block.list(&["except"]).iter().enumerate() {
        let (text, path) = (text.as_str().unwrap_or_default(), except.index(index));
        match text.parse::<IpNet>() {
            Err(_) => errors.push(FieldError::invalid(&path, text, CIDR_FORM)),
            Ok(inner) if cidr.contains(&inner) && cidr.prefix_len() < inner.prefix_len() => {}
            Ok(_) => {
                let detail = format!("must be a strict subset of `cidr`: \"{}\"", block.text(&["cidr"]));
                errors.push(FieldError::invalid(&path, text, &detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::errors;

    #[test]
    fn policies_are_refused_in_the_words_of_the_wire() {
        let port = |port: Value| json!({"ingress": [{"ports": [port]}]});
        let peer = |peer: Value| json!({"ingress": [{"from": [peer]}]});
        let cases: [(Value, &[&str]); 8] = [
            (json!({}), &[]),
            (peer(json!({"podSelector": {}, "namespaceSelector": {}})), &[]),
            (peer(json!({})), &["spec.ingress[0].from[0]: Required value: must specify a peer"]),
            (
                peer(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
                &["spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"],
            ),
            (
                peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16", "10.1.0.0/16"]}})),
                &[
                    "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict \
                   subset of `cidr`: \"10.0.0.0/8\"",
                ],
            ),
            (
                port(json!({"port": 80, "endPort": 79})),
                &[
                    "spec.ingress[0].ports[0].endPort: Invalid value: 79: must be greater than or equal to `port`",
                ],
            ),
            (
                port(json!({"port": "a", "endPort": 79})),
                &[
                    "spec.ingress[0].ports[0].endPort: Invalid value: 79: may not be specified when `port` is \
                   non-numeric",
                ],
            ),
            (
                json!({"policyTypes": ["X"]}),
                &["spec.policyTypes[0]: Unsupported value: \"X\": supported values: \"Egress\", \"Ingress\""],
            ),
        ];
        for (spec, want) in cases {
            assert_eq!(errors("networking.k8s.io", "NetworkPolicy", json!({"spec": spec})), want);
        }
    }
}
