//! OpenAPI v2, for clients that ask for it when they do not find a kind in v3 (kubectl, before it says that there is no such kind) and for
//! older ones: the definitions of all kinds. Paths are in v3 only.

use serde_json::{Map, Value, json};

use super::schemas::Components;
use crate::document::Object;
use crate::registry::Registry;

/// The document at `/openapi/v2`.
pub fn v2(registry: &Registry) -> Value {
    let mut components = Components::default();
    for resource in registry.resources() {
        components.add_resource(resource);
    }
    let definitions: Object =
        components.into_schemas().into_iter().map(|(name, schema)| (name, definition(schema))).collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": {},
        "definitions": definitions,
    })
}

/// A v3 schema as v2 has it: other references, which may have neighbours, and one type for what is a number or a text.
fn definition(schema: Value) -> Value {
    match schema {
        Value::Object(members) => Value::Object(members.into_iter().fold(Map::new(), member)),
        Value::Array(items) => items.into_iter().map(definition).collect(),
        other => other,
    }
}

fn member(mut members: Map<String, Value>, (name, value): (String, Value)) -> Map<String, Value> {
    match (name.as_str(), value) {
        ("$ref", Value::String(target)) => {
            let target = target.replace("#/components/schemas/", "#/definitions/");
            members.insert(name, target.into());
        }
        ("allOf", Value::Array(all)) => {
            for part in all {
                if let Value::Object(part) = definition(part) {
                    members.extend(part);
                }
            }
        }
        ("oneOf", Value::Array(parts)) if parts.iter().any(|part| part.get("type").is_some()) => {
            members.insert("type".to_owned(), "string".into());
        }
        // Version 2 has no alternatives.
        ("anyOf" | "not" | "nullable" | "oneOf", _) => {}
        (_, value) => drop(members.insert(name, definition(value))),
    }
    members
}

/// The same document as the protobuf message `openapi.v2.Document`.
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    let mut message = Message::default();
    message.text(1, &document["swagger"]);
    let mut info = Message::default();
    info.text(1, document.pointer("/info/title").unwrap_or(&Value::Null));
    info.text(2, document.pointer("/info/version").unwrap_or(&Value::Null));
    message.message(2, &info);
    message.message(8, &Message::default());
    message.message(9, &named(&document["definitions"]));
    message.0
}

/// `NamedSchema` for each member.
fn named(schemas: &Value) -> Message {
    let mut message = Message::default();
    for (name, value) in schemas.as_object().into_iter().flatten() {
        let mut entry = Message::default();
        entry.bytes(1, name.as_bytes());
        entry.message(2, &schema(value));
        message.message(1, &entry);
    }
    message
}

/// `openapi.v2.Schema`.
fn schema(value: &Value) -> Message {
    let mut message = Message::default();
    for (name, value) in value.as_object().into_iter().flatten() {
        match name.as_str() {
            "$ref" => message.text(1, value),
            "format" => message.text(2, value),
            "description" => message.text(4, value),
            "required" => value.as_array().into_iter().flatten().for_each(|field| message.text(19, field)),
            "additionalProperties" => message.message(21, &Message::wrapping(&schema(value))),
            "type" => {
                let mut item = Message::default();
                item.text(1, value);
                message.message(22, &item);
            }
            "items" => message.message(23, &Message::wrapping(&schema(value))),
            "properties" => message.message(25, &named(value)),
            extension if extension.starts_with("x-") => {
                // `Any.yaml`; JSON is YAML.
                let mut any = Message::default();
                any.bytes(2, value.to_string().as_bytes());
                let mut entry = Message::default();
                entry.bytes(1, extension.as_bytes());
                entry.message(2, &any);
                message.message(31, &entry);
            }
            _ => {}
        }
    }
    message
}

/// Fields of a protobuf message, all of them length-delimited.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    /// A message with one field, number 1.
    fn wrapping(inner: &Message) -> Self {
        let mut message = Self::default();
        message.message(1, inner);
        message
    }

    fn text(&mut self, field: u8, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn message(&mut self, field: u8, message: &Message) {
        self.bytes(field, &message.0);
    }

    fn bytes(&mut self, field: u8, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_there_with_references_that_resolve() {
        let document = v2(Registry::builtin());
        let definitions = &document["definitions"];
        let deployment = &definitions["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(
            deployment["x-kubernetes-group-version-kind"],
            json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
        );
        assert_eq!(
            definitions["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"],
            json!({
                "$ref": "#/definitions/io.k8s.api.apps.v1.DeploymentStrategy",
                "x-kubernetes-patch-strategy": "retainKeys",
            })
        );
        assert_eq!(
            definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"],
            json!({"type": "string", "format": "int-or-string"})
        );
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#/definitions/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(definitions.get(name).is_some(), "{name}");
        }
        assert!(!text.contains("#/components/"));
    }

    #[test]
    fn protobuf_fields_have_the_numbers_of_the_message() {
        let document = json!({
            "swagger": "2.0",
            "info": {"title": "T", "version": "1"},
            "definitions": {"A": {"type": "object", "x-a": ["b"], "required": ["c"]}},
        });
        let want = b"\x0a\x032.0\x12\x06\x0a\x01T\x12\x011\x42\x00\x4a\x27\x0a\x25\x0a\x01A\x12\x20\
            \x9a\x01\x01c\xb2\x01\x08\x0a\x06object\xfa\x01\x0e\x0a\x03x-a\x12\x07\x12\x05[\"b\"]";
        let got = v2_protobuf(&document);
        assert_eq!(got.escape_ascii().to_string(), want.escape_ascii().to_string());
    }
}
