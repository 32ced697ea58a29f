//! Giving an object the shape of the tree: fields that it does not know go, defaults come, nulls that say nothing go.

use serde_json::Value;

use super::structural::Node;
use crate::document::Object;

/// Unknown fields that are named; more are dropped all the same.
const NAMED_MAX: usize = 100;

/// Fields that every object has, whether its schema names them or not.
fn is_type_meta(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

/// Drops the fields that the tree does not know; their paths (`spec.a[0].b`), sorted. Metadata is left alone.
pub fn prune(root: &Node, object: &mut Value) -> Vec<String> {
    let mut pruner = Pruner { path: String::new(), dropped: Vec::new() };
    pruner.value(root, object, true);
    pruner.dropped.sort();
    pruner.dropped
}

struct Pruner {
    path: String,
    dropped: Vec<String>,
}

impl Pruner {
    fn value(&mut self, node: &Node, value: &mut Value, is_object: bool) {
        match value {
            Value::Object(entries) => self.object(node, entries, is_object || node.embedded),
            Value::Array(items) => {
                let Some(child) = node.items.as_deref() else { return };
                for (index, item) in items.iter_mut().enumerate() {
                    self.below(&format!("[{index}]"), |pruner| pruner.value(child, item, false));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn object(&mut self, node: &Node, entries: &mut Object, has_type_meta: bool) {
        let known = |name: &str| {
            node.preserve_unknown || has_type_meta && is_type_meta(name) || node.child(name).is_some()
        };
        let unknown: Vec<String> = entries.keys().filter(|name| !known(name)).cloned().collect();
        for name in unknown {
            entries.remove(&name);
            if self.dropped.len() < NAMED_MAX {
                self.below(&dotted(&self.path, &name), |pruner| pruner.dropped.push(pruner.path.clone()));
            }
        }
        for (name, value) in entries.iter_mut() {
            if has_type_meta && is_type_meta(name) {
                continue;
            }
            if let Some(child) = node.child(name) {
                self.below(&dotted(&self.path, name), |pruner| pruner.value(child, value, false));
            }
        }
    }

    fn below(&mut self, segment: &str, act: impl FnOnce(&mut Self)) {
        let len = self.path.len();
        self.path.push_str(segment);
        act(self);
        self.path.truncate(len);
    }
}

fn dotted(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!(".{name}") }
}

/// Sets defaults where nothing, or a null that may not be there, stands; then drops the other nulls that may not be there.
pub fn complete(root: &Node, object: &mut Value) {
    if let Value::Object(entries) = object {
        fields(root, entries, true);
    }
}

fn value(node: &Node, value: &mut Value) {
    match value {
        Value::Object(entries) => fields(node, entries, node.embedded),
        Value::Array(items) => {
            let Some(child) = node.items.as_deref() else { return };
            for item in items {
                if item.is_null()
                    && child.drops_null()
                    && let Some(default) = &child.default
                {
                    *item = default.clone();
                }
                self::value(child, item);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn fields(node: &Node, entries: &mut Object, has_type_meta: bool) {
    let skip = |name: &str| has_type_meta && is_type_meta(name);
    for (name, child) in node.properties.iter().filter(|(name, _)| !skip(name)) {
        let Some(default) = &child.default else { continue };
        let absent = entries.get(name).is_none_or(|value| value.is_null() && child.drops_null());
        if absent {
            entries.insert(name.clone(), default.clone());
        }
    }
    if let Some((child, default)) =
        node.additional.as_deref().and_then(|child| Some((child, child.default.as_ref()?)))
    {
        let nulls = entries.values_mut().filter(|value| value.is_null() && child.drops_null());
        nulls.for_each(|value| *value = default.clone());
    }
    entries.retain(|name, value| {
        skip(name) || !value.is_null() || node.child(name).is_none_or(|child| !child.drops_null())
    });
    for (name, value) in entries.iter_mut().filter(|(name, _)| !skip(name)) {
        if let Some(child) = node.child(name) {
            self::value(child, value);
        }
    }
}

/// Calls `act` on every object of Kubernetes that stands inside this one, with its path.
pub fn embedded(node: &Node, value: &mut Value, path: &str, act: &mut dyn FnMut(&mut Object, &str)) {
    match value {
        Value::Object(entries) => {
            if node.embedded {
                act(entries, path);
            }
            for (name, value) in entries.iter_mut() {
                if let Some(child) = node.child(name) {
                    embedded(child, value, &format!("{path}{}", dotted(path, name)), act);
                }
            }
        }
        Value::Array(items) => {
            let Some(child) = node.items.as_deref() else { return };
            for (index, item) in items.iter_mut().enumerate() {
                embedded(child, item, &format!("{path}[{index}]"), act);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
