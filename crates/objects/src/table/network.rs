//! How the kinds of the network print.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::{Printer, age, first_three, labels, or_none, selector, text, wide};
use crate::document::{self, Document};

pub(super) const SERVICE: Printer = Printer {
    columns: &[
        text("Name"),
        text("Type"),
        text("Cluster-IP"),
        text("External-IP"),
        text("Port(s)"),
        text("Age"),
        wide("Selector"),
    ],
    cells: |service, now| {
        let cluster_ip = match service.list(&["spec", "clusterIPs"]).first().and_then(Value::as_str) {
            Some(ip) => ip,
            None => service.text(&["spec", "clusterIP"]),
        };
        vec![
            document::name(service).into(),
            service.text(&["spec", "type"]).into(),
            or_none(cluster_ip),
            external_ip(service),
            service_ports(service),
            age(service, now),
            labels(service.at(&["spec", "selector"])),
        ]
    },
};

fn texts(list: &[Value]) -> Vec<&str> {
    list.iter().filter_map(Value::as_str).collect()
}

fn external_ip(service: &Value) -> Value {
    let external = texts(service.list(&["spec", "externalIPs"]));
    match service.text(&["spec", "type"]) {
        "ExternalName" => service.text(&["spec", "externalName"]).into(),
        "LoadBalancer" => {
            let mut all: Vec<&str> = balancer_addresses(service).into_iter().collect();
            all.extend(external);
            if all.is_empty() { "<pending>".into() } else { all.join(",").into() }
        }
        _ => or_none(&external.join(",")),
    }
}

/// Addresses and names in `status.loadBalancer`, sorted.
fn balancer_addresses(object: &Value) -> BTreeSet<&str> {
    let address = |ingress| match Document::text(ingress, &["ip"]) {
        "" => Document::text(ingress, &["hostname"]),
        ip => ip,
    };
    let ingress = object.list(&["status", "loadBalancer", "ingress"]);
    ingress.iter().map(address).filter(|address| !address.is_empty()).collect()
}

fn service_ports(service: &Value) -> Value {
    let port = |port: &Value| {
        let (number, protocol) = (port.int(&["port"]).unwrap_or(0), port.text(&["protocol"]));
        match port.int(&["nodePort"]).unwrap_or(0) {
            0 => format!("{number}/{protocol}"),
            node_port => format!("{number}:{node_port}/{protocol}"),
        }
    };
    let ports: Vec<String> = service.list(&["spec", "ports"]).iter().map(port).collect();
    or_none(&ports.join(","))
}

pub(super) const ENDPOINTS: Printer = Printer {
    columns: &[text("Name"), text("Endpoints"), text("Age")],
    cells: |endpoints, now| {
        let mut list = Vec::new();
        for subset in endpoints.list(&["subsets"]) {
            let addresses = || subset.list(&["addresses"]).iter().map(|address| address.text(&["ip"]));
            let ports = subset.list(&["ports"]);
            if ports.is_empty() {
                list.extend(addresses().map(str::to_owned));
            }
            for port in ports {
                list.extend(addresses().map(|ip| host_port(ip, port.int(&["port"]).unwrap_or(0))));
            }
        }
        vec![document::name(endpoints).into(), or_none(&first_three(&list)), age(endpoints, now)]
    },
};

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(super) const ENDPOINT_SLICE: Printer = Printer {
    columns: &[text("Name"), text("AddressType"), text("Ports"), text("Endpoints"), text("Age")],
    cells: |slice, now| {
        let port = |port: &Value| match port.int(&["port"]) {
            Some(port) => port.to_string(),
            None => "*".to_owned(),
        };
        let ports: Vec<String> = slice.list(&["ports"]).iter().map(port).collect();
        let endpoints = slice.list(&["endpoints"]).iter();
        let addresses: Vec<String> =
            endpoints.flat_map(|endpoint| texts(endpoint.list(&["addresses"]))).map(str::to_owned).collect();
        let or_unset =
            |list: &[String]| if list.is_empty() { "<unset>".to_owned() } else { first_three(list) };
        vec![
            document::name(slice).into(),
            slice.text(&["addressType"]).into(),
            or_unset(&ports).into(),
            or_unset(&addresses).into(),
            age(slice, now),
        ]
    },
};

pub(super) const INGRESS: Printer = Printer {
    columns: &[text("Name"), text("Class"), text("Hosts"), text("Address"), text("Ports"), text("Age")],
    cells: |ingress, now: Timestamp| {
        let hosts: Vec<String> = ingress
            .list(&["spec", "rules"])
            .iter()
            .map(|rule| rule.text(&["host"]).to_owned())
            .filter(|host| !host.is_empty())
            .collect();
        let hosts = if hosts.is_empty() { "*".to_owned() } else { first_three(&hosts) };
        let addresses: Vec<&str> = balancer_addresses(ingress).into_iter().collect();
        let ports = if ingress.list(&["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
        vec![
            document::name(ingress).into(),
            or_none(ingress.text(&["spec", "ingressClassName"])),
            hosts.into(),
            addresses.join(",").into(),
            ports.into(),
            age(ingress, now),
        ]
    },
};

pub(super) const INGRESS_CLASS: Printer = Printer {
    columns: &[text("Name"), text("Controller"), text("Parameters"), text("Age")],
    cells: |class, now| {
        let parameters = class.at(&["spec", "parameters"]);
        let group = match parameters.text(&["apiGroup"]) {
            "" => String::new(),
            group => format!(".{group}"),
        };
        let parameters = match parameters.text(&["kind"]) {
            "" => "<none>".to_owned(),
            kind => format!("{kind}{group}/{}", parameters.text(&["name"])),
        };
        vec![
            document::name(class).into(),
            class.text(&["spec", "controller"]).into(),
            parameters.into(),
            age(class, now),
        ]
    },
};

pub(super) const NETWORK_POLICY: Printer = Printer {
    columns: &[text("Name"), text("Pod-Selector"), text("Age")],
    cells: |policy, now| {
        vec![document::name(policy).into(), selector(policy.at(&["spec", "podSelector"])), age(policy, now)]
    },
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(printer: &Printer, object: Value) -> Vec<String> {
        let cells = (printer.cells)(&object, Timestamp::UNIX_EPOCH);
        cells.iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect()
    }

    #[test]
    fn services_show_their_addresses() {
        let cases = [
            (
                json!({"type": "ClusterIP", "clusterIP": "10.96.0.1", "ports": [{"port": 80, "protocol": "TCP"}],
                       "selector": {"b": "2", "a": "1"}}),
                json!({}),
                ["s", "ClusterIP", "10.96.0.1", "<none>", "80/TCP", "<unknown>", "a=1,b=2"],
            ),
            (
                json!({"type": "ClusterIP", "clusterIP": "None"}),
                json!({}),
                ["s", "ClusterIP", "None", "<none>", "<none>", "<unknown>", "<none>"],
            ),
            (
                json!({"type": "NodePort", "clusterIP": "10.96.0.1", "ports": [
                    {"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
                json!({}),
                ["s", "NodePort", "10.96.0.1", "<none>", "80:30080/TCP,53/UDP", "<unknown>", "<none>"],
            ),
            (
                json!({"type": "LoadBalancer"}),
                json!({}),
                ["s", "LoadBalancer", "<none>", "<pending>", "<none>", "<unknown>", "<none>"],
            ),
            (
                json!({"type": "LoadBalancer", "externalIPs": ["9.9.9.9"]}),
                json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"hostname": "a.b"}]}}),
                ["s", "LoadBalancer", "<none>", "1.2.3.4,a.b,9.9.9.9", "<none>", "<unknown>", "<none>"],
            ),
            (
                json!({"type": "ExternalName", "externalName": "a.b"}),
                json!({}),
                ["s", "ExternalName", "<none>", "a.b", "<none>", "<unknown>", "<none>"],
            ),
        ];
        for (spec, status, want) in cases {
            assert_eq!(
                row(&SERVICE, json!({"metadata": {"name": "s"}, "spec": spec, "status": status})),
                want
            );
        }
    }

    #[test]
    fn long_lists_are_cut_at_three() {
        let addresses: Vec<Value> = (1..=5).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
        let endpoints = json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
        assert_eq!(row(&ENDPOINTS, endpoints)[1], "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...");
        assert_eq!(row(&ENDPOINTS, json!({}))[1], "<none>");
        let slice = json!({"addressType": "IPv4", "ports": [{"port": 80}, {}],
                           "endpoints": [{"addresses": ["10.0.0.1"]}]});
        assert_eq!(row(&ENDPOINT_SLICE, slice)[1..4], ["IPv4", "80,*", "10.0.0.1"]);
        assert_eq!(row(&ENDPOINT_SLICE, json!({}))[2..4], ["<unset>", "<unset>"]);
    }

    #[test]
    fn ingresses_show_hosts_and_ports() {
        let ingress = json!({"metadata": {"name": "i"}, "spec": {"ingressClassName": "fairway", "tls": [{}],
            "rules": [{"host": "a"}, {"host": "b"}, {}]}, "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}});
        assert_eq!(row(&INGRESS, ingress)[1..5], ["fairway", "a,b", "1.1.1.1", "80, 443"]);
        assert_eq!(row(&INGRESS, json!({}))[1..5], ["<none>", "*", "", "80"]);
        let class =
            json!({"spec": {"controller": "c/d", "parameters": {"apiGroup": "g", "kind": "K", "name": "n"}}});
        assert_eq!(row(&INGRESS_CLASS, class)[1..3], ["c/d", "K.g/n"]);
    }
}
