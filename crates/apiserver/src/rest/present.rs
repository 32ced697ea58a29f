//! Custom resources between the version they are stored in and the version they are asked for in.

use std::sync::Arc;

use fairway_objects::registry::Resource;
use serde_json::Value;

use super::Call;
use crate::store::Object;

/// The object as `resource` shows it, when that is not as it is stored: another version, fields that went, defaults that came.
pub(super) fn present(resource: &Resource, object: &Object) -> Option<Object> {
    let custom = resource.custom().filter(|custom| !custom.shows_as_stored(object.revision()))?;
    let mut value = object.document().into_owned();
    custom.present(&mut value);
    Some(Object::stamp(value, object.revision()))
}

/// The same for objects that are shared.
pub(super) fn shared(resource: &Resource, object: &Arc<Object>) -> Arc<Object> {
    present(resource, object).map_or_else(|| Arc::clone(object), Arc::new)
}

/// An admitted object in the form that is stored.
pub(super) fn to_stored(resource: &Resource, object: &mut Value) {
    if let Some(custom) = resource.custom() {
        custom.to_stored(object);
    }
}

impl Call<'_> {
    /// After a definition was written: what it says is served before its writer is answered.
    pub(super) fn follow_definitions(&self) {
        if self.resource.builtin == Some(fairway_objects::BuiltinKind::CustomResourceDefinition) {
            self.api.refresh_catalog();
        }
    }
}
