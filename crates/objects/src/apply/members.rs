//! The set of fields that a configuration states.

use serde_json::Value;

use super::path::PathElement;
use super::place::{Place, Shape, field_element, is_empty_object};
use super::set::{Branch, FieldSet};
use crate::schema::Schema;

/// The fields that whoever applies `value` wants to own: every leaf; every entry of a map and every item of a list also as itself, so
/// that it stays as long as one owner states it; structures only when they are empty.
pub fn set_of(schema: &Schema, value: &Value) -> FieldSet {
    stated(Place::root(schema), value).below
}

fn stated(place: Place<'_>, value: &Value) -> Branch {
    let mut below = FieldSet::default();
    match (place.shape, value) {
        (Shape::Leaf, _) => return Branch::leaf(),
        (Shape::Struct(_) | Shape::Map(_) | Shape::Deduced, Value::Object(entries)) => {
            for (name, value) in entries {
                let (inner, field) = place.child(name);
                let mut branch = stated(inner, value);
                branch.member |= field.is_none() || is_empty_object(value);
                below.insert(field_element(field, name), branch);
            }
        }
        (Shape::Deduced, _) => return Branch::leaf(),
        (Shape::List(list), Value::Array(items)) => {
            for item in items {
                let branch = Branch { member: true, ..stated(place.item(list), item) };
                below.insert(place.identity(list, item), branch);
            }
        }
        (Shape::Struct(_) | Shape::Map(_) | Shape::List(_), _) => {}
    }
    Branch { member: false, below }
}

/// Every node of a value: what somebody owns who created it as a whole.
pub(super) fn all_of(place: Place<'_>, value: &Value) -> Branch {
    let mut below = FieldSet::default();
    match (place.shape, value) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Deduced, Value::Object(entries)) => {
            for (name, value) in entries {
                let (inner, field) = place.child(name);
                below.insert(field_element(field, name), all_of(inner, value));
            }
        }
        (Shape::List(list), Value::Array(items)) => {
            for item in items {
                let identity: PathElement = place.identity(list, item);
                below.insert(identity, all_of(place.item(list), item));
            }
        }
        _ => {}
    }
    Branch { member: true, below }
}
