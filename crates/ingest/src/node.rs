//! Nodes and pods.

use std::net::IpAddr;

use fairway_model::network::{Node, Pod};
use fairway_model::{NodeName, PodKey};
use k8s_openapi::api::core::v1 as core;

/// The label that says which zone a node is in.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The model of a Node; `None` for one without a name. Unreadable addresses are left out.
pub fn node(object: &core::Node) -> Option<Node> {
    let status = object.status.as_ref();
    let listed = status.and_then(|status| status.addresses.as_ref());
    let mut addresses: Vec<(bool, IpAddr)> = listed
        .into_iter()
        .flatten()
        .filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"))
        .filter_map(|address| Some((address.type_ != "InternalIP", address.address.parse().ok()?)))
        .collect();
    addresses.sort_by_key(|(external, _)| *external);
    let ranges = object.spec.as_ref().map(|spec| match &spec.pod_cidrs {
        Some(ranges) if !ranges.is_empty() => ranges.clone(),
        _ => spec.pod_cidr.iter().cloned().collect(),
    });
    let conditions = status.and_then(|status| status.conditions.as_ref());
    Some(Node {
        name: NodeName::from(object.metadata.name.as_deref()?),
        addresses: addresses.into_iter().map(|(_, address)| address).collect(),
        pod_ranges: ranges.into_iter().flatten().filter_map(|range| range.parse().ok()).collect(),
        zone: object
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(ZONE_LABEL))
            .map(|zone| zone.as_str().into()),
        ready: conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
    })
}

/// The model of a pod; `None` for one without a name.
pub fn pod(object: &core::Pod) -> Option<Pod> {
    let status = object.status.as_ref();
    let listed =
        status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten().map(|one| one.ip.as_str());
    let single = status.and_then(|status| status.pod_ip.as_deref());
    let mut addresses: Vec<IpAddr> =
        single.into_iter().chain(listed).filter_map(|text| text.parse().ok()).collect();
    addresses.dedup();
    Some(Pod {
        key: PodKey::new(object.metadata.namespace.as_deref()?, object.metadata.name.as_deref()?),
        addresses,
        node: object.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).map(NodeName::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_read_with_its_internal_address_first() {
        let object: core::Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a"}}, "spec": {"podCIDRs": ["10.244.1.0/24", "bad"]},
            "status": {"addresses": [{"type": "Hostname", "address": "n1"}, {"type": "ExternalIP", "address": "192.0.2.1"},
                {"type": "InternalIP", "address": "10.200.0.2"}], "conditions": [{"type": "Ready", "status": "True"}]}}))
        .unwrap();
        let node = node(&object).unwrap();
        assert_eq!(node.addresses, ["10.200.0.2", "192.0.2.1"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert_eq!((node.pod_ranges.len(), node.zone.as_deref(), node.ready), (1, Some("a"), true));
    }
}
