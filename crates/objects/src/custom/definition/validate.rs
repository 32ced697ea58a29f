//! What is wrong with a definition.

use serde_json::Value;

use super::super::columns::JsonPath;
use super::super::structural::Node;
use super::super::{check, shape};
use super::trees;
use crate::document::{self, Document};
use crate::field::{FieldError, Path};
use crate::names;

type Errors = Vec<FieldError>;

/// The annotation that kinds in groups of Kubernetes need.
pub(super) const APPROVED: &str = "api-approved.kubernetes.io";
const APPROVED_WHERE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
const SPEC: Path<'_> = Path::new("spec");
const METADATA: Path<'_> = Path::new("metadata");
const IMMUTABLE: &str = "field is immutable";

/// Whether a group belongs to Kubernetes.
pub(super) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// What is wrong with a definition by itself.
pub fn check(definition: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = definition.at(&["spec"]);
    let wanted = format!("{}.{}", spec.text(&["names", "plural"]), spec.text(&["group"]));
    if document::name(definition) != wanted {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid(&METADATA.field("name"), document::name(definition), why));
    }
    approval(definition, &mut errors);
    group(spec.text(&["group"]), &mut errors);
    scope(spec.text(&["scope"]), &mut errors);
    names_of(spec.at(&["names"]), &mut errors);
    versions(spec, &mut errors);
    conversion(spec, &mut errors);
    if spec.is_true(&["preserveUnknownFields"]) {
        let path = SPEC.field("preserveUnknownFields");
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid(&path, true, why));
    }
    errors.extend(trees(definition).errors.iter().cloned());
    errors
}

/// What is wrong with a definition in place of another.
pub fn check_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = check(new);
    let mut immutable = |field: &[&str]| {
        let value = new.at(&[&["spec"], field].concat());
        if value != old.at(&[&["spec"], field].concat()) {
            let path = SPEC.field(field.first().copied().unwrap_or_default());
            let inner = field.get(1).map(|name| path.field(name));
            errors.push(FieldError::invalid(inner.as_ref().unwrap_or(&path), value.clone(), IMMUTABLE));
        }
    };
    immutable(&["group"]);
    immutable(&["names", "plural"]);
    if super::is_established(old) {
        immutable(&["scope"]);
        immutable(&["names", "kind"]);
    }
    stored_versions(new, &mut errors);
    errors
}

/// Versions that objects may be stored in stay in the definition.
fn stored_versions(definition: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    let path = status.field("storedVersions");
    let versions = definition.list(&["spec", "versions"]);
    for (index, stored) in definition.list(&["status", "storedVersions"]).iter().enumerate() {
        if !versions.iter().any(|version| version.at(&["name"]) == stored) {
            let why = "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a \
                       storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions";
            let why = why.replace("v1", stored.as_str().unwrap_or_default());
            errors.push(FieldError::invalid(&path.index(index), stored.clone(), &why));
        }
    }
}

fn approval(definition: &Value, errors: &mut Errors) {
    if !is_protected(definition.text(&["spec", "group"])) {
        return;
    }
    let annotations = METADATA.field("annotations");
    let path = annotations.key(APPROVED);
    let needs = format!("protected groups must have approval annotation {APPROVED:?}");
    match document::annotation(definition, APPROVED).unwrap_or_default() {
        "" => errors.push(FieldError::required(&path, &format!("{needs}, {APPROVED_WHERE}"))),
        text if text.starts_with("unapproved") => {}
        text if text.split_once("://").is_some_and(|(_, host)| !host.is_empty()) => {}
        text => {
            let why = format!(
                "{needs} with either a URL or a reason starting with \"unapproved\", {APPROVED_WHERE}"
            );
            errors.push(FieldError::invalid(&path, text, &why));
        }
    }
}

fn group(group: &str, errors: &mut Errors) {
    let path = SPEC.field("group");
    if group.is_empty() {
        return errors.push(FieldError::required(&path, ""));
    }
    let messages = names::dns_subdomain(group);
    let dotless = messages.is_empty() && !group.contains('.');
    errors.extend(messages.iter().map(|message| FieldError::invalid(&path, group, message)));
    if dotless {
        errors.push(FieldError::invalid(&path, group, "should be a domain with at least one dot"));
    }
}

fn scope(scope: &str, errors: &mut Errors) {
    let path = SPEC.field("scope");
    match scope {
        "Cluster" | "Namespaced" => {}
        "" => errors.push(FieldError::required(&path, "")),
        other => errors.push(FieldError::not_supported(&path, other, &["Cluster", "Namespaced"])),
    }
}

fn names_of(names: &Value, errors: &mut Errors) {
    let path = SPEC.field("names");
    let mut label = |path: &Path<'_>, text: &str, mixed_case: bool| {
        if text.is_empty() {
            return errors.push(FieldError::required(path, ""));
        }
        let plain = if mixed_case { text.to_lowercase() } else { text.to_owned() };
        for message in names::dns_1035_label(&plain) {
            let message = match mixed_case {
                true => format!("may have mixed case, but should otherwise match: {message}"),
                false => message,
            };
            errors.push(FieldError::invalid(path, text, &message));
        }
    };
    label(&path.field("plural"), names.text(&["plural"]), false);
    label(&path.field("singular"), names.text(&["singular"]), false);
    label(&path.field("kind"), names.text(&["kind"]), true);
    label(&path.field("listKind"), names.text(&["listKind"]), true);
    for field in ["shortNames", "categories"] {
        let path = path.field(field);
        for (index, name) in names.list(&[field]).iter().enumerate() {
            label(&path.index(index), name.as_str().unwrap_or_default(), false);
        }
    }
    let (kind, list_kind) = (names.text(&["kind"]), names.text(&["listKind"]));
    if !kind.is_empty() && kind == list_kind {
        let why = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(&path.field("listKind"), list_kind, why));
    }
}

fn versions(spec: &Value, errors: &mut Errors) {
    let path = SPEC.field("versions");
    let versions = spec.list(&["versions"]);
    let storage = versions.iter().filter(|version| version.is_true(&["storage"])).count();
    for (index, version) in versions.iter().enumerate() {
        let path = path.index(index);
        let name = version.text(&["name"]);
        let messages = names::dns_1035_label(name);
        errors.extend(messages.iter().map(|message| FieldError::invalid(&path.field("name"), name, message)));
        columns(version, &path, errors);
        scale(version.at(&["subresources", "scale"]), &path, errors);
        selectable(version, &path, errors);
        if !version.is_true(&["deprecated"]) && version.has(&["deprecationWarning"]) {
            let why = "can only be set for deprecated versions";
            let warning = version.text(&["deprecationWarning"]);
            errors.push(FieldError::invalid(&path.field("deprecationWarning"), warning, why));
        }
    }
    let mut seen: Vec<&str> = versions.iter().map(|version| version.text(&["name"])).collect();
    seen.sort_unstable();
    let shown = || versions.iter().map(|version| version.at(&["name"]).clone()).collect::<Vec<_>>();
    if seen.windows(2).any(|pair| pair.first() == pair.last()) {
        errors.push(FieldError::invalid(&path, shown(), "must contain unique version names"));
    }
    if storage != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid(&path, shown(), why));
    }
}

fn columns(version: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.field("additionalPrinterColumns");
    for (index, column) in version.list(&["additionalPrinterColumns"]).iter().enumerate() {
        let path = path.index(index);
        if column.text(&["name"]).is_empty() {
            errors.push(FieldError::required(&path.field("name"), ""));
        }
        let types = ["boolean", "date", "integer", "number", "string"];
        match column.text(&["type"]) {
            "" => {
                let why = format!("must be one of {}", types.join(","));
                errors.push(FieldError::required(&path.field("type"), &why));
            }
            ty if types.contains(&ty) => {}
            ty => {
                let why = format!("must be one of {}", types.join(","));
                errors.push(FieldError::invalid(&path.field("type"), ty, &why));
            }
        }
        json_path(column, "jsonPath", &path, errors);
    }
}

fn json_path(value: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) -> Option<JsonPath> {
    let (path, text) = (path.field(field), value.text(&[field]));
    if text.is_empty() {
        errors.push(FieldError::required(&path, ""));
        return None;
    }
    match JsonPath::parse(text) {
        Ok(parsed) => Some(parsed),
        Err(why) => {
            errors.push(FieldError::invalid(
                &path,
                text,
                &format!("must be a simple json path, but it {why}"),
            ));
            None
        }
    }
}

fn scale(scale: &Value, path: &Path<'_>, errors: &mut Errors) {
    if scale.is_null() {
        return;
    }
    let path = path.field("subresources");
    let path = path.field("scale");
    for (field, root) in
        [("specReplicasPath", "spec"), ("statusReplicasPath", "status"), ("labelSelectorPath", "")]
    {
        if field == "labelSelectorPath" && !scale.has(&[field]) {
            continue;
        }
        let Some(parsed) = json_path(scale, field, &path, errors) else { continue };
        let first = parsed.fields().and_then(|fields| fields.first().map(|first| (*first).to_owned()));
        let (fits, why) = match root {
            "" => (
                matches!(first.as_deref(), Some("spec" | "status")),
                "should be a json path under either .spec or .status".to_owned(),
            ),
            root => (first.as_deref() == Some(root), format!("should be a json path under .{root}")),
        };
        if !fits {
            errors.push(FieldError::invalid(&path.field(field), scale.text(&[field]), &why));
        }
    }
}

fn selectable(version: &Value, path: &Path<'_>, errors: &mut Errors) {
    const FIELDS_MAX: usize = 8;
    let path = path.field("selectableFields");
    let fields = version.list(&["selectableFields"]);
    if fields.len() > FIELDS_MAX {
        errors.push(FieldError::too_many(&path, fields.len(), FIELDS_MAX));
    }
    for (index, field) in fields.iter().enumerate() {
        let path = path.index(index);
        let Some(parsed) = json_path(field, "jsonPath", &path, errors) else { continue };
        let path = path.field("jsonPath");
        let text = field.text(&["jsonPath"]);
        let mut schema = version.at(&["schema", "openAPIV3Schema"]);
        let Some(names) = parsed.fields() else {
            errors.push(FieldError::invalid(&path, text, "must be a simple path of fields"));
            continue;
        };
        for name in &names {
            schema = schema.at(&["properties", name]);
        }
        if names.first() == Some(&"metadata") {
            let why = "must not point to fields in metadata";
            errors.push(FieldError::invalid(&path, text, why));
        } else if schema.is_null() {
            let why = "does not refer to a valid field";
            errors.push(FieldError::invalid(&path, text, why));
        } else if !matches!(schema.text(&["type"]), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.push(FieldError::invalid(&path, text, why));
        }
        if fields.iter().take(index).any(|other| other.text(&["jsonPath"]) == text) {
            errors.push(FieldError::duplicate(&path, text));
        }
    }
}

fn conversion(spec: &Value, errors: &mut Errors) {
    let path = SPEC.field("conversion");
    match spec.text(&["conversion", "strategy"]) {
        "None" => {
            if spec.has(&["conversion", "webhook"]) {
                let why = "should not be set when strategy is not set to Webhook";
                errors.push(FieldError::forbidden(&path.field("webhook"), why));
            }
        }
        "Webhook" => {
            let why = "this server does not call conversion webhooks; serve only versions of the same shape with strategy None";
            errors.push(FieldError::invalid(&path.field("strategy"), "Webhook", why));
        }
        other => errors.push(FieldError::not_supported(&path.field("strategy"), other, &["None", "Webhook"])),
    }
}

/// Defaults must be what their place allows, also when they are filled in further.
pub(super) fn defaults(tree: &Node, path: &Path<'_>, errors: &mut Errors) {
    if let Some(default) = &tree.default {
        let path = path.field("default");
        let mut whole = default.clone();
        let dropped = shape::prune(&Node { embedded: true, ..tree.clone() }, &mut whole);
        if !dropped.is_empty() && !tree.preserve_unknown {
            let why = format!("must not have unknown fields, found {}", dropped.join(", "));
            errors.push(FieldError::invalid(&path, default.clone(), &why));
        }
        shape::complete(tree, &mut whole);
        errors.extend(check::value(tree, &whole, None, &path));
    }
    let properties = path.field("properties");
    for (name, child) in &tree.properties {
        defaults(child, &properties.key(name), errors);
    }
    if let Some(child) = &tree.additional {
        defaults(child, &path.field("additionalProperties"), errors);
    }
    if let Some(child) = &tree.items {
        defaults(child, &path.field("items"), errors);
    }
}
