//! Defaults of built-in kinds.

use serde_json::Value;

use crate::registry::Resource;

/// Fills in what the object leaves to the server. Idempotent; also for objects read from an older store.
pub fn apply(resource: &Resource, object: &mut Value) {
    let _ = (resource, object);
}
