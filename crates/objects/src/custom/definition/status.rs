//! The status of a definition: which names are its own, whether its kinds are served.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::document::{self, Document};
use crate::registry::Registry;
use crate::strategy;

/// Held by every definition until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Whether the kinds of a definition exist. They do until its objects are gone, also when it is being deleted.
pub fn is_established(definition: &Value) -> bool {
    has_condition(definition, "Established")
}

/// Whether all names are the definition's own, so that nothing can become better.
pub fn is_settled(definition: &Value) -> bool {
    is_established(definition) && has_condition(definition, "NamesAccepted")
}

fn has_condition(definition: &Value, ty: &str) -> bool {
    let mut conditions = definition.list(&["status", "conditions"]).iter();
    conditions.any(|condition| condition.text(&["type"]) == ty && condition.text(&["status"]) == "True")
}

/// Sets the status that follows from the names of the other definitions and of the built-in kinds. What changes carries `now`.
pub fn settle<'a>(definition: &mut Value, others: impl Iterator<Item = &'a Value>, now: Timestamp) {
    let conflict = conflict(definition, others);
    let names = definition.at(&["spec", "names"]).clone();
    let was_established = is_established(definition);
    match &conflict {
        None => {
            definition.put(&["status", "acceptedNames"], names);
            set(definition, now, "NamesAccepted", "True", "NoConflicts", "no conflicts found");
            let message = "the initial names have been accepted";
            set(definition, now, "Established", "True", "InitialNamesAccepted", message);
        }
        Some((reason, message)) => {
            if !definition.has(&["status", "acceptedNames"]) {
                definition.put(&["status", "acceptedNames"], json!({"plural": "", "kind": ""}));
            }
            set(definition, now, "NamesAccepted", "False", reason, message);
            if !was_established {
                set(definition, now, "Established", "False", "NotAccepted", "not all names are accepted");
            }
        }
    }
    approval(definition, now);
    stored_versions(definition);
}

/// The first name that somebody else in the group has.
fn conflict<'a>(
    definition: &Value,
    others: impl Iterator<Item = &'a Value>,
) -> Option<(&'static str, String)> {
    let group = definition.text(&["spec", "group"]);
    let mut resources: Vec<String> = Vec::new();
    let mut kinds: Vec<String> = Vec::new();
    for resource in Registry::builtin().resources().filter(|resource| resource.group() == group) {
        let names = [&resource.plural, &resource.singular].into_iter().chain(&resource.short_names);
        resources.extend(names.map(ToString::to_string));
        kinds.extend([resource.kind().to_owned(), resource.list_kind.to_string()]);
    }
    let others = others.filter(|other| {
        other.text(&["spec", "group"]) == group && document::name(other) != document::name(definition)
    });
    for other in others {
        let names = other.at(&["status", "acceptedNames"]);
        let texts = [names.text(&["plural"]), names.text(&["singular"])];
        resources.extend(texts.iter().map(|text| (*text).to_owned()));
        resources.extend(names.list(&["shortNames"]).iter().filter_map(Value::as_str).map(str::to_owned));
        kinds.extend([names.text(&["kind"]).to_owned(), names.text(&["listKind"]).to_owned()]);
    }
    let names = definition.at(&["spec", "names"]);
    let taken = |all: &[String], name: &str| !name.is_empty() && all.iter().any(|other| other == name);
    let in_use = |name: &str| format!("{name:?} is already in use");
    for (reason, field) in [("PluralConflict", "plural"), ("SingularConflict", "singular")] {
        if taken(&resources, names.text(&[field])) {
            return Some((reason, in_use(names.text(&[field]))));
        }
    }
    let mut short = names.list(&["shortNames"]).iter().filter_map(Value::as_str);
    if let Some(name) = short.find(|name| taken(&resources, name)) {
        return Some(("ShortNamesConflict", in_use(name)));
    }
    for (reason, field) in [("KindConflict", "kind"), ("ListKindConflict", "listKind")] {
        if taken(&kinds, names.text(&[field])) {
            return Some((reason, in_use(names.text(&[field]))));
        }
    }
    None
}

/// Groups of Kubernetes itself say who approved their kinds.
fn approval(definition: &mut Value, now: Timestamp) {
    if !super::validate::is_protected(definition.text(&["spec", "group"])) {
        return;
    }
    let value = document::annotation(definition, super::validate::APPROVED).unwrap_or_default().to_owned();
    let ty = "KubernetesAPIApprovalPolicyConformant";
    if value.starts_with("unapproved") {
        let message = format!("not approved: {value:?}");
        set(definition, now, ty, "False", "UnapprovedAnnotation", &message);
    } else {
        let message = format!("approved in {value}");
        set(definition, now, ty, "True", "ApprovedAnnotation", &message);
    }
}

/// Versions in which objects may be stored: those that ever were the storage version.
fn stored_versions(definition: &mut Value) {
    let versions = definition.list(&["spec", "versions"]);
    let storage = versions.iter().find(|version| version.is_true(&["storage"]));
    let storage = storage.map(|version| version.text(&["name"]).to_owned()).unwrap_or_default();
    let mut stored = definition.list(&["status", "storedVersions"]).to_vec();
    if !stored.iter().any(|version| *version == *storage) {
        stored.push(storage.into());
    }
    definition.put(&["status", "storedVersions"], stored);
}

/// Marks that the definition's objects are being deleted.
pub fn set_terminating(definition: &mut Value, now: Timestamp, done: bool) {
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    match done {
        false => set(definition, now, "Terminating", "True", "InstanceDeletionPending", message),
        true => {
            set(
                definition,
                now,
                "Terminating",
                "False",
                "InstanceDeletionCompleted",
                "removed all instances",
            );
        }
    }
}

/// Sets a condition; its time changes only with its status.
fn set(definition: &mut Value, now: Timestamp, ty: &str, status: &str, reason: &str, message: &str) {
    let mut conditions = definition.list(&["status", "conditions"]).to_vec();
    let mut condition = json!({
        "type": ty, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": strategy::timestamp(now),
    });
    match conditions.iter_mut().find(|condition| condition.text(&["type"]) == ty) {
        Some(old) => {
            if old.text(&["status"]) == status {
                condition.put(&["lastTransitionTime"], old.at(&["lastTransitionTime"]).clone());
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
    definition.put(&["status", "conditions"], conditions);
}
