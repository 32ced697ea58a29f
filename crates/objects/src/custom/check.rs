//! Validation of an object against the tree, with the messages of Kubernetes.
//!
//! What a write leaves as it was is not checked again: a schema that became stricter does not make old objects unchangeable.

use std::collections::{HashMap, HashSet};

use serde_json::{Number, Value};

use super::structural::{Bound, Checks, Kind, ListType, Node};
use crate::field::{FieldError, Path};

/// Errors of one object beyond these are dropped.
const ERRORS_MAX: usize = 500;

/// What is wrong with `value` at `path` by types and restrictions; `old` is what stood there before, if it did.
pub fn value(node: &Node, value: &Value, old: Option<&Value>, path: &Path<'_>) -> Vec<FieldError> {
    let mut found = Found::default();
    found.node(node, value, old, path);
    found.errors
}

/// List items that are there twice, in lists whose items have an identity.
pub fn duplicates(
    node: &Node,
    value: &Value,
    old: Option<&Value>,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    if old == Some(value) || errors.len() > ERRORS_MAX {
        return;
    }
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                if let Some(child) = node.child(name) {
                    duplicates(child, value, field(old, name), &path.field(name), errors);
                }
            }
        }
        Value::Array(items) => {
            let keys: Vec<Value> = items.iter().filter_map(|item| identity(&node.list, item)).collect();
            if keys.len() == items.len() {
                let mut seen = HashSet::new();
                for (index, key) in keys.into_iter().enumerate() {
                    if !seen.insert(key.to_string()) {
                        errors.push(FieldError::duplicate(&path.index(index), key));
                    }
                }
            }
            if let Some(child) = node.items.as_deref() {
                let past = Past::new(&node.list, old);
                for (index, item) in items.iter().enumerate() {
                    duplicates(child, item, past.of(&node.list, item), &path.index(index), errors);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What tells an item from the others of its list.
pub(crate) fn identity(list: &ListType, item: &Value) -> Option<Value> {
    match list {
        ListType::Atomic => None,
        ListType::Set => Some(item.clone()),
        ListType::Map(keys) => {
            let given = keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
            Some(Value::Object(given.collect()))
        }
    }
}

/// The old list, for finding the item that a new one continues; lists whose items have no identity continue only as a whole.
pub(super) struct Past<'a> {
    items: HashMap<String, &'a Value>,
}

impl<'a> Past<'a> {
    pub(super) fn new(list: &ListType, old: Option<&'a Value>) -> Self {
        let mut items = HashMap::new();
        if let (ListType::Map(_), Some(old)) = (list, old.and_then(Value::as_array)) {
            for item in old {
                if let Some(key) = identity(list, item) {
                    items.entry(key.to_string()).or_insert(item);
                }
            }
        }
        Self { items }
    }

    /// What `item` was.
    pub(super) fn of(&self, list: &ListType, item: &Value) -> Option<&'a Value> {
        if self.items.is_empty() {
            return None;
        }
        self.items.get(&identity(list, item)?.to_string()).copied()
    }
}

pub(super) fn field<'a>(old: Option<&'a Value>, name: &str) -> Option<&'a Value> {
    old?.as_object()?.get(name)
}

/// The name of a value's type, as messages have it.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Errors so far, and how much was looked at: of several alternatives, the one that got furthest is reported.
#[derive(Default)]
struct Found {
    errors: Vec<FieldError>,
    looked_at: usize,
}

impl Found {
    fn push(&mut self, error: FieldError) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error);
        }
    }

    fn merge(&mut self, other: Found) {
        self.looked_at += other.looked_at;
        other.errors.into_iter().for_each(|error| self.push(error));
    }

    fn invalid(&mut self, path: &Path<'_>, value: &Value, what: &str) {
        self.push(FieldError::invalid(path, value.clone(), &format!("{path} in body {what}")));
    }

    fn node(&mut self, node: &Node, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        if old == Some(value) {
            return;
        }
        self.looked_at += 1;
        if value.is_null() && node.nullable {
            return;
        }
        self.kind(node.kind, value, path);
        self.junctors(&node.checks, value, path);
        match value {
            Value::String(text) => self.text(&node.checks, text, value, path),
            Value::Number(number) => self.number(&node.checks, number, value, path),
            Value::Array(items) => self.items(node, items, value, old, path),
            Value::Null | Value::Bool(_) | Value::Object(_) => {}
        }
        self.common(&node.checks, value, path);
        if let Value::Object(_) = value {
            self.object(node, value, old, path);
        }
    }

    fn kind(&mut self, kind: Kind, value: &Value, path: &Path<'_>) {
        let fits = match (kind, value) {
            (Kind::Unstated, _) => true,
            (Kind::Object, Value::Object(_))
            | (Kind::Array, Value::Array(_))
            | (Kind::String, Value::String(_))
            | (Kind::Boolean, Value::Bool(_))
            | (Kind::Number, Value::Number(_)) => true,
            (Kind::Integer, Value::Number(number)) => is_whole(number),
            (Kind::IntOrString, Value::String(_)) => true,
            (Kind::IntOrString, Value::Number(number)) => is_whole(number),
            _ => false,
        };
        if !fits {
            let want = if kind == Kind::IntOrString { "integer,string" } else { kind.name() };
            let got = type_name(value);
            let detail = format!("{path} in body must be of type {want}: \"{got}\"");
            self.push(FieldError::type_invalid(path, got, &detail));
        }
    }

    fn text(&mut self, checks: &Checks, text: &str, value: &Value, path: &Path<'_>) {
        let length = || text.chars().count() as u64;
        if let Some(max) = checks.length_max.filter(|max| text.len() as u64 > *max && length() > *max) {
            self.push(FieldError::too_long(path, usize::try_from(max).unwrap_or(usize::MAX)));
        }
        if let Some(min) = checks.length_min.filter(|min| length() < *min) {
            self.invalid(path, value, &format!("should be at least {min} chars long"));
        }
        if let Some(pattern) = checks.pattern.as_ref().filter(|pattern| !pattern.matches(text)) {
            self.invalid(path, value, &format!("should match '{}'", pattern.text()));
        }
    }

    fn number(&mut self, checks: &Checks, number: &Number, value: &Value, path: &Path<'_>) {
        let Some(number) = number.as_f64() else { return };
        let over = |bound: &Bound| if bound.exclusive { number >= bound.limit } else { number > bound.limit };
        let under =
            |bound: &Bound| if bound.exclusive { number <= bound.limit } else { number < bound.limit };
        if let Some(bound) = checks.maximum.filter(over) {
            let or_equal = if bound.exclusive { "" } else { " or equal to" };
            self.invalid(path, value, &format!("should be less than{or_equal} {}", bound.limit));
        }
        if let Some(bound) = checks.minimum.filter(under) {
            let or_equal = if bound.exclusive { "" } else { " or equal to" };
            self.invalid(path, value, &format!("should be greater than{or_equal} {}", bound.limit));
        }
        if let Some(factor) = checks.multiple_of.filter(|factor| (number / factor).fract() != 0.0) {
            self.invalid(path, value, &format!("should be a multiple of {factor}"));
        }
    }

    fn items(&mut self, node: &Node, items: &[Value], value: &Value, old: Option<&Value>, path: &Path<'_>) {
        if let Some(child) = node.items.as_deref() {
            let past = Past::new(&node.list, old);
            for (index, item) in items.iter().enumerate() {
                self.node(child, item, past.of(&node.list, item), &path.index(index));
            }
        }
        let count = items.len() as u64;
        if let Some(min) = node.checks.items_min.filter(|min| count < *min) {
            self.invalid(path, value, &format!("should have at least {min} items"));
        }
        if let Some(max) = node.checks.items_max.filter(|max| count > *max) {
            let max = usize::try_from(max).unwrap_or(usize::MAX);
            self.push(FieldError::too_many(path, items.len(), max));
        }
    }

    /// Format and enumeration.
    fn common(&mut self, checks: &Checks, value: &Value, path: &Path<'_>) {
        if let Some(format) = checks.format.filter(|format| !format.allows(value)) {
            let detail = format!("{path} in body must be of type {}: {value}", format.name());
            self.push(FieldError::type_invalid(path, value.clone(), &detail));
        }
        if !checks.one_of_values.is_empty() && !checks.one_of_values.contains(value) {
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let mut allowed: Vec<String> = checks.one_of_values.iter().map(text).collect();
            allowed.sort();
            let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
            self.push(FieldError::not_supported(path, value.clone(), &allowed));
        }
    }

    fn object(&mut self, node: &Node, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        let Some(entries) = value.as_object() else { return };
        let count = entries.len() as u64;
        if let Some(min) = node.checks.properties_min.filter(|min| count < *min) {
            return self.invalid(path, value, &format!("should have at least {min} properties"));
        }
        if let Some(max) = node.checks.properties_max.filter(|max| count > *max) {
            let max = usize::try_from(max).unwrap_or(usize::MAX);
            return self.push(FieldError::too_many(path, entries.len(), max));
        }
        for (name, value) in entries {
            if let Some(child) = node.child(name) {
                self.node(child, value, field(old, name), &path.field(name));
            }
        }
        for name in &node.checks.required {
            if !entries.contains_key(name) {
                self.push(FieldError::required(&path.field(name), ""));
            }
        }
    }

    fn junctors(&mut self, checks: &Checks, value: &Value, path: &Path<'_>) {
        if !checks.any_of.is_empty() {
            let all = checks.any_of.iter().map(|node| alternative(node, value, path));
            if let Err(best) = first_valid(all) {
                self.whole(path, "must validate at least one schema (anyOf)");
                self.merge(best);
            }
        }
        if !checks.one_of.is_empty() {
            let all: Vec<Found> = checks.one_of.iter().map(|node| alternative(node, value, path)).collect();
            match all.iter().filter(|found| found.errors.is_empty()).count() {
                1 => {}
                0 => {
                    self.whole(path, "must validate one and only one schema (oneOf). Found none valid");
                    if let Err(best) = first_valid(all.into_iter()) {
                        self.merge(best);
                    }
                }
                count => {
                    let what = format!(
                        "must validate one and only one schema (oneOf). Found {count} valid alternatives"
                    );
                    self.whole(path, &what);
                }
            }
        }
        if !checks.all_of.is_empty() {
            let all: Vec<Found> = checks.all_of.iter().map(|node| alternative(node, value, path)).collect();
            let valid = all.iter().filter(|found| found.errors.is_empty()).count();
            let count = all.len();
            all.into_iter().for_each(|found| self.merge(found));
            if valid < count {
                let none = if valid == 0 { ". None validated" } else { "" };
                self.whole(path, &format!("must validate all the schemas (allOf){none}"));
            }
        }
        if let Some(not) = &checks.not
            && alternative(not, value, path).errors.is_empty()
        {
            self.whole(path, "must not validate the schema (not)");
        }
    }

    /// An error that has no field of its own.
    fn whole(&mut self, path: &Path<'_>, what: &str) {
        self.push(FieldError::invalid(&Path::ROOT, "", &format!("\"{path}\" {what}")));
    }
}

/// Alternatives are looked at in full: which of them hold is a matter of the value alone.
fn alternative(node: &Node, value: &Value, path: &Path<'_>) -> Found {
    let mut found = Found::default();
    found.node(node, value, None, path);
    found
}

/// Nothing when one is valid, else the one that got furthest, the first of several.
fn first_valid(all: impl Iterator<Item = Found>) -> Result<(), Found> {
    let mut best: Option<Found> = None;
    for found in all {
        if found.errors.is_empty() {
            return Ok(());
        }
        if best.as_ref().is_none_or(|best| found.looked_at > best.looked_at) {
            best = Some(found);
        }
    }
    Err(best.unwrap_or_default())
}

/// Whole numbers may be written with a fraction of zero.
fn is_whole(number: &Number) -> bool {
    !number.is_f64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{rules, structural};
    use super::*;

    /// Comparing each with each would take minutes.
    #[test]
    fn a_long_list_is_compared_with_the_old_one_by_its_keys() {
        let schema = json!({"type": "object", "properties": {"list": {
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object", "required": ["name"],
                "properties": {"name": {"type": "integer"}, "size": {"type": "integer", "maximum": 5}},
                "x-kubernetes-validations": [{"rule": "self.size >= oldSelf.size"}],
            },
        }}});
        let mut errors = Vec::new();
        let node = structural::parse(&schema, &Path::new("schema"), &mut errors);
        assert_eq!(errors, []);
        let mut items: Vec<Value> = (0..20_000).map(|name| json!({"name": name, "size": 5})).collect();
        items.push(json!({"name": 20_000, "size": 9}));
        let old = json!({"list": items});
        items.reverse();
        items.push(json!({"name": 0, "size": 4}));
        items.push(json!({"name": 20_001, "size": 6}));
        let new = json!({"list": items});

        let mut errors = value(&node, &new, Some(&old), &Path::ROOT);
        duplicates(&node, &new, Some(&old), &Path::ROOT, &mut errors);
        errors.extend(rules::check(&node, &new, Some(&old)));
        let errors: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        let want = [
            "list[20002].size: Invalid value: 6: list[20002].size in body should be less than or equal to 5",
            "list[20001]: Duplicate value: {\"name\":0}",
            "list[20001]: Invalid value: failed rule: self.size >= oldSelf.size",
        ];
        assert_eq!(errors, want);
    }
}
