//! Where daemons go, and what makes them go there.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PodTemplateSpec, Toleration,
};

use crate::metadata::{name_of, owner_reference};
use crate::pod;
use crate::revisions::REVISION_LABEL;
use crate::scheduler::filter;
use crate::world::Delta;

/// What keeps other pods off a node and daemons not: daemons are often what makes a node well again.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// Tolerated by daemons that use the node's own network, as those that set up the network do.
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");
const NAME_FIELD: &str = "metadata.name";

/// What a node is to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// A pod belongs there.
    pub(super) wanted: bool,
    /// One that is there already may stay.
    pub(super) tolerated: bool,
}

/// The pod that every node is asked about.
pub(super) fn model(template: &PodTemplateSpec) -> Pod {
    let mut spec = template.spec.clone().unwrap_or_default();
    let mut tolerations = spec.tolerations.take().unwrap_or_default();
    let network = (spec.host_network == Some(true)).then_some(NETWORK_UNAVAILABLE);
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    spec.tolerations = Some(tolerations);
    Pod { spec: Some(spec), ..Pod::default() }
}

/// Resources are left to the scheduler: a daemon that does not fit is shown as pending, not hidden.
pub(super) fn fit(model: &Pod, node: &Node) -> Fit {
    let name = name_of(&node.metadata);
    let named = pod::node_name(model).is_none_or(|wanted| wanted == name);
    if !named || !filter::has_affinity(model, node) {
        return Fit { wanted: false, tolerated: false };
    }
    let untolerated = |effect: &str| {
        filter::taints(node).any(|taint| taint.effect == effect && !filter::is_tolerated(model, taint))
    };
    let expelled = untolerated("NoExecute");
    Fit { wanted: !expelled && !untolerated("NoSchedule"), tolerated: !expelled }
}

/// A pod for that node.
pub(super) fn new_pod(set: &DaemonSet, template: &PodTemplateSpec, node: &str, hash: &str) -> Pod {
    let mut pod = pod::from_template(template, set.metadata.namespace.clone(), owner_reference(set));
    pod.metadata.generate_name = Some(format!("{}-", name_of(&set.metadata)));
    pod.metadata.labels.get_or_insert_default().insert(REVISION_LABEL.to_owned(), hash.to_owned());
    let mut spec = model(template).spec.unwrap_or_default();
    pin(spec.affinity.get_or_insert_default(), node);
    pod.spec = Some(spec);
    pod
}

/// Every alternative that the template allows, but on this node only.
fn pin(affinity: &mut Affinity, node: &str) {
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let required: &mut NodeSelector =
        affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![NodeSelectorRequirement {
            key: NAME_FIELD.to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![node.to_owned()]),
        }]);
    }
}

/// The node of a daemon: the one that it is on, or the one that it waits for.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    if let Some(node) = pod::node_name(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let named = fields.filter(|field| field.key == NAME_FIELD && field.operator == "In");
    named.filter_map(|field| field.values.as_ref()?.first()).map(String::as_str).next()
}

/// Whether a change of a node can change where daemons belong: its reports of life cannot.
pub(crate) fn wants_look(delta: &Delta<Node>) -> bool {
    let (Some(old), Some(new)) = (&delta.old, &delta.new) else { return true };
    let unschedulable = |node: &Node| node.spec.as_ref().and_then(|spec| spec.unschedulable);
    old.metadata.labels != new.metadata.labels
        || unschedulable(old) != unschedulable(new)
        || !filter::taints(old).eq(filter::taints(new))
}
