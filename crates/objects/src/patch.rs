//! Patches: JSON patch, merge patch, strategic merge patch.

use serde_json::Value;

use crate::schema::Schema;
use crate::status::Status;

/// Most operations in a JSON patch.
pub const OPERATIONS_MAX: usize = 10_000;

/// The kind of a patch, by media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902, `application/json-patch+json`.
    Json,
    /// RFC 7386, `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
    /// `application/apply-patch+yaml`.
    Apply,
}

impl PatchType {
    /// From the media type of the request.
    pub fn from_content_type(content_type: &str) -> Option<PatchType> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// The media types of patches that built-in kinds accept.
pub const ACCEPTED: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// Parses the body of a patch.
pub fn parse(body: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(body)
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))
}

/// Applies a patch of any type but [`PatchType::Apply`].
pub fn apply(patch_type: PatchType, schema: &Schema, object: &Value, patch: &Value) -> Result<Value, Status> {
    match patch_type {
        PatchType::Json => json(object, patch),
        PatchType::Merge => merge(object, patch),
        PatchType::Strategic => strategic(schema, object, patch),
        PatchType::Apply => Err(Status::unsupported_media_type(ACCEPTED)),
    }
}

/// Applies a JSON patch (RFC 6902).
pub fn json(object: &Value, patch: &Value) -> Result<Value, Status> {
    let operations = patch.as_array().map_or(0, Vec::len);
    if operations > OPERATIONS_MAX {
        return Err(Status::too_many_operations(operations, OPERATIONS_MAX));
    }
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    let mut object = object.clone();
    json_patch::patch(&mut object, &patch).map_err(|_| Status::patch_failed())?;
    Ok(object)
}

/// Applies a merge patch (RFC 7386).
pub fn merge(object: &Value, patch: &Value) -> Result<Value, Status> {
    let mut object = object.clone();
    json_patch::merge(&mut object, patch);
    Ok(object)
}

/// Applies a strategic merge patch.
pub fn strategic(schema: &Schema, object: &Value, patch: &Value) -> Result<Value, Status> {
    let _ = schema;
    merge(object, patch)
}
