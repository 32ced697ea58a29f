//! Roles and bindings: nobody gives more than they have, and aggregated roles follow their parts.

use fairway_objects::document::{self, Document};
use fairway_objects::registry::BuiltinKind;
use fairway_objects::status::{Qualified, Status};
use serde_json::Value;

use super::Attributes;
use crate::auth::authorize::{Action, ResourceAction};
use crate::auth::rbac::{self, Rule};
use crate::server::Api;
use crate::store::{Collection, Key, State, Txn};

const GROUP: &str = "rbac.authorization.k8s.io";
/// Roles can be parts of parts: `view` of `edit` of `admin`. Deeper chains follow with the next change.
const AGGREGATION_ROUNDS_MAX: usize = 8;

/// Refuses a role with rules, or a binding of a role, that its writer does not have, unless they may `escalate` or `bind`.
pub(super) fn check(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let state = api.store.state();
    let (verb, resource, name, wanted) = match attributes.resource.builtin {
        Some(kind @ (BuiltinKind::Role | BuiltinKind::ClusterRole)) => {
            // What a role keeps, it may keep: only a change of its rules gives anything.
            let is_given = |field: &str| old.is_none_or(|old| old.at(&[field]) != object.at(&[field]));
            if !is_given("rules") && !is_given("aggregationRule") {
                return Ok(());
            }
            let mut wanted = rbac::rules_of(object);
            if object.has(&["aggregationRule"]) && is_given("aggregationRule") {
                wanted = vec![Rule::everything_with_objects(), Rule::everything_with_paths()];
            }
            let plural = if kind == BuiltinKind::Role { "roles" } else { "clusterroles" };
            ("escalate", plural, document::name(object), wanted)
        }
        Some(BuiltinKind::RoleBinding | BuiltinKind::ClusterRoleBinding) => {
            let unchanged = |old: &Value| {
                ["roleRef", "subjects"].iter().all(|field| old.at(&[field]) == object.at(&[field]))
            };
            if old.is_some_and(unchanged) {
                return Ok(());
            }
            let plural = if object.text(&["roleRef", "kind"]) == "Role" { "roles" } else { "clusterroles" };
            let role = object.text(&["roleRef", "name"]);
            ("bind", plural, role, Vec::new())
        }
        _ => return Ok(()),
    };
    let action = ResourceAction {
        verb,
        group: GROUP,
        resource,
        subresource: "",
        namespace: attributes.namespace,
        name,
    };
    if api.decide(attributes.user, &Action::Resource(action)).is_allowed() {
        return Ok(());
    }
    let wanted =
        if verb == "bind" { bound_rules(&state, resource, attributes.namespace, name)? } else { wanted };
    let (held, _) = api.rbac().rules(attributes.user, attributes.namespace);
    let missing = rbac::uncovered(&held, &wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let why = rbac::escalation(attributes.user, &missing);
    Err(Status::forbidden(attributes.resource.qualified(), document::name(object), &why))
}

/// The rules of a role that is to be bound; it must be there for somebody who may not bind everything.
fn bound_rules(state: &State, plural: &str, namespace: &str, role: &str) -> Result<Vec<Rule>, Status> {
    let namespace = if plural == "roles" { namespace } else { "" };
    let found = state.object(&Collection::new(GROUP, plural), &Key::new(namespace, role));
    let found = found.ok_or_else(|| Status::not_found(Qualified { group: GROUP, name: plural }, role))?;
    Ok(rbac::rules_of(found.value()))
}

/// Gives every ClusterRole with an `aggregationRule` the rules of those that it selects.
pub(crate) fn aggregate_roles(txn: &mut Txn) {
    let collection = Collection::new(GROUP, "clusterroles");
    for _ in 0..AGGREGATION_ROUNDS_MAX {
        let roles = txn.state().objects(&collection);
        let mut changed = false;
        for (key, role) in &roles {
            let others = roles.values().map(|role| role.value());
            let Some(rules) = rbac::aggregate(role.value(), others) else { continue };
            if role.value().list(&["rules"]) != rules.as_slice() {
                let mut new = role.value().clone();
                new.put(&["rules"], rules);
                txn.put(&collection, key, new);
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}
