//! The walk over the schema while a document is parsed.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::scalar;
use crate::schema::{Field, Scalar, Schema, Struct, Type, Types};

/// Findings beyond these are dropped.
const FINDINGS_MAX: usize = 100;

/// What is wrong with a document that parses.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The first value of a wrong type.
    pub(super) type_error: Option<String>,
    /// Unknown and duplicate fields.
    pub(super) strict: Vec<String>,
    /// Not found but asked for: zero values that mean absence stay.
    pub(super) keep_zeros: bool,
}

/// The way from the document to the value, in reverse.
#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field { parent: &'a Step<'a>, owner: &'a Struct, name: &'a str },
    Key { parent: &'a Step<'a>, key: &'a str },
    Index { parent: &'a Step<'a>, index: usize },
}

impl Step<'_> {
    /// With indexes and keys: `spec.ports[0]`.
    fn write_full(&self, out: &mut String) {
        match self {
            Step::Root => {}
            Step::Field { parent, name, .. } | Step::Key { parent, key: name } => {
                parent.write_full(out);
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Step::Index { parent, index } => {
                parent.write_full(out);
                out.push_str(&format!("[{index}]"));
            }
        }
    }

    /// Fields of structures only, as Go counts them: `spec.ports`.
    fn write_fields(&self, out: &mut String) {
        match self {
            Step::Root => {}
            Step::Field { parent, name, .. } => {
                parent.write_fields(out);
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Step::Key { parent, .. } | Step::Index { parent, .. } => parent.write_fields(out),
        }
    }

    fn owner(&self) -> &str {
        match self {
            Step::Root => "",
            Step::Field { owner, .. } => owner.short_name(),
            Step::Key { parent, .. } | Step::Index { parent, .. } => parent.owner(),
        }
    }
}

/// The seed of one value: gives `None` for null and for what has a wrong type.
pub(super) struct Walk<'a> {
    types: &'a Types,
    ty: Expected<'a>,
    step: Step<'a>,
    findings: &'a mut Findings,
}

#[derive(Clone, Copy)]
enum Expected<'a> {
    Struct(&'a Struct),
    Type(&'a Type),
}

impl<'a> Walk<'a> {
    pub(super) fn root(schema: &'a Schema, findings: &'a mut Findings) -> Walk<'a> {
        let (types, ty) = (&*schema.types, Expected::Struct(schema.structure()));
        Walk { types, ty, step: Step::Root, findings }
    }

    /// One field of the object alone.
    pub(super) fn field(schema: &'a Schema, field: &'a Field, findings: &'a mut Findings) -> Walk<'a> {
        let step = Step::Field { parent: &Step::Root, owner: schema.structure(), name: &field.name };
        Walk::of(&schema.types, &field.ty, step, findings)
    }

    fn of(types: &'a Types, ty: &'a Type, step: Step<'a>, findings: &'a mut Findings) -> Walk<'a> {
        let ty = match ty {
            Type::Struct(id) => Expected::Struct(types.get(*id)),
            other => Expected::Type(other),
        };
        Walk { types, ty, step, findings }
    }

    /// Notes that a value is of a wrong type.
    fn mismatch(self, what: &str) -> Option<Value> {
        if self.findings.type_error.is_none() {
            let mut path = String::new();
            self.step.write_fields(&mut path);
            let owner = self.step.owner();
            let expected = match self.ty {
                Expected::Struct(structure) => structure.versioned_name().to_owned(),
                Expected::Type(ty) => go_type(self.types, ty),
            };
            let error = format!(
                "json: cannot unmarshal {what} into Go struct field {owner}.{path} of type {expected}"
            );
            self.findings.type_error = Some(error);
        }
        None
    }

    fn scalar(&self) -> Option<Scalar> {
        match self.ty {
            Expected::Type(Type::Scalar(scalar)) => Some(*scalar),
            Expected::Type(Type::Struct(_) | Type::List(_) | Type::Map(_)) | Expected::Struct(_) => None,
        }
    }

    fn canonical(self, result: Result<Value, String>) -> Option<Value> {
        result.map_err(|error| self.findings.type_error.get_or_insert(error)).ok()
    }

    fn number(self, number: Number) -> Option<Value> {
        match self.scalar() {
            Some(Scalar::Int32) => match number.as_i64().map(i32::try_from) {
                Some(Ok(value)) => Some(value.into()),
                _ => self.mismatch(&format!("number {number}")),
            },
            Some(Scalar::Int64) => match number.as_i64() {
                Some(value) => Some(value.into()),
                None => self.mismatch(&format!("number {number}")),
            },
            Some(Scalar::IntOrString) => match number.as_i64().map(i32::try_from) {
                Some(Ok(value)) => Some(value.into()),
                _ => {
                    let error = format!("json: cannot unmarshal number {number} into Go value of type int32");
                    self.canonical(Err(error))
                }
            },
            Some(Scalar::Quantity) => self.canonical(scalar::quantity(&number.to_string())),
            Some(Scalar::Double | Scalar::Any) => Some(Value::Number(number)),
            Some(Scalar::String | Scalar::Bytes | Scalar::Bool | Scalar::Time | Scalar::MicroTime) | None => {
                self.mismatch("number")
            }
        }
    }

    fn text(self, text: String) -> Option<Value> {
        match self.scalar() {
            Some(Scalar::String | Scalar::IntOrString | Scalar::Any) => Some(Value::String(text)),
            Some(Scalar::Quantity) => self.canonical(scalar::quantity(&text)),
            Some(Scalar::Time) => self.canonical(scalar::time(&text)),
            Some(Scalar::MicroTime) => self.canonical(scalar::micro_time(&text)),
            Some(Scalar::Bytes) => self.canonical(scalar::bytes(text)),
            Some(Scalar::Int32 | Scalar::Int64 | Scalar::Bool | Scalar::Double) | None => {
                self.mismatch("string")
            }
        }
    }
}

/// The type as Go prints it.
fn go_type(types: &Types, ty: &Type) -> String {
    match ty {
        Type::Scalar(scalar) => scalar.go_name().to_owned(),
        Type::Struct(id) => types.get(*id).versioned_name().to_owned(),
        Type::List(list) => format!("[]{}", go_type(types, &list.item)),
        Type::Map(map) => format!("map[string]{}", go_type(types, &map.value)),
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_none<E>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Option<Value>, E> {
        Ok(match self.scalar() {
            Some(Scalar::Bool | Scalar::Any) => Some(Value::Bool(value)),
            Some(Scalar::IntOrString) => {
                self.canonical(Err("json: cannot unmarshal bool into Go value of type int32".to_owned()))
            }
            _ => self.mismatch("bool"),
        })
    }

    fn visit_i64<E>(self, value: i64) -> Result<Option<Value>, E> {
        Ok(self.number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Option<Value>, E> {
        Ok(self.number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Option<Value>, E> {
        Ok(match Number::from_f64(value) {
            Some(number) => self.number(number),
            None => self.mismatch("number"),
        })
    }

    fn visit_str<E>(self, text: &str) -> Result<Option<Value>, E> {
        Ok(self.text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Option<Value>, E> {
        Ok(self.text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Option<Value>, A::Error> {
        match self.ty {
            Expected::Type(Type::List(list)) => {
                let mut out = Vec::new();
                loop {
                    let step = Step::Index { parent: &self.step, index: out.len() };
                    let walk = Walk::of(self.types, &list.item, step, self.findings);
                    match items.next_element_seed(walk)? {
                        None => return Ok(Some(Value::Array(out))),
                        Some(item) => out.push(item.unwrap_or_else(|| zero(&list.item))),
                    }
                }
            }
            Expected::Type(Type::Scalar(Scalar::Any)) => {
                let mut out = Vec::new();
                while let Some(item) = items.next_element()? {
                    out.push(item);
                }
                Ok(Some(Value::Array(out)))
            }
            Expected::Type(_) | Expected::Struct(_) => {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(self.mismatch("array"))
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Option<Value>, A::Error> {
        match self.ty {
            Expected::Struct(structure) => self.visit_struct(structure, entries),
            Expected::Type(Type::Map(map)) => {
                let mut out = Map::new();
                while let Some(key) = entries.next_key::<String>()? {
                    let step = Step::Key { parent: &self.step, key: &key };
                    let walk = Walk::of(self.types, &map.value, step, self.findings);
                    let value = entries.next_value_seed(walk)?.unwrap_or_else(|| zero(&map.value));
                    if out.contains_key(&key) {
                        self.findings.strict("duplicate", &self.step, &key);
                    }
                    out.insert(key, value);
                }
                Ok(Some(Value::Object(out)))
            }
            Expected::Type(Type::Scalar(Scalar::Any)) => {
                let mut out = Map::new();
                while let Some((key, value)) = entries.next_entry()? {
                    out.insert(key, value);
                }
                Ok(Some(Value::Object(out)))
            }
            Expected::Type(_) => {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(self.mismatch("object"))
            }
        }
    }
}

impl Walk<'_> {
    fn visit_struct<'de, A: MapAccess<'de>>(
        self,
        structure: &Struct,
        mut entries: A,
    ) -> Result<Option<Value>, A::Error> {
        let mut out = Map::new();
        let mut seen: u128 = 0;
        while let Some(key) = entries.next_key::<String>()? {
            let Some((index, field)) = structure.indexed_field(&key) else {
                self.findings.strict("unknown", &self.step, &key);
                entries.next_value::<IgnoredAny>()?;
                continue;
            };
            let bit = 1_u128.checked_shl(u32::try_from(index).unwrap_or(u32::MAX)).unwrap_or(0);
            if seen & bit != 0 {
                self.findings.strict("duplicate", &self.step, &key);
                out.remove(&key);
            }
            seen |= bit;
            let step = Step::Field { parent: &self.step, owner: structure, name: &field.name };
            let walk = Walk::of(self.types, &field.ty, step, self.findings);
            if let Some(value) = entries.next_value_seed(walk)?
                && (self.findings.keep_zeros && !value.is_null() || !is_absent(field, &value))
            {
                out.insert(key, value);
            }
        }
        Ok(Some(Value::Object(out)))
    }
}

impl Findings {
    fn strict(&mut self, what: &str, step: &Step<'_>, name: &str) {
        if self.strict.len() < FINDINGS_MAX {
            let mut path = String::new();
            Step::Key { parent: step, key: name }.write_full(&mut path);
            self.strict.push(format!("{what} field {path:?}"));
        }
    }
}

/// Whether the value of a field is the zero that means absence.
fn is_absent(field: &Field, value: &Value) -> bool {
    if value.is_null() {
        return true;
    }
    if field.required || field.zero_is_value {
        return false;
    }
    match (&field.ty, value) {
        (Type::Scalar(Scalar::Any), _) => false,
        (Type::Scalar(_), Value::String(text)) => text.is_empty(),
        (Type::Scalar(_), Value::Bool(value)) => !value,
        (Type::Scalar(_), Value::Number(number)) => number.as_i64() == Some(0),
        (Type::List(_), Value::Array(items)) => items.is_empty(),
        (Type::Map(_), Value::Object(entries)) => entries.is_empty(),
        _ => false,
    }
}

/// What null stands for inside lists and maps.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::Scalar(Scalar::String | Scalar::Bytes) => Value::String(String::new()),
        Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString) => 0.into(),
        Type::Scalar(Scalar::Bool) => false.into(),
        Type::Scalar(Scalar::Quantity) => "0".into(),
        Type::Scalar(Scalar::Time | Scalar::MicroTime | Scalar::Any) => Value::Null,
        Type::Struct(_) | Type::Map(_) => Value::Object(Map::new()),
        Type::List(_) => Value::Array(Vec::new()),
    }
}
