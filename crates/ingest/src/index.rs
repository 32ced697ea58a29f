//! Watched snapshots of Services and EndpointSlices → the Services that changed.
//!
//! Every backend keeps something for each Service (rules, names, a pool). The index tells it which Services are different from the last
//! time, by comparing persistent maps (equal parts are skipped), so that one endpoint change costs one Service, whatever their number.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_model::{Service, ServiceKey};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use crate::Diagnostic;
use crate::service::{owner_of, service};

/// A Service that is different from the last time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub key: ServiceKey,
    /// What it is now; `None` when it is gone.
    pub service: Option<Arc<Service>>,
    /// What is wrong with it or its slices.
    pub diagnostics: Vec<Diagnostic>,
}

/// Remembers the last snapshots. `K` is the key type of the snapshots.
#[derive(Debug)]
pub struct ServiceIndex<K: Ord> {
    services: OrdMap<K, Arc<core::Service>>,
    slices: OrdMap<K, Arc<discovery::EndpointSlice>>,
    keys: BTreeMap<ServiceKey, K>,
    slices_of: BTreeMap<ServiceKey, BTreeSet<K>>,
}

impl<K: Ord> Default for ServiceIndex<K> {
    fn default() -> Self {
        Self {
            services: OrdMap::new(),
            slices: OrdMap::new(),
            keys: BTreeMap::new(),
            slices_of: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> ServiceIndex<K> {
    /// Takes newer snapshots and returns what changed, in order of name.
    pub fn update(
        &mut self,
        services: &OrdMap<K, Arc<core::Service>>,
        slices: &OrdMap<K, Arc<discovery::EndpointSlice>>,
    ) -> Vec<Change> {
        let mut touched = self.touched_services(services);
        self.touched_slices(slices, &mut touched);
        self.services = services.clone();
        self.slices = slices.clone();
        touched.into_iter().map(|key| self.change(key)).collect()
    }

    fn touched_services(&mut self, new: &OrdMap<K, Arc<core::Service>>) -> BTreeSet<ServiceKey> {
        let mut touched = BTreeSet::new();
        for item in self.services.diff(new) {
            let (key, object, present) = match item {
                DiffItem::Add(key, object) | DiffItem::Update { new: (key, object), .. } => {
                    (key, object, true)
                }
                DiffItem::Remove(key, object) => (key, object, false),
            };
            let Some(name) = name_of(object) else { continue };
            match present {
                true => self.keys.insert(name.clone(), key.clone()),
                false => self.keys.remove(&name),
            };
            touched.insert(name);
        }
        touched
    }

    fn touched_slices(
        &mut self,
        new: &OrdMap<K, Arc<discovery::EndpointSlice>>,
        touched: &mut BTreeSet<ServiceKey>,
    ) {
        let mut leave =
            |key: &K, slice: &discovery::EndpointSlice, slices_of: &mut BTreeMap<ServiceKey, BTreeSet<K>>| {
                let Some(owner) = owner_of(slice) else { return };
                if let Some(of_owner) = slices_of.get_mut(&owner) {
                    of_owner.remove(key);
                    if of_owner.is_empty() {
                        slices_of.remove(&owner);
                    }
                }
                touched.insert(owner);
            };
        let mut entered = Vec::new();
        for item in self.slices.diff(new) {
            match item {
                DiffItem::Add(key, slice) => entered.push((key, slice)),
                DiffItem::Remove(key, slice) => leave(key, slice, &mut self.slices_of),
                // The owner label may have changed: out of the old owner, into the new.
                DiffItem::Update { old: (key, old), new: (_, slice) } => {
                    leave(key, old, &mut self.slices_of);
                    entered.push((key, slice));
                }
            }
        }
        for (key, slice) in entered {
            if let Some(owner) = owner_of(slice) {
                self.slices_of.entry(owner.clone()).or_default().insert(key.clone());
                touched.insert(owner);
            }
        }
    }

    fn change(&self, key: ServiceKey) -> Change {
        let mut diagnostics = Vec::new();
        let object = self.keys.get(&key).and_then(|key| self.services.get(key));
        let slices = self
            .slices_of
            .get(&key)
            .into_iter()
            .flatten()
            .filter_map(|key| self.slices.get(key))
            .map(Arc::as_ref);
        let service = object.and_then(|object| service(object, slices, &mut diagnostics)).map(Arc::new);
        Change { key, service, diagnostics }
    }
}

fn name_of(object: &core::Service) -> Option<ServiceKey> {
    Some(ServiceKey::new(object.metadata.namespace.as_deref()?, object.metadata.name.as_deref()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> Arc<core::Service> {
        let spec = serde_json::json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]});
        Arc::new(
            serde_json::from_value(
                serde_json::json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec}),
            )
            .unwrap(),
        )
    }

    fn slice(owner: &str, address: &str) -> Arc<discovery::EndpointSlice> {
        let meta = serde_json::json!({"namespace": "ns", "name": "s", "labels": {"kubernetes.io/service-name": owner}});
        Arc::new(
            serde_json::from_value(
                serde_json::json!({"metadata": meta, "addressType": "IPv4", "ports": [{"port": 8080}],
                "endpoints": [{"addresses": [address]}]}),
            )
            .unwrap(),
        )
    }

    fn told(changes: &[Change]) -> Vec<String> {
        let endpoints = |service: &Service| {
            service.endpoints.iter().map(|one| one.address.to_string()).collect::<Vec<_>>().join(",")
        };
        changes
            .iter()
            .map(|one| {
                format!("{} {}", one.key.name, one.service.as_ref().map_or("gone".into(), |of| endpoints(of)))
            })
            .collect()
    }

    #[test]
    fn only_what_changed_is_told() {
        let mut index = ServiceIndex::default();
        let mut services = OrdMap::from_iter([("a", object("a")), ("b", object("b"))]);
        let mut slices = OrdMap::from_iter([("a-1", slice("a", "10.244.1.1"))]);
        assert_eq!(told(&index.update(&services, &slices)), ["a 10.244.1.1", "b "]);
        assert_eq!(told(&index.update(&services, &slices)), Vec::<String>::new());
        slices.insert("a-1", slice("a", "10.244.1.2"));
        assert_eq!(told(&index.update(&services, &slices)), ["a 10.244.1.2"]);
        slices.insert("a-1", slice("b", "10.244.1.2"));
        assert_eq!(told(&index.update(&services, &slices)), ["a ", "b 10.244.1.2"]);
        services.remove("b");
        assert_eq!(told(&index.update(&services, &slices)), ["b gone"]);
        services.insert("b", object("b"));
        assert_eq!(
            told(&index.update(&services, &slices)),
            ["b 10.244.1.2"],
            "slices that were there before their Service"
        );
    }
}
