//! The annotation of client-side apply, which server-side apply by kubectl takes over and keeps current: an object that was applied by
//! the client can be applied by the server without conflict, and by the client again.

use std::collections::HashSet;

use serde_json::Value;

use super::compare::compare;
use super::members::set_of;
use crate::decode::{self, FieldValidation};
use crate::document::{self, Document};
use crate::registry::Resource;

/// The field manager whose applies take the annotation over.
pub(super) const MANAGER: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Most bytes of all annotations together.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

/// The paths that the client applied and that still have those values: they are its own, whoever else is noted as their owner.
pub(super) fn own_paths(resource: &Resource, live: &Value) -> HashSet<String> {
    let last = document::annotation(live, ANNOTATION).and_then(|text| serde_json::from_str(text).ok());
    let Some(last) = last else { return HashSet::new() };
    let Ok(last) = decode::normalize(&resource.object, last, FieldValidation::Ignore) else {
        return HashSet::new();
    };
    let schema = &resource.object.schema;
    let changes = compare(schema, &last.object, live);
    let mut own = set_of(schema, &last.object);
    own.subtract(&changes.written());
    own.subtract(&changes.removed);
    own.paths().into_iter().collect()
}

/// Writes the configuration into the annotation, if the object has it.
pub(super) fn refresh(object: &mut Value, config: &Value) {
    if document::annotation(object, ANNOTATION).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    config.take_at(&["metadata", "annotations", ANNOTATION]);
    config.take_at(&["metadata", "managedFields"]);
    let text = format!("{config}\n");
    if text.len() > ANNOTATIONS_BYTES_MAX {
        object.take_at(&["metadata", "annotations", ANNOTATION]);
    } else {
        object.put(&["metadata", "annotations", ANNOTATION], text);
    }
}
