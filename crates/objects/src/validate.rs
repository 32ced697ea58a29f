//! Validation of built-in kinds: all errors of an object, in the order of the wire.

use serde_json::Value;

use crate::field::FieldError;
use crate::registry::Resource;

/// What is wrong with a new object. The object is decoded, prepared and has defaults.
pub fn create(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let _ = (resource, object);
    Vec::new()
}

/// What is wrong with `new` in place of `old`. `subresource` is `""` for the object itself.
pub fn update(resource: &Resource, subresource: &str, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = (resource, subresource, new, old);
    Vec::new()
}
