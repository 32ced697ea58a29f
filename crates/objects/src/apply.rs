//! Server-side apply (KEP-555): who owns which fields of an object, and configurations that are laid over it.
//!
//! Every write leaves its mark in `metadata.managedFields`. [`apply()`] merges a configuration into the object, takes out what the same
//! manager stated before and states no longer, and refuses to change what others own; [`track`] notes what any other write changed.
//! Both work on sets of paths ([`FieldSet`]) that the schema gives their meaning: structures and maps have parts, lists are one value
//! unless the schema names what tells their items apart, and without schema maps have parts and lists have not.
//!
//! The parts: [`set_of`] (what a configuration states), [`compare()`] (what changed), [`merge()`], [`remove()`], [`ManagedFields`].

use jiff::Timestamp;
use serde_json::Value;

use crate::decode::{self, FieldValidation};
use crate::document::{self, Document};
use crate::registry::{ObjectType, Resource};
use crate::status::Status;
use crate::strategy;

mod check;
mod compare;
mod conflict;
mod domain;
mod last_applied;
mod managed;
mod members;
mod merge;
mod path;
mod place;
mod remove;
mod set;

pub use compare::{Changes, compare};
pub use conflict::Conflict;
use domain::Domain;
pub use managed::{Entry, EntryError, ManagedFields, Manager, Operation, UPDATERS_MAX};
pub use members::set_of;
pub use merge::merge;
pub use path::PathElement;
pub use remove::remove;
pub use set::{Branch, FieldSet, FieldsError};

/// Who owns everything of an object that was not tracked until its first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// The manager of a client that says nothing about itself.
const UNKNOWN: &str = "unknown";

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub struct Author<'a> {
    /// The name of the field manager; "" is a client that says nothing about itself.
    pub name: &'a str,
    /// Through which subresource; "" is the object.
    pub subresource: &'a str,
    /// When.
    pub now: Timestamp,
}

impl Author<'_> {
    fn manager(&self, resource: &Resource, operation: Operation) -> Manager {
        let name = if self.name.is_empty() { UNKNOWN } else { self.name };
        Manager {
            name: name.to_owned(),
            operation,
            api_version: resource.api_version(),
            subresource: self.subresource.to_owned(),
        }
    }
}

/// Why a configuration was not applied.
#[derive(Debug, Clone, PartialEq)]
pub enum ApplyError {
    /// It would change what others own. 409.
    Conflicts(Vec<Conflict>),
    /// It cannot be applied whoever owns what.
    Refused(Status),
}

impl From<ApplyError> for Status {
    fn from(error: ApplyError) -> Status {
        match error {
            ApplyError::Conflicts(conflicts) => conflict::status(&conflicts),
            ApplyError::Refused(status) => status,
        }
    }
}

/// Reads the body of an apply patch, JSON or YAML, as a configuration of `object_type`: types checked, values canonical, nothing in it that
/// the schema does not know (500, as the protocol has it), no item of a list twice. Zero values stay: they are stated.
pub fn decode(object_type: &ObjectType, body: &[u8], validation: FieldValidation) -> Result<Value, Status> {
    let document = decode::document(body, validation)?;
    if !document.is_object() {
        return Err(Status::bad_request("error decoding YAML: a configuration is an object"));
    }
    let (given, expected) = (document.text(&["apiVersion"]), object_type.api_version());
    if given != expected {
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {given}, expected: {expected}"
        )));
    }
    let config = decode::canonical(object_type, document.clone())?;
    if !document.list(&["metadata", "managedFields"]).is_empty() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let errors = check::check(&object_type.schema, &document);
    let error = match errors.as_slice() {
        [] => return Ok(config),
        [one] => one.clone(),
        several => format!("errors:\n  {}", several.join("\n  ")),
    };
    let (namespace, name) = (document::namespace(&document), document::name(&document));
    let (group, version, kind) = (&object_type.group, &object_type.version, &object_type.kind);
    let message = format!(
        "failed to create typed patch object ({namespace}/{name}; {group}/{version}, Kind={kind}): {error}"
    );
    Err(Status::new(500, crate::Reason::Unstated, message))
}

/// Lays a configuration that [`decode()`] has read over `live` (`None`: the object is made from nothing but it), and notes the new owners.
/// What comes out is still to be prepared, defaulted and validated as after any patch. `force`: fields of others change hands.
pub fn apply(
    resource: &Resource,
    live: Option<&Value>,
    config: &Value,
    author: &Author<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let mut applied = match (apply_once(resource, live, config, author, force), live) {
        (Err(ApplyError::Conflicts(mut conflicts)), Some(live)) if author.name == last_applied::MANAGER => {
            let own = last_applied::own_paths(resource, live);
            conflicts.retain(|conflict| !own.contains(&conflict.path));
            if !conflicts.is_empty() {
                return Err(ApplyError::Conflicts(conflicts));
            }
            apply_once(resource, Some(live), config, author, true)?
        }
        (result, _) => result?,
    };
    if author.name == last_applied::MANAGER {
        last_applied::refresh(&mut applied, config);
    }
    Ok(applied)
}

fn apply_once(
    resource: &Resource,
    live: Option<&Value>,
    config: &Value,
    author: &Author<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let schema = &resource.object.schema;
    let domain = Domain::of(resource, author.subresource);
    let manager = author.manager(resource, Operation::Apply);
    let mut managed = match live {
        Some(live) => owners_before_apply(resource, live, author.now),
        None => ManagedFields::default(),
    };
    let former = managed.take(&manager);
    let stated = set_of(schema, config);
    let mut fields = stated.clone();
    domain.restrict(&mut fields);

    let nothing = Value::Null;
    let old = live.unwrap_or(&nothing);
    let mut new = match live {
        Some(live) => merge(schema, live.clone(), config),
        None => config.clone(),
    };
    if let Some(former) = &former {
        let mut kept = stated.clone();
        managed.iter().for_each(|entry| kept.unite(&entry.fields));
        remove(schema, &mut new, &former.fields, &kept);
    }
    let new =
        decode::normalize(&resource.object, new, FieldValidation::Ignore).map_err(ApplyError::Refused)?;
    let mut new = new.object;

    let changes = compare::compare_within(schema, domain, old, &new);
    let mut taken = changes.written();
    // A zero value that means absence is stated and yet not in the object.
    taken.unite(&changes.removed.intersection(&fields));
    let conflicts = conflict::find(&managed, &taken);
    if !force && !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    managed.subtract(&taken);
    managed.subtract(&changes.removed);
    let time = match former {
        Some(former) if former.fields == fields && changes.is_empty() => former.time,
        _ => strategy::timestamp(author.now),
    };
    managed.put(Entry { manager, time, fields });
    managed.write(&mut new);
    Ok(new)
}

/// The owners of a stored object; one manager for everything when they were not tracked.
fn owners_before_apply(resource: &Resource, live: &Value, now: Timestamp) -> ManagedFields {
    let managed = ManagedFields::read(live).unwrap_or_default();
    if !managed.is_empty() {
        return managed;
    }
    let author = Author { name: BEFORE_FIRST_APPLY, subresource: "", now };
    let domain = Domain::of(resource, "");
    let changes = compare::compare_within(&resource.object.schema, domain, &Value::Null, live);
    let mut managed = ManagedFields::default();
    managed.put(Entry {
        manager: author.manager(resource, Operation::Update),
        time: strategy::timestamp(now),
        fields: changes.written(),
    });
    managed
}

/// Notes in `new` who changed what, after any write but apply. `old`: the stored object, `None` for a new one.
///
/// A client may rewrite the owners themselves (`managedFields: [{}]` forgets them all); what it leaves out or garbles stays as it was. An
/// object without owners is not tracked again before it is applied.
pub fn track(resource: &Resource, old: Option<&Value>, new: &mut Value, author: &Author<'_>) {
    let mut entries = entries_after_request(old, new, author.subresource);
    if entries.is_empty() && old.is_some() {
        new.take_at(&["metadata", "managedFields"]);
        return;
    }
    let domain = Domain::of(resource, author.subresource);
    let nothing = Value::Null;
    let changes = compare::compare_within(&resource.object.schema, domain, old.unwrap_or(&nothing), new);
    let (written, removed) = changes.into_written_and_removed();
    if !written.is_empty() || !removed.is_empty() {
        entries.retain_mut(|entry| {
            let Some(fields) = entry.map_mut(&["fieldsV1"]) else { return false };
            !(written.subtract_from(fields) | removed.subtract_from(fields))
        });
    }
    if !written.is_empty() {
        let manager = author.manager(resource, Operation::Update);
        managed::take_over(&mut entries, &manager, written, &strategy::timestamp(author.now));
    }
    if entries.is_empty() {
        new.take_at(&["metadata", "managedFields"]);
    } else {
        new.put(&["metadata", "managedFields"], entries);
    }
}

/// The entries that a request leaves before what it changed is counted; canonical, as stored ones are.
fn entries_after_request(old: Option<&Value>, new: &Value, subresource: &str) -> Vec<Value> {
    let path = ["metadata", "managedFields"];
    let stored = old.map(|old| old.list(&path)).unwrap_or_default();
    let given = new.list(&path);
    if given.is_empty() || given == stored || !subresource.is_empty() {
        return stored.to_vec();
    }
    if matches!(given, [entry] if entry.as_object().is_some_and(document::Object::is_empty)) {
        return Vec::new();
    }
    match ManagedFields::read(new) {
        Ok(managed) if !managed.is_empty() => managed.into_entries(),
        _ => stored.to_vec(),
    }
}

#[cfg(test)]
mod tests;
