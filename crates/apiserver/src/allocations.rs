//! Which Service holds which cluster address and node port: derived from the stored Services with every change, so it can neither
//! leak nor need repair. Whether a new Service may have one is decided by `objects`, inside the writer.

use std::net::IpAddr;

use imbl::OrdMap;
use serde_json::Value;

use crate::store::{Collection, Key, Object};

/// What is taken. Cloning is a few pointers.
#[derive(Clone, Debug, Default)]
pub struct Allocations {
    addresses: OrdMap<IpAddr, Key>,
    node_ports: OrdMap<u16, Key>,
}

impl Allocations {
    /// Who holds an address.
    pub fn address_holder(&self, address: IpAddr) -> Option<&Key> {
        self.addresses.get(&address)
    }

    /// Who holds a node port. One Service may use a number for several protocols.
    pub fn port_holder(&self, port: u16) -> Option<&Key> {
        self.node_ports.get(&port)
    }

    /// Addresses taken.
    pub fn address_count(&self) -> usize {
        self.addresses.len()
    }

    /// Node ports taken.
    pub fn port_count(&self) -> usize {
        self.node_ports.len()
    }

    /// Follows a change of an object; other kinds than Services are ignored.
    pub(crate) fn replace(
        &mut self,
        collection: &Collection,
        key: &Key,
        old: Option<&Object>,
        new: Option<&Object>,
    ) {
        if collection.as_str() != "services" {
            return;
        }
        if let Some(old) = old {
            addresses(old.value()).for_each(|address| drop(self.addresses.remove(&address)));
            ports(old.value()).for_each(|port| drop(self.node_ports.remove(&port)));
        }
        if let Some(new) = new {
            addresses(new.value()).for_each(|address| drop(self.addresses.insert(address, key.clone())));
            ports(new.value()).for_each(|port| drop(self.node_ports.insert(port, key.clone())));
        }
    }
}

/// The cluster addresses in a Service ("None" and "" are not addresses).
pub(crate) fn addresses(service: &Value) -> impl Iterator<Item = IpAddr> {
    let list = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|address| address.as_str()?.parse().ok())
}

/// The node ports in a Service, with its health-check port.
pub(crate) fn ports(service: &Value) -> impl Iterator<Item = u16> {
    let list = service.pointer("/spec/ports").and_then(Value::as_array);
    let ports = list.into_iter().flatten().filter_map(|port| port.get("nodePort"));
    let ports = ports.chain(service.pointer("/spec/healthCheckNodePort"));
    ports.filter_map(|port| port.as_u64()?.try_into().ok()).filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn follows_services_only() {
        let services = Collection::new("", "services");
        let key = Key::new("a", "s");
        let service = json!({"metadata": {}, "spec": {"clusterIPs": ["10.96.0.7"], "ports": [{"nodePort": 30001}, {"port": 1}]}});
        let service = Object::stamp(service, 1);
        let mut taken = Allocations::default();
        taken.replace(&Collection::new("", "pods"), &key, None, Some(&service));
        assert_eq!((taken.address_count(), taken.port_count()), (0, 0));
        taken.replace(&services, &key, None, Some(&service));
        assert_eq!(taken.address_holder("10.96.0.7".parse().unwrap()), Some(&key));
        assert_eq!(taken.port_holder(30001), Some(&key));
        taken.replace(&services, &key, Some(&service), None);
        assert_eq!((taken.address_count(), taken.port_count()), (0, 0));
    }
}
