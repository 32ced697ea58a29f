//! Why a node cannot take a pod.

use std::fmt;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use crate::metadata::is_deleting;
use crate::selector::{matches_node, matches_node_term, matches_pairs, tolerates};

/// The first rule that speaks against a node, in the order in which they are asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    /// `kubectl cordon`.
    Unschedulable,
    /// The node is being deleted.
    Leaving,
    /// nodeSelector or required node affinity.
    Affinity,
    /// A NoSchedule or NoExecute taint that the pod does not tolerate.
    Taint {
        /// Its key.
        key: String,
        /// Its value, or "".
        value: String,
    },
    /// A host port that another pod of the node has.
    HostPort,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::Leaving => f.write_str("node(s) were being deleted"),
            Self::Affinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::Taint { key, value } => write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Self::HostPort => f.write_str("node(s) didn't have free ports for the requested pod ports"),
        }
    }
}

/// A port of the node that a pod asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostPort<'a> {
    address: &'a str,
    protocol: &'a str,
    port: i32,
}

impl HostPort<'_> {
    /// All addresses conflict with each.
    fn conflicts(self, other: HostPort<'_>) -> bool {
        let overlap =
            self.address == other.address || self.address == "0.0.0.0" || other.address == "0.0.0.0";
        self.port == other.port && self.protocol == other.protocol && overlap
    }
}

/// The host ports of a pod's containers.
pub(super) fn host_ports(pod: &Pod) -> impl Iterator<Item = HostPort<'_>> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        Some(HostPort {
            address: port.host_ip.as_deref().filter(|address| !address.is_empty()).unwrap_or("0.0.0.0"),
            protocol: port.protocol.as_deref().unwrap_or("TCP"),
            port: port.host_port.filter(|port| *port != 0)?,
        })
    })
}

/// Why `node`, on which `taken` are in use, cannot take `pod`.
pub(super) fn refusal(pod: &Pod, node: &Node, taken: &[HostPort<'_>]) -> Option<Refusal> {
    if is_deleting(&node.metadata) {
        return Some(Refusal::Leaving);
    }
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) && !is_tolerated(pod, &cordon) {
        return Some(Refusal::Unschedulable);
    }
    if !has_affinity(pod, node) {
        return Some(Refusal::Affinity);
    }
    let blocking = taints(node).filter(|taint| taint.effect != "PreferNoSchedule");
    if let Some(taint) = blocking.into_iter().find(|taint| !is_tolerated(pod, taint)) {
        return Some(Refusal::Taint {
            key: taint.key.clone(),
            value: taint.value.clone().unwrap_or_default(),
        });
    }
    let conflict = host_ports(pod).any(|wanted| taken.iter().any(|taken| wanted.conflicts(*taken)));
    conflict.then_some(Refusal::HostPort)
}

/// How many PreferNoSchedule taints speak against the node.
pub(super) fn avoided_taints(pod: &Pod, node: &Node) -> usize {
    taints(node).filter(|taint| taint.effect == "PreferNoSchedule" && !is_tolerated(pod, taint)).count()
}

/// Sum of the weights of the preferred node affinities that the node meets.
pub(super) fn preference(pod: &Pod, node: &Node) -> i64 {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let preferred = affinity
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
    preferred
        .into_iter()
        .flatten()
        .filter(|term| matches_node_term(&term.preference, node))
        .map(|term| i64::from(term.weight))
        .sum()
}

fn has_affinity(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let selected =
        spec.node_selector.as_ref().is_none_or(|pairs| matches_pairs(pairs, node.metadata.labels.as_ref()));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| matches_node(selector, node))
}

fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten())
}

/// Whether any toleration of the pod covers the taint.
pub(crate) fn is_tolerated(pod: &Pod, taint: &Taint) -> bool {
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    tolerations.into_iter().any(|toleration| tolerates(toleration, taint))
}
