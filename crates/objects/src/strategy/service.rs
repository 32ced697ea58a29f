//! Updates of Services: clients send the object they know, without the fields the server allocated; and a change of
//! type drops the fields that the new type does not have, if the client left them as they were.

use serde_json::Value;

use crate::document::Document;

pub(super) fn prepare_for_update(new: &mut Value, old: &Value) {
    keep_allocated(new, old);
    drop_unused(new, old);
}

fn service_type(service: &Value) -> &str {
    match service.text(&["spec", "type"]) {
        "" => "ClusterIP",
        other => other,
    }
}

fn has_cluster_ip(service: &Value) -> bool {
    service_type(service) != "ExternalName"
}

fn has_node_ports(service: &Value) -> bool {
    matches!(service_type(service), "NodePort" | "LoadBalancer")
}

fn is_local_balancer(service: &Value) -> bool {
    service_type(service) == "LoadBalancer" && service.text(&["spec", "externalTrafficPolicy"]) == "Local"
}

fn has_balancer_node_ports(service: &Value) -> bool {
    has_node_ports(service) && service.at(&["spec", "allocateLoadBalancerNodePorts"]) != false
}

/// Copies what `old` was given, where `new` needs it and does not name it.
fn keep_allocated(new: &mut Value, old: &Value) {
    if has_cluster_ip(new) && has_cluster_ip(old) {
        let (ip, ips) = (new.text(&["spec", "clusterIP"]), new.list(&["spec", "clusterIPs"]));
        if ip.is_empty() && ips.is_empty() {
            for field in ["clusterIP", "clusterIPs"] {
                copy_if_absent(new, old, field);
            }
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            copy_if_absent(new, old, field);
        }
    }
    if has_node_ports(new) && has_node_ports(old) {
        keep_node_ports(new, old);
    }
    if is_local_balancer(new) && is_local_balancer(old) {
        copy_if_absent(new, old, "healthCheckNodePort");
    }
}

fn copy_if_absent(new: &mut Value, old: &Value, field: &str) {
    let value = old.at(&["spec", field]);
    if !value.is_null() {
        new.put_default(&["spec", field], value.clone());
    }
}

/// Ports are the same when number and protocol are.
fn keep_node_ports(new: &mut Value, old: &Value) {
    let key = |port: &Value| {
        let protocol = match port.text(&["protocol"]) {
            "" => "TCP".to_owned(),
            other => other.to_owned(),
        };
        (port.int(&["port"]), protocol)
    };
    let mut taken: Vec<i64> =
        new.list(&["spec", "ports"]).iter().filter_map(|port| port.int(&["nodePort"])).collect();
    if !has_balancer_node_ports(new) {
        return;
    }
    for port in new.list_mut(&["spec", "ports"]) {
        if port.int(&["nodePort"]).is_some() {
            continue;
        }
        let same = old.list(&["spec", "ports"]).iter().find(|other| key(other) == key(port));
        if let Some(node_port) = same.and_then(|other| other.int(&["nodePort"]))
            && !taken.contains(&node_port)
        {
            port.put(&["nodePort"], node_port);
            taken.push(node_port);
        }
    }
}

fn unchanged(new: &Value, old: &Value, field: &str) -> bool {
    new.at(&["spec", field]) == old.at(&["spec", field])
}

/// Drops fields that only the old type has, unless the client changed them: then validation explains.
fn drop_unused(new: &mut Value, old: &Value) {
    if has_cluster_ip(old) && !has_cluster_ip(new) {
        let same = unchanged(new, old, "clusterIP") && unchanged(new, old, "clusterIPs");
        if same
            || (new.text(&["spec", "clusterIP"]).is_empty() && new.list(&["spec", "clusterIPs"]).is_empty())
        {
            drop_fields(new, &["clusterIP", "clusterIPs"]);
        }
        for field in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if unchanged(new, old, field) {
                drop_fields(new, &[field]);
            }
        }
    }
    if has_node_ports(old) && !has_node_ports(new) {
        drop_node_ports(new, old);
    }
    if is_local_balancer(old) && !is_local_balancer(new) && unchanged(new, old, "healthCheckNodePort") {
        drop_fields(new, &["healthCheckNodePort"]);
    }
    if service_type(old) == "LoadBalancer" && service_type(new) != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if unchanged(new, old, field) {
                drop_fields(new, &[field]);
            }
        }
        new.put(&["status", "loadBalancer"], serde_json::json!({}));
    }
    let external =
        |service: &Value| has_node_ports(service) || !service.list(&["spec", "externalIPs"]).is_empty();
    if external(old) && !external(new) && unchanged(new, old, "externalTrafficPolicy") {
        drop_fields(new, &["externalTrafficPolicy"]);
    }
}

fn drop_fields(service: &mut Value, fields: &[&str]) {
    for field in fields {
        service.take_at(&["spec", field]);
    }
}

fn drop_node_ports(new: &mut Value, old: &Value) {
    let had: Vec<i64> =
        old.list(&["spec", "ports"]).iter().filter_map(|port| port.int(&["nodePort"])).collect();
    let asked: Vec<i64> =
        new.list(&["spec", "ports"]).iter().filter_map(|port| port.int(&["nodePort"])).collect();
    if asked.iter().any(|port| !had.contains(port)) {
        return;
    }
    for port in new.list_mut(&["spec", "ports"]) {
        port.take_at(&["nodePort"]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn updates_keep_what_was_allocated_and_drop_what_the_type_lacks() {
        struct Case {
            name: &'static str,
            old: Value,
            new: Value,
            want: Value,
        }
        let cases = [
            Case {
                name: "a naive replace keeps address and node ports",
                old: json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
                            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001},
                                      {"port": 80, "protocol": "UDP", "nodePort": 30002}]}),
                new: json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}),
                want: json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
                             "ports": [{"port": 80, "nodePort": 30001}, {"port": 81}]}),
            },
            Case {
                name: "NodePort to ClusterIP drops node ports and the external policy",
                old: json!({"type": "NodePort", "clusterIP": "10.96.0.9", "externalTrafficPolicy": "Cluster",
                            "ports": [{"port": 80, "nodePort": 30001}]}),
                new: json!({"type": "ClusterIP", "clusterIP": "10.96.0.9", "externalTrafficPolicy": "Cluster",
                            "ports": [{"port": 80, "nodePort": 30001}]}),
                want: json!({"type": "ClusterIP", "clusterIP": "10.96.0.9", "ports": [{"port": 80}]}),
            },
            Case {
                name: "a node port that the client chose stays for validation to refuse",
                old: json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]}),
                new: json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30005}]}),
                want: json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30005}]}),
            },
            Case {
                name: "to ExternalName everything about addresses goes",
                old: json!({"type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
                            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}),
                new: json!({"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.96.0.9",
                            "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}),
                want: json!({"type": "ExternalName", "externalName": "a.b"}),
            },
            Case {
                name: "a local load balancer keeps its health check port",
                old: json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000}),
                new: json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}),
                want: json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000}),
            },
        ];
        for case in cases {
            let mut new = json!({"spec": case.new});
            prepare_for_update(&mut new, &json!({"spec": case.old}));
            assert_eq!(new["spec"], case.want, "{}", case.name);
        }
    }
}
