//! Finding objects by what they say: by owner, label or node, so that the work on one object costs what concerns it and not what
//! the cluster holds.
//!
//! An index follows every change of its kind under the same lock as the objects themselves ([`crate::cache`]): a reconcile
//! function never sees one without the other.

use std::sync::Arc;

use fairway_kit::watch::ObjectKey;
use imbl::{OrdMap, OrdSet};
use kube::Resource;

use crate::metadata::{controller_key, controller_of, is_deleting, label, namespace_of};
use crate::pod;
use crate::scheduler::load::Loads;
use crate::world::*;

/// Something that an object says, and by which it is found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    /// This uid manages it.
    Owner(Arc<str>),
    /// Nobody manages it; its namespace.
    Orphan(Arc<str>),
    /// It has this label.
    Label {
        /// Its namespace.
        namespace: Arc<str>,
        /// The label's name.
        name: Arc<str>,
        /// The label's value.
        value: Arc<str>,
    },
    /// A pod of this node.
    Node(Arc<str>),
    /// A pod that the Job of this name still has to count.
    Uncounted(ObjectKey),
    /// A pod that waits for a node.
    Waiting,
    /// A pod that ended.
    Terminal,
    /// A pod that is being deleted and never had a node.
    Abandoned,
    /// A pod that keeps others away (required anti-affinity).
    Repelling,
}

/// Keys by tag.
#[derive(Clone, Debug, Default)]
pub struct Lookup(OrdMap<Tag, OrdSet<ObjectKey>>);

impl Lookup {
    /// The objects that say so, in the order of their keys.
    pub fn find(&self, tag: &Tag) -> impl Iterator<Item = &ObjectKey> {
        self.0.get(tag).into_iter().flatten()
    }

    /// How many say so.
    pub fn count(&self, tag: &Tag) -> usize {
        self.0.get(tag).map_or(0, OrdSet::len)
    }

    /// Nodes that pods name.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        let nodes = self.0.range(Tag::Node("".into())..).map_while(|(tag, _)| match tag {
            Tag::Node(name) => Some(&**name),
            _ => None,
        });
        nodes.into_iter()
    }

    fn replace(&mut self, key: &ObjectKey, old: Vec<Tag>, new: Vec<Tag>) {
        for gone in old.iter().filter(|tag| !new.contains(tag)) {
            let Some(keys) = self.0.get_mut(gone) else { continue };
            keys.remove(key);
            if keys.is_empty() {
                self.0.remove(gone);
            }
        }
        for tag in new.into_iter().filter(|tag| !old.contains(tag)) {
            self.0.entry(tag).or_default().insert(key.clone());
        }
    }

    fn follow<K>(&mut self, key: &ObjectKey, delta: &Delta<K>, tags: impl Fn(&K) -> Vec<Tag>) {
        let tags = |side: &Option<Arc<K>>| side.as_deref().map(&tags).unwrap_or_default();
        self.replace(key, tags(&delta.old), tags(&delta.new));
    }
}

/// A kind whose objects can be found by what they say.
pub trait Indexed: Sized {
    /// What is known beside the objects; `()` for kinds that are only looked up by name.
    type Index: Clone + Default + std::fmt::Debug;
    /// Keeps in step with one change.
    fn follow(index: &mut Self::Index, key: &ObjectKey, delta: &Delta<Self>);
}

macro_rules! unindexed {
    ($($kind:ident)*) => {
        $(impl Indexed for $kind {
            type Index = ();
            fn follow(_index: &mut (), _key: &ObjectKey, _delta: &Delta<Self>) {}
        })*
    };
}
unindexed!(
    Node Service Endpoints Namespace Lease Deployment StatefulSet DaemonSet ReplicationController CronJob
    PodDisruptionBudget ServiceAccount ConfigMap Ingress IngressClass ServiceCIDR IPAddress
);

macro_rules! indexed_by_owner {
    ($($kind:ident)*) => {
        $(impl Indexed for $kind {
            type Index = Lookup;
            fn follow(index: &mut Lookup, key: &ObjectKey, delta: &Delta<Self>) {
                index.follow(key, delta, |object| vec![owner_tag(object)]);
            }
        })*
    };
}
indexed_by_owner!(ReplicaSet ControllerRevision Job);

impl Indexed for EndpointSlice {
    type Index = Lookup;
    fn follow(index: &mut Lookup, key: &ObjectKey, delta: &Delta<Self>) {
        index.follow(key, delta, |slice| {
            let service = label(&slice.metadata, crate::endpoints::SERVICE_NAME_LABEL);
            let namespace = namespace_of(&slice.metadata);
            service
                .map(|service| label_tag(namespace, crate::endpoints::SERVICE_NAME_LABEL, service))
                .into_iter()
                .collect()
        });
    }
}

/// Pods: by owner, label and node; and what each node carries.
#[derive(Clone, Debug, Default)]
pub struct PodIndex {
    /// By what they say.
    pub lookup: Lookup,
    /// What each node carries.
    pub loads: Loads,
}

impl Indexed for Pod {
    type Index = PodIndex;
    fn follow(index: &mut PodIndex, key: &ObjectKey, delta: &Delta<Self>) {
        index.lookup.follow(key, delta, pod_tags);
        index.loads.follow(delta);
    }
}

fn owner_tag<K: Resource>(object: &K) -> Tag {
    match controller_of(object.meta()) {
        Some(owner) => Tag::Owner(owner.uid.as_str().into()),
        None => Tag::Orphan(namespace_of(object.meta()).into()),
    }
}

/// The tag of objects with this label in this namespace.
pub fn label_tag(namespace: &str, name: &str, value: &str) -> Tag {
    Tag::Label { namespace: namespace.into(), name: name.into(), value: value.into() }
}

fn pod_tags(pod: &Pod) -> Vec<Tag> {
    let namespace: Arc<str> = namespace_of(&pod.metadata).into();
    let labels = pod.metadata.labels.iter().flatten().map(|(name, value)| Tag::Label {
        namespace: namespace.clone(),
        name: name.as_str().into(),
        value: value.as_str().into(),
    });
    let mut tags: Vec<Tag> = labels.collect();
    tags.push(owner_tag(pod));
    let node = pod::node_name(pod);
    tags.extend(node.map(|node| Tag::Node(node.into())));
    if crate::job::is_uncounted(pod) {
        tags.extend(controller_key(&pod.metadata, "Job").map(Tag::Uncounted));
    }
    let facts = [
        (crate::scheduler::concerns(pod), Tag::Waiting),
        (pod::is_terminal(pod), Tag::Terminal),
        (node.is_none() && is_deleting(&pod.metadata), Tag::Abandoned),
        (!pod::is_terminal(pod) && crate::scheduler::repels(pod), Tag::Repelling),
    ];
    tags.extend(facts.into_iter().filter(|(holds, _)| *holds).map(|(_, tag)| tag));
    tags
}

/// The objects behind keys; what is gone meanwhile is left out.
fn resolve<'a, K>(
    objects: &'a Objects<K>,
    keys: impl Iterator<Item = &'a ObjectKey>,
) -> impl Iterator<Item = &'a Arc<K>> {
    keys.filter_map(|key| objects.get(key))
}

impl World {
    /// What the owner of this uid manages, and what nobody manages in its namespace: all that a claim has to look at.
    pub fn candidates<'a, K>(&'a self, owner: &kube::api::ObjectMeta) -> Vec<&'a Arc<K>>
    where
        K: Owned + 'a,
    {
        let (objects, lookup) = K::owned(self);
        let uid = Tag::Owner(owner.uid.as_deref().unwrap_or_default().into());
        let orphan = Tag::Orphan(namespace_of(owner).into());
        let mut keys: Vec<&ObjectKey> = lookup.find(&uid).chain(lookup.find(&orphan)).collect();
        keys.sort_unstable();
        resolve(objects, keys.into_iter()).collect()
    }

    /// What this uid manages.
    pub fn managed<'a, K: Owned + 'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        let (objects, lookup) = K::owned(self);
        let keys: Vec<&ObjectKey> = lookup.find(&Tag::Owner(uid.into())).collect();
        resolve(objects, keys.into_iter())
    }

    /// Pods with a tag.
    pub fn pods_tagged<'a>(&'a self, tag: &Tag) -> impl Iterator<Item = &'a Arc<Pod>> + use<'a> {
        let keys: Vec<&ObjectKey> = self.index.pods.lookup.find(tag).collect();
        resolve(&self.pods, keys.into_iter())
    }

    /// Pods of a namespace that have all these labels. Without any label that is every pod of the namespace.
    pub fn pods_labelled<'a>(
        &'a self,
        namespace: &'a str,
        pairs: &'a crate::metadata::StringMap,
    ) -> impl Iterator<Item = &'a Arc<Pod>> {
        let lookup = &self.index.pods.lookup;
        let tags = pairs.iter().map(|(name, value)| label_tag(namespace, name, value));
        let rarest = tags.min_by_key(|tag| lookup.count(tag));
        let listed = rarest.as_ref().map(|tag| self.pods_tagged(tag));
        let all = rarest.is_none().then(|| in_namespace(&self.pods, namespace));
        let all = all.into_iter().flatten();
        listed
            .into_iter()
            .flatten()
            .chain(all)
            .filter(|pod| crate::selector::matches_pairs(pairs, pod.metadata.labels.as_ref()))
    }

    /// Pods of a namespace that a selector means.
    pub fn pods_selected<'a>(
        &'a self,
        namespace: &'a str,
        selector: &'a k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
    ) -> impl Iterator<Item = &'a Arc<Pod>> {
        static NONE: crate::metadata::StringMap = crate::metadata::StringMap::new();
        let pairs = selector.match_labels.as_ref().unwrap_or(&NONE);
        self.pods_labelled(namespace, pairs)
            .filter(move |pod| crate::selector::matches(selector, pod.metadata.labels.as_ref()))
    }

    /// Slices of a Service.
    pub fn slices_of<'a>(
        &'a self,
        service: &ObjectKey,
    ) -> impl Iterator<Item = &'a Arc<EndpointSlice>> + use<'a> {
        let tag = label_tag(&service.namespace, crate::endpoints::SERVICE_NAME_LABEL, &service.name);
        let keys: Vec<&ObjectKey> = self.index.endpoint_slices.find(&tag).collect();
        resolve(&self.endpoint_slices, keys.into_iter())
    }
}

/// A kind whose objects are found by their owner.
pub trait Owned: Sized {
    /// Its objects and how to find them.
    fn owned(world: &World) -> (&Objects<Self>, &Lookup);
}

macro_rules! owned {
    ($($kind:ident $field:ident $($path:ident)?;)*) => {
        $(impl Owned for $kind {
            fn owned(world: &World) -> (&Objects<Self>, &Lookup) {
                (&world.$field, &world.index.$field $(.$path)?)
            }
        })*
    };
}
owned! {
    Pod pods lookup;
    ReplicaSet replica_sets;
    ControllerRevision controller_revisions;
    Job jobs;
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use fairway_kit::Snapshot;
    use jiff::Timestamp;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::cache::Cache;
    use crate::simulation::template;
    use crate::task::{Task, affected};

    fn pod(name: &str, extra: Value) -> Arc<Pod> {
        let mut pod = json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"containers": []}});
        crate::simulation::merge(&mut pod, extra);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn owner(uid: &str) -> Value {
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "controller": true}])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_index_that_followed_is_one_made_afresh(steps in prop::collection::vec((0..4u8, 0..3u8, 0..3u8, 0..3u8), 0..40)) {
            let mut world = World::default();
            for (name, uid, node, app) in steps {
                let name = format!("p{name}");
                let mut extra = json!({"metadata": {"labels": {"app": app.to_string()}}});
                if uid > 0 {
                    extra["metadata"]["ownerReferences"] = owner(&uid.to_string());
                }
                if node > 0 {
                    extra["spec"] = json!({"nodeName": format!("n{node}")});
                }
                let new = (app > 0 || uid > 0).then(|| pod(&name, extra));
                world.set(ObjectKey::new("ns", &name), new);
            }
            let mut fresh = World::default();
            for (key, pod) in &world.pods {
                fresh.set(key.clone(), Some(pod.clone()));
            }
            prop_assert_eq!(&world.index.pods.lookup.0, &fresh.index.pods.lookup.0);
            prop_assert_eq!(&world.index.pods.loads, &fresh.index.pods.loads);
        }
    }

    /// ReplicaSets of ten pods each, all in one namespace.
    fn crowd(sets: usize) -> World {
        let mut world = World::default();
        world.nodes.insert(ObjectKey::new("", "n1"), Arc::default());
        for set in 0..sets {
            let uid = format!("set{set}");
            let mut template = template("v1");
            template["metadata"]["labels"] = json!({"app": uid});
            let object = json!({"metadata": {"namespace": "ns", "name": uid, "uid": uid},
                "spec": {"replicas": 10, "selector": {"matchLabels": {"app": uid}}, "template": template}});
            world.set::<ReplicaSet>(
                ObjectKey::new("ns", &uid),
                Some(Arc::new(serde_json::from_value(object).unwrap())),
            );
            for at in 0..10 {
                let name = format!("{uid}-{at}");
                let extra = json!({"metadata": {"uid": name, "resourceVersion": "1", "labels": {"app": uid}, "ownerReferences": owner(&uid)}, "spec": {"nodeName": "n1"}});
                world.set(ObjectKey::new("ns", &name), Some(pod(&name, extra)));
            }
        }
        world
    }

    #[test]
    fn a_claim_looks_at_its_own_pods_and_orphans_only() {
        let mut world = crowd(100);
        world.set(ObjectKey::new("ns", "stray"), Some(pod("stray", json!({}))));
        let set = world.replica_sets[&ObjectKey::new("ns", "set7")].clone();
        let names: Vec<_> = world
            .candidates::<Pod>(&set.metadata)
            .iter()
            .map(|pod| crate::metadata::name_of(&pod.metadata))
            .collect();
        assert_eq!((names.len(), names[0], names[10]), (11, "set7-0", "stray"));
        let labels = [("app".to_owned(), "set7".to_owned())].into();
        assert_eq!(world.pods_labelled("ns", &labels).count(), 10);
    }

    /// What one change of a pod costs: the cache, the tasks, the work on its ReplicaSet.
    fn cost(world: &World, changes: u32) -> Duration {
        let settings = crate::simulation::Cluster::with_nodes(0).settings;
        let cache = Cache::<Pod>::default();
        let mut objects = world.pods.clone();
        cache.observe(&Snapshot { objects: objects.clone(), synced: true, revision: 1 }, Instant::now());
        let mut world = world.clone();
        let started = Instant::now();
        for at in 0..changes {
            let key = ObjectKey::new("ns", &format!("set1-{}", at % 10));
            let mut changed = (*objects[&key]).clone();
            changed.metadata.resource_version = Some((at + 2).to_string());
            objects.insert(key, Arc::new(changed));
            let snapshot = Snapshot { objects: objects.clone(), synced: true, revision: u64::from(at) + 2 };
            let deltas = cache.observe(&snapshot, Instant::now());
            (world.pods, world.index.pods) = cache.indexed_view();
            for delta in deltas {
                for task in affected(&world, &settings, &Change::Pod(delta)) {
                    assert_eq!(task, Task::ReplicaSet(ObjectKey::new("ns", "set1")));
                    task.reconcile(&world, &settings, Timestamp::UNIX_EPOCH);
                }
            }
        }
        started.elapsed() / changes
    }

    #[test]
    fn a_change_costs_what_it_concerns_and_not_what_there_is() {
        let (few, many) = (cost(&crowd(10), 200), cost(&crowd(1000), 200));
        println!("one change among 100 pods: {few:?}, among 10,000: {many:?}");
        // Going through all would be a hundred times as much. What grows is the comparison of two snapshots, which steps over the
        // leaves that they share.
        assert!(many < few * 40, "{few:?} among 100 pods, {many:?} among 10,000");
    }
}
