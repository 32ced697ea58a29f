//! From the body of a request to an object.
//!
//! One walk over the schema checks types, drops what the schema does not know (and says so), drops zero values that
//! mean absence, and makes quantities, times and base64 canonical. JSON is walked while it is parsed; YAML, protobuf
//! and patched documents are walked as values.

use serde::de::DeserializeSeed as _;
use serde_json::Value;

use crate::document::Document;
use crate::registry::ObjectType;
use crate::status::Status;

mod custom;
mod protobuf;
mod scalar;
mod walk;

use walk::{Findings, Walk};

/// What happens to fields that the schema does not know, and to fields given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped and reported as warnings.
    #[default]
    Warn,
    /// They are an error.
    Strict,
}

impl FieldValidation {
    /// Parses the query parameter; absent or empty is [`FieldValidation::Warn`].
    pub fn parse(text: &str) -> Option<FieldValidation> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A decoded body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object, with `apiVersion` and `kind`.
    pub object: Value,
    /// Texts for `Warning: 299 - "…"` headers.
    pub warnings: Vec<String>,
}

/// The media types that [`decode`] accepts.
pub const ACCEPTED: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Deepest nesting of a document.
const DEPTH_MAX: usize = 128;

/// Decodes a body of any supported media type into an object of `object_type`. No media type is JSON.
pub fn decode(
    object_type: &ObjectType,
    content_type: &str,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    if let Some(custom) = &object_type.custom {
        return custom::decode(object_type, custom, content_type, body, validation);
    }
    match content_type.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" => json(object_type, body, validation),
        "application/yaml" => yaml(object_type, body, validation),
        "application/vnd.kubernetes.protobuf" => {
            let document = protobuf::decode(object_type, body)
                .map_err(|error| unrecognized(object_type, &error.to_string()))?;
            normalize(object_type, document, validation)
        }
        _ => Err(Status::unsupported_media_type(ACCEPTED)),
    }
}

/// Brings a document (the result of a patch) into the form of decoded objects: types checked, zero values that mean
/// absence dropped, quantities and times canonical, unknown fields handled.
pub fn normalize(
    object_type: &ObjectType,
    document: Value,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    if !is_shallow(&document, DEPTH_MAX) {
        return Err(unrecognized(object_type, "json: exceeded max depth"));
    }
    if let Some(custom) = &object_type.custom {
        return custom::normalize(object_type, custom, document, validation);
    }
    let mut findings = Findings::default();
    let walked = Walk::root(&object_type.schema, &mut findings).deserialize(document);
    finish(object_type, walked.map_err(|error| error.to_string()), findings, validation)
}

/// The same for what states values rather than has them, such as a configuration to apply: zero values stay, unknown fields go.
pub(crate) fn canonical(object_type: &ObjectType, document: Value) -> Result<Value, Status> {
    if !is_shallow(&document, DEPTH_MAX) {
        return Err(unrecognized(object_type, "json: exceeded max depth"));
    }
    let mut findings = Findings { keep_zeros: true, ..Findings::default() };
    let walked = Walk::root(&object_type.schema, &mut findings).deserialize(document);
    let walked = walked.map_err(|error| error.to_string());
    Ok(finish(object_type, walked, findings, FieldValidation::Ignore)?.object)
}

/// Reads a document of any kind, JSON or YAML, as the bodies of apply patches are.
pub(crate) fn document(body: &[u8], validation: FieldValidation) -> Result<Value, Status> {
    let error = |error: &dyn std::fmt::Display| Status::bad_request(format!("error decoding YAML: {error}"));
    if body.trim_ascii_start().starts_with(b"{")
        && let Ok(document) = serde_json::from_slice(body)
    {
        return Ok(document);
    }
    let text = std::str::from_utf8(body).map_err(|utf8| error(&utf8))?;
    let last_wins = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins };
    let document =
        serde_saphyr::from_str_with_options::<Value>(text, last_wins).map_err(|yaml| error(&yaml))?;
    if validation == FieldValidation::Strict {
        let once = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error };
        serde_saphyr::from_str_with_options::<Value>(text, once)
            .map_err(|yaml| Status::bad_request(format!("error strict decoding YAML: {yaml}")))?;
    }
    Ok(document)
}

fn json(object_type: &ObjectType, body: &[u8], validation: FieldValidation) -> Result<Decoded, Status> {
    let mut findings = Findings::default();
    let mut parser = serde_json::Deserializer::from_slice(body);
    let walked = Walk::root(&object_type.schema, &mut findings).deserialize(&mut parser);
    let walked = walked.and_then(|value| parser.end().map(|()| value));
    finish(object_type, walked.map_err(|error| error.to_string()), findings, validation)
}

fn yaml(object_type: &ObjectType, body: &[u8], validation: FieldValidation) -> Result<Decoded, Status> {
    normalize(object_type, yaml_document(object_type, body, validation)?, validation)
}

fn yaml_document(
    object_type: &ObjectType,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Value, Status> {
    let text = std::str::from_utf8(body).map_err(|error| unrecognized(object_type, &error.to_string()))?;
    let policy = match validation {
        FieldValidation::Strict => serde_saphyr::DuplicateKeyPolicy::Error,
        FieldValidation::Ignore | FieldValidation::Warn => serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    let options = serde_saphyr::options! { duplicate_keys: policy };
    serde_saphyr::from_str_with_options::<Value>(text, options)
        .map_err(|error| unrecognized(object_type, &format!("yaml: {error}")))
}

/// Checks what the walk found; fills in `apiVersion` and `kind`.
fn finish(
    object_type: &ObjectType,
    walked: Result<Option<Value>, String>,
    findings: Findings,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let document = walked.map_err(|error| {
        unrecognized(object_type, &format!("couldn't get version/kind; json parse error: {error}"))
    })?;
    let Some(mut object) = document.filter(Value::is_object) else {
        let error = "couldn't get version/kind; json parse error: json: cannot unmarshal into an object";
        return Err(unrecognized(object_type, error));
    };
    check_type(object_type, &object)?;
    if let Some(error) = findings.type_error {
        return Err(cannot_be_handled(object_type, &error));
    }
    let warnings = match (validation, findings.strict.as_slice()) {
        (FieldValidation::Ignore, _) => Vec::new(),
        (FieldValidation::Warn, _) => findings.strict,
        (FieldValidation::Strict, []) => Vec::new(),
        (FieldValidation::Strict, errors) => {
            let error = format!("strict decoding error: {}", errors.join(", "));
            return Err(cannot_be_handled(object_type, &error));
        }
    };
    object.put(&["apiVersion"], object_type.api_version());
    object.put(&["kind"], &*object_type.kind);
    Ok(Decoded { object, warnings })
}

fn check_type(object_type: &ObjectType, object: &Value) -> Result<(), Status> {
    let (api_version, kind) = (object.text(&["apiVersion"]), object.text(&["kind"]));
    let version = api_version.rsplit('/').next().unwrap_or_default();
    if !kind.is_empty() && kind != object_type.kind {
        let (want, go) = (&object_type.kind, object_type.schema.structure().versioned_name());
        return Err(Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {want}: converting ({version}.{kind}) to ({go}): \
             unknown conversion"
        )));
    }
    // Options travel under the version of what they are options of.
    let any_version = object_type.group == "meta.k8s.io";
    let want = object_type.api_version();
    if !api_version.is_empty() && api_version != want && !any_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({want})"
        )));
    }
    Ok(())
}

fn cannot_be_handled(object_type: &ObjectType, error: &str) -> Status {
    let (kind, version) = (&object_type.kind, &object_type.version);
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}"))
}

fn unrecognized(object_type: &ObjectType, error: &str) -> Status {
    let kind = &object_type.kind;
    Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {error}"))
}

fn is_shallow(value: &Value, depth: usize) -> bool {
    match value {
        _ if depth == 0 => false,
        Value::Array(items) => items.iter().all(|item| is_shallow(item, depth - 1)),
        Value::Object(fields) => fields.values().all(|field| is_shallow(field, depth - 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::Registry;

    fn kind(group: &str, kind: &str) -> &'static ObjectType {
        &Registry::builtin().kind(group, "v1", kind).unwrap().object
    }

    #[test]
    fn an_object_is_canonical_after_decoding() {
        let body = br#"{"metadata": {"name": "a", "labels": {}, "creationTimestamp": null},
            "spec": {"type": "", "ports": [{"port": 80, "targetPort": 0, "nodePort": 0}], "selector": {"a": ""},
                     "publishNotReadyAddresses": false, "clusterIP": null}, "status": {}}"#;
        let decoded = decode(kind("", "Service"), "application/json", body, FieldValidation::Strict).unwrap();
        let want = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "status": {},
            "spec": {"ports": [{"port": 80}], "selector": {"a": ""}},
        });
        assert_eq!(decoded.object, want);
        assert_eq!(decoded.warnings, Vec::<String>::new());
    }

    #[test]
    fn zero_survives_where_it_means_something() {
        let document = json!({"spec": {"replicas": 0, "paused": false, "minReadySeconds": 0, "template": {"spec": {
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "1000m", "memory": 1024}}}],
            "automountServiceAccountToken": false, "hostNetwork": false, "volumes": [{"name": "v", "emptyDir": {}}],
        }}}});
        let decoded = normalize(kind("apps", "Deployment"), document, FieldValidation::Strict).unwrap();
        let want = json!({"replicas": 0, "template": {"spec": {
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1024"}}}],
            "automountServiceAccountToken": false, "volumes": [{"name": "v", "emptyDir": {}}],
        }}});
        assert_eq!(decoded.object["spec"], want);
    }

    #[test]
    fn unknown_and_duplicate_fields_are_dropped_warned_of_or_refused() {
        let body = br#"{"data": {"a": "1", "a": "2"}, "foo": 1, "metadata": {"name": "x", "Name": "y"}}"#;
        let object_type = kind("", "ConfigMap");
        let said =
            [r#"duplicate field "data.a""#, r#"unknown field "foo""#, r#"unknown field "metadata.Name""#];
        for (validation, warnings) in
            [(FieldValidation::Ignore, &said[..0]), (FieldValidation::Warn, &said[..])]
        {
            let decoded = decode(object_type, "application/json", body, validation).unwrap();
            assert_eq!(decoded.object["data"], json!({"a": "2"}));
            assert_eq!(decoded.object["metadata"], json!({"name": "x"}));
            assert_eq!(decoded.warnings, warnings);
        }
        let status = decode(object_type, "", body, FieldValidation::Strict).unwrap_err();
        let want = format!(
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: {}",
            said.join(", ")
        );
        assert_eq!((status.code, status.message), (400, want));
    }

    #[test]
    fn wrong_types_are_named_like_a_go_server_does() {
        struct Case {
            object_type: &'static ObjectType,
            body: &'static str,
            want: &'static str,
        }
        let service = kind("", "Service");
        let deployment = kind("apps", "Deployment");
        let cases = [
            Case {
                object_type: service,
                body: r#"{"spec": {"ports": [{"port": "80"}]}}"#,
                want: "Service in version \"v1\" cannot be handled as a Service: json: cannot unmarshal string into \
                       Go struct field ServicePort.spec.ports.port of type int32",
            },
            Case {
                object_type: service,
                body: r#"{"spec": {"ports": {"port": 80}}}"#,
                want: "Service in version \"v1\" cannot be handled as a Service: json: cannot unmarshal object into \
                       Go struct field ServiceSpec.spec.ports of type []v1.ServicePort",
            },
            Case {
                object_type: service,
                body: r#"{"spec": {"ports": [{"port": 99999999999}]}}"#,
                want: "Service in version \"v1\" cannot be handled as a Service: json: cannot unmarshal number \
                       99999999999 into Go struct field ServicePort.spec.ports.port of type int32",
            },
            Case {
                object_type: deployment,
                body: r#"{"spec": {"template": {"spec": {"containers": [{"env": [{"name": "A", "value": 5}]}]}}}}"#,
                want: "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal number \
                       into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
            },
            Case {
                object_type: service,
                body: r#"{"kind": "Secret", "apiVersion": "v1"}"#,
                want: "Secret in version \"v1\" cannot be handled as a Service: converting (v1.Secret) to \
                       (v1.Service): unknown conversion",
            },
            Case {
                object_type: deployment,
                body: r#"{"kind": "Deployment", "apiVersion": "extensions/v1beta1"}"#,
                want: "the API version in the data (extensions/v1beta1) does not match the expected API version \
                       (apps/v1)",
            },
            Case {
                object_type: kind("", "Secret"),
                body: r#"{"data": {"a": "?"}}"#,
                want: "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 0",
            },
            Case {
                object_type: kind("", "Pod"),
                body: r#"{"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}}"#,
                want: "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular \
                       expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            },
        ];
        for case in cases {
            let body = case.body.as_bytes();
            let status =
                decode(case.object_type, "application/json", body, FieldValidation::Warn).unwrap_err();
            assert_eq!((status.code, status.message.as_str()), (400, case.want));
        }
    }

    #[test]
    fn what_is_no_json_is_unrecognized() {
        for body in ["", "{", "[]", "5", "{} {}", "\u{0}"] {
            let status = decode(kind("", "Pod"), "", body.as_bytes(), FieldValidation::Warn).unwrap_err();
            let prefix = "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json \
                          parse error: ";
            assert_eq!(status.code, 400);
            assert!(status.message.starts_with(prefix), "{}", status.message);
        }
        let deep = "[".repeat(100_000);
        assert_eq!(
            decode(kind("", "Pod"), "", deep.as_bytes(), FieldValidation::Warn).unwrap_err().code,
            400
        );
    }

    #[test]
    fn yaml_is_the_same_object() {
        let body = b"apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n  ports:\n  - port: 80\n";
        let decoded = decode(kind("", "Service"), "application/yaml", body, FieldValidation::Strict).unwrap();
        assert_eq!(decoded.object["spec"], json!({"ports": [{"port": 80}]}));
        let twice = b"metadata:\n  name: a\n  name: b\n";
        assert_eq!(
            decode(kind("", "Pod"), "application/yaml", twice, FieldValidation::Strict).unwrap_err().code,
            400
        );
    }

    #[test]
    fn options_may_say_any_version() {
        let body = br#"{"kind": "DeleteOptions", "apiVersion": "apps/v1", "gracePeriodSeconds": 0}"#;
        let decoded =
            decode(crate::registry::delete_options(), "application/json", body, FieldValidation::Strict)
                .unwrap();
        assert_eq!(decoded.object.int(&["gracePeriodSeconds"]), Some(0));
    }
}
