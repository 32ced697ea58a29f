//! Patches: JSON patch, merge patch, strategic merge patch.
//!
//! A patch works on the document as stored; [`crate::decode::normalize`] then checks what came out.

use json_patch::PatchOperation;
use serde_json::Value;

use crate::registry::Resource;
use crate::schema::Schema;
use crate::status::Status;

mod strategic;

/// Most operations in a JSON patch.
pub const OPERATIONS_MAX: usize = 10_000;

/// Most bytes that the copy operations of a JSON patch may add.
const COPIED_BYTES_MAX: usize = 3 << 20;

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
    /// From the media type of a request for a resource; 415 when that does not take such patches.
    pub fn of(resource: &Resource, content_type: &str) -> Result<PatchType, Status> {
        match (Self::from_content_type(content_type), resource.builtin) {
            (Some(Self::Strategic), None) | (None, _) => {
                Err(Status::unsupported_media_type(Self::accepted(resource)))
            }
            (Some(patch_type), _) => Ok(patch_type),
        }
    }

    /// The media types of patches that a resource takes.
    pub fn accepted(resource: &Resource) -> &'static [&'static str] {
        if resource.builtin.is_some() { ACCEPTED } else { ACCEPTED_CUSTOM }
    }

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
const ACCEPTED: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// The media types of patches that custom resources accept: nobody says how their lists merge strategically.
const ACCEPTED_CUSTOM: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

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
        PatchType::Apply => Err(Status::unsupported_media_type(ACCEPTED_CUSTOM)),
    }
}

/// Applies a JSON patch (RFC 6902). A failed test or an absent path is 422.
pub fn json(object: &Value, patch: &Value) -> Result<Value, Status> {
    let operations = patch.as_array().map_or(0, Vec::len);
    if operations > OPERATIONS_MAX {
        return Err(Status::too_many_operations(operations, OPERATIONS_MAX));
    }
    let operations: Vec<PatchOperation> = serde_json::from_value(patch.clone())
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    let mut object = object.clone();
    let mut copied_bytes = 0;
    for operation in operations {
        if let PatchOperation::Copy(copy) = &operation {
            let source = object.pointer(copy.from.as_str()).map(Value::to_string).unwrap_or_default();
            copied_bytes += source.len();
            if copied_bytes > COPIED_BYTES_MAX {
                return Err(Status::too_large(COPIED_BYTES_MAX));
            }
        }
        // To Kubernetes what is absent is null; the finalizers of kube-rs begin with such a test.
        if let PatchOperation::Test(test) = &operation
            && test.value.is_null()
            && object.pointer(test.path.as_str()).is_none()
        {
            continue;
        }
        json_patch::patch(&mut object, &[operation]).map_err(|_| Status::patch_failed())?;
    }
    Ok(object)
}

/// Applies a merge patch (RFC 7386).
pub fn merge(object: &Value, patch: &Value) -> Result<Value, Status> {
    if !patch.is_object() {
        return Err(Status::bad_request("error decoding patch: json: a merge patch is an object"));
    }
    let mut object = object.clone();
    json_patch::merge(&mut object, patch);
    Ok(object)
}

/// Applies a strategic merge patch.
pub fn strategic(schema: &Schema, object: &Value, patch: &Value) -> Result<Value, Status> {
    strategic::apply(&schema.types, schema.structure(), object, patch)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_patches_apply_or_say_why_not() {
        let object = json!({"a": {"b": 1}});
        let patched = json(
            &object,
            &json!([{"op": "test", "path": "/a/b", "value": 1},
                                            {"op": "add", "path": "/a/c", "value": [1]}]),
        );
        assert_eq!(patched.unwrap(), json!({"a": {"b": 1, "c": [1]}}));
        let absent =
            json!([{"op": "test", "path": "/a/x", "value": null}, {"op": "add", "path": "/a/x", "value": 1}]);
        assert_eq!(json(&object, &absent).unwrap(), json!({"a": {"b": 1, "x": 1}}), "absent is null");
        let refused = |patch: Value| {
            let status = json(&object, &patch).unwrap_err();
            (status.code, status.message)
        };
        let failed = "the server rejected our request due to an error in our request";
        assert_eq!(refused(json!([{"op": "test", "path": "/a/b", "value": 2}])), (422, failed.to_owned()));
        assert_eq!(refused(json!([{"op": "remove", "path": "/x"}])), (422, failed.to_owned()));
        assert_eq!(refused(json!([{"op": "fly", "path": "/x"}])).0, 400);
        assert_eq!(refused(json!({"op": "add"})).0, 400);
        let many: Value = (0..=OPERATIONS_MAX).map(|_| json!({"op": "remove", "path": "/x"})).collect();
        assert_eq!(refused(many).0, 413);
    }

    #[test]
    fn custom_resources_take_no_strategic_patches() {
        let maps = crate::Registry::builtin().resource("", "v1", "configmaps").unwrap();
        let custom = Resource { builtin: None, ..Resource::clone(maps) };
        let strategic = "application/strategic-merge-patch+json";
        assert_eq!(PatchType::of(maps, strategic), Ok(PatchType::Strategic));
        assert_eq!(
            PatchType::of(&custom, "application/merge-patch+json; charset=utf-8"),
            Ok(PatchType::Merge)
        );
        let refused = |resource, content_type| {
            let status = PatchType::of(resource, content_type).unwrap_err();
            (status.code, status.message)
        };
        let start = "the body of the request was in an unknown format - accepted media types include: \
                     application/json-patch+json, application/merge-patch+json, ";
        assert_eq!(refused(&custom, strategic), (415, format!("{start}application/apply-patch+yaml")));
        let all = format!("{start}{strategic}, application/apply-patch+yaml");
        assert_eq!(refused(maps, "application/json"), (415, all));
    }

    #[test]
    fn copies_that_double_and_double_are_stopped() {
        let copy = json!({"op": "copy", "from": "", "path": "/list/-"});
        let patch: Value = (0..64).map(|_| copy.clone()).collect();
        let object = json!({"list": [], "text": "x".repeat(1000)});
        assert_eq!(json(&object, &patch).map_err(|status| status.code), Err(413));
    }

    #[test]
    fn merge_patches_delete_with_null() {
        let patched = merge(&json!({"a": 1, "b": {"c": 2}}), &json!({"a": null, "b": {"d": [3]}})).unwrap();
        assert_eq!(patched, json!({"b": {"c": 2, "d": [3]}}));
        assert_eq!(merge(&json!({}), &json!([])).unwrap_err().code, 400);
    }
}
