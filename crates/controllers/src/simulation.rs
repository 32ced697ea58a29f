//! A cluster in memory for tests: the rules of the API server that controllers live by (names, uids, resourceVersions, generations,
//! status apart from spec, graceful deletion), nodes that start and stop pods when told to, and a clock that stands still.

use std::collections::BTreeSet;
use std::sync::Arc;

use fairway_kit::watch::{ObjectKey, key_of, revision_of};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::metadata::{after_seconds, is_deleting, name_of};
use crate::plan::{Deletion, Notice, Write};
use crate::pod;
use crate::task::{Duties, Settings, Task, affected};
use crate::world::*;

/// Passes after which controllers that still find something to do are called a hot loop.
const PASSES_MAX: usize = 20_000;

/// See the module.
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) now: Timestamp,
    pub(crate) settings: Settings,
    pub(crate) notices: Vec<Notice>,
    /// Writes done so far, in words.
    pub(crate) log: Vec<String>,
    /// Nodes that do not report while time passes.
    pub(crate) silent: BTreeSet<String>,
    tasks: BTreeSet<Task>,
    revision: u64,
    made: u64,
}

impl Cluster {
    /// Nodes n1, n2, … that are ready, and the namespace `ns`.
    pub(crate) fn with_nodes(count: usize) -> Self {
        let settings = Settings {
            duties: Duties::WholeCluster,
            load_balancer_pool: "10.200.0.128/25".parse().ok(),
            gateway_service: ObjectKey::new("fairway-system", "fairway-gateway"),
            authority: None,
        };
        let mut cluster = Self {
            world: World::default(),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            settings,
            notices: Vec::new(),
            log: Vec::new(),
            silent: BTreeSet::new(),
            tasks: BTreeSet::new(),
            revision: 0,
            made: 0,
        };
        cluster.create::<Namespace>(json!({"metadata": {"name": "ns"}}));
        for at in 1..=count {
            cluster.create::<Node>(json!({
                "metadata": {"name": format!("n{at}"), "labels": {"kubernetes.io/hostname": format!("n{at}")}},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }));
        }
        cluster
    }

    /// What a user creates; the namespace is `ns` unless given.
    pub(crate) fn create<K>(&mut self, object: Value) -> ObjectKey
    where
        K: Serialize + DeserializeOwned + kube::Resource + Into<Object>,
    {
        let object: K = serde_json::from_value(object).unwrap();
        let object: Object = object.into();
        let kind = object.kind();
        let object = match object {
            Object::Namespace(_)
            | Object::Node(_)
            | Object::IngressClass(_)
            | Object::ServiceCIDR(_)
            | Object::IPAddress(_) => object,
            other => in_default_namespace(other),
        };
        self.apply(Write::Create(object)).unwrap_or_else(|error| panic!("create {kind:?}: {error}"))
    }

    /// What a user patches: a merge patch without conditions.
    pub(crate) fn patch<K>(&mut self, objects: fn(&World) -> &Objects<K>, name: &str, patch: Value)
    where
        K: Serialize + DeserializeOwned + Into<Object>,
    {
        let present = &objects(&self.world)[&ObjectKey::new("ns", name)];
        let mut value = serde_json::to_value(&**present).unwrap();
        let status = patch.get("status").is_some();
        merge(&mut value, patch);
        let object: K = serde_json::from_value(value).unwrap();
        let write = if status { Write::ReplaceStatus(object.into()) } else { Write::Replace(object.into()) };
        self.apply(write).unwrap();
    }

    /// All controllers until none finds anything to do, except for what becomes due later. `check` sees every state on the way.
    pub(crate) fn settle_with(&mut self, mut check: impl FnMut(&World)) {
        for _ in 0..PASSES_MAX {
            let Some(task) = self.tasks.pop_first() else { return };
            let plan = task.reconcile(&self.world, &self.settings, self.now);
            self.notices.extend(plan.notices);
            for write in plan.writes {
                if let Err(conflict) = self.apply(write) {
                    panic!("{task:?} saw the newest state and yet: {conflict}");
                }
                check(&self.world);
            }
        }
        let last = self.log.iter().rev().take(20).collect::<Vec<_>>();
        panic!("still not settled: {:?}, last writes {last:#?}", self.tasks);
    }

    pub(crate) fn settle(&mut self) {
        self.settle_with(|_| ());
    }

    /// Lets `seconds` pass while the nodes report; whatever was waiting for its time is looked at.
    pub(crate) fn wait(&mut self, seconds: i64) {
        self.now = after_seconds(self.now, seconds);
        let reporting = |node: &&Arc<Node>| !self.silent.contains(name_of(&node.metadata));
        let nodes: Vec<_> = self.world.nodes.values().filter(reporting).cloned().collect();
        for mut node in nodes {
            let conditions = Arc::make_mut(&mut node)
                .status
                .iter_mut()
                .flat_map(|status| status.conditions.iter_mut().flatten());
            for condition in conditions.filter(|condition| condition.type_ == "Ready") {
                condition.last_heartbeat_time = Some(Time(self.now));
                condition.status = "True".to_owned();
            }
            self.apply(Write::ReplaceStatus((*node).clone().into())).unwrap();
        }
        self.look_at_everything();
    }

    /// As after a restart: everything is looked at.
    pub(crate) fn look_at_everything(&mut self) {
        macro_rules! all {
            ($($objects:ident $task:ident;)*) => {
                $(self.tasks.extend(self.world.$objects.keys().cloned().map(Task::$task));)*
            };
        }
        all! {
            replica_sets ReplicaSet; deployments Deployment; stateful_sets StatefulSet; daemon_sets DaemonSet;
            replication_controllers ReplicationController; jobs Job; cron_jobs CronJob; disruption_budgets Disruption;
        }
        self.tasks.extend(self.world.nodes.keys().map(|key| Task::Node(key.name.to_string())));
        self.tasks.insert(Task::PodGc);
    }

    /// What the node of a pod does next with it: start it, or end it.
    pub(crate) fn kubelet(&mut self, name: &str) {
        let key = ObjectKey::new("ns", name);
        let Some(pod) = self.world.pods.get(&key).cloned() else { return };
        if pod::node_name(&pod).is_none() {
            return;
        }
        if is_deleting(&pod.metadata) {
            if pod.metadata.finalizers.as_ref().is_none_or(Vec::is_empty) {
                self.remove::<Pod>(&key);
            } else if !pod::is_terminal(&pod) {
                self.end(name, 137);
            }
        } else if !pod::is_ready(&pod) && !pod::is_terminal(&pod) {
            self.ready(name, true);
        }
    }

    /// The pod's only container ends with this code; a pod that is to go stays while something holds it.
    pub(crate) fn end(&mut self, name: &str, code: i32) {
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let terminated = json!({"exitCode": code, "finishedAt": Time(self.now)});
        let container = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": terminated}});
        let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": Time(self.now)});
        let status = json!({"phase": phase, "conditions": [condition], "containerStatuses": [container]});
        self.patch(|world| &world.pods, name, json!({"status": status}));
    }

    /// Every pod's node does its next step.
    pub(crate) fn kubelets(&mut self) {
        let names: Vec<_> = self.world.pods.keys().map(|key| key.name.to_string()).collect();
        names.iter().for_each(|name| self.kubelet(name));
    }

    /// Controllers and nodes in turn until neither does anything.
    pub(crate) fn converge_with(&mut self, mut check: impl FnMut(&World)) {
        for _ in 0..1000 {
            self.settle_with(&mut check);
            let before = self.revision;
            self.kubelets();
            if self.revision == before {
                return;
            }
        }
        panic!("the cluster does not converge");
    }

    pub(crate) fn converge(&mut self) {
        self.converge_with(|_| ());
    }

    /// The Ready condition of a pod, as its node sees it; it is running and has an address.
    pub(crate) fn ready(&mut self, name: &str, ready: bool) {
        let octets = self.world.pods.keys().position(|key| &*key.name == name).unwrap_or(0) + 1;
        let status = if ready { "True" } else { "False" };
        let address = format!("10.244.{}.{}", octets / 250, octets % 250);
        let present =
            self.world.pods[&ObjectKey::new("ns", name)].status.clone().and_then(|status| status.pod_ip);
        let address = present.unwrap_or(address);
        let condition = json!({"type": "Ready", "status": status, "lastTransitionTime": Time(self.now)});
        let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [condition]});
        self.patch(|world| &world.pods, name, json!({"status": status}));
    }

    /// One write, as the API server treats it.
    pub(crate) fn apply(&mut self, write: Write) -> Result<ObjectKey, String> {
        match write {
            Write::Create(object) => self.created(object),
            Write::CreatePod { pod, .. } => self.created((*pod).into()),
            Write::Replace(object) | Write::Adopt { object, .. } => self.replaced(object, false),
            Write::ReplaceStatus(object) => self.replaced(object, true),
            Write::Delete(deletion) | Write::DeletePod { pod: deletion, .. } => self.deleted(deletion),
            Write::Bind { mut pod, node } => {
                self.log.push(format!("bind {} to {node}", name_of(&pod.metadata)));
                pod.spec.get_or_insert_default().node_name = Some(node);
                let key = key_of(&*pod);
                self.store::<Pod>(*pod);
                Ok(key)
            }
            Write::Finalize(namespace) => {
                let key = key_of(&*namespace);
                self.remove::<Namespace>(&key);
                Ok(key)
            }
        }
    }
}

/// Where a kind lives in the world.
trait Place: Known + Clone + kube::Resource<DynamicType = ()> + Serialize + DeserializeOwned {
    fn change(delta: Delta<Self>) -> Change;
}

macro_rules! place {
    ($($kind:ident $field:ident $scope:ident $group:literal $plural:literal,)*) => {
        $(impl Place for $kind {
            fn change(delta: Delta<Self>) -> Change {
                delta.into()
            }
        })*

        fn in_default_namespace(object: Object) -> Object {
            match object {
                $(Object::$kind(mut object) => {
                    object.metadata.namespace.get_or_insert_with(|| "ns".to_owned());
                    Object::$kind(object)
                })*
            }
        }

        impl Cluster {
            fn created(&mut self, object: Object) -> Result<ObjectKey, String> {
                match object { $(Object::$kind(object) => self.create_typed(*object),)* }
            }

            fn replaced(&mut self, object: Object, status: bool) -> Result<ObjectKey, String> {
                match object { $(Object::$kind(object) => self.replace_typed(*object, status),)* }
            }

            fn deleted(&mut self, deletion: Deletion) -> Result<ObjectKey, String> {
                match deletion.kind { $(Kind::$kind => self.delete_typed::<$kind>(deletion),)* }
            }
        }
    };
}
with_kinds!(place);

impl Cluster {
    fn create_typed<K: Place>(&mut self, mut object: K) -> Result<ObjectKey, String> {
        self.made += 1;
        let (made, now) = (self.made, self.now);
        let meta = object.meta_mut();
        if meta.name.is_none() {
            meta.name = Some(format!("{}{made:05}", meta.generate_name.as_deref().unwrap_or("")));
        }
        meta.uid = Some(format!("uid-{made}"));
        meta.creation_timestamp = Some(Time(now));
        meta.generation = Some(1);
        let key = key_of(&object);
        if K::place(&mut self.world).0.contains_key(&key) {
            return Err(format!("{key} exists"));
        }
        self.log
            .push(format!("create {} {key}", std::any::type_name::<K>().rsplit("::").next().unwrap_or("")));
        self.store(object);
        Ok(key)
    }

    fn replace_typed<K: Place>(&mut self, object: K, status: bool) -> Result<ObjectKey, String> {
        let key = key_of(&object);
        let Some(present) = K::place(&mut self.world).0.get(&key).cloned() else {
            return Err(format!("{key} is gone"));
        };
        if object.meta().resource_version != present.meta().resource_version {
            return Err(format!("{key} is newer"));
        }
        let (mut new, old) =
            (serde_json::to_value(&object).unwrap(), serde_json::to_value(&*present).unwrap());
        let (kept, other) = if status { ("spec", "status") } else { ("status", "spec") };
        match old.get(kept) {
            Some(part) => new[kept] = part.clone(),
            None => _ = new.as_object_mut().unwrap().remove(kept),
        }
        if new == old {
            return Ok(key);
        }
        let verb = if status { "status" } else { "replace" };
        self.log
            .push(format!("{verb} {} {key}", std::any::type_name::<K>().rsplit("::").next().unwrap_or("")));
        let bump = !status && new.get(other) != old.get(other);
        let mut object: K = serde_json::from_value(new).unwrap();
        if bump {
            object.meta_mut().generation = present.meta().generation.map(|generation| generation + 1);
        }
        let released = object.meta().finalizers.as_ref().is_none_or(Vec::is_empty);
        let ended = match self.world.pods.get(&key) {
            Some(pod) if K::kind(&()) == "Pod" => pod::is_terminal(pod) || pod::node_name(pod).is_none(),
            _ => true,
        };
        if released && present.meta().finalizers.is_some() && is_deleting(object.meta()) && ended {
            self.remove::<K>(&key);
        } else {
            self.store(object);
        }
        Ok(key)
    }

    fn delete_typed<K: Place>(&mut self, deletion: Deletion) -> Result<ObjectKey, String> {
        let key = deletion.key;
        let Some(present) = K::place(&mut self.world).0.get(&key).cloned() else { return Ok(key) };
        if deletion.uid.is_some() && present.meta().uid != deletion.uid {
            return Ok(key);
        }
        self.log
            .push(format!("delete {} {key}", std::any::type_name::<K>().rsplit("::").next().unwrap_or("")));
        let pod = self.world.pods.get(&key).filter(|_| deletion.kind == Kind::Pod);
        let graceful = pod.is_some_and(|pod| pod::node_name(pod).is_some() && !pod::is_terminal(pod));
        let held = present.meta().finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
        if !held && (!graceful || deletion.grace_period_seconds == Some(0)) {
            self.remove::<K>(&key);
        } else if !is_deleting(present.meta()) {
            let mut object = (*present).clone();
            object.meta_mut().deletion_timestamp = Some(Time(after_seconds(self.now, 30)));
            self.store(object);
        }
        Ok(key)
    }

    fn store<K: Place>(&mut self, mut object: K) {
        self.revision += 1;
        object.meta_mut().resource_version = Some(self.revision.to_string());
        assert_eq!(revision_of(&object), self.revision);
        let delta = self.world.set(key_of(&object), Some(Arc::new(object)));
        self.told(K::change(delta));
    }

    fn remove<K: Place>(&mut self, key: &ObjectKey) {
        self.revision += 1;
        let delta = self.world.set::<K>(key.clone(), None);
        self.told(K::change(delta));
    }

    fn told(&mut self, change: Change) {
        self.tasks.extend(affected(&self.world, &self.settings, &change));
    }

    /// Removes an object as if its finalizers and its node had no say.
    pub(crate) fn vanish(&mut self, name: &str) {
        self.remove::<Pod>(&ObjectKey::new("ns", name));
    }

    /// Removes a node.
    pub(crate) fn remove_node(&mut self, name: &str) {
        self.remove::<Node>(&ObjectKey::new("", name));
    }
}

/// RFC 7386.
pub(crate) fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    target.remove(&name);
                } else {
                    merge(target.entry(name).or_insert(Value::Null), value);
                }
            }
        }
        (target, patch) => *target = patch,
    }
}

/// A pod template with these labels and image.
pub(crate) fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}
