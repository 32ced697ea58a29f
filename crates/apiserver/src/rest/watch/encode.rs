//! Events of a watch in the form that its client asked for.

use std::sync::Arc;

use bytes::Bytes;
use fairway_objects::convert;
use fairway_objects::encode::protobuf;
use fairway_objects::registry::Resource;
use fairway_objects::status::Status;
use fairway_objects::table::IncludeObject;
use serde_json::{Value, json};

use crate::http::negotiate::{Form, Media, Shape};
use crate::rest::selection::Selection;
use crate::rest::{answer, present};
use crate::store::{Event, EventType, Object};

/// Events as lines of JSON or frames of protobuf.
pub(super) struct Encoder {
    resource: Arc<Resource>,
    media: Media,
    shape: Shape,
    include: IncludeObject,
    columns_sent: bool,
}

impl Encoder {
    pub(super) fn new(resource: Arc<Resource>, form: Form, include: IncludeObject) -> Self {
        Self { resource, media: form.media, shape: form.shape, include, columns_sent: false }
    }

    /// Goes on as another version of the resource, after its definition changed.
    pub(super) fn follow(&mut self, resource: &Arc<Resource>) {
        self.resource = Arc::clone(resource);
    }

    pub(super) fn resource(&self) -> &Resource {
        &self.resource
    }

    /// A change as the selection sees it: an object that begins to match is ADDED, one that ends is DELETED with its old content and the new
    /// version. What most watchers see is encoded once for all of them.
    pub(super) fn event(&mut self, event: &Event, selection: &Selection) -> Option<Bytes> {
        let matched = event.old.as_ref().is_some_and(|old| selection.selects(&event.key, old));
        let matches = !event.removed && selection.selects(&event.key, &event.object);
        let kind = match (matched, matches) {
            (false, false) => return None,
            (false, true) => EventType::Added,
            (true, true) => EventType::Modified,
            (true, false) if event.removed => EventType::Deleted,
            (true, false) => {
                let old = Object::stamp(event.old.as_ref()?.value().clone(), event.revision());
                return Some(self.line(EventType::Deleted, &old));
            }
        };
        let shared = kind == event.kind() && self.is_stored_text();
        let as_stored =
            self.resource.custom().is_none_or(|custom| custom.shows_as_stored(event.object.revision()));
        match self.shape {
            Shape::Whole if shared && as_stored => Some(event.line()),
            Shape::Metadata if shared => Some(event.metadata_line(|event| self.line(kind, &event.object))),
            _ => Some(self.line(kind, &event.object)),
        }
    }

    pub(super) fn line(&mut self, kind: EventType, object: &Object) -> Bytes {
        let shown = present::present(&self.resource, object);
        let object = shown.as_ref().unwrap_or(object);
        let shaped = match self.shape {
            Shape::Whole if !self.is_stored_text() => {
                let document = object.document();
                return self.document(kind.as_str(), &convert::served(&self.resource, &document));
            }
            Shape::Whole => return crate::store::event_line(kind.as_str(), object.json()),
            Shape::Metadata => convert::partial_metadata(&object.document()),
            Shape::Table(version) => self.table(version, &object.document()),
        };
        self.document(kind.as_str(), &shaped)
    }

    /// Whether whole objects are sent as the text that they are stored as.
    fn is_stored_text(&self) -> bool {
        self.media != Media::Protobuf && !convert::is_converted(&self.resource)
    }

    /// A line of JSON, or a frame of protobuf.
    fn document(&self, kind: &str, document: &Value) -> Bytes {
        if self.media == Media::Protobuf
            && let Some(object) = protobuf::document(&self.resource, document)
        {
            return Bytes::from(protobuf::watch_frame(kind, &object));
        }
        crate::store::event_line(kind, document.to_string().as_bytes())
    }

    /// Why the watch ends.
    pub(super) fn error(&self, status: &Status) -> Bytes {
        self.document("ERROR", &status.to_value())
    }

    /// One row; the columns come with the first.
    fn table(&mut self, version: &str, value: &Value) -> Value {
        let columns = !std::mem::replace(&mut self.columns_sent, true);
        let metadata = json!({"resourceVersion": value.pointer("/metadata/resourceVersion")});
        answer::rows(&self.resource, [value], version, &metadata, self.include, columns)
    }

    pub(super) fn bookmark(&mut self, revision: u64, end_of_initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if end_of_initial && let Some(members) = metadata.as_object_mut() {
            members.insert("annotations".to_owned(), json!({"k8s.io/initial-events-end": "true"}));
        }
        let object = match self.shape {
            Shape::Whole => {
                json!({"kind": self.resource.kind(), "apiVersion": self.resource.api_version(), "metadata": metadata})
            }
            Shape::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Shape::Table(version) => {
                let partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
                json!({
                    "kind": "Table",
                    "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": {"resourceVersion": revision.to_string()},
                    "columnDefinitions": null,
                    "rows": [{"cells": [], "object": partial}],
                })
            }
        };
        self.document("BOOKMARK", &object)
    }
}
