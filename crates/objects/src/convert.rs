//! Envelopes and views of stored objects: lists, metadata-only forms, and the two shapes of events.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::document::{self, Document};
use crate::registry::Resource;

/// Fields of an event in the core group, and what events.k8s.io calls them.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("involvedObject", "regarding"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
];

/// What a stored field of an event is called where it is served; the path of a field selector is such a field.
pub(crate) fn stored_field<'a>(resource: &Resource, field: &'a str) -> Cow<'a, str> {
    let (first, rest) = field.split_at(field.find('.').unwrap_or(field.len()));
    let known = EVENT_FIELDS.iter().find(|(_, served)| *served == first);
    match known.filter(|_| is_converted(resource)) {
        Some((stored, _)) => Cow::Owned(format!("{stored}{rest}")),
        None => Cow::Borrowed(field),
    }
}

/// Whether objects of this resource are stored in another shape.
pub fn is_converted(resource: &Resource) -> bool {
    resource.storage_group() != resource.group()
}

/// A stored object as this resource shows it.
pub fn served<'a>(resource: &Resource, object: &'a Value) -> Cow<'a, Value> {
    if !is_converted(resource) {
        return Cow::Borrowed(object);
    }
    Cow::Owned(renamed(object, &resource.api_version(), |name| {
        EVENT_FIELDS.iter().find(|(stored, _)| *stored == name).map(|(_, served)| *served)
    }))
}

/// An object that came by this resource as it is stored.
pub fn stored(resource: &Resource, object: Value) -> Value {
    if !is_converted(resource) {
        return object;
    }
    renamed(&object, resource.version(), |name| {
        EVENT_FIELDS.iter().find(|(_, served)| *served == name).map(|(stored, _)| *stored)
    })
}

fn renamed(object: &Value, api_version: &str, new_name: impl Fn(&str) -> Option<&'static str>) -> Value {
    let fields = object.as_object().into_iter().flatten();
    let mut object: document::Object = fields
        .map(|(name, value)| (new_name(name).map_or_else(|| name.clone(), str::to_owned), value.clone()))
        .collect();
    object.insert("apiVersion".to_owned(), api_version.into());
    Value::Object(object)
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    #[test]
    fn an_event_has_two_shapes() {
        let resource = Registry::builtin().resource("events.k8s.io", "v1", "events").unwrap();
        let core = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod"},
            "message": "m", "source": {"component": "c"}, "reportingComponent": "r", "reason": "R", "count": 2,
        });
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "regarding": {"kind": "Pod"},
            "note": "m", "deprecatedSource": {"component": "c"}, "reportingController": "r", "reason": "R",
            "deprecatedCount": 2,
        });
        assert_eq!(*served(resource, &core), event);
        assert_eq!(stored(resource, event), core);
        assert_eq!(stored_field(resource, "regarding.name"), "involvedObject.name");
        let registry = Registry::builtin();
        assert_eq!(registry.storage(resource).api_version(), "v1");
        let pods = registry.resource("", "v1", "pods").unwrap();
        assert!(std::sync::Arc::ptr_eq(&registry.storage(pods), pods));
        assert_eq!(*served(pods, &core), core);
    }
}
