//! Envelopes and views of stored objects: lists and metadata-only forms.

use serde_json::{Value, json};

use crate::document::Document;
use crate::registry::Resource;

/// `metadata` of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListMeta {
    /// The revision of the snapshot.
    pub resource_version: u64,
    /// Where the next page begins; `""` on the last.
    pub continue_token: String,
    /// How many objects follow this page; absent with selectors.
    pub remaining: Option<u64>,
}

impl ListMeta {
    /// The object on the wire.
    pub fn to_value(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.resource_version.to_string()});
        if !self.continue_token.is_empty() {
            metadata.put(&["continue"], self.continue_token.as_str());
        }
        if let Some(remaining) = self.remaining {
            metadata.put(&["remainingItemCount"], remaining);
        }
        metadata
    }
}

/// The list of these objects. Items of built-in kinds carry no `apiVersion` and `kind`.
pub fn list(resource: &Resource, items: impl IntoIterator<Item = Value>, metadata: &ListMeta) -> Value {
    let items: Vec<Value> = items
        .into_iter()
        .map(|mut item| {
            if let (Some(_), Some(object)) = (resource.builtin, item.as_object_mut()) {
                object.remove("apiVersion");
                object.remove("kind");
            }
            item
        })
        .collect();
    json!({
        "kind": resource.list_kind,
        "apiVersion": resource.api_version(),
        "metadata": metadata.to_value(),
        "items": items,
    })
}

/// The metadata of an object alone, as `PartialObjectMetadata`.
pub fn partial_metadata(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.at(&["metadata"]),
    })
}

/// A list of metadata.
pub fn partial_metadata_list<'a>(objects: impl IntoIterator<Item = &'a Value>, metadata: &ListMeta) -> Value {
    let items: Vec<Value> = objects.into_iter().map(partial_metadata).collect();
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata.to_value(),
        "items": items,
    })
}
