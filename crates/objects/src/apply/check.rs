//! What a configuration must not have: fields that the schema does not know, items that cannot be told apart.

use std::collections::HashSet;

use serde_json::Value;

use super::path::PathElement;
use super::place::Place;
use crate::schema::{List, ListTopology, Schema, Struct, Type, Types};

/// Errors beyond these are not collected.
const ERRORS_MAX: usize = 100;

/// All that is wrong with a configuration, in the words of the protocol: `.spec.foo: field not declared in schema`. It must not nest
/// deeper than decoding allows.
pub(super) fn check(schema: &Schema, config: &Value) -> Vec<String> {
    let mut check = Check { types: &schema.types, path: String::new(), errors: Vec::new() };
    check.structure(schema.structure(), config);
    check.errors
}

struct Check<'a> {
    types: &'a Types,
    path: String,
    errors: Vec<String>,
}

impl Check<'_> {
    fn error(&mut self, what: &str) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(format!("{}: {what}", self.path));
        }
    }

    /// Does something one step further down.
    fn at(&mut self, element: &PathElement, check: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(&element.to_string());
        check(self);
        self.path.truncate(length);
    }

    fn structure(&mut self, structure: &Struct, value: &Value) {
        if structure.opaque.is_some() {
            return;
        }
        for (name, value) in value.as_object().into_iter().flatten() {
            let element = PathElement::Field(name.clone().into());
            self.at(&element, |check| match structure.field(name) {
                Some(field) => check.value(&field.ty, value),
                None => check.error("field not declared in schema"),
            });
        }
    }

    fn value(&mut self, ty: &Type, value: &Value) {
        match ty {
            Type::Scalar(_) => {}
            Type::Struct(id) => {
                let types = self.types;
                self.structure(types.get(*id), value);
            }
            Type::Map(map) => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    self.at(&PathElement::Field(name.clone().into()), |check| check.value(&map.value, value));
                }
            }
            Type::List(list) => self.list(ty, list, value),
        }
    }

    fn list(&mut self, ty: &Type, list: &List, value: &Value) {
        let place = Place::of(self.types, ty);
        let mut seen = HashSet::new();
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            if list.topology == ListTopology::Atomic {
                self.at(&PathElement::Index(index), |check| check.value(&list.item, item));
                continue;
            }
            if let Some(key) = missing_key(place, list, item) {
                self.error(&format!(
                    "element {index}: associative list with keys has an element that omits key field {key:?} (and \
                     doesn't have default value)"
                ));
                continue;
            }
            let identity = place.identity(list, item);
            self.at(&identity, |check| check.value(&list.item, item));
            if !seen.insert(identity.clone()) {
                self.error(&format!("duplicate entries for key {identity}"));
            }
        }
    }
}

fn missing_key<'l>(place: Place<'_>, list: &'l List, item: &Value) -> Option<&'l str> {
    let ListTopology::Map(keys) = &list.topology else { return None };
    let is_missing =
        |key: &&str| item.get(*key).is_none_or(Value::is_null) && place.key_default(list, key).is_none();
    keys.iter().map(|key| &**key).find(is_missing)
}
