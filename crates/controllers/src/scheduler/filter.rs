//! Why a node cannot take a pod.

use std::fmt;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use crate::metadata::is_deleting;
use crate::selector::{matches_node, matches_node_term, matches_pairs, tolerates};

use super::load::{NodeLoad, host_ports};
use super::resources;

/// What speaks against a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    /// `kubectl cordon`.
    Unschedulable,
    /// The node is being deleted.
    Leaving,
    /// A NoSchedule or NoExecute taint that the pod does not tolerate.
    Taint {
        /// Its key.
        key: String,
        /// Its value, or "".
        value: String,
    },
    /// nodeSelector or required node affinity.
    Affinity,
    /// A host port that another pod of the node has.
    HostPort,
    /// The node has as many pods as it takes.
    Full,
    /// Too little of this resource is left.
    Insufficient(String),
    /// It would be too uneven.
    Spread,
    /// The node does not have the label that pods are spread over.
    SpreadLabel,
    /// No pod that this one wants to be near.
    PodAffinity,
    /// A pod that this one does not want to be near.
    PodAntiAffinity,
    /// A pod that does not want this one near.
    ExistingAntiAffinity,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unschedulable => "node(s) were unschedulable",
            Self::Leaving => "node(s) were being deleted",
            Self::Taint { key, value } => {
                return write!(f, "node(s) had untolerated taint {{{key}: {value}}}");
            }
            Self::Affinity => "node(s) didn't match Pod's node affinity/selector",
            Self::HostPort => "node(s) didn't have free ports for the requested pod ports",
            Self::Full => "Too many pods",
            Self::Insufficient(resource) => return write!(f, "Insufficient {resource}"),
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::SpreadLabel => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Self::PodAffinity => "node(s) didn't match pod affinity rules",
            Self::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::ExistingAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules",
        })
    }
}

/// Why `node`, which carries `load`, cannot take `pod` whatever other pods there are: the first rule that says no, but every
/// resource that is short.
pub(super) fn refusals(
    pod: &Pod,
    requests: &resources::Amounts,
    node: &Node,
    load: Option<&NodeLoad>,
) -> Vec<Refusal> {
    if is_deleting(&node.metadata) {
        return vec![Refusal::Leaving];
    }
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) && !is_tolerated(pod, &cordon) {
        return vec![Refusal::Unschedulable];
    }
    let mut blocking = taints(node).filter(|taint| taint.effect != "PreferNoSchedule");
    if let Some(taint) = blocking.find(|taint| !is_tolerated(pod, taint)) {
        let value = taint.value.clone().unwrap_or_default();
        return vec![Refusal::Taint { key: taint.key.clone(), value }];
    }
    if !has_affinity(pod, node) {
        return vec![Refusal::Affinity];
    }
    let Some(load) = load else { return shortages(requests, node, &NodeLoad::default()) };
    if host_ports(pod).any(|wanted| load.host_ports.keys().any(|taken| wanted.conflicts(taken))) {
        return vec![Refusal::HostPort];
    }
    shortages(requests, node, load)
}

fn shortages(requests: &resources::Amounts, node: &Node, load: &NodeLoad) -> Vec<Refusal> {
    let full = resources::pods_max(node).is_some_and(|most| load.pods >= most);
    let short = resources::insufficient(requests, &load.requests, node);
    full.then_some(Refusal::Full).into_iter().chain(short.into_iter().map(Refusal::Insufficient)).collect()
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

/// nodeSelector and required node affinity.
pub(crate) fn has_affinity(pod: &Pod, node: &Node) -> bool {
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

/// The taints of a node.
pub(crate) fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten())
}

/// Whether any toleration of the pod covers the taint.
pub(crate) fn is_tolerated(pod: &Pod, taint: &Taint) -> bool {
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    tolerations.into_iter().any(|toleration| tolerates(toleration, taint))
}
