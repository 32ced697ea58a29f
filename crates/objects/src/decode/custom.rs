//! Decoding of custom resources: metadata as of any object, the rest by the tree of the definition.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::walk::{Findings, Walk};
use super::{Decoded, FieldValidation};
use crate::custom::{Custom, shape};
use crate::document::Document;
use crate::field::{FieldError, Path};
use crate::registry::ObjectType;
use crate::status::Status;

/// The media types of custom resources.
const ACCEPTED: &[&str] = &["application/json", "application/yaml"];
/// Duplicate fields that are named.
const NAMED_MAX: usize = 100;

/// Decodes a body.
pub(super) fn decode(
    object_type: &ObjectType,
    custom: &Custom,
    content_type: &str,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let mut twice = Vec::new();
    let document = match content_type.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" => {
            let mut parser = serde_json::Deserializer::from_slice(body);
            let seed = Tracked { path: String::new(), twice: &mut twice };
            let parsed = seed.deserialize(&mut parser).and_then(|value| parser.end().map(|()| value));
            parsed.map_err(|error| {
                let error = format!("couldn't get version/kind; json parse error: {error}");
                super::unrecognized(object_type, &error)
            })?
        }
        "application/yaml" => super::yaml_document(object_type, body, validation)?,
        _ => return Err(Status::unsupported_media_type(ACCEPTED)),
    };
    finish(object_type, custom, document, twice, validation)
}

/// Brings a document into the form of decoded objects.
pub(super) fn normalize(
    object_type: &ObjectType,
    custom: &Custom,
    document: Value,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    finish(object_type, custom, document, Vec::new(), validation)
}

fn finish(
    object_type: &ObjectType,
    custom: &Custom,
    mut object: Value,
    mut strict: Vec<String>,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    if !object.is_object() {
        let error = "couldn't get version/kind; json parse error: json: cannot unmarshal into an object";
        return Err(super::unrecognized(object_type, error));
    }
    check_type(object_type, &object)?;
    let mut findings = Findings::default();
    let root = object_type.schema.structure();
    if let (Some(field), Some(metadata)) = (root.field("metadata"), object.take_at(&["metadata"])) {
        let walk = Walk::field(&object_type.schema, field, &mut findings);
        let walked = walk.deserialize(metadata);
        let metadata = walked.map_err(|error| super::unrecognized(object_type, &error.to_string()))?;
        object.put(&["metadata"], metadata.unwrap_or_else(|| Value::Object(Map::new())));
    }
    embedded_metadata(object_type, custom, &mut object, &mut findings);
    if let Some(error) = findings.type_error {
        return Err(super::cannot_be_handled(object_type, &error));
    }
    strict.extend(findings.strict);
    let unknown = shape::prune(&custom.tree, &mut object);
    strict.extend(unknown.iter().map(|path| format!("unknown field {path:?}")));
    object.put(&["apiVersion"], object_type.api_version());
    object.put(&["kind"], &*object_type.kind);
    let warnings = match (validation, strict.as_slice()) {
        (FieldValidation::Ignore, _) | (FieldValidation::Strict, []) => Vec::new(),
        (FieldValidation::Warn, _) => strict,
        (FieldValidation::Strict, errors) => {
            let error = format!("strict decoding error: {}", errors.join(", "));
            return Err(super::cannot_be_handled(object_type, &error));
        }
    };
    Ok(Decoded { object, warnings })
}

/// Metadata of objects inside the object.
fn embedded_metadata(object_type: &ObjectType, custom: &Custom, object: &mut Value, findings: &mut Findings) {
    let Some(field) = object_type.schema.structure().field("metadata") else { return };
    shape::embedded(&custom.tree, object, "", &mut |entries, _| {
        if let Some(metadata) = entries.remove("metadata")
            && let Ok(Some(metadata)) =
                Walk::field(&object_type.schema, field, findings).deserialize(metadata)
        {
            entries.insert("metadata".to_owned(), metadata);
        }
    });
}

fn check_type(object_type: &ObjectType, object: &Value) -> Result<(), Status> {
    let (api_version, kind) = (object.text(&["apiVersion"]), object.text(&["kind"]));
    let want = object_type.api_version();
    if !api_version.is_empty() && api_version != want {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({want})"
        )));
    }
    if !kind.is_empty() && kind != object_type.kind {
        let error = FieldError::invalid(&Path::new("kind"), kind, &format!("must be {}", object_type.kind));
        return Err(Status::invalid(object_type, object.text(&["metadata", "name"]), &[error]));
    }
    Ok(())
}

/// A value as it is, noting fields that are given twice; the last one counts.
struct Tracked<'a> {
    path: String,
    twice: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Tracked<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tracked<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, out.len());
            match items.next_element_seed(Tracked { path, twice: self.twice })? {
                Some(item) => out.push(item),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            if out.contains_key(&key) && self.twice.len() < NAMED_MAX {
                self.twice.push(format!("duplicate field {path:?}"));
            }
            let value = entries.next_value_seed(Tracked { path, twice: self.twice })?;
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}
