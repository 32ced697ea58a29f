//! Where a pod may be because of other pods: (anti-)affinity between pods, and spreading over topologies.
//!
//! Computed once a pod, as sets of topology values; asking a node is then a look-up.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use fairway_kit::watch::ObjectKey;

use crate::index::Tag;
use crate::metadata::{label, name_of, namespace_of};
use crate::pod;
use crate::selector::matches;
use crate::world::World;

use super::filter::{Refusal, has_affinity};

/// Pods that this pass has given a node already.
pub(super) type Placed<'a> = Vec<(&'a Pod, &'a str)>;

/// A topology key, and values of it.
#[derive(Debug)]
struct Domains<'a> {
    key: &'a str,
    values: BTreeSet<&'a str>,
}

impl Domains<'_> {
    fn has(&self, node: &Node) -> bool {
        label(&node.metadata, self.key).is_some_and(|value| self.values.contains(value))
    }
}

/// A spread constraint with what is there.
#[derive(Debug)]
struct Spread<'a> {
    key: &'a str,
    skew_max: i64,
    /// The pod counts itself.
    own: i64,
    least: i64,
    counts: BTreeMap<&'a str, i64>,
}

impl Spread<'_> {
    fn skew(&self, node: &Node) -> Option<i64> {
        let value = label(&node.metadata, self.key)?;
        Some(self.counts.get(value).copied().unwrap_or(0) + self.own - self.least)
    }
}

/// All that other pods mean for one pod.
#[derive(Debug, Default)]
pub(super) struct Nearness<'a> {
    wanted: Vec<Domains<'a>>,
    /// Nobody that the pod wants to be near is there, but it is one of those itself: the first may be anywhere.
    first: bool,
    avoided: Vec<Domains<'a>>,
    repelled: Vec<Domains<'a>>,
    liked: Vec<(Domains<'a>, i64)>,
    hard: Vec<Spread<'a>>,
    soft: Vec<Spread<'a>>,
}

/// Whether a pod keeps others away: it has to be asked about each of them.
pub(super) fn repels(pod: &Pod) -> bool {
    !anti_terms(pod).is_empty()
}

fn anti_terms(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.pod_anti_affinity.as_ref());
    let terms =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_deref());
    terms.unwrap_or_default()
}

impl<'a> Nearness<'a> {
    pub(super) fn of(pod: &'a Pod, world: &'a World, placed: &Placed<'a>) -> Self {
        let mut nearness = Self::default();
        let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
        if let Some(affinity) = affinity.and_then(|affinity| affinity.pod_affinity.as_ref()) {
            let terms = affinity.required_during_scheduling_ignored_during_execution.iter().flatten();
            nearness.wanted = terms.clone().map(|term| domains(term, pod, world, placed)).collect();
            let nobody = nearness.wanted.iter().all(|domains| domains.values.is_empty());
            nearness.first = nobody && terms.clone().all(|term| means(term, pod, pod, world));
            let liked = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            nearness.liked.extend(liked.map(|liked| {
                (domains(&liked.pod_affinity_term, pod, world, placed), i64::from(liked.weight))
            }));
        }
        let avoided = anti_terms(pod).iter();
        nearness.avoided = avoided.map(|term| domains(term, pod, world, placed)).collect();
        if let Some(affinity) = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref()) {
            let disliked = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            nearness.liked.extend(disliked.map(|disliked| {
                (domains(&disliked.pod_affinity_term, pod, world, placed), -i64::from(disliked.weight))
            }));
        }
        nearness.repelled = repelled(pod, world, placed);
        for constraint in pod.spec.iter().flat_map(|spec| spec.topology_spread_constraints.iter().flatten()) {
            let spread = spread(constraint, pod, world, placed);
            if constraint.when_unsatisfiable == "DoNotSchedule" {
                nearness.hard.push(spread);
            } else {
                nearness.soft.push(spread);
            }
        }
        nearness
    }

    /// What other pods have against this node.
    pub(super) fn refusal(&self, node: &Node) -> Option<Refusal> {
        for spread in &self.hard {
            match spread.skew(node) {
                None => return Some(Refusal::SpreadLabel),
                Some(skew) if skew > spread.skew_max => return Some(Refusal::Spread),
                Some(_) => {}
            }
        }
        let near = |domains: &Domains<'_>| {
            domains.has(node) || (self.first && label(&node.metadata, domains.key).is_some())
        };
        if !self.wanted.iter().all(near) {
            return Some(Refusal::PodAffinity);
        }
        if self.avoided.iter().any(|domains| domains.has(node)) {
            return Some(Refusal::PodAntiAffinity);
        }
        self.repelled.iter().any(|domains| domains.has(node)).then_some(Refusal::ExistingAntiAffinity)
    }

    /// How much the pod likes the pods there.
    pub(super) fn preference(&self, node: &Node) -> i64 {
        self.liked.iter().filter(|(domains, _)| domains.has(node)).map(|(_, weight)| weight).sum()
    }

    /// How uneven it would become, where that is allowed.
    pub(super) fn unevenness(&self, node: &Node) -> i64 {
        self.soft.iter().map(|spread| spread.skew(node).unwrap_or(i64::from(u16::MAX))).sum()
    }
}

/// The values of the term's topology where a pod that it means is.
fn domains<'a>(term: &'a PodAffinityTerm, of: &Pod, world: &'a World, placed: &Placed<'a>) -> Domains<'a> {
    let key = term.topology_key.as_str();
    let there = namespaces(term, of, world).into_iter().flat_map(|namespace| {
        let selected = term.label_selector.iter();
        selected.flat_map(move |selector| world.pods_selected(namespace, selector))
    });
    let bound = there.filter_map(|pod| pod::node_name(pod).filter(|_| !pod::is_terminal(pod)));
    let decided = placed.iter().filter(|(pod, _)| means(term, of, pod, world)).map(|(_, node)| *node);
    let values = bound.chain(decided).filter_map(|node| topology(world, node, key)).collect();
    Domains { key, values }
}

fn topology<'a>(world: &'a World, node: &str, key: &str) -> Option<&'a str> {
    label(&world.nodes.get(&ObjectKey::new("", node))?.metadata, key)
}

/// The namespaces that a term of the pod `of` looks at.
fn namespaces<'a>(term: &'a PodAffinityTerm, of: &Pod, world: &'a World) -> BTreeSet<&'a str> {
    let mut names: BTreeSet<&str> = term.namespaces.iter().flatten().map(String::as_str).collect();
    if let Some(selector) = &term.namespace_selector {
        let selected = world.namespaces.values();
        let selected = selected.filter(|namespace| matches(selector, namespace.metadata.labels.as_ref()));
        names.extend(selected.map(|namespace| name_of(&namespace.metadata)));
    } else if names.is_empty()
        && let Some((key, _)) =
            world.namespaces.get_key_value(&ObjectKey::new("", namespace_of(&of.metadata)))
    {
        names.insert(&key.name);
    }
    names
}

/// Whether a term of the pod `of` means `other`.
fn means(term: &PodAffinityTerm, of: &Pod, other: &Pod, world: &World) -> bool {
    let selected = term
        .label_selector
        .as_ref()
        .is_some_and(|selector| matches(selector, other.metadata.labels.as_ref()));
    selected && namespaces(term, of, world).contains(namespace_of(&other.metadata))
}

/// Where pods are that do not want this one near.
fn repelled<'a>(pod: &Pod, world: &'a World, placed: &Placed<'a>) -> Vec<Domains<'a>> {
    let there = world.pods_tagged(&Tag::Repelling).map(AsRef::as_ref);
    let bound = there.filter_map(|other: &Pod| pod::node_name(other).map(|node| (other, node)));
    let decided = placed.iter().copied().filter(|(other, _)| repels(other));
    let mut domains = Vec::new();
    for (other, node) in bound.chain(decided) {
        for term in anti_terms(other).iter().filter(|term| means(term, other, pod, world)) {
            let value = topology(world, node, &term.topology_key);
            domains.extend(value.map(|value| Domains { key: &term.topology_key, values: [value].into() }));
        }
    }
    domains
}

fn spread<'a>(
    constraint: &'a TopologySpreadConstraint,
    pod: &'a Pod,
    world: &'a World,
    placed: &Placed<'a>,
) -> Spread<'a> {
    let key = constraint.topology_key.as_str();
    let selector = spread_selector(constraint, pod);
    let namespace = namespace_of(&pod.metadata);
    // Only nodes that the pod could go to count, unless the constraint says otherwise.
    let all = constraint.node_affinity_policy.as_deref() == Some("Ignore");
    let eligible = |node: &Node| all || has_affinity(pod, node);
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for node in world.nodes.values().filter(|node| eligible(node)) {
        counts.extend(
            label(&node.metadata, key).filter(|value| !counts.contains_key(value)).map(|value| (value, 0)),
        );
    }
    let there = selector.iter().flat_map(|selector| world.pods_selected(namespace, selector));
    let there = there.filter(|pod| pod::is_active(pod)).filter_map(|pod| pod::node_name(pod));
    let is_meant = |other: &Pod| {
        namespace_of(&other.metadata) == namespace
            && selector.as_ref().is_some_and(|selector| matches(selector, other.metadata.labels.as_ref()))
    };
    let decided = placed.iter().filter(|(other, _)| is_meant(other)).map(|(_, node)| *node);
    for node in there.chain(decided) {
        let Some(node) = world.nodes.get(&ObjectKey::new("", node)).filter(|node| eligible(node)) else {
            continue;
        };
        if let Some(count) = label(&node.metadata, key).and_then(|value| counts.get_mut(value)) {
            *count += 1;
        }
    }
    let domains_min = usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1);
    let least = if counts.len() < domains_min { 0 } else { counts.values().copied().min().unwrap_or(0) };
    Spread { key, skew_max: i64::from(constraint.max_skew), own: i64::from(is_meant(pod)), least, counts }
}

/// The constraint's selector, narrowed to the pod's own values of `matchLabelKeys`.
fn spread_selector(constraint: &TopologySpreadConstraint, pod: &Pod) -> Option<LabelSelector> {
    let mut selector = constraint.label_selector.clone()?;
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = label(&pod.metadata, key) {
            selector.match_labels.get_or_insert_default().insert(key.clone(), value.to_owned());
        }
    }
    Some(selector)
}
