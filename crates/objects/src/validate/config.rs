//! ConfigMaps, Secrets, Leases, Events.

use serde_json::Value;

use super::{Errors, at_least, document, invalid_all};
use crate::document::Document;
use crate::field::{FieldError, Path};
use crate::names;

/// Bytes of all values of a ConfigMap or Secret.
const DATA_BYTES_MAX: usize = 1 << 20;
const SEALED: &str = "field is immutable when `immutable` is set";

pub(super) fn config_map(map: &Value, errors: &mut Errors) {
    let mut bytes = 0;
    for field in ["data", "binaryData"] {
        let path = Path::new(field);
        for (key, value) in map.map(&[field]).into_iter().flatten() {
            invalid_all(&path.key(key), key, names::config_key(key), errors);
            if field == "binaryData" && map.has(&["data", key]) {
                errors.push(FieldError::invalid(
                    &path.key(key),
                    key.as_str(),
                    "duplicate of key present in data",
                ));
            }
            bytes += value.as_str().map_or(0, str::len);
        }
    }
    size(bytes, errors);
}

fn size(bytes: usize, errors: &mut Errors) {
    if bytes > DATA_BYTES_MAX {
        let mut error = FieldError::too_long(&Path::new(""), DATA_BYTES_MAX);
        error.field.clear();
        errors.push(error);
    }
}

pub(super) fn secret(secret: &Value, errors: &mut Errors) {
    let path = Path::new("data");
    let mut bytes = 0;
    for (key, value) in secret.map(&["data"]).into_iter().flatten() {
        invalid_all(&path.key(key), key, names::config_key(key), errors);
        bytes += value.as_str().map_or(0, |text| text.len() / 4 * 3);
    }
    size(bytes, errors);
    let required: &[&str] = match secret.text(&["type"]) {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/service-account-token" => {
            let account = "kubernetes.io/service-account.name";
            if document::annotation(secret, account).unwrap_or_default().is_empty() {
                let metadata = Path::new("metadata");
                let annotations = metadata.field("annotations");
                errors.push(FieldError::required(&annotations.key(account), ""));
            }
            &[]
        }
        "kubernetes.io/basic-auth" => {
            if !secret.has(&["data", "username"]) && !secret.has(&["data", "password"]) {
                errors.push(FieldError::required(&path.key("username"), ""));
                errors.push(FieldError::required(&path.key("password"), ""));
            }
            &[]
        }
        _ => &[],
    };
    let missing = required.iter().filter(|key| !secret.has(&["data", key]));
    errors.extend(missing.map(|key| FieldError::required(&path.key(key), "")));
}

/// ConfigMaps and Secrets may be sealed; the type of a Secret never changes.
pub(super) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    let secret_type = new.at(&["type"]);
    if secret_type != old.at(&["type"]) {
        errors.push(FieldError::invalid(&Path::new("type"), secret_type.clone(), super::IMMUTABLE));
    }
    if !old.is_true(&["immutable"]) {
        return;
    }
    if !new.is_true(&["immutable"]) {
        errors.push(FieldError::forbidden(&Path::new("immutable"), SEALED));
    }
    for field in ["data", "binaryData"] {
        if new.at(&[field]) != old.at(&[field]) {
            errors.push(FieldError::forbidden(&Path::new(field), SEALED));
        }
    }
}

pub(super) fn lease(lease: &Value, errors: &mut Errors) {
    let spec = super::SPEC;
    at_least(lease, &["spec", "leaseDurationSeconds"], &spec.field("leaseDurationSeconds"), 1, errors);
    at_least(lease, &["spec", "leaseTransitions"], &spec.field("leaseTransitions"), 0, errors);
}

/// An event lives in the namespace of what it is about; one about the cluster may live anywhere.
pub(super) fn event(event: &Value, errors: &mut Errors) {
    let about = event.text(&["involvedObject", "namespace"]);
    if !about.is_empty() && about != document::namespace(event) {
        let path = Path::new("involvedObject");
        errors.push(FieldError::invalid(&path.field("namespace"), about, "does not match event.namespace"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{errors, update_errors};

    #[test]
    fn keys_are_file_names() {
        let key = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
            'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
        let want = format!("data[a/b]: Invalid value: \"a/b\": {key}");
        assert_eq!(
            errors("", "ConfigMap", json!({"data": {"a/b": "", "ok": ""}})),
            std::slice::from_ref(&want)
        );
        assert_eq!(errors("", "Secret", json!({"data": {"a/b": ""}})), [want]);
        let large = json!({"data": {"a": "x".repeat((1 << 20) + 1)}});
        assert_eq!(errors("", "ConfigMap", large), ["<nil>: Too long: may not be more than 1048576 bytes"]);
    }

    #[test]
    fn secrets_have_what_their_type_promises() {
        let cases: [(Value, &[&str]); 4] = [
            (json!({}), &[]),
            (
                json!({"type": "kubernetes.io/tls", "data": {"tls.key": ""}}),
                &["data[tls.crt]: Required value"],
            ),
            (
                json!({"type": "kubernetes.io/service-account-token"}),
                &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
            ),
            (
                json!({"type": "kubernetes.io/basic-auth"}),
                &["data[username]: Required value", "data[password]: Required value"],
            ),
        ];
        for (secret, want) in cases {
            assert_eq!(errors("", "Secret", secret), want);
        }
    }

    #[test]
    fn events_live_beside_what_they_are_about() {
        let event = |namespace: &str| json!({"involvedObject": {"kind": "Pod", "namespace": namespace}});
        assert_eq!(errors("", "Event", event("ns")), Vec::<String>::new());
        assert_eq!(
            errors("", "Event", event("other")),
            ["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"]
        );
    }

    #[test]
    fn what_is_sealed_stays() {
        let old = json!({"immutable": true, "data": {"a": "b"}});
        assert_eq!(
            update_errors("", "ConfigMap", json!({"data": {"a": "c"}}), old),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ]
        );
        assert_eq!(
            update_errors("", "Secret", json!({"type": "x"}), json!({})),
            ["type: Invalid value: \"x\": field is immutable"]
        );
    }
}
