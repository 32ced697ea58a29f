//! Which fields a write through one subresource may own.

use super::set::FieldSet;
use crate::registry::Resource;

/// What only the server writes; nobody owns it.
const SERVERS_METADATA: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
];

/// The part of an object that a request can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Domain {
    /// The object; its status only when that has no subresource of its own.
    Object { with_status: bool },
    /// The subresource `status` of a built-in kind: everything but the spec.
    Status,
    /// The subresource `status` of a custom resource: nothing else.
    OnlyStatus,
}

impl Domain {
    /// Of a write through `subresource`, "" for the object.
    pub(super) fn of(resource: &Resource, subresource: &str) -> Domain {
        match (subresource, resource.builtin) {
            ("status", Some(_)) => Self::Status,
            ("status", None) => Self::OnlyStatus,
            _ => Self::Object { with_status: !resource.has_status() },
        }
    }

    /// Whether the field of the object belongs to it.
    pub(super) fn has(self, name: &str) -> bool {
        match (self, name) {
            (_, "apiVersion" | "kind") => false,
            (Self::Object { with_status }, "status") => with_status,
            (Self::Object { .. }, _) => true,
            (Self::Status, name) => name != "spec",
            (Self::OnlyStatus, name) => name == "status",
        }
    }

    /// Whether the field of `metadata` belongs to it.
    pub(super) fn has_metadata(self, name: &str) -> bool {
        let owners = self == Self::Status && name == "ownerReferences";
        self.has("metadata") && !owners && !SERVERS_METADATA.contains(&name)
    }

    /// Takes out of a set what does not belong to it.
    pub(super) fn restrict(self, set: &mut FieldSet) {
        set.retain_fields(|name| self.has(name));
        if let Some(mut metadata) = set.take_field("metadata") {
            metadata.member = false;
            metadata.below.retain_fields(|name| self.has_metadata(name));
            set.insert(super::path::PathElement::Field("metadata".into()), metadata);
        }
    }
}
