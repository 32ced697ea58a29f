//! Protobuf answers: the envelope (`k8s\0` and a message `Unknown`) around an object, whose numbers the schema knows.
//!
//! What the document has is written, zero or not: a field that is absent in JSON is absent here. Numbers go up, and
//! entries of maps are sorted, so that equal documents are equal bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use crate::document::{Document, Object};
use crate::registry::{ObjectType, Resource};
use crate::schema::{AnyForm, Field, Scalar, Schema, Struct, Type, Types};

/// The media type of one object or list.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// The media type of a watch: frames, each a length of 4 bytes (big endian) and that many bytes of a `WatchEvent`.
pub const STREAM_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

const MAGIC: &[u8] = b"k8s\0";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// A document in its envelope: the object of the resource, of one of its subresources, a list of objects, metadata of
/// objects, a `Status`. `None` for any other kind (tables among them): there is no message for it.
pub fn document(resource: &Resource, document: &Value) -> Option<Vec<u8>> {
    let kind = document.text(&["kind"]);
    let of_part = || resource.subresources.iter().map(|part| &part.object).find(|object| object.kind == kind);
    let message = match kind {
        "Status" => return status(document),
        "PartialObjectMetadata" => metadata_only(document)?,
        "PartialObjectMetadataList" => list_message(document, metadata_only)?,
        kind if kind == resource.object.kind => object_message(&resource.object, document),
        kind if kind == resource.list_kind => {
            list_message(document, |item| Some(object_message(&resource.object, item)))?
        }
        _ => object_message(of_part()?, document),
    };
    Some(envelope(document.text(&["apiVersion"]), kind, &message))
}

/// The list of these objects in its envelope; `metadata` is that of the list.
pub fn list<'a>(
    resource: &Resource,
    items: impl IntoIterator<Item = &'a Value>,
    metadata: &Value,
) -> Option<Vec<u8>> {
    let mut message = list_head(metadata)?;
    for item in items {
        write_bytes(2, &object_message(&resource.object, item), &mut message);
    }
    Some(envelope(&resource.api_version(), &resource.list_kind, &message))
}

/// A `Status` of meta.k8s.io/v1 in its envelope.
pub fn status(status: &Value) -> Option<Vec<u8>> {
    let schema = Schema::builtin(&format!("{META}Status"))?;
    Some(envelope("v1", "Status", &message(&schema, status)))
}

/// One frame of a watch: `event_type` is `ADDED`, `object` an envelope.
pub fn watch_frame(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(object.len() + 8);
    write_bytes(1, object, &mut raw);
    let mut event = Vec::with_capacity(raw.len() + 24);
    write_bytes(1, event_type.as_bytes(), &mut event);
    write_bytes(2, &raw, &mut event);
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(event.len() + 4);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.append(&mut event);
    frame
}

fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut type_meta = Vec::with_capacity(api_version.len() + kind.len() + 4);
    write_bytes(1, api_version.as_bytes(), &mut type_meta);
    write_bytes(2, kind.as_bytes(), &mut type_meta);
    let mut out = Vec::with_capacity(MAGIC.len() + type_meta.len() + message.len() + 12);
    out.extend_from_slice(MAGIC);
    write_bytes(1, &type_meta, &mut out);
    write_bytes(2, message, &mut out);
    out
}

fn object_message(object_type: &ObjectType, object: &Value) -> Vec<u8> {
    message(&object_type.schema, object)
}

fn message(schema: &Schema, object: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(object) = object.as_object() {
        Encoder::new(&schema.types).message(schema.structure(), object, &mut out);
    }
    out
}

fn metadata_only(object: &Value) -> Option<Vec<u8>> {
    let schema = Schema::builtin(&format!("{META}ObjectMeta"))?;
    let mut out = Vec::new();
    write_bytes(1, &message(&schema, object.at(&["metadata"])), &mut out);
    Some(out)
}

fn list_message(list: &Value, item: impl Fn(&Value) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let mut out = list_head(list.at(&["metadata"]))?;
    for object in list.list(&["items"]) {
        write_bytes(2, &item(object)?, &mut out);
    }
    Some(out)
}

fn list_head(metadata: &Value) -> Option<Vec<u8>> {
    let schema = Schema::builtin(&format!("{META}ListMeta"))?;
    let mut out = Vec::new();
    write_bytes(1, &message(&schema, metadata), &mut out);
    Some(out)
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn write_key(number: u8, wire_type: u8, out: &mut Vec<u8>) {
    write_varint(u64::from(number) << 3 | u64::from(wire_type), out);
}

fn write_number(number: u8, value: i64, out: &mut Vec<u8>) {
    write_key(number, 0, out);
    write_varint(value.cast_unsigned(), out);
}

fn write_bytes(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    write_key(number, 2, out);
    write_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

#[derive(Clone, Copy)]
struct Encoder<'a> {
    types: &'a Types,
    form: AnyForm,
}

impl<'a> Encoder<'a> {
    fn new(types: &'a Types) -> Self {
        Encoder { types, form: AnyForm::Raw }
    }

    fn message(self, structure: &Struct, object: &Object, out: &mut Vec<u8>) {
        let known = object.iter().filter_map(|(name, value)| Some((structure.field(name)?, value)));
        let mut fields: Vec<(&Field, &Value)> =
            known.filter(|(field, value)| !value.is_null() && !field.tag.numbers().is_empty()).collect();
        fields.sort_by(|(a, _), (b, _)| a.tag.numbers().cmp(b.tag.numbers()));
        self.fields(structure, &fields, 0, out);
    }

    /// Fields in the order of their numbers. Those that share one at `depth` are in one embedded message.
    fn fields(self, structure: &Struct, fields: &[(&Field, &Value)], depth: usize, out: &mut Vec<u8>) {
        let number = |field: &Field| field.tag.numbers().get(depth).copied().unwrap_or_default();
        for group in fields.chunk_by(|(a, _), (b, _)| number(a) == number(b)) {
            let Some((first, value)) = group.first() else { continue };
            if first.tag.numbers().len() > depth + 1 {
                let mut embedded = Vec::new();
                self.fields(structure, group, depth + 1, &mut embedded);
                write_bytes(number(first), &embedded, out);
            } else {
                let encoder = Encoder { form: structure.any_form(first), ..self };
                encoder.field(&first.ty, number(first), value, out);
            }
        }
    }

    fn field(self, ty: &Type, number: u8, value: &Value, out: &mut Vec<u8>) {
        match ty {
            Type::List(list) => {
                for item in value.as_array().into_iter().flatten() {
                    self.value(&list.item, number, item, out);
                }
            }
            Type::Map(map) => {
                let mut entries: Vec<(&String, &Value)> = value.as_object().into_iter().flatten().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                for (key, value) in entries {
                    let mut entry = Vec::new();
                    write_bytes(1, key.as_bytes(), &mut entry);
                    self.value(&map.value, 2, value, &mut entry);
                    write_bytes(number, &entry, out);
                }
            }
            ty => self.value(ty, number, value, out),
        }
    }

    fn value(self, ty: &Type, number: u8, value: &Value, out: &mut Vec<u8>) {
        let mut inner = Vec::new();
        match ty {
            Type::Scalar(scalar) => return self.scalar(*scalar, number, value, out),
            Type::Struct(id) => {
                if let Some(object) = value.as_object() {
                    self.message(self.types.get(*id), object, &mut inner);
                }
            }
            // As the value of a map, a list is a message with the items in field 1.
            Type::List(_) | Type::Map(_) => self.field(ty, 1, value, &mut inner),
        }
        write_bytes(number, &inner, out);
    }

    fn scalar(self, scalar: Scalar, number: u8, value: &Value, out: &mut Vec<u8>) {
        match scalar {
            Scalar::String => write_bytes(number, value.as_str().unwrap_or_default().as_bytes(), out),
            Scalar::Bytes => {
                let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
                write_bytes(number, &bytes, out);
            }
            Scalar::Int32 | Scalar::Int64 => write_number(number, value.as_i64().unwrap_or(0), out),
            Scalar::Bool => write_number(number, i64::from(value == true), out),
            Scalar::Double => {
                write_key(number, 1, out);
                out.extend_from_slice(&value.as_f64().unwrap_or(0.0).to_le_bytes());
            }
            Scalar::Quantity => {
                let mut inner = Vec::new();
                write_bytes(1, value.as_str().unwrap_or_default().as_bytes(), &mut inner);
                write_bytes(number, &inner, out);
            }
            Scalar::Time | Scalar::MicroTime => write_bytes(number, &time(value), out),
            Scalar::IntOrString => write_bytes(number, &int_or_string(value), out),
            Scalar::Any => write_bytes(number, &self.any(value), out),
        }
    }

    /// Documents of any form, in the message that stands for theirs.
    fn any(self, value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        match (self.form, value) {
            (AnyForm::Empty, _) => {}
            (AnyForm::SchemaOrBool, Value::Bool(allows)) => write_number(1, i64::from(*allows), &mut out),
            (AnyForm::SchemaOrBool, schema) => {
                write_number(1, 1, &mut out);
                write_bytes(2, &self.schema(schema), &mut out);
            }
            (AnyForm::SchemaOrArray, Value::Array(schemas)) => {
                schemas.iter().for_each(|schema| write_bytes(2, &self.schema(schema), &mut out));
            }
            (AnyForm::SchemaOrStrings, Value::Array(names)) => {
                let names = names.iter().filter_map(Value::as_str);
                names.for_each(|name| write_bytes(2, name.as_bytes(), &mut out));
            }
            (AnyForm::SchemaOrArray | AnyForm::SchemaOrStrings, schema) => {
                write_bytes(1, &self.schema(schema), &mut out);
            }
            (AnyForm::Raw, value) => write_bytes(1, value.to_string().as_bytes(), &mut out),
        }
        out
    }

    fn schema(self, schema: &Value) -> Vec<u8> {
        Schema::builtin(AnyForm::SCHEMA).map(|of_schemas| message(&of_schemas, schema)).unwrap_or_default()
    }
}

/// Seconds and nanoseconds since 1970.
fn time(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if let Ok(time) = value.as_str().unwrap_or_default().parse::<Timestamp>() {
        // The nanoseconds of a time before 1970 count forward, too.
        let nanos = time.subsec_nanosecond();
        let (seconds, nanos) =
            if nanos < 0 { (time.as_second() - 1, nanos + 1_000_000_000) } else { (time.as_second(), nanos) };
        write_number(1, seconds, &mut out);
        write_number(2, i64::from(nanos), &mut out);
    }
    out
}

fn int_or_string(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write_number(1, i64::from(value.is_string()), &mut out);
    write_number(2, value.as_i64().unwrap_or(0), &mut out);
    write_bytes(3, value.as_str().unwrap_or_default().as_bytes(), &mut out);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode::{self, FieldValidation};
    use crate::registry::Registry;
    use crate::status::{Qualified, Status};

    fn resource(group: &str, plural: &str) -> &'static Resource {
        Registry::builtin().resource(group, "v1", plural).unwrap()
    }

    #[test]
    fn an_object_is_in_the_envelope() {
        let config_map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
        let want =
            b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x0d\x0a\x03\x0a\x01a\x12\x06\x0a\x01k\x12\x01v";
        assert_eq!(document(resource("", "configmaps"), &config_map).unwrap(), want);
    }

    #[test]
    fn a_frame_has_a_length_and_an_event() {
        let frame = watch_frame("ADDED", b"k8s\0");
        assert_eq!(frame, b"\0\0\0\x0f\x0a\x05ADDED\x12\x06\x0a\x04k8s\0");
    }

    #[test]
    fn what_has_no_message_is_none() {
        let services = resource("", "services");
        assert_eq!(document(services, &json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1"})), None);
        assert!(
            document(
                resource("apps", "deployments"),
                &json!({"kind": "Scale", "apiVersion": "autoscaling/v1"})
            )
            .is_some()
        );
        let status = Status::not_found(Qualified { group: "", name: "services" }, "a");
        assert!(document(services, &status.to_value()).is_some());
        let list = json!({"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": [{}]});
        assert!(document(services, &list).unwrap().ends_with(b"\x0a\x03\x12\x017\x12\0"));
    }

    #[test]
    fn schemas_in_schemas_survive() {
        let definitions = resource("apiextensions.k8s.io", "customresourcedefinitions");
        let property = json!({"type": "object", "additionalProperties": {"type": "string"}});
        let schema = json!({"type": "object", "properties": {
            "map": property, "open": {"additionalProperties": true}, "list": {"type": "array", "items": property},
            "limit": {"maximum": 0.0, "default": {"a": [1]}, "enum": ["x", 1, {"y": 2}]},
        }});
        let given = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "a"}, "spec": {"group": "g", "scope": "Cluster", "names": {"plural": "as", "kind": "A"},
            "versions": [{"name": "v1", "served": true, "storage": false, "subresources": {"status": {}},
                          "schema": {"openAPIV3Schema": schema}}]}});
        let bytes = document(definitions, &given).unwrap();
        let decoded =
            decode::decode(&definitions.object, MEDIA_TYPE, &bytes, FieldValidation::Strict).unwrap();
        assert_eq!(decoded.object, given);
    }
}
