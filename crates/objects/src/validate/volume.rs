//! Volumes of pods and their mounts.

use serde_json::Value;

use super::{Errors, invalid_all};
use crate::document::Document;
use crate::field::{FieldError, Path};
use crate::names;

/// The volumes of a pod; gives their names.
pub(super) fn volumes<'a>(spec: &'a Value, path: &Path<'_>, errors: &mut Errors) -> Vec<&'a str> {
    let mut known: Vec<&str> = Vec::new();
    for (index, volume) in spec.list(&["volumes"]).iter().enumerate() {
        let path = path.index(index);
        let name = volume.text(&["name"]);
        let name_path = path.field("name");
        if name.is_empty() {
            errors.push(FieldError::required(&name_path, ""));
        } else {
            invalid_all(&name_path, name, names::dns_label(name), errors);
            if known.contains(&name) {
                errors.push(FieldError::duplicate(&name_path, name));
            }
        }
        source(volume, &path, errors);
        known.push(name);
    }
    known
}

fn source(volume: &Value, path: &Path<'_>, errors: &mut Errors) {
    let fields = volume.as_object().into_iter().flatten();
    let mut sources = fields.filter(|(name, _)| *name != "name");
    let Some((kind, source)) = sources.next() else {
        errors.push(FieldError::required(path, "must specify a volume type"));
        return;
    };
    for (other, _) in sources {
        errors.push(FieldError::forbidden(&path.field(other), "may not specify more than 1 volume type"));
    }
    let path = path.field(kind);
    match kind.as_str() {
        "configMap" => required(source, "name", &path, errors),
        "secret" => required(source, "secretName", &path, errors),
        "hostPath" => {
            required(source, "path", &path, errors);
            if source.text(&["path"]).split('/').any(|part| part == "..") {
                errors.push(FieldError::invalid(
                    &path.field("path"),
                    source.text(&["path"]),
                    "must not contain '..'",
                ));
            }
        }
        "persistentVolumeClaim" => required(source, "claimName", &path, errors),
        "projected" => {
            let list = path.field("sources");
            for (index, projection) in source.list(&["sources"]).iter().enumerate() {
                items(
                    projection.at(&["configMap"]),
                    &list.index(index).field("configMap").to_string(),
                    errors,
                );
                items(projection.at(&["secret"]), &list.index(index).field("secret").to_string(), errors);
                if projection.has(&["serviceAccountToken"]) {
                    let path = list.index(index);
                    let path = path.field("serviceAccountToken");
                    required(projection.at(&["serviceAccountToken"]), "path", &path, errors);
                }
            }
        }
        _ => {}
    }
    if matches!(kind.as_str(), "configMap" | "secret" | "downwardAPI") {
        items(source, &path.to_string(), errors);
    }
}

fn required(source: &Value, field: &'static str, path: &Path<'_>, errors: &mut Errors) {
    if source.text(&[field]).is_empty() {
        errors.push(FieldError::required(&path.field(field), ""));
    }
}

/// Files that a source maps to paths, all inside the volume.
fn items(source: &Value, path: &str, errors: &mut Errors) {
    let source_path = Path::new(path);
    let list = source_path.field("items");
    for (index, item) in source.list(&["items"]).iter().enumerate() {
        let path = list.index(index);
        let target = item.text(&["path"]);
        if target.is_empty() {
            errors.push(FieldError::required(&path.field("path"), ""));
        } else if target.starts_with('/') {
            errors.push(FieldError::invalid(&path.field("path"), target, "must be a relative path"));
        } else if target.split('/').any(|part| part == "..") {
            errors.push(FieldError::invalid(&path.field("path"), target, "must not contain '..'"));
        }
        if let Some(mode) = item.int(&["mode"]).filter(|mode| !(0..=0o777).contains(mode)) {
            let detail = "must be a number between 0 and 0777 (octal), both inclusive";
            errors.push(FieldError::invalid(&path.field("mode"), mode, detail));
        }
    }
}

/// The mounts of a container.
pub(super) fn mounts(container: &Value, volumes: &[&str], path: &Path<'_>, errors: &mut Errors) {
    let list = path.field("volumeMounts");
    let mut seen: Vec<&str> = Vec::new();
    for (index, mount) in container.list(&["volumeMounts"]).iter().enumerate() {
        let path = list.index(index);
        let (name, target) = (mount.text(&["name"]), mount.text(&["mountPath"]));
        if name.is_empty() {
            errors.push(FieldError::required(&path.field("name"), ""));
        } else if !volumes.contains(&name) {
            errors.push(FieldError::not_found(&path.field("name"), name));
        }
        if target.is_empty() {
            errors.push(FieldError::required(&path.field("mountPath"), ""));
        }
        if seen.contains(&target) {
            errors.push(FieldError::invalid(&path.field("mountPath"), target, "must be unique"));
        }
        seen.push(target);
        for field in ["subPath", "subPathExpr"] {
            let sub_path = mount.text(&[field]);
            if sub_path.starts_with('/') {
                errors.push(FieldError::invalid(&path.field(field), sub_path, "must be a relative path"));
            } else if sub_path.split('/').any(|part| part == "..") {
                errors.push(FieldError::invalid(&path.field(field), sub_path, "must not contain '..'"));
            }
        }
    }
}
