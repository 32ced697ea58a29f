//! Everything that the controllers know, as data: one persistent map per kind, cloned in O(1), never changed in place.

use std::sync::Arc;

use fairway_kit::watch::ObjectKey;
use imbl::OrdMap;
pub(crate) use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
pub(crate) use k8s_openapi::api::batch::v1::{CronJob, Job};
pub(crate) use k8s_openapi::api::coordination::v1::Lease;
pub(crate) use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, Pod, ReplicationController, Service, ServiceAccount,
};
pub(crate) use k8s_openapi::api::discovery::v1::EndpointSlice;
pub(crate) use k8s_openapi::api::networking::v1::{IPAddress, Ingress, IngressClass, ServiceCIDR};
pub(crate) use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::index::Indexed;

/// All objects of one kind.
pub type Objects<K> = OrdMap<ObjectKey, Arc<K>>;

/// One object before and after. At least one side is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta<K> {
    /// What was known until now; `None` when the object is new.
    pub old: Option<Arc<K>>,
    /// What is known now; `None` when the object is gone.
    pub new: Option<Arc<K>>,
}

impl<K> Delta<K> {
    /// Both sides that are there, the old one first.
    pub fn sides(&self) -> impl Iterator<Item = &K> {
        self.old.as_deref().into_iter().chain(self.new.as_deref())
    }

    /// The newest side that is there.
    pub fn latest(&self) -> Option<&K> {
        self.new.as_deref().or(self.old.as_deref())
    }
}

/// Calls `$callback!` with every kind that the controllers watch: type, field of [`World`], scope, API group, plural.
macro_rules! with_kinds {
    ($callback:ident) => {
        $callback! {
            Pod pods namespaced "" "pods",
            Node nodes cluster "" "nodes",
            Service services namespaced "" "services",
            Endpoints endpoints namespaced "" "endpoints",
            Namespace namespaces cluster "" "namespaces",
            Lease leases namespaced "coordination.k8s.io" "leases",
            EndpointSlice endpoint_slices namespaced "discovery.k8s.io" "endpointslices",
            Deployment deployments namespaced "apps" "deployments",
            ReplicaSet replica_sets namespaced "apps" "replicasets",
            StatefulSet stateful_sets namespaced "apps" "statefulsets",
            ControllerRevision controller_revisions namespaced "apps" "controllerrevisions",
            DaemonSet daemon_sets namespaced "apps" "daemonsets",
            ReplicationController replication_controllers namespaced "" "replicationcontrollers",
            Job jobs namespaced "batch" "jobs",
            CronJob cron_jobs namespaced "batch" "cronjobs",
            PodDisruptionBudget disruption_budgets namespaced "policy" "poddisruptionbudgets",
            ServiceAccount service_accounts namespaced "" "serviceaccounts",
            ConfigMap config_maps namespaced "" "configmaps",
            ServiceCIDR service_ranges cluster "networking.k8s.io" "servicecidrs",
            IPAddress service_addresses cluster "networking.k8s.io" "ipaddresses",
            Ingress ingresses namespaced "networking.k8s.io" "ingresses",
            IngressClass ingress_classes cluster "networking.k8s.io" "ingressclasses",
        }
    };
}
pub(crate) use with_kinds;

macro_rules! define_world {
    ($($kind:ident $field:ident $scope:ident $group:literal $plural:literal,)*) => {
        /// What all watches have delivered, together with our own writes that they have not delivered yet.
        #[derive(Clone, Debug, Default)]
        pub struct World {
            $(#[doc = concat!("Every ", stringify!($kind), ".")] pub $field: Objects<$kind>,)*
            /// How to find some of them without looking at all.
            pub index: Indexes,
        }

        /// What is known about the objects of each kind beside the objects themselves, always in step with them.
        #[derive(Clone, Debug, Default)]
        pub struct Indexes {
            $(#[doc = concat!("Of every ", stringify!($kind), ".")] pub $field: <$kind as Indexed>::Index,)*
        }

        $(impl Known for $kind {
            fn place(world: &mut World) -> (&mut Objects<Self>, &mut <Self as Indexed>::Index) {
                (&mut world.$field, &mut world.index.$field)
            }
        })*

        /// An object of any watched kind.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $(#[doc = concat!("A ", stringify!($kind), ".")] $kind(Box<$kind>),)*
        }

        $(impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$kind(Box::new(object))
            }
        })*

        impl Object {
            /// Its metadata.
            pub fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                match self { $(Self::$kind(object) => &object.metadata,)* }
            }

            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)* }
            }
        }

        /// The watched kinds by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = stringify!($kind)] $kind,)*
        }

        impl Kind {
            /// API group ("" is core) and plural resource name.
            pub fn resource(self) -> (&'static str, &'static str) {
                match self { $(Self::$kind => ($group, $plural),)* }
            }
        }

        /// One object of any watched kind, before and after.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Change {
            $(#[doc = concat!("A ", stringify!($kind), " changed.")] $kind(Delta<$kind>),)*
        }

        $(impl From<Delta<$kind>> for Change {
            fn from(delta: Delta<$kind>) -> Self {
                Self::$kind(delta)
            }
        })*
    };
}
with_kinds!(define_world);

/// A kind that has its place in the [`World`].
pub trait Known: Indexed {
    /// Its objects and their index.
    fn place(world: &mut World) -> (&mut Objects<Self>, &mut <Self as Indexed>::Index);
}

impl World {
    /// Puts, replaces or (`None`) removes one object; the index follows.
    pub fn set<K: Known>(&mut self, key: ObjectKey, new: Option<Arc<K>>) -> Delta<K> {
        let (objects, index) = K::place(self);
        let old = match &new {
            Some(new) => objects.insert(key.clone(), new.clone()),
            None => objects.remove(&key),
        };
        let delta = Delta { old, new };
        K::follow(index, &key, &delta);
        delta
    }
}

/// The objects of one namespace, in the order of their names.
pub fn in_namespace<'a, K>(objects: &'a Objects<K>, namespace: &'a str) -> impl Iterator<Item = &'a Arc<K>> {
    objects
        .range(ObjectKey::new(namespace, "")..)
        .take_while(move |(key, _)| &*key.namespace == namespace)
        .map(|(_, object)| object)
}
