//! Claims of storage and its classes. They are kept for clients; nothing provisions volumes.

use serde_json::Value;

use super::{Errors, IMMUTABLE, SPEC, invalid_all, label_selector, one_of};
use crate::document::Document;
use crate::field::{FieldError, Path};
use crate::names;

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const FIXED: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

pub(super) fn claim(claim: &Value, errors: &mut Errors) {
    let path = SPEC.field("accessModes");
    let modes = claim.list(&["spec", "accessModes"]);
    if modes.is_empty() {
        errors.push(FieldError::required(&path, "at least 1 access mode is required"));
    }
    label_selector(claim.at(&["spec", "selector"]), &SPEC.field("selector"), errors);
    for mode in modes.iter().filter_map(Value::as_str) {
        one_of(mode, ACCESS_MODES, &path, errors);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(&path, detail));
    }
    if !claim.has(&["spec", "resources", "requests", "storage"]) {
        let resources = SPEC.field("resources");
        errors.push(FieldError::required(&resources.key("storage"), ""));
    }
    let class = claim.text(&["spec", "storageClassName"]);
    if !class.is_empty() {
        invalid_all(&SPEC.field("storageClassName"), class, names::dns_subdomain(class), errors);
    }
    let mode = claim.text(&["spec", "volumeMode"]);
    if !mode.is_empty() {
        one_of(mode, &["Block", "Filesystem"], &SPEC.field("volumeMode"), errors);
    }
}

/// A claim asks for more at most. The volume is bound once.
pub(super) fn update_claim(new: &Value, old: &Value, errors: &mut Errors) {
    let bound = old.text(&["status", "phase"]) == "Bound";
    let fixed = |claim: &Value| {
        let mut spec = claim.at(&["spec"]).clone();
        if bound {
            spec.take_at(&["resources", "requests"]);
            spec.take_at(&["volumeAttributesClassName"]);
        }
        if old.text(&["spec", "volumeName"]).is_empty() {
            spec.take_at(&["volumeName"]);
        }
        spec
    };
    if fixed(new) != fixed(old) {
        errors.push(FieldError::forbidden(&SPEC, FIXED));
    }
}

pub(super) fn class(class: &Value, errors: &mut Errors) {
    let provisioner = class.text(&["provisioner"]);
    if provisioner.is_empty() {
        errors.push(FieldError::required(&Path::new("provisioner"), ""));
    } else {
        let messages = names::qualified_name(&provisioner.to_lowercase());
        invalid_all(&Path::new("provisioner"), provisioner, messages, errors);
    }
    let reclaim = class.text(&["reclaimPolicy"]);
    one_of(reclaim, &["Delete", "Retain"], &Path::new("reclaimPolicy"), errors);
    let mode = class.text(&["volumeBindingMode"]);
    one_of(mode, &["Immediate", "WaitForFirstConsumer"], &Path::new("volumeBindingMode"), errors);
}

pub(super) fn update_class(new: &Value, old: &Value, errors: &mut Errors) {
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        if new.at(&[field]) != old.at(&[field]) {
            let detail = format!("updates to {field} are forbidden.");
            errors.push(FieldError::forbidden(&Path::new(field), &detail));
        }
    }
    let mode = new.at(&["volumeBindingMode"]);
    if mode != old.at(&["volumeBindingMode"]) {
        errors.push(FieldError::invalid(&Path::new("volumeBindingMode"), mode.clone(), IMMUTABLE));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{errors, update_errors};

    #[test]
    fn claims_are_refused_in_the_words_of_the_wire() {
        let claim = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(errors("", "PersistentVolumeClaim", claim.clone()), Vec::<String>::new());
        assert_eq!(
            errors("", "PersistentVolumeClaim", json!({"spec": {"accessModes": ["Sometimes"]}})),
            [
                "spec.accessModes: Unsupported value: \"Sometimes\": supported values: \"ReadOnlyMany\", \
                 \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.resources[storage]: Required value",
            ]
        );
        let mut larger = claim.clone();
        larger["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
        let want = "spec: Forbidden: spec is immutable after creation except resources.requests and \
                    volumeAttributesClassName for bound claims";
        assert_eq!(update_errors("", "PersistentVolumeClaim", larger, claim), [want]);
    }

    #[test]
    fn classes_keep_their_provisioner() {
        let class = |provisioner: &str| -> Value { json!({"provisioner": provisioner}) };
        assert_eq!(errors("storage.k8s.io", "StorageClass", class("a.b/c")), Vec::<String>::new());
        assert_eq!(
            errors("storage.k8s.io", "StorageClass", json!({"provisioner": "", "reclaimPolicy": "Burn"})),
            [
                "provisioner: Required value",
                "reclaimPolicy: Unsupported value: \"Burn\": supported values: \"Delete\", \"Retain\"",
            ]
        );
        let want = "provisioner: Forbidden: updates to provisioner are forbidden.";
        assert_eq!(update_errors("storage.k8s.io", "StorageClass", class("a/c"), class("a/b")), [want]);
    }
}
