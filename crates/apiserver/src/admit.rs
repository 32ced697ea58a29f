//! Admission: what the server adds to a write, or refuses it for, because of other objects.
//!
//! The stages of a write, each one call, in the order of Kubernetes:
//!
//! | stage | where |
//! |---|---|
//! | decode, or patch and normalize | `rest::create`, `rest::update` |
//! | what the server decides about the request | `objects::strategy` |
//! | [`mutate`]: built-in admission, defaults, webhooks | here |
//! | validation of the schema | `objects::validate` |
//! | [`validate`]: policies, webhooks | here |
//! | [`reserve`]: what other writes could take away meanwhile | here, in the transaction |
//!
//! Policies and webhooks may take time and ask others, so these stages run beside the traffic; without any they cost one atomic load.

mod access;
mod builtin;

use std::sync::Arc;

use fairway_objects::registry::{BuiltinKind, ObjectType, Resource};
use fairway_objects::status::Status;
use fairway_objects::{allocate, defaults};
use serde_json::Value;

pub(crate) use access::aggregate_roles;

use crate::auth::User;
use crate::http::query::Query;
use crate::server::Api;
use crate::store::{Key, Txn};

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
}

/// A write as admission sees it, apart from the object.
#[expect(dead_code, reason = "webhooks and policies are told all of it")]
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
    /// The options of the request as they were sent.
    pub(crate) query: &'a Query,
}

impl Attributes<'_> {
    /// Whether what is admitted is the object that will be stored, and neither a question about it nor its end.
    fn is_write_of_object(&self) -> bool {
        self.operation != Operation::Delete && !matches!(self.subresource, "binding" | "eviction" | "token")
    }
}

/// Completes an object: built-in admission, defaults, mutating webhooks. `old` is what it replaces.
pub(crate) async fn mutate(
    api: &Arc<Api>,
    attributes: &Attributes<'_>,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<Warnings, Status> {
    let resource = attributes.resource;
    if attributes.operation == Operation::Create && attributes.subresource.is_empty() {
        builtin::create(resource, object, &api.store.state(), rand::random())?;
    }
    if attributes.is_write_of_object() {
        defaults::apply(resource, object);
        access::check(api, attributes, object, old)?;
        return Ok(builtin::warnings(resource));
    }
    Ok(Warnings::new())
}

/// Asks whoever may refuse a valid object: policies, then validating webhooks.
#[expect(clippy::unused_async, reason = "webhooks are asked here")]
pub(crate) async fn validate(
    _api: &Arc<Api>,
    _attributes: &Attributes<'_>,
    _object: &Value,
    _old: Option<&Value>,
) -> Result<Warnings, Status> {
    Ok(Warnings::new())
}

/// The last look, in the writer's order: the namespace takes new objects, addresses and ports are free. Completes what is allocated.
pub(crate) fn reserve(
    api: &Api,
    txn: &Txn,
    resource: &Resource,
    key: &Key,
    new: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    crate::definitions::reserve(txn, resource, new, old)?;
    if old.is_none() && resource.is_namespaced() {
        builtin::namespace_accepts(txn.state(), resource, key)?;
    }
    if resource.builtin == Some(BuiltinKind::Service) {
        allocate::service(new, old, &api.ranges, txn.state().allocations().used(), rand::random())?;
    }
    Ok(())
}

/// What follows from a change of this resource, in the same transaction.
pub(crate) fn settle(txn: &mut Txn, resource: &Resource) {
    if resource.builtin == Some(BuiltinKind::ClusterRole) {
        aggregate_roles(txn);
    }
}
