//! The table of built-in resources.

use std::sync::LazyLock;

use super::{Generation, ObjectType, Resource, Scope, Subresource, Verb};
use crate::schema::{Schema, StructId, Types};

/// A row of the table. `kind` is the name of `builtin`.
struct Row {
    builtin: BuiltinKind,
    group: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    scope: Scope,
    verbs: &'static [Verb],
    subresources: &'static [Sub],
    generation: Generation,
    unconditional_update: bool,
    create_on_update: bool,
    delete_returns_object: bool,
}

/// A subresource, what is read and written there, what may be done with it.
struct Sub(&'static str, Speaks, &'static [Verb]);

#[derive(Clone, Copy)]
enum Speaks {
    TheObject,
    Kind { group: &'static str, kind: &'static str },
}

const STORED: &[Verb] = &[
    Verb::Create,
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Update,
    Verb::Watch,
];
const STORED_ONE_BY_ONE: &[Verb] =
    &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];
const ASKED: &[Verb] = &[Verb::Create];
const CHANGED: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];
const STREAMED: &[Verb] = &[Verb::Create, Verb::Get];
const FORWARDED: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];

const STATUS: Sub = Sub("status", Speaks::TheObject, CHANGED);
const SCALE: Sub = Sub("scale", Speaks::Kind { group: "autoscaling", kind: "Scale" }, CHANGED);
const SCALABLE: &[Sub] = &[SCALE, STATUS];
const POD: &[Sub] = &[
    Sub("attach", Speaks::Kind { group: "", kind: "PodAttachOptions" }, STREAMED),
    Sub("binding", Speaks::Kind { group: "", kind: "Binding" }, ASKED),
    Sub("ephemeralcontainers", Speaks::TheObject, CHANGED),
    Sub("eviction", Speaks::Kind { group: "policy", kind: "Eviction" }, ASKED),
    Sub("exec", Speaks::Kind { group: "", kind: "PodExecOptions" }, STREAMED),
    Sub("log", Speaks::TheObject, &[Verb::Get]),
    Sub("portforward", Speaks::Kind { group: "", kind: "PodPortForwardOptions" }, STREAMED),
    Sub("proxy", Speaks::Kind { group: "", kind: "PodProxyOptions" }, FORWARDED),
    Sub("resize", Speaks::TheObject, CHANGED),
    STATUS,
];
const NAMESPACE: &[Sub] = &[Sub("finalize", Speaks::TheObject, &[Verb::Update]), STATUS];
const NODE: &[Sub] = &[Sub("proxy", Speaks::Kind { group: "", kind: "NodeProxyOptions" }, FORWARDED), STATUS];
const SERVICE: &[Sub] =
    &[Sub("proxy", Speaks::Kind { group: "", kind: "ServiceProxyOptions" }, FORWARDED), STATUS];
const SERVICE_ACCOUNT: &[Sub] =
    &[Sub("token", Speaks::Kind { group: "authentication.k8s.io", kind: "TokenRequest" }, ASKED)];

const CORE: Row = Row {
    builtin: BuiltinKind::Pod,
    group: "",
    plural: "",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: STORED,
    subresources: &[],
    generation: Generation::None,
    unconditional_update: true,
    create_on_update: false,
    delete_returns_object: false,
};
const APPS: Row = Row { group: "apps", generation: Generation::Spec, ..CORE };
const BATCH: Row = Row { group: "batch", generation: Generation::Spec, ..CORE };
const NETWORKING: Row = Row { group: "networking.k8s.io", generation: Generation::Spec, ..CORE };
const RBAC: Row = Row { group: "rbac.authorization.k8s.io", create_on_update: true, ..CORE };
const ADMISSION: Row = Row {
    group: "admissionregistration.k8s.io",
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    generation: Generation::Content,
    unconditional_update: false,
    ..CORE
};
const AUTHORIZATION: Row = Row {
    scope: Scope::Cluster,
    verbs: ASKED,
    group: "authorization.k8s.io",
    unconditional_update: false,
    ..CORE
};
const AUTHENTICATION: Row = Row { group: "authentication.k8s.io", ..AUTHORIZATION };

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { builtin: BuiltinKind::Binding, plural: "bindings", verbs: ASKED, unconditional_update: false, ..CORE },
    Row { builtin: BuiltinKind::ConfigMap, plural: "configmaps", short_names: &["cm"], ..CORE },
    Row { builtin: BuiltinKind::Endpoints, plural: "endpoints", short_names: &["ep"], create_on_update: true, ..CORE },
    Row { builtin: BuiltinKind::Event, plural: "events", short_names: &["ev"], create_on_update: true, ..CORE },
    Row { builtin: BuiltinKind::LimitRange, plural: "limitranges", short_names: &["limits"], create_on_update: true,
          ..CORE },
    Row { builtin: BuiltinKind::Namespace, plural: "namespaces", short_names: &["ns"], scope: Scope::Cluster,
          verbs: STORED_ONE_BY_ONE, subresources: NAMESPACE, ..CORE },
    Row { builtin: BuiltinKind::Node, plural: "nodes", short_names: &["no"], scope: Scope::Cluster,
          subresources: NODE, ..CORE },
    Row { builtin: BuiltinKind::PersistentVolumeClaim, plural: "persistentvolumeclaims", short_names: &["pvc"],
          subresources: &[STATUS], delete_returns_object: true, ..CORE },
    Row { builtin: BuiltinKind::Pod, plural: "pods", short_names: &["po"], categories: &["all"], subresources: POD,
          generation: Generation::Spec, delete_returns_object: true, ..CORE },
    Row { builtin: BuiltinKind::PodTemplate, plural: "podtemplates", generation: Generation::Content,
          delete_returns_object: true, ..CORE },
    Row { builtin: BuiltinKind::ReplicationController, plural: "replicationcontrollers", short_names: &["rc"],
          categories: &["all"], subresources: SCALABLE, generation: Generation::Spec, ..CORE },
    Row { builtin: BuiltinKind::ResourceQuota, plural: "resourcequotas", short_names: &["quota"],
          subresources: &[STATUS], delete_returns_object: true, ..CORE },
    Row { builtin: BuiltinKind::Secret, plural: "secrets", ..CORE },
    Row { builtin: BuiltinKind::ServiceAccount, plural: "serviceaccounts", short_names: &["sa"],
          subresources: SERVICE_ACCOUNT, delete_returns_object: true, ..CORE },
    Row { builtin: BuiltinKind::Service, plural: "services", short_names: &["svc"], categories: &["all"],
          subresources: SERVICE, create_on_update: true, delete_returns_object: true, ..CORE },

    Row { builtin: BuiltinKind::ControllerRevision, plural: "controllerrevisions", generation: Generation::None, ..APPS },
    Row { builtin: BuiltinKind::DaemonSet, plural: "daemonsets", short_names: &["ds"], categories: &["all"],
          subresources: &[STATUS], ..APPS },
    Row { builtin: BuiltinKind::Deployment, plural: "deployments", short_names: &["deploy"], categories: &["all"],
          subresources: SCALABLE, ..APPS },
    Row { builtin: BuiltinKind::ReplicaSet, plural: "replicasets", short_names: &["rs"], categories: &["all"],
          subresources: SCALABLE, ..APPS },
    Row { builtin: BuiltinKind::StatefulSet, plural: "statefulsets", short_names: &["sts"], categories: &["all"],
          subresources: SCALABLE, ..APPS },

    Row { builtin: BuiltinKind::CronJob, plural: "cronjobs", short_names: &["cj"], categories: &["all"],
          subresources: &[STATUS], ..BATCH },
    Row { builtin: BuiltinKind::Job, plural: "jobs", categories: &["all"], subresources: &[STATUS], ..BATCH },

    Row { builtin: BuiltinKind::EndpointSlice, group: "discovery.k8s.io", plural: "endpointslices",
          generation: Generation::ContentOrLabels, ..CORE },
    Row { builtin: BuiltinKind::Lease, group: "coordination.k8s.io", plural: "leases", unconditional_update: false,
          create_on_update: true, ..CORE },

    Row { builtin: BuiltinKind::Event, group: "events.k8s.io", plural: "events", short_names: &["ev"],
          create_on_update: true, ..CORE },

    Row { builtin: BuiltinKind::IPAddress, plural: "ipaddresses", short_names: &["ip"], scope: Scope::Cluster,
          generation: Generation::None, ..NETWORKING },
    Row { builtin: BuiltinKind::IngressClass, plural: "ingressclasses", scope: Scope::Cluster, ..NETWORKING },
    Row { builtin: BuiltinKind::Ingress, plural: "ingresses", short_names: &["ing"], subresources: &[STATUS],
          ..NETWORKING },
    Row { builtin: BuiltinKind::NetworkPolicy, plural: "networkpolicies", short_names: &["netpol"], ..NETWORKING },
    Row { builtin: BuiltinKind::ServiceCIDR, plural: "servicecidrs", scope: Scope::Cluster,
          subresources: &[STATUS], generation: Generation::None, ..NETWORKING },

    Row { builtin: BuiltinKind::PodDisruptionBudget, group: "policy", plural: "poddisruptionbudgets",
          short_names: &["pdb"], subresources: &[STATUS], generation: Generation::Spec, unconditional_update: false,
          ..CORE },

    Row { builtin: BuiltinKind::ClusterRole, plural: "clusterroles", scope: Scope::Cluster, ..RBAC },
    Row { builtin: BuiltinKind::ClusterRoleBinding, plural: "clusterrolebindings", scope: Scope::Cluster, ..RBAC },
    Row { builtin: BuiltinKind::Role, plural: "roles", ..RBAC },
    Row { builtin: BuiltinKind::RoleBinding, plural: "rolebindings", ..RBAC },

    Row { builtin: BuiltinKind::StorageClass, group: "storage.k8s.io", plural: "storageclasses", short_names: &["sc"],
          scope: Scope::Cluster, delete_returns_object: true, ..CORE },
    Row { builtin: BuiltinKind::PriorityClass, group: "scheduling.k8s.io", plural: "priorityclasses",
          short_names: &["pc"], scope: Scope::Cluster, generation: Generation::Creation, ..CORE },

    Row { builtin: BuiltinKind::MutatingWebhookConfiguration, plural: "mutatingwebhookconfigurations", ..ADMISSION },
    Row { builtin: BuiltinKind::ValidatingAdmissionPolicy, plural: "validatingadmissionpolicies",
          subresources: &[STATUS], ..ADMISSION },
    Row { builtin: BuiltinKind::ValidatingAdmissionPolicyBinding, plural: "validatingadmissionpolicybindings",
          ..ADMISSION },
    Row { builtin: BuiltinKind::ValidatingWebhookConfiguration, plural: "validatingwebhookconfigurations",
          ..ADMISSION },
    Row { builtin: BuiltinKind::CustomResourceDefinition, group: "apiextensions.k8s.io",
          plural: "customresourcedefinitions", short_names: &["crd", "crds"], subresources: &[STATUS], ..ADMISSION },

    Row { builtin: BuiltinKind::SelfSubjectReview, plural: "selfsubjectreviews", ..AUTHENTICATION },
    Row { builtin: BuiltinKind::TokenReview, plural: "tokenreviews", ..AUTHENTICATION },
    Row { builtin: BuiltinKind::LocalSubjectAccessReview, plural: "localsubjectaccessreviews",
          scope: Scope::Namespaced, ..AUTHORIZATION },
    Row { builtin: BuiltinKind::SelfSubjectAccessReview, plural: "selfsubjectaccessreviews", ..AUTHORIZATION },
    Row { builtin: BuiltinKind::SelfSubjectRulesReview, plural: "selfsubjectrulesreviews", ..AUTHORIZATION },
    Row { builtin: BuiltinKind::SubjectAccessReview, plural: "subjectaccessreviews", ..AUTHORIZATION },
];

/// The resources that are served.
pub(super) fn resources() -> impl Iterator<Item = Resource> {
    ROWS.iter().map(Row::resource)
}

/// The body of a delete.
pub(super) fn delete_options() -> &'static ObjectType {
    static TYPE: LazyLock<ObjectType> = LazyLock::new(|| ObjectType {
        group: "meta.k8s.io".into(),
        version: "v1".into(),
        kind: "DeleteOptions".into(),
        schema: schema("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"),
        custom: None,
    });
    &TYPE
}

impl Row {
    fn resource(&self) -> Resource {
        let kind = self.builtin.name();
        let object = object_type(self.group, kind);
        let subresources = self.subresources.iter().map(|Sub(name, speaks, verbs)| Subresource {
            name: (*name).into(),
            object: match *speaks {
                Speaks::TheObject => object.clone(),
                Speaks::Kind { group, kind } => object_type(group, kind),
            },
            verbs: verbs.to_vec(),
        });
        Resource {
            subresources: subresources.collect(),
            list_kind: format!("{kind}List").into(),
            plural: self.plural.into(),
            singular: kind.to_ascii_lowercase().into(),
            short_names: self.short_names.iter().map(|name| (*name).into()).collect(),
            categories: self.categories.iter().map(|name| (*name).into()).collect(),
            scope: self.scope,
            verbs: self.verbs.to_vec(),
            generation: self.generation,
            unconditional_update: self.unconditional_update,
            create_on_update: self.create_on_update,
            delete_returns_object: self.delete_returns_object,
            builtin: Some(self.builtin),
            object,
        }
    }
}

fn object_type(group: &'static str, kind: &'static str) -> ObjectType {
    let package = match group {
        "" => "io.k8s.api.core",
        "apiextensions.k8s.io" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
        group => &format!("io.k8s.api.{}", group.split('.').next().unwrap_or(group)),
    };
    let schema = schema(&format!("{package}.v1.{kind}"));
    ObjectType { group: group.into(), version: "v1".into(), kind: kind.into(), schema, custom: None }
}

/// Kinds that exist only as query parameters (`PodExecOptions`) have no fields.
fn schema(name: &str) -> Schema {
    let types = Types::builtin();
    Schema { types: types.clone(), root: types.find(name).unwrap_or(StructId::NOTHING) }
}

macro_rules! kinds {
    ($($kind:ident)*) => {
        /// The kinds with rules of their own: defaults, validation, strategy, table cells.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "each is the kind of its name")]
        pub enum BuiltinKind {
            $($kind,)*
        }

        impl BuiltinKind {
            /// The kind's name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind),)*
                }
            }
        }
    };
}

kinds! {
    Binding ClusterRole ClusterRoleBinding ConfigMap ControllerRevision CronJob CustomResourceDefinition
    DaemonSet Deployment EndpointSlice Endpoints Event IPAddress Ingress IngressClass Job Lease LimitRange
    LocalSubjectAccessReview MutatingWebhookConfiguration Namespace NetworkPolicy Node PersistentVolumeClaim
    Pod PodDisruptionBudget PodTemplate PriorityClass ReplicaSet ReplicationController ResourceQuota Role
    RoleBinding Secret SelfSubjectAccessReview SelfSubjectReview SelfSubjectRulesReview Service
    ServiceAccount ServiceCIDR StatefulSet StorageClass SubjectAccessReview TokenReview
    ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration
}
