//! Protobuf bodies: an envelope (`k8s\0` and a message `Unknown`) around the object, whose numbers the schema knows.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::de::DeserializeSeed as _;
use serde_json::{Map, Value};

use super::walk::{Findings, Walk};
use crate::document::{Document, Object};
use crate::registry::ObjectType;
use crate::schema::{AnyForm, Field, Scalar, Schema, Struct, Type, Types};

const MAGIC: &[u8] = b"k8s\0";
/// Deepest nesting of messages.
const DEPTH_MAX: usize = 64;

/// Why a body is not the message it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProtobufError {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    #[error("protobuf: unexpected end of the message")]
    Truncated,
    #[error("protobuf: field {number} has wire type {wire}, which does not fit")]
    WireType { number: u64, wire: u8 },
    #[error("protobuf: a string is not UTF-8")]
    NotUtf8,
    #[error("protobuf: embedded JSON: {error}")]
    NotJson { error: String },
    #[error("protobuf: messages nest deeper than {DEPTH_MAX}")]
    TooDeep,
}

/// A field of a message as it is on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

impl Wire<'_> {
    fn wire_type(&self) -> u8 {
        match self {
            Wire::Varint(_) => 0,
            Wire::Fixed64(_) => 1,
            Wire::Bytes(_) => 2,
            Wire::Fixed32 => 5,
        }
    }
}

/// Reads the fields of a message.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>, ProtobufError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = key >> 3;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Truncated)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.array::<4>()?;
                Wire::Fixed32
            }
            other => {
                return Err(ProtobufError::WireType { number, wire: u8::try_from(other).unwrap_or(u8::MAX) });
            }
        };
        Ok(Some((number, wire)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(ProtobufError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let [byte] = self.array::<1>()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Truncated)
    }
}

/// Decodes a body into a document that [`super::normalize`] has yet to bring into form.
pub(super) fn decode(object_type: &ObjectType, body: &[u8]) -> Result<Value, ProtobufError> {
    let mut envelope = Reader { rest: body.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)? };
    let (mut type_meta, mut raw): (&[u8], &[u8]) = (&[], &[]);
    while let Some((number, wire)) = envelope.next()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => type_meta = bytes,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let message = Message { types: &object_type.schema.types, depth: DEPTH_MAX, form: AnyForm::Raw };
    let mut object = Object::new();
    message.read(object_type.schema.structure(), &[], raw, &mut object)?;
    let mut object = Value::Object(object);
    let mut type_meta = Reader { rest: type_meta };
    while let Some((number, wire)) = type_meta.next()? {
        match number {
            1 => object.put(&["apiVersion"], string(number, wire)?),
            2 => object.put(&["kind"], string(number, wire)?),
            _ => {}
        }
    }
    Ok(object)
}

#[derive(Clone, Copy)]
struct Message<'a> {
    types: &'a Types,
    depth: usize,
    /// In which message documents of any form come.
    form: AnyForm,
}

impl Message<'_> {
    fn deeper(self) -> Result<Self, ProtobufError> {
        let depth = self.depth.checked_sub(1).ok_or(ProtobufError::TooDeep)?;
        Ok(Message { depth, ..self })
    }

    /// Reads a message of `structure`. `path` leads from its own message to an embedded one that JSON flattens.
    fn read(
        self,
        structure: &Struct,
        path: &[u8],
        bytes: &[u8],
        out: &mut Object,
    ) -> Result<(), ProtobufError> {
        let mut reader = Reader { rest: bytes };
        while let Some((number, wire)) = reader.next()? {
            let Ok(short) = u8::try_from(number) else { continue };
            let mut inner = path.to_vec();
            inner.push(short);
            let Some(field) = structure.tagged_fields(path, short).next() else { continue };
            if field.tag.numbers().len() > inner.len() {
                let Wire::Bytes(bytes) = wire else {
                    return Err(ProtobufError::WireType { number, wire: wire.wire_type() });
                };
                self.deeper()?.read(structure, &inner, bytes, out)?;
            } else {
                let message = Message { form: structure.any_form(field), ..self };
                message.field(field, number, wire, out)?;
            }
        }
        // Lists and maps have no message of their own: an empty one that must be given looks like none.
        let required = structure.fields().iter().filter(|field| field.required && path.is_empty());
        for field in required.filter(|field| field.tag.numbers().len() == 1) {
            let empty = match field.ty {
                Type::List(_) => Value::Array(Vec::new()),
                Type::Map(_) => Value::Object(Map::new()),
                Type::Scalar(_) | Type::Struct(_) => continue,
            };
            out.entry(&*field.name).or_insert(empty);
        }
        Ok(())
    }

    fn field(
        self,
        field: &Field,
        number: u64,
        wire: Wire<'_>,
        out: &mut Object,
    ) -> Result<(), ProtobufError> {
        match (&field.ty, wire) {
            (Type::List(list), wire) => {
                let items = out.entry(&*field.name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(items) = items {
                    self.item(&list.item, number, wire, items)?;
                }
            }
            (Type::Map(map), Wire::Bytes(bytes)) => {
                let entries = out.entry(&*field.name).or_insert_with(|| Value::Object(Map::new()));
                let (key, value) = self.deeper()?.entry(&map.value, bytes)?;
                if let Value::Object(entries) = entries {
                    entries.insert(key, value);
                }
            }
            (ty, wire) => {
                let value = self.value(ty, number, wire)?;
                out.insert(field.name.to_string(), value);
            }
        }
        Ok(())
    }

    /// One item of a repeated field, or several packed ones.
    fn item(
        self,
        ty: &Type,
        number: u64,
        wire: Wire<'_>,
        items: &mut Vec<Value>,
    ) -> Result<(), ProtobufError> {
        match (ty, wire) {
            (Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Bool), Wire::Bytes(packed)) => {
                let mut reader = Reader { rest: packed };
                while !reader.rest.is_empty() {
                    let wire = Wire::Varint(reader.varint()?);
                    items.push(self.value(ty, number, wire)?);
                }
            }
            (ty, wire) => items.push(self.value(ty, number, wire)?),
        }
        Ok(())
    }

    fn entry(self, ty: &Type, bytes: &[u8]) -> Result<(String, Value), ProtobufError> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader { rest: bytes };
        while let Some((number, wire)) = reader.next()? {
            match number {
                1 => key = string(number, wire)?,
                2 => value = Some(self.value(ty, number, wire)?),
                _ => {}
            }
        }
        Ok((key, value.unwrap_or(Value::Null)))
    }

    fn value(self, ty: &Type, number: u64, wire: Wire<'_>) -> Result<Value, ProtobufError> {
        match (ty, wire) {
            (Type::Scalar(scalar), wire) => self.scalar(*scalar, number, wire),
            (Type::Struct(id), Wire::Bytes(bytes)) => {
                let mut object = Object::new();
                self.deeper()?.read(self.types.get(*id), &[], bytes, &mut object)?;
                Ok(Value::Object(object))
            }
            // A list as the value of a map is a message with the items in field 1.
            (Type::List(list), Wire::Bytes(bytes)) => {
                let mut items = Vec::new();
                let mut reader = Reader { rest: bytes };
                while let Some((number, wire)) = reader.next()? {
                    self.deeper()?.item(&list.item, number, wire, &mut items)?;
                }
                Ok(Value::Array(items))
            }
            (_, wire) => Err(ProtobufError::WireType { number, wire: wire.wire_type() }),
        }
    }

    fn scalar(self, scalar: Scalar, number: u64, wire: Wire<'_>) -> Result<Value, ProtobufError> {
        Ok(match (scalar, wire) {
            (Scalar::String, wire) => Value::String(string(number, wire)?),
            (Scalar::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
            (Scalar::Int32 | Scalar::Int64, Wire::Varint(value)) => value.cast_signed().into(),
            (Scalar::Bool, Wire::Varint(value)) => (value != 0).into(),
            (Scalar::Double, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
            (Scalar::Quantity, Wire::Bytes(bytes)) => first_string(bytes)?.into(),
            (Scalar::Time | Scalar::MicroTime, Wire::Bytes(bytes)) => time(bytes)?,
            (Scalar::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
            (Scalar::Any, Wire::Bytes(bytes)) => self.any(bytes)?,
            (_, wire) => return Err(ProtobufError::WireType { number, wire: wire.wire_type() }),
        })
    }
}

impl Message<'_> {
    /// Documents of any form.
    fn any(self, bytes: &[u8]) -> Result<Value, ProtobufError> {
        match self.form {
            AnyForm::Raw => return embedded_json(bytes),
            AnyForm::Empty => return Ok(Value::Object(Object::new())),
            AnyForm::SchemaOrBool | AnyForm::SchemaOrArray | AnyForm::SchemaOrStrings => {}
        }
        let (mut allows, mut single, mut several) = (None, None, Vec::new());
        let mut reader = Reader { rest: bytes };
        while let Some((number, wire)) = reader.next()? {
            match (number, wire, self.form) {
                (1, Wire::Varint(value), AnyForm::SchemaOrBool) => allows = Some(value != 0),
                (2, Wire::Bytes(bytes), AnyForm::SchemaOrBool) | (1, Wire::Bytes(bytes), _) => {
                    single = Some(self.deeper()?.schema(bytes)?);
                }
                (2, Wire::Bytes(bytes), AnyForm::SchemaOrArray) => {
                    several.push(self.deeper()?.schema(bytes)?);
                }
                (2, wire, AnyForm::SchemaOrStrings) => several.push(string(number, wire)?.into()),
                _ => {}
            }
        }
        Ok(match (self.form, single) {
            (_, Some(schema)) => schema,
            (AnyForm::SchemaOrBool, None) => allows.unwrap_or(false).into(),
            (_, None) => several.into(),
        })
    }

    /// A schema inside a schema. The walk over the whole document takes it as it is, so it is brought into form here.
    fn schema(self, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let mut object = Object::new();
        let Some(schema) = Schema::builtin(AnyForm::SCHEMA) else { return Ok(object.into()) };
        self.read(schema.structure(), &[], bytes, &mut object)?;
        let mut findings = Findings::default();
        let walked = Walk::root(&schema, &mut findings).deserialize(Value::Object(object));
        Ok(walked.ok().flatten().unwrap_or_default())
    }
}

fn string(number: u64, wire: Wire<'_>) -> Result<String, ProtobufError> {
    match wire {
        Wire::Bytes(bytes) => String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::NotUtf8),
        Wire::Varint(_) | Wire::Fixed64(_) | Wire::Fixed32 => {
            Err(ProtobufError::WireType { number, wire: wire.wire_type() })
        }
    }
}

fn first_string(bytes: &[u8]) -> Result<String, ProtobufError> {
    let mut reader = Reader { rest: bytes };
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            return string(number, wire);
        }
    }
    Ok(String::new())
}

/// Seconds and nanoseconds; the empty message is no time.
fn time(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut seconds, mut nanos) = (None, 0);
    let mut reader = Reader { rest: bytes };
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Varint(value)) => seconds = Some(value.cast_signed()),
            (2, Wire::Varint(value)) => nanos = i32::try_from(value).unwrap_or(0),
            _ => {}
        }
    }
    let time = seconds.and_then(|seconds| Timestamp::new(seconds, nanos).ok());
    Ok(time.map_or(Value::Null, |time| time.to_string().into()))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut int, mut text) = (false, 0, String::new());
    let mut reader = Reader { rest: bytes };
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Varint(value)) => is_text = value == 1,
            (2, Wire::Varint(value)) => int = value.cast_signed(),
            (3, wire) => text = string(number, wire)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { int.into() })
}

fn embedded_json(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let mut reader = Reader { rest: bytes };
    while let Some((number, wire)) = reader.next()? {
        if let (1, Wire::Bytes(raw)) = (number, wire) {
            return serde_json::from_slice(raw)
                .map_err(|error| ProtobufError::NotJson { error: error.to_string() });
        }
    }
    Ok(Value::Null)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{FieldValidation, decode as decode_body};
    use crate::registry::{ObjectType, Registry};

    /// Writes messages by hand: the wire format is small enough to be its own oracle.
    #[derive(Default, Clone)]
    struct Wire(Vec<u8>);

    impl Wire {
        fn varint(mut self, number: u8, mut value: u64) -> Wire {
            self.0.push(number << 3);
            while value >= 0x80 {
                self.0.push((value as u8) | 0x80);
                value >>= 7;
            }
            self.0.push(value as u8);
            self
        }

        fn bytes(mut self, number: u8, bytes: impl AsRef<[u8]>) -> Wire {
            let bytes = bytes.as_ref();
            let tag = (u64::from(number) << 3) | 2;
            for mut value in [tag, bytes.len() as u64] {
                while value >= 0x80 {
                    self.0.push((value as u8) | 0x80);
                    value >>= 7;
                }
                self.0.push(value as u8);
            }
            self.0.extend_from_slice(bytes);
            self
        }

        fn message(self, number: u8, message: Wire) -> Wire {
            self.bytes(number, message.0)
        }
    }

    fn kind(group: &str, kind: &str) -> &'static ObjectType {
        &Registry::builtin().kind(group, "v1", kind).unwrap().object
    }

    fn decode(object_type: &ObjectType, object: Wire) -> Result<serde_json::Value, String> {
        let type_meta = Wire::default().bytes(1, object_type.api_version()).bytes(2, &*object_type.kind);
        let envelope = Wire::default().message(1, type_meta).message(2, object);
        let body = [b"k8s\0".as_slice(), &envelope.0].concat();
        decode_body(object_type, "application/vnd.kubernetes.protobuf", &body, FieldValidation::Strict)
            .map(|decoded| decoded.object)
            .map_err(|status| status.message)
    }

    #[test]
    fn a_config_map_comes_without_the_zeros_of_the_client() {
        let metadata = Wire::default().bytes(1, "cm").bytes(2, "").varint(7, 0).message(8, Wire::default());
        let entry = Wire::default().bytes(1, "k").bytes(2, "v");
        let object = Wire::default().message(1, metadata).message(2, entry);
        let want =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"k": "v"}});
        assert_eq!(decode(kind("", "ConfigMap"), object).unwrap(), want);
    }

    #[test]
    fn embedded_messages_are_flattened_and_scalars_converted() {
        let empty_dir = Wire::default().message(2, Wire::default());
        let volume = Wire::default().bytes(1, "v").message(2, empty_dir);
        let int_or_string = Wire::default().varint(1, 1).varint(2, 0).bytes(3, "http");
        let get = Wire::default().bytes(1, "/").message(2, int_or_string);
        let probe = Wire::default().message(1, Wire::default().message(2, get)).varint(2, 0).varint(3, 5);
        let limit = Wire::default().bytes(1, "cpu").message(2, Wire::default().bytes(1, "0.5"));
        let container =
            Wire::default().bytes(1, "c").message(8, Wire::default().message(1, limit)).message(10, probe);
        let spec = Wire::default().message(1, volume).message(2, container).varint(4, 0);
        let created = Wire::default().varint(1, 1_700_000_000).varint(2, 0);
        let object = Wire::default().message(1, Wire::default().message(8, created)).message(2, spec);
        let pod = decode(kind("", "Pod"), object).unwrap();
        assert_eq!(pod["metadata"]["creationTimestamp"], "2023-11-14T22:13:20Z");
        assert_eq!(
            pod["spec"],
            json!({
                "volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [{
                    "name": "c",
                    "resources": {"limits": {"cpu": "500m"}},
                    "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "timeoutSeconds": 5},
                }],
                "terminationGracePeriodSeconds": 0,
            })
        );
    }

    #[test]
    fn broken_messages_are_refused() {
        let config_map = kind("", "ConfigMap");
        let text = |body: &[u8]| {
            decode_body(config_map, "application/vnd.kubernetes.protobuf", body, FieldValidation::Warn)
                .unwrap_err()
                .message
        };
        assert!(text(b"{}").contains("does not appear to be a protobuf message"));
        assert!(text(b"k8s\0\x12\x05a").contains("unexpected end"));
        let wrong = decode(config_map, Wire::default().varint(1, 5)).unwrap_err();
        assert!(wrong.contains("field 1 has wire type 0"), "{wrong}");
    }
}
