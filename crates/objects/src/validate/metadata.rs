//! What all objects have in common.

use serde_json::Value;

use super::{Errors, IMMUTABLE, document, invalid_all, labels, service_range};
use crate::document::Document;
use crate::field::{FieldError, Path};
use crate::names;
use crate::registry::{BuiltinKind, Resource};

/// Bytes of all annotations together.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;
const METADATA: Path<'_> = Path::new("metadata");
const NO_NAME: &str = "name or generateName is required";

/// Metadata of a new object.
pub(super) fn object(resource: &Resource, object: &Value, errors: &mut Errors) {
    let name = document::name(object);
    if name.is_empty() {
        errors.push(FieldError::required(&METADATA.field("name"), NO_NAME));
    } else {
        let messages = match resource.builtin {
            Some(BuiltinKind::Service | BuiltinKind::Namespace) => names::dns_label(name),
            Some(
                BuiltinKind::ClusterRole
                | BuiltinKind::ClusterRoleBinding
                | BuiltinKind::Role
                | BuiltinKind::RoleBinding,
            ) => names::path_segment(name),
            Some(BuiltinKind::IPAddress) => service_range::address_name(name),
            _ => names::dns_subdomain(name),
        };
        invalid_all(&METADATA.field("name"), name, messages, errors);
    }
    let namespace = METADATA.field("namespace");
    match (resource.is_namespaced(), document::namespace(object)) {
        (true, "") => errors.push(FieldError::required(&namespace, "")),
        (true, name) => invalid_all(&namespace, name, names::dns_label(name), errors),
        (false, "") => {}
        (false, _) => errors.push(FieldError::forbidden(&namespace, "not allowed on this type")),
    }
    common(object, errors);
}

/// Metadata of a changed object.
pub(super) fn update(resource: &Resource, new: &Value, old: &Value, errors: &mut Errors) {
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let value = new.at(&["metadata", field]);
        if value != old.at(&["metadata", field]) {
            errors.push(FieldError::invalid(&METADATA.field(field), value.clone(), IMMUTABLE));
        }
    }
    if document::is_terminating(old) {
        let had: Vec<&str> = document::finalizers(old).collect();
        let added: Vec<String> = document::finalizers(new)
            .filter(|finalizer| !had.contains(finalizer))
            .map(|finalizer| format!("{finalizer:?}"))
            .collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.push(FieldError::forbidden(&METADATA.field("finalizers"), &detail));
        }
    }
    if resource.is_stored() {
        common(new, errors);
    }
}

fn common(object: &Value, errors: &mut Errors) {
    labels(object.at(&["metadata", "labels"]), &METADATA.field("labels"), errors);
    annotations(object, errors);
    owners(object, errors);
    let path = METADATA.field("finalizers");
    for (index, finalizer) in document::finalizers(object).enumerate() {
        let path = path.index(index);
        let messages = names::qualified_name(finalizer);
        let plain =
            !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion");
        if messages.is_empty() && plain {
            let message = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&path, finalizer, message));
        }
        invalid_all(&path, finalizer, messages, errors);
    }
}

fn annotations(object: &Value, errors: &mut Errors) {
    let path = METADATA.field("annotations");
    let mut bytes = 0;
    for (key, value) in object.map(&["metadata", "annotations"]).into_iter().flatten() {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        invalid_all(&path, key, names::qualified_name(&key.to_lowercase()), errors);
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(FieldError::too_long(&path, ANNOTATIONS_BYTES_MAX));
    }
}

fn owners(object: &Value, errors: &mut Errors) {
    let path = METADATA.field("ownerReferences");
    let owners = object.list(&["metadata", "ownerReferences"]);
    for (index, owner) in owners.iter().enumerate() {
        let path = path.index(index);
        for (field, message) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if owner.text(&[field]).is_empty() {
                errors.push(FieldError::invalid(&path.field(field), "", message));
            }
        }
    }
    let mut controllers = owners.iter().filter(|owner| owner.is_true(&["controller"]));
    if let (Some(first), Some(second)) = (controllers.next(), controllers.next()) {
        let name = |owner: &Value| format!("{}/{}", owner.text(&["kind"]), owner.text(&["name"]));
        let message = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
            name(first),
            name(second)
        );
        errors.push(FieldError::invalid(&path, owners.to_vec(), &message));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{errors, update_errors};

    #[test]
    fn names_and_labels_are_checked() {
        let subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
            '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation \
            is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        let cases: [(Value, String); 6] = [
            (json!({"name": "A"}), format!("metadata.name: Invalid value: \"A\": {subdomain}")),
            (json!({"name": ""}), "metadata.name: Required value: name or generateName is required".to_owned()),
            (
                json!({"name": "x", "labels": {"/a": ""}}),
                "metadata.labels: Invalid value: \"/a\": prefix part must be non-empty".to_owned(),
            ),
            (
                json!({"name": "x", "finalizers": ["a"]}),
                "metadata.finalizers[0]: Invalid value: \"a\": name is neither a standard finalizer name nor is it \
                 fully qualified"
                    .to_owned(),
            ),
            (
                json!({"name": "x", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
                "metadata.ownerReferences[0].uid: Invalid value: \"\": must not be empty".to_owned(),
            ),
            (
                json!({"name": "x", "annotations": {"a": "v".repeat(256 << 10)}}),
                "metadata.annotations: Too long: may not be more than 262144 bytes".to_owned(),
            ),
        ];
        for (metadata, want) in cases {
            assert_eq!(errors("", "ConfigMap", json!({"metadata": metadata})), [want]);
        }
    }

    #[test]
    fn identity_never_changes() {
        let old = json!({"metadata": {"uid": "u", "deletionTimestamp": "2024-01-01T00:00:00Z"}});
        let new = json!({"metadata": {"uid": "v", "finalizers": ["a/b"]}});
        assert_eq!(
            update_errors("", "ConfigMap", new, old),
            [
                "metadata.uid: Invalid value: \"v\": field is immutable",
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found \
                 new finalizers []string{\"a/b\"}",
            ]
        );
    }
}
