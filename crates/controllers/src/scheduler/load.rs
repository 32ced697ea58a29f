//! What each node carries: counted with every change of a pod, never by going through all of them.

use std::sync::Arc;

use imbl::OrdMap;
use k8s_openapi::api::core::v1::Pod;

use crate::metadata::{controller_of, is_deleting};
use crate::pod;
use crate::world::Delta;

use super::resources::{self, Amounts};

/// A port of the node that a pod asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    address: Arc<str>,
    protocol: Arc<str>,
    port: i32,
}

impl HostPort {
    /// All addresses conflict with each.
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        let every = |address: &str| address == "0.0.0.0";
        let overlap = self.address == other.address || every(&self.address) || every(&other.address);
        self.port == other.port && self.protocol == other.protocol && overlap
    }
}

/// The host ports of a pod's containers.
pub(super) fn host_ports(pod: &Pod) -> impl Iterator<Item = HostPort> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let port_number = port.host_port.filter(|port| *port != 0)?;
        Some(HostPort {
            address: port
                .host_ip
                .as_deref()
                .filter(|address| !address.is_empty())
                .unwrap_or("0.0.0.0")
                .into(),
            protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
            port: port_number,
        })
    })
}

/// What runs on one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeLoad {
    pub(super) pods: usize,
    /// Requests of all pods together.
    pub(super) requests: Amounts,
    /// Pods by the uid of their owner, without those on their way out.
    pub(super) of_owner: OrdMap<Arc<str>, usize>,
    /// How many pods have which port: more than one only by mistake.
    pub(super) host_ports: OrdMap<HostPort, usize>,
}

/// What one pod adds to its node.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    node: Arc<str>,
    requests: Amounts,
    /// A pod on its way out still holds its ports, but no longer counts for the spread.
    owner: Option<Arc<str>>,
    host_ports: Vec<HostPort>,
}

impl Part {
    fn of(pod: &Pod, node: &str) -> Self {
        let owner = controller_of(&pod.metadata).filter(|_| !is_deleting(&pod.metadata));
        Self {
            node: node.into(),
            requests: resources::requests(pod),
            owner: owner.map(|owner| owner.uid.as_str().into()),
            host_ports: host_ports(pod).collect(),
        }
    }

    fn of_side(side: Option<&Pod>) -> Option<Self> {
        let pod = side.filter(|pod| !pod::is_terminal(pod))?;
        pod::node_name(pod).map(|node| Self::of(pod, node))
    }
}

/// The load of every node by name. Cloning is a pointer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loads(OrdMap<Arc<str>, NodeLoad>);

impl Loads {
    /// One node's load, if it has any.
    pub(super) fn of(&self, node: &str) -> Option<&NodeLoad> {
        self.0.get(node)
    }

    /// As if the pod ran on the node.
    pub(super) fn place(&mut self, pod: &Pod, node: &str) {
        self.add(Part::of(pod, node));
    }

    /// Keeps in step with a change.
    pub(crate) fn follow(&mut self, delta: &Delta<Pod>) {
        let (old, new) = (Part::of_side(delta.old.as_deref()), Part::of_side(delta.new.as_deref()));
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.remove(old);
        }
        if let Some(new) = new {
            self.add(new);
        }
    }

    fn add(&mut self, part: Part) {
        let load = self.0.entry(part.node).or_default();
        load.pods += 1;
        load.requests.add(&part.requests);
        if let Some(owner) = part.owner {
            *load.of_owner.entry(owner).or_default() += 1;
        }
        for port in part.host_ports {
            *load.host_ports.entry(port).or_default() += 1;
        }
    }

    fn remove(&mut self, part: Part) {
        let Some(load) = self.0.get_mut(&part.node) else { return };
        load.pods = load.pods.saturating_sub(1);
        load.requests.subtract(&part.requests);
        if let Some(owner) = part.owner {
            decrease(&mut load.of_owner, &owner);
        }
        for port in part.host_ports {
            decrease(&mut load.host_ports, &port);
        }
        if load.pods == 0 {
            self.0.remove(&part.node);
        }
    }
}

fn decrease<K: Ord + Clone>(counts: &mut OrdMap<K, usize>, key: &K) {
    let left = counts.get(key).copied().unwrap_or(0).saturating_sub(1);
    if left == 0 {
        counts.remove(key);
    } else {
        counts.insert(key.clone(), left);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(extra: Value) -> Arc<Pod> {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "100m"}}, "ports": [{"containerPort": 80, "hostPort": 80}]});
        let owner = json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "u", "controller": true}]);
        let mut pod = json!({"metadata": {"ownerReferences": owner}, "spec": {"nodeName": "n1", "containers": [container]}});
        crate::simulation::merge(&mut pod, extra);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn what_comes_and_goes_leaves_nothing() {
        let steps = [
            pod(json!({})),
            pod(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
            pod(json!({"spec": {"nodeName": "n2"}})),
            pod(json!({"spec": {"nodeName": null}})),
            pod(json!({})),
            pod(json!({"status": {"phase": "Failed"}})),
        ];
        let mut loads = Loads::default();
        let mut old = None;
        for new in steps {
            loads.follow(&Delta { old: old.clone(), new: Some(new.clone()) });
            let mut fresh = Loads::default();
            fresh.follow(&Delta { old: None, new: Some(new.clone()) });
            assert_eq!(loads, fresh);
            old = Some(new);
        }
        loads.follow(&Delta { old, new: None });
        assert_eq!(loads, Loads::default());
    }
}
