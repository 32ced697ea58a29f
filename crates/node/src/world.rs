//! What the watches delivered, turned into the model step by step. Pure: snapshots in, a [`Network`] and what changed in it out.
//!
//! Snapshots are persistent maps, so two of them are compared in the time of their difference; only Services that it touches are read again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_ingest::Diagnostic;
use fairway_ingest::index::{self, ServiceIndex};
use fairway_kit::Snapshot;
use fairway_kit::watch::ObjectKey;
use fairway_model::{Cluster, Frontends, Network, NodeName, ServiceKey};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use crate::compile::{Replaced, Touched};

/// When the pod change behind a slice happened, set by the EndpointSlice controller.
const TRIGGER_TIME_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Its presence gives the Service to another proxy.
const SERVICE_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";

type Objects<K> = OrdMap<ObjectKey, Arc<K>>;

/// What the watches have delivered at one moment.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// Services.
    pub services: Arc<Snapshot<core::Service>>,
    /// Their endpoints.
    pub slices: Arc<Snapshot<discovery::EndpointSlice>>,
    /// Nodes.
    pub nodes: Arc<Snapshot<core::Node>>,
}

/// The model, and the objects that it was made from.
#[derive(Debug)]
pub struct World {
    network: Network,
    frontends: Frontends,
    index: ServiceIndex<ObjectKey>,
    services: Objects<core::Service>,
    slices: Objects<discovery::EndpointSlice>,
    nodes: Objects<core::Node>,
}

/// What an update changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services that were added, changed or removed.
    pub services: u64,
    /// EndpointSlices that were added, changed or removed.
    pub slices: u64,
    /// When those endpoint changes happened, as far as their slices say.
    pub triggered: Vec<Timestamp>,
    /// What is wrong with each Service that was read, or its slices; empty: nothing (any more).
    pub problems: BTreeMap<ServiceKey, Vec<Diagnostic>>,
    /// What is different in the model.
    pub touched: Touched,
}

impl World {
    /// A world without objects.
    pub fn new(cluster: Cluster) -> Self {
        Self {
            network: Network { cluster, ..Network::default() },
            frontends: Frontends::default(),
            index: ServiceIndex::default(),
            services: OrdMap::new(),
            slices: OrdMap::new(),
            nodes: OrdMap::new(),
        }
    }

    /// The model.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Its frontends.
    pub fn frontends(&self) -> &Frontends {
        &self.frontends
    }

    /// Follows the objects.
    pub fn update(&mut self, objects: &Delivered) -> Changes {
        let mut changes = Changes::default();
        self.count(objects, &mut changes);
        for change in self.index.update(&objects.services.objects, &objects.slices.objects) {
            self.take(change, &mut changes);
        }
        self.update_nodes(&objects.nodes.objects, &mut changes.touched.nodes);
        changes
    }

    fn count(&mut self, objects: &Delivered, changes: &mut Changes) {
        changes.services = self.services.diff(&objects.services.objects).map(|_| 1).sum();
        for item in self.slices.diff(&objects.slices.objects) {
            changes.slices += 1;
            if let DiffItem::Add(_, slice) | DiffItem::Update { new: (_, slice), .. } = item {
                changes.triggered.extend(triggered(slice));
            }
        }
        self.services = objects.services.objects.clone();
        self.slices = objects.slices.objects.clone();
    }

    fn take(&mut self, change: index::Change, changes: &mut Changes) {
        let index::Change { key, service, mut diagnostics } = change;
        let object =
            self.services.get(&ObjectKey { namespace: key.namespace.clone(), name: key.name.clone() });
        let is_ours = object.is_some_and(|object| !has_other_proxy(object));
        if !is_ours {
            diagnostics.clear();
        }
        changes.problems.insert(key.clone(), diagnostics);
        let after = service.filter(|_| is_ours);
        let before = match &after {
            Some(service) => self.network.services.insert(key, service.clone()),
            None => self.network.services.remove(&key),
        };
        if before != after {
            let touched = self.frontends.replace(before.as_deref(), after.as_deref());
            changes.touched.frontends.extend(touched);
            changes.touched.services.push(Replaced { before, after });
        }
    }

    /// Nodes say every few seconds that they are alive; only what the model has of them counts.
    fn update_nodes(&mut self, new: &Objects<core::Node>, touched: &mut BTreeSet<NodeName>) {
        for item in self.nodes.diff(new) {
            let (key, object) = match item {
                DiffItem::Add(key, object) | DiffItem::Update { new: (key, object), .. } => {
                    (key, Some(object))
                }
                DiffItem::Remove(key, _) => (key, None),
            };
            let name = NodeName::from(&*key.name);
            let after = object.and_then(|object| fairway_ingest::node::node(object)).map(Arc::new);
            let before = match &after {
                Some(node) => self.network.nodes.insert(name.clone(), node.clone()),
                None => self.network.nodes.remove(&name),
            };
            if before != after {
                touched.insert(name);
            }
        }
        self.nodes = new.clone();
    }
}

/// Whether another service proxy is responsible (`service.kubernetes.io/service-proxy-name`).
fn has_other_proxy(service: &core::Service) -> bool {
    service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(SERVICE_PROXY_LABEL))
}

fn triggered(slice: &discovery::EndpointSlice) -> Option<Timestamp> {
    slice.metadata.annotations.as_ref()?.get(TRIGGER_TIME_ANNOTATION)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairway_kit::watch::key_of;
    use serde_json::json;

    fn snapshot<K: kube::Resource>(objects: impl IntoIterator<Item = K>) -> Arc<Snapshot<K>> {
        let objects = objects.into_iter().map(|object| (key_of(&object), Arc::new(object))).collect();
        Arc::new(Snapshot { objects, synced: true, revision: 0 })
    }

    fn service(name: &str) -> core::Service {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.20", "ports": [{"port": 80, "targetPort": 8080}]}}))
        .unwrap()
    }

    fn slice(name: &str, of: &str, address: &str) -> discovery::EndpointSlice {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": of},
                "annotations": {TRIGGER_TIME_ANNOTATION: "2026-01-02T03:04:05Z"}},
            "addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": [{"port": 8080, "protocol": "TCP"}]}))
        .unwrap()
    }

    fn endpoints(world: &World, name: &str) -> Vec<String> {
        let service = world.network().services.get(&ServiceKey::new("shop", name));
        let ports = service.into_iter().flat_map(|service| &service.ports);
        ports.flat_map(|port| &port.endpoints).map(|one| one.socket().to_string()).collect()
    }

    #[test]
    fn only_what_changed_is_read_again_and_the_result_is_that_of_a_fresh_start() {
        let mut world = World::new(Cluster::default());
        let nodes = snapshot([]);
        let step = |services: &[&str], slices: &[(&str, &str, &str)]| Delivered {
            services: snapshot(services.iter().map(|name| service(name))),
            slices: snapshot(slices.iter().map(|(name, of, address)| slice(name, of, address))),
            nodes: nodes.clone(),
        };
        let steps = [
            step(&[], &[("a-1", "a", "10.0.0.1")]),
            step(&["a", "b"], &[("a-1", "a", "10.0.0.1")]),
            step(&["a", "b"], &[("a-1", "a", "10.0.0.1"), ("a-2", "a", "10.0.0.2")]),
            step(&["a", "b"], &[("a-1", "b", "10.0.0.1"), ("a-2", "a", "10.0.0.3")]),
            step(&["b"], &[("a-1", "b", "10.0.0.1")]),
            step(&[], &[]),
        ];
        for (number, objects) in steps.iter().enumerate() {
            let changes = world.update(objects);
            let mut fresh = World::new(Cluster::default());
            fresh.update(objects);
            assert_eq!(world.network(), fresh.network(), "step {number}");
            assert_eq!(world.frontends(), fresh.frontends(), "step {number}");
            if number == 3 {
                assert_eq!(endpoints(&world, "a"), ["10.0.0.3:8080"]);
                assert_eq!(endpoints(&world, "b"), ["10.0.0.1:8080"]);
                assert_eq!((changes.services, changes.slices, changes.triggered.len()), (0, 2, 2));
            }
            assert_eq!(world.update(objects), Changes::default(), "the same again is no change");
        }
    }
}
