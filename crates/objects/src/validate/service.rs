//! Services.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Errors, SPEC, invalid_all, labels, one_of, port_number, port_reference, routable_ip};
use crate::document::Document;
use crate::field::{FieldError, Path};
use crate::names;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const ONLY_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

fn service_type(service: &Value) -> &str {
    service.text(&["spec", "type"])
}

fn is_headless(service: &Value) -> bool {
    service.text(&["spec", "clusterIP"]) == "None"
        || service.list(&["spec", "clusterIPs"]).first().is_some_and(|ip| ip == "None")
}

fn is_external(service: &Value) -> bool {
    match service_type(service) {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !service.list(&["spec", "externalIPs"]).is_empty(),
        _ => false,
    }
}

fn needs_health_check(service: &Value) -> bool {
    service_type(service) == "LoadBalancer" && service.text(&["spec", "externalTrafficPolicy"]) == "Local"
}

pub(super) fn service(service: &Value, errors: &mut Errors) {
    if service.list(&["spec", "ports"]).is_empty()
        && !is_headless(service)
        && service_type(service) != "ExternalName"
    {
        errors.push(FieldError::required(&SPEC.field("ports"), ""));
    }
    type_fields(service, errors);
    ports(service, errors);
    labels(service.at(&["spec", "selector"]), &SPEC.field("selector"), errors);
    session_affinity(service, errors);
    cluster_ips(service, errors);
    let external_ips = SPEC.field("externalIPs");
    for (index, ip) in service.list(&["spec", "externalIPs"]).iter().enumerate() {
        routable_ip(ip.as_str().unwrap_or_default(), &external_ips.index(index), errors);
    }
    one_of(service_type(service), TYPES, &SPEC.field("type"), errors);
    node_ports(service, errors);
    duplicate_ports(service, errors);
    balancer_fields(service, errors);
    traffic_policies(service, errors);
}

fn type_fields(service: &Value, errors: &mut Errors) {
    let service_type = service_type(service);
    match service_type {
        "LoadBalancer" | "NodePort" if is_headless(service) => {
            let ips = SPEC.field("clusterIPs");
            let detail = format!("may not be set to 'None' for {service_type} services");
            errors.push(FieldError::invalid(&ips.index(0), "None", &detail));
        }
        "ExternalName" => {
            let detail = "may not be set for ExternalName services";
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                let given = match field {
                    "clusterIPs" => service.has(&["spec", field]) || service.has(&["spec", "clusterIP"]),
                    field => service.has(&["spec", field]),
                };
                if given {
                    errors.push(FieldError::forbidden(&SPEC.field(field), detail));
                }
            }
            let name = service.text(&["spec", "externalName"]);
            let path = SPEC.field("externalName");
            if name.is_empty() {
                errors.push(FieldError::required(&path, ""));
            } else {
                let subdomain = name.strip_suffix('.').unwrap_or(name);
                invalid_all(&path, name, names::dns_subdomain(subdomain), errors);
            }
        }
        _ => {}
    }
}

fn ports(service: &Value, errors: &mut Errors) {
    let path = SPEC.field("ports");
    let ports = service.list(&["spec", "ports"]);
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = port.text(&["name"]);
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(&path.field("name"), ""));
        } else if !name.is_empty() {
            invalid_all(&path.field("name"), name, names::dns_label(name), errors);
            if ports.iter().take(index).any(|other| other.text(&["name"]) == name) {
                errors.push(FieldError::duplicate(&path.field("name"), name));
            }
        }
        port_number(port.int(&["port"]).unwrap_or(0), &path.field("port"), errors);
        one_of(port.text(&["protocol"]), PROTOCOLS, &path.field("protocol"), errors);
        if !is_headless(service) {
            // Absent only where there is no port to default to, which is zero.
            let zero = Value::from(0);
            let target = if port.has(&["targetPort"]) { port.at(&["targetPort"]) } else { &zero };
            port_reference(target, &path.field("targetPort"), errors);
        }
        let protocol = port.text(&["appProtocol"]);
        if !protocol.is_empty() {
            invalid_all(&path.field("appProtocol"), protocol, names::qualified_name(protocol), errors);
        }
    }
}

fn session_affinity(service: &Value, errors: &mut Errors) {
    let config = SPEC.field("sessionAffinityConfig");
    let affinity = service.text(&["spec", "sessionAffinity"]);
    one_of(affinity, &["ClientIP", "None"], &SPEC.field("sessionAffinity"), errors);
    match affinity {
        "ClientIP" => {
            let timeout = service.int(&["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"]);
            let client_ip = config.field("clientIP");
            if let Some(timeout) = timeout.filter(|timeout| !(1..=86_400).contains(timeout)) {
                let detail = "must be greater than 0 and less than 86400";
                errors.push(FieldError::invalid(&client_ip.field("timeoutSeconds"), timeout, detail));
            }
        }
        "None" if service.has(&["spec", "sessionAffinityConfig"]) => {
            errors.push(FieldError::forbidden(&config, "must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn cluster_ips(service: &Value, errors: &mut Errors) {
    if service_type(service) == "ExternalName" {
        return;
    }
    let path = SPEC.field("clusterIPs");
    let one = service.text(&["spec", "clusterIP"]);
    let all: Vec<&str> =
        service.list(&["spec", "clusterIPs"]).iter().map(|ip| ip.as_str().unwrap_or_default()).collect();
    match all.first() {
        Some(_) if one.is_empty() => {
            errors.push(FieldError::invalid(
                &path,
                json!(all),
                "must be empty when `clusterIP` is not specified",
            ));
        }
        Some(first) if *first != one => {
            errors.push(FieldError::invalid(&path, json!(all), "first value must match `clusterIP`"));
        }
        _ => {}
    }
    if all.len() > 1 && all.contains(&"None") {
        errors.push(FieldError::invalid(&path, json!(all), "'None' must be the first and only value"));
    }
    if all.len() > 2 {
        errors.push(FieldError::invalid(&path, json!(all), "may only hold up to 2 values"));
    }
    let mut families: Vec<&str> = Vec::new();
    let given = if all.is_empty() { vec![one] } else { all.clone() };
    for (index, ip) in given.into_iter().enumerate() {
        if ip == "None" || ip.is_empty() {
            continue;
        }
        match names::ip(ip) {
            Ok(address) => families.push(family_of(address)),
            Err(message) => errors.push(FieldError::invalid(&path.index(index), ip, &message)),
        }
    }
    if let [first, second] = families.as_slice()
        && first == second
    {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(&path, json!(all), detail));
    }
    ip_families(service, &families, &all, errors);
}

fn family_of(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

fn ip_families(service: &Value, of_ips: &[&str], ips: &[&str], errors: &mut Errors) {
    let path = SPEC.field("ipFamilies");
    let wanted = service.list(&["spec", "ipFamilies"]);
    for (index, family) in wanted.iter().enumerate() {
        let text = family.as_str().unwrap_or_default();
        if !matches!(text, "IPv4" | "IPv6") {
            errors.push(FieldError::not_supported(&path.index(index), text, &["IPv4", "IPv6"]));
        } else if wanted.iter().take(index).any(|other| other == family) {
            errors.push(FieldError::duplicate(&path.index(index), text));
        }
    }
    let clusters = SPEC.field("clusterIPs");
    for (index, (have, want)) in of_ips.iter().zip(wanted).enumerate() {
        if want != have {
            let detail = format!(
                "expected an {} value as indicated by `ipFamilies[{index}]`",
                want.as_str().unwrap_or("")
            );
            let ip = ips.get(index).copied().unwrap_or_default();
            errors.push(FieldError::invalid(&clusters.index(index), ip, &detail));
        }
    }
    let policy = service.text(&["spec", "ipFamilyPolicy"]);
    if !policy.is_empty() {
        let supported = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        one_of(policy, &supported, &SPEC.field("ipFamilyPolicy"), errors);
    }
}

fn node_ports(service: &Value, errors: &mut Errors) {
    let path = SPEC.field("ports");
    let mut seen: Vec<(i64, &str)> = Vec::new();
    for (index, port) in service.list(&["spec", "ports"]).iter().enumerate() {
        let Some(number) = port.int(&["nodePort"]).filter(|number| *number != 0) else { continue };
        let path = path.index(index).field("nodePort").to_string();
        let path = Path::new(&path);
        if service_type(service) == "ClusterIP" {
            errors.push(FieldError::forbidden(&path, "may not be used when `type` is 'ClusterIP'"));
            continue;
        }
        let key = (number, port.text(&["protocol"]));
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(&path, number));
        }
        seen.push(key);
    }
}

fn duplicate_ports(service: &Value, errors: &mut Errors) {
    let path = SPEC.field("ports");
    let mut seen: Vec<(i64, &str)> = Vec::new();
    for (index, port) in service.list(&["spec", "ports"]).iter().enumerate() {
        let key = (port.int(&["port"]).unwrap_or(0), port.text(&["protocol"]));
        if seen.contains(&key) {
            let shown = json!({"port": key.0, "protocol": key.1, "targetPort": 0});
            errors.push(FieldError::duplicate(&path.index(index), shown));
        }
        seen.push(key);
    }
}

fn balancer_fields(service: &Value, errors: &mut Errors) {
    let balancer = service_type(service) == "LoadBalancer";
    let path = SPEC.field("loadBalancerSourceRanges");
    let ranges = service.list(&["spec", "loadBalancerSourceRanges"]);
    if !ranges.is_empty() && !balancer {
        errors.push(FieldError::forbidden(&path, ONLY_BALANCER));
    }
    for (index, range) in ranges.iter().enumerate() {
        let range = range.as_str().unwrap_or_default();
        if range.trim().parse::<ipnet::IpNet>().is_err() {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(&path.index(index), range, detail));
        }
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if service.has(&["spec", field]) && !balancer {
            errors.push(FieldError::forbidden(&SPEC.field(field), ONLY_BALANCER));
        }
    }
    let class = service.text(&["spec", "loadBalancerClass"]);
    if balancer && !class.is_empty() {
        invalid_all(&SPEC.field("loadBalancerClass"), class, names::qualified_name(class), errors);
    }
}

fn traffic_policies(service: &Value, errors: &mut Errors) {
    let path = SPEC.field("externalTrafficPolicy");
    let policy = service.text(&["spec", "externalTrafficPolicy"]);
    if is_external(service) {
        one_of(policy, &["Cluster", "Local"], &path, errors);
    } else if !policy.is_empty() {
        errors.push(FieldError::invalid(&path, policy, "may only be set for externally-accessible services"));
    }
    let port = service.int(&["spec", "healthCheckNodePort"]).unwrap_or(0);
    if port != 0 && !needs_health_check(service) {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid(&SPEC.field("healthCheckNodePort"), port, detail));
    }
    if service_type(service) != "ExternalName" {
        let policy = service.text(&["spec", "internalTrafficPolicy"]);
        one_of(policy, &["Cluster", "Local"], &SPEC.field("internalTrafficPolicy"), errors);
    }
    let distribution = service.text(&["spec", "trafficDistribution"]);
    if !distribution.is_empty() {
        let supported = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        one_of(distribution, &supported, &SPEC.field("trafficDistribution"), errors);
    }
}

pub(super) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    if service_type(old) != "ExternalName" && service_type(new) != "ExternalName" {
        keep_first(new, old, "clusterIPs", "primary clusterIP can not be unset", errors);
        keep_first(new, old, "ipFamilies", "primary ipFamily can not be unset", errors);
        let shrinks = new.list(&["spec", "clusterIPs"]).len() < old.list(&["spec", "clusterIPs"]).len();
        if shrinks && new.text(&["spec", "ipFamilyPolicy"]) != "SingleStack" {
            let policy = new.text(&["spec", "ipFamilyPolicy"]);
            let detail = "must be set to 'SingleStack' when releasing the secondary clusterIP";
            errors.push(FieldError::invalid(&SPEC.field("ipFamilyPolicy"), policy, detail));
        }
    }
    let class = new.at(&["spec", "loadBalancerClass"]);
    let both = service_type(old) == "LoadBalancer" && service_type(new) == "LoadBalancer";
    if both && class != old.at(&["spec", "loadBalancerClass"]) {
        errors.push(FieldError::invalid(
            &SPEC.field("loadBalancerClass"),
            class.clone(),
            "may not change once set",
        ));
    }
    let port = |service: &Value| service.int(&["spec", "healthCheckNodePort"]).unwrap_or(0);
    if needs_health_check(new) && needs_health_check(old) && port(new) != port(old) {
        errors.push(FieldError::forbidden(&SPEC.field("healthCheckNodePort"), super::IMMUTABLE));
    }
}

fn keep_first(new: &Value, old: &Value, field: &'static str, unset: &str, errors: &mut Errors) {
    let path = SPEC.field(field);
    let path = path.index(0);
    match (old.list(&["spec", field]).first(), new.list(&["spec", field]).first()) {
        (Some(_), None) => errors.push(FieldError::required(&path, unset)),
        (Some(old), Some(new)) if old != new => {
            errors.push(FieldError::invalid(&path, new.clone(), "may not change once set"));
        }
        _ => {}
    }
}

/// The part of a Service that a load balancer writes.
pub(super) fn status(service: &Value, errors: &mut Errors) {
    const STATUS: Path<'_> = Path::new("status");
    let balancer = STATUS.field("loadBalancer");
    let path = balancer.field("ingress");
    let ingress = service.list(&["status", "loadBalancer", "ingress"]);
    if !ingress.is_empty() && service_type(service) != "LoadBalancer" {
        errors.push(FieldError::forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'"));
        return;
    }
    for (index, entry) in ingress.iter().enumerate() {
        let path = path.index(index);
        let (ip, hostname) = (entry.text(&["ip"]), entry.text(&["hostname"]));
        if !ip.is_empty()
            && let Err(message) = names::ip(ip)
        {
            errors.push(FieldError::invalid(&path.field("ip"), ip, &message));
        }
        if ip.is_empty() && entry.has(&["ipMode"]) {
            let detail = "may not be specified when `ip` is not set";
            errors.push(FieldError::forbidden(&path.field("ipMode"), detail));
        }
        if !hostname.is_empty() {
            invalid_all(&path.field("hostname"), hostname, names::dns_subdomain(hostname), errors);
            if names::ip(hostname).is_ok() {
                let detail = "must be a DNS name, not an IP address";
                errors.push(FieldError::invalid(&path.field("hostname"), hostname, detail));
            }
        }
    }
}

#[cfg(test)]
mod tests;
