//! What the schema says of a value that apply is looking at: whether it is one value or has parts, and what tells the parts apart.

use std::borrow::Cow;

use serde_json::Value;

use super::path::PathElement;
use crate::schema::{Field, List, ListTopology, Scalar, Schema, Struct, Text, Type, Types};

/// How a value merges.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape<'a> {
    /// As one value.
    Leaf,
    /// By field.
    Struct(&'a Struct),
    /// By entry; the entries are of this type.
    Map(&'a Type),
    /// By item: of a set, or with keys.
    List(&'a List),
    /// There is no schema: an object merges by entry, anything else as one value.
    Deduced,
}

/// A shape and the structures that it refers to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) types: &'a Types,
    pub(super) shape: Shape<'a>,
}

impl<'a> Place<'a> {
    /// Of a whole object.
    pub(super) fn root(schema: &'a Schema) -> Place<'a> {
        Place { types: &schema.types, shape: Shape::Struct(schema.structure()) }
    }

    /// Of a value of this type.
    pub(super) fn of(types: &'a Types, ty: &'a Type) -> Place<'a> {
        let shape = match ty {
            Type::Scalar(Scalar::Any) => Shape::Deduced,
            Type::Scalar(_) => Shape::Leaf,
            Type::Struct(id) => {
                let structure = types.get(*id);
                match structure.opaque {
                    _ if structure.atomic => Shape::Leaf,
                    Some(Scalar::Any) => Shape::Deduced,
                    Some(_) => Shape::Leaf,
                    None => Shape::Struct(structure),
                }
            }
            Type::List(list) if list.topology == ListTopology::Atomic => Shape::Leaf,
            Type::List(list) => Shape::List(list),
            Type::Map(map) if map.atomic => Shape::Leaf,
            Type::Map(map) => Shape::Map(&map.value),
        };
        Place { types, shape }
    }

    /// Of the field or entry of this name; with the field, when the schema has it.
    pub(super) fn child(self, name: &str) -> (Place<'a>, Option<&'a Field>) {
        match self.shape {
            Shape::Struct(structure) => match structure.field(name) {
                Some(field) => (Place::of(self.types, &field.ty), Some(field)),
                None => (Place { shape: Shape::Deduced, ..self }, None),
            },
            Shape::Map(value) => (Place::of(self.types, value), None),
            Shape::Leaf | Shape::List(_) | Shape::Deduced => (Place { shape: Shape::Deduced, ..self }, None),
        }
    }

    /// Of the items of a list.
    pub(super) fn item(self, list: &'a List) -> Place<'a> {
        Place::of(self.types, &list.item)
    }

    /// What tells an item of a list from the others.
    pub(super) fn identity(self, list: &List, item: &Value) -> PathElement {
        match &list.topology {
            ListTopology::Set | ListTopology::Atomic => PathElement::Value(item.to_string()),
            ListTopology::Map(keys) => self.key(list, keys, item),
        }
    }

    /// The keys of an item as canonical JSON; a key that is missing and has no default is left out.
    fn key(self, list: &List, keys: &[Text], item: &Value) -> PathElement {
        let mut entries: Vec<(&str, Cow<'_, Value>)> = Vec::with_capacity(keys.len());
        for key in keys {
            let value = item.get(&**key).filter(|value| !value.is_null()).map(Cow::Borrowed);
            if let Some(value) = value.or_else(|| self.key_default(list, key).map(Cow::Owned)) {
                entries.push((key, value));
            }
        }
        entries.sort_by_key(|(name, _)| *name);
        let mut text = String::with_capacity(32);
        for (name, value) in entries {
            text.push(if text.is_empty() { '{' } else { ',' });
            text.push_str(&Value::from(name).to_string());
            text.push(':');
            text.push_str(&value.to_string());
        }
        text.push_str(if text.is_empty() { "{}" } else { "}" });
        PathElement::Key(text)
    }

    /// What a missing key stands for.
    pub(super) fn key_default(self, list: &List, key: &str) -> Option<Value> {
        let Type::Struct(item) = list.item else { return None };
        let default = self.types.get(item).field(key)?.key_default.as_deref()?;
        Some(default.into())
    }
}

/// The element of a field: names that the schema knows are not copied.
pub(super) fn field_element(field: Option<&Field>, name: &str) -> PathElement {
    PathElement::Field(match field {
        Some(field) => field.name.clone(),
        None => Cow::Owned(name.to_owned()),
    })
}

/// Whether a value is null or an object without entries.
pub(super) fn is_empty_object(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty)
}
