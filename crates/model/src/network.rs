//! The whole network at one moment.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::name::{NodeName, PodKey, ServiceKey};
use crate::service::Service;

/// What does not change while the cluster lives.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Cluster {
    /// Ranges that pod addresses come from, of all nodes.
    pub pod_ranges: Vec<IpNet>,
    /// Ranges that cluster IPs come from.
    pub service_ranges: Vec<IpNet>,
    /// Ranges that node addresses come from; pods reach these with their own address.
    pub node_ranges: Vec<IpNet>,
    /// The cluster domain, `cluster.local` unless configured, without dots at its ends.
    pub domain: Arc<str>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its addresses, `InternalIP` first.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_ranges: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Condition Ready is True.
    pub ready: bool,
}

/// A pod as the network sees it: for asking about it, never for balancing (endpoints are).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub key: PodKey,
    /// Its addresses; empty until it has one.
    pub addresses: Vec<IpAddr>,
    /// Where it runs.
    pub node: Option<NodeName>,
}

/// Services, endpoints and nodes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Network {
    /// The fixed part.
    pub cluster: Cluster,
    /// All Services.
    pub services: BTreeMap<ServiceKey, Arc<Service>>,
    /// All nodes.
    pub nodes: BTreeMap<NodeName, Arc<Node>>,
}

impl Cluster {
    /// Whether a pod has, or could have, this address.
    pub fn is_pod(&self, address: IpAddr) -> bool {
        self.pod_ranges.iter().any(|range| range.contains(&address))
    }

    /// Whether the address is a cluster IP or could become one.
    pub fn is_service(&self, address: IpAddr) -> bool {
        self.service_ranges.iter().any(|range| range.contains(&address))
    }
}

impl Network {
    /// The node that has this address.
    pub fn node_of(&self, address: IpAddr) -> Option<&Arc<Node>> {
        self.nodes.values().find(|node| node.addresses.contains(&address))
    }
}
