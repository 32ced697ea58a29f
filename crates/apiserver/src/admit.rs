//! Admission: what the server adds to a write, or refuses it for, because of other objects.
//!
//! The stages of a write, each one call, in the order of Kubernetes:
//!
//! | stage | where |
//! |---|---|
//! | decode, or patch and normalize | `rest::create`, `rest::update` |
//! | what the server decides about the request, defaults | `objects::strategy`, `objects::defaults` |
//! | [`mutate`]: built-in admission, webhooks | here |
//! | validation of the schema | `objects::validate` |
//! | [`validate`]: policies, webhooks | here |
//! | [`reserve`]: what other writes could take away meanwhile | here, in the transaction |
//!
//! Policies and webhooks may take time and ask others, so these stages run beside the traffic; without any they cost one atomic load.

mod access;
pub(crate) mod account;
mod builtin;
mod condition;
pub(crate) mod disruption;
mod limits;
mod matching;
mod policy;
mod quota;
mod webhook;

use std::sync::Arc;

use fairway_objects::document::Document;
use fairway_objects::registry::{BuiltinKind, ObjectType, Registry, Resource};
use fairway_objects::status::{Qualified, Status};
use serde_json::Value;

pub(crate) use self::access::aggregate_roles;
use self::policy::Policy;
pub(crate) use self::webhook::Connections;
use self::webhook::Webhook;
use crate::auth::User;
use crate::http::query::Query;
use crate::server::Api;
use crate::store::{Collection, Key, State, Txn};

/// What to tell the client beside the answer.
pub(crate) type Warnings = Vec<String>;

/// What a request does to its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A new object.
    Create,
    /// Another content for an object.
    Update,
    /// The end of an object.
    Delete,
    /// A stream to what an object stands for.
    Connect,
}

/// A write as admission sees it, apart from the object.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a> {
    /// Who asks.
    pub(crate) user: &'a User,
    /// For what.
    pub(crate) operation: Operation,
    /// Of which resource.
    pub(crate) resource: &'a Arc<Resource>,
    /// "" for the object itself.
    pub(crate) subresource: &'a str,
    /// What the admitted object is: for a subresource with a kind of its own, that one.
    pub(crate) object_type: &'a ObjectType,
    /// "" for an object whose name is not known yet.
    pub(crate) name: &'a str,
    /// "" for objects of the cluster.
    pub(crate) namespace: &'a str,
    /// Whether nothing will be stored.
    pub(crate) dry_run: bool,
    /// The options of the request in its URL.
    pub(crate) query: &'a Query,
    /// The options of the request in its body, of a delete.
    pub(crate) options: Option<&'a Value>,
}

impl<'a> Attributes<'a> {
    /// Whether what is admitted is the object that will be stored, and neither a question about it nor its end.
    fn is_write_of_object(&self) -> bool {
        self.operation != Operation::Delete && !matches!(self.subresource, "binding" | "eviction" | "token")
    }

    fn is_new_object(&self) -> bool {
        self.operation == Operation::Create && self.subresource.is_empty()
    }

    /// Whether the resource is the cluster's; a Namespace is in itself.
    fn is_in_no_namespace(&self) -> bool {
        !self.resource.is_namespaced()
    }

    /// The namespace that webhooks and policies are told.
    fn namespace_in_reviews(&self) -> &'a str {
        if self.resource.builtin == Some(BuiltinKind::Namespace) { self.name } else { self.namespace }
    }
}

/// Webhooks and policies, compiled, in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct Configured {
    mutating: Vec<Webhook>,
    validating: Vec<Webhook>,
    policies: Vec<Policy>,
}

impl Configured {
    fn new(state: &State) -> Self {
        let of = |plural: &str| state.objects(&Collection::new("admissionregistration.k8s.io", plural));
        let webhooks = |plural: &str| -> Vec<Webhook> {
            of(plural)
                .values()
                .flat_map(|object| Webhook::read_all(object.value()).collect::<Vec<_>>())
                .collect()
        };
        Self {
            mutating: webhooks("mutatingwebhookconfigurations"),
            validating: webhooks("validatingwebhookconfigurations"),
            policies: Policy::read_all(state),
        }
    }
}

/// A request on its way through webhooks and policies, with what they may ask for.
struct Request<'a> {
    attributes: &'a Attributes<'a>,
    old: Option<&'a Value>,
    state: Arc<State>,
    registry: Arc<Registry>,
    /// The namespace of the object, if it is in one that is there.
    namespace: Option<Value>,
}

impl<'a> Request<'a> {
    fn new(api: &Api, state: Arc<State>, attributes: &'a Attributes<'a>, old: Option<&'a Value>) -> Self {
        let namespace = state.object(&Collection::new("", "namespaces"), &Key::new("", attributes.namespace));
        let namespace = namespace.filter(|_| !attributes.namespace.is_empty());
        let namespace = namespace.map(|namespace| namespace.value().clone());
        let registry = Arc::clone(&api.catalog.load().registry);
        Self { attributes, old, state, registry, namespace }
    }

    fn namespace_not_found(&self) -> Status {
        Status::not_found(Qualified { group: "", name: "namespaces" }, self.attributes.namespace)
    }
}

/// Completes an object that has its defaults: built-in admission, mutating webhooks; both give what they add its defaults. `old` is what it
/// replaces.
pub(crate) async fn mutate(
    api: &Arc<Api>,
    attributes: &Attributes<'_>,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<Warnings, Status> {
    let resource = attributes.resource;
    let mut warnings = Warnings::new();
    if attributes.is_new_object() {
        builtin::create(api, resource, object, rand::random())?;
    }
    if attributes.is_write_of_object() {
        warnings = builtin::warnings(resource);
    }
    let state = api.store.state();
    let configured = api.configured.at(state.marks().admission, || Configured::new(&state));
    if !configured.mutating.is_empty() {
        let request = Request::new(api, state, attributes, old);
        warnings.extend(webhook::mutate(api, &request, &configured.mutating, object).await?);
    }
    if attributes.is_write_of_object() && attributes.subresource.is_empty() {
        access::check(api, attributes, object, old)?;
        check_expressions(attributes, object)?;
    }
    Ok(warnings)
}

fn check_expressions(attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    if attributes.resource.builtin != Some(BuiltinKind::ValidatingAdmissionPolicy) {
        return Ok(());
    }
    let errors = policy::check(object);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(attributes.object_type, attributes.name, &errors))
    }
}

/// Asks whoever may refuse a valid object: policies, then validating webhooks.
pub(crate) async fn validate(
    api: &Arc<Api>,
    attributes: &Attributes<'_>,
    object: &Value,
    old: Option<&Value>,
) -> Result<Warnings, Status> {
    let state = api.store.state();
    let configured = api.configured.at(state.marks().admission, || Configured::new(&state));
    let mut warnings = Warnings::new();
    if attributes.is_new_object() {
        limits::check(attributes.resource, object, &builtin::limit_ranges(&state, attributes))?;
    }
    if !configured.validating.is_empty() || !configured.policies.is_empty() {
        let request = Request::new(api, state, attributes, old);
        warnings.extend(policy::validate(&api.metrics, &request, &configured.policies, object)?);
        warnings.extend(webhook::validate(api, &request, &configured.validating, object).await?);
    }
    Ok(warnings)
}

/// The last look, in the writer's order: the namespace takes new objects, quotas have room, addresses and ports are free. Completes what
/// is allocated.
pub(crate) fn reserve(
    api: &Api,
    txn: &mut Txn,
    resource: &Resource,
    key: &Key,
    new: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    crate::definitions::reserve(txn, resource, new, old)?;
    if old.is_none() && resource.is_namespaced() {
        builtin::namespace_accepts(txn.state(), resource, key)?;
    }
    if resource.builtin == Some(BuiltinKind::ValidatingAdmissionPolicy) {
        let generation = new.at(&["metadata", "generation"]).clone();
        new.put(&["status", "observedGeneration"], generation);
        new.put_default(&["status", "typeChecking"], serde_json::json!({}));
    }
    if resource.builtin == Some(BuiltinKind::Service) {
        crate::allocations::allocate(new, old, &api.ranges, txn.state(), rand::random())?;
    }
    quota::charge(txn, resource, key.namespace(), Some(new), old)
}

/// Gives back what an object used that is gone.
pub(crate) fn release(txn: &mut Txn, resource: &Resource, key: &Key, old: &Value) {
    // What becomes less is never refused.
    let _ = quota::charge(txn, resource, key.namespace(), None, Some(old));
}

/// What follows from a change of this resource, in the same transaction.
pub(crate) fn settle(api: &Api, txn: &mut Txn, resource: &Resource, key: &Key) {
    match resource.builtin {
        Some(BuiltinKind::ClusterRole) => aggregate_roles(txn),
        Some(BuiltinKind::ResourceQuota) => recount(api, txn, key.namespace()),
        _ => {}
    }
}

/// Counts what the objects of a namespace use of its quotas.
pub(crate) fn recount(api: &Api, txn: &mut Txn, namespace: &str) {
    let registry = Arc::clone(&api.catalog.load().registry);
    let mut resources: Vec<&Resource> = Vec::new();
    for resource in registry.resources() {
        let counted = resource.is_stored() && resource.is_namespaced();
        // Several versions are one collection.
        let is_new = |known: &&Resource| known.group() == resource.group() && known.plural == resource.plural;
        if counted && !resources.iter().any(is_new) {
            resources.push(resource);
        }
    }
    quota::recount(txn, &resources, namespace);
}
