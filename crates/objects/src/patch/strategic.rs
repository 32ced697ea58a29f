//! Strategic merge patch: a merge patch that knows which lists merge, by which key.
//!
//! Directives in the patch: `$patch` (`replace`, `delete`, `merge`) in a map or a list item;
//! `$deleteFromPrimitiveList/<field>`; `$setElementOrder/<field>`; `$retainKeys`.

use serde_json::{Map, Value};

use crate::document::Object;
use crate::schema::{PatchStrategy, Struct, Type, Types};
use crate::status::Status;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";
/// Deepest nesting of a patch.
const DEPTH_MAX: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum PatchError {
    #[error("Unrecognized PatchStrategy: {0} in {1}")]
    Directive(String, &'static str),
    #[error("map: {item} does not contain declared merge key: {key}")]
    MissingKey { item: String, key: String },
    #[error("invalid object type: {0} is not an object")]
    NotObject(String),
    #[error("the order in patch list:\n{0}\n doesn't match {SET_ORDER}")]
    Order(String),
    #[error("patch nests too deep")]
    TooDeep,
    #[error("patch: {0} must be a list")]
    NotList(String),
}

/// What the schema knows of a map being merged.
#[derive(Clone, Copy)]
enum Shape<'a> {
    Struct(&'a Struct),
    /// A map whose values are of this type.
    Map(&'a Type),
    Unknown,
}

#[derive(Clone, Copy)]
struct Merge<'a> {
    types: &'a Types,
    depth: usize,
}

/// Applies `patch` to `object`.
pub(super) fn apply(types: &Types, root: &Struct, object: &Value, patch: &Value) -> Result<Value, Status> {
    let error = |error: PatchError| Status::bad_request(error.to_string());
    let (Some(object), Some(patch)) = (object.as_object(), patch.as_object()) else {
        return Err(error(PatchError::NotObject(patch.to_string())));
    };
    let merge = Merge { types, depth: DEPTH_MAX };
    merge.map(Shape::Struct(root), object.clone(), patch.clone()).map(Value::Object).map_err(error)
}

impl<'a> Merge<'a> {
    fn deeper(self) -> Result<Merge<'a>, PatchError> {
        Ok(Merge { depth: self.depth.checked_sub(1).ok_or(PatchError::TooDeep)?, ..self })
    }

    fn shape(self, ty: Option<&'a Type>) -> Shape<'a> {
        match ty {
            Some(Type::Struct(id)) => Shape::Struct(self.types.get(*id)),
            Some(Type::Map(map)) => Shape::Map(&map.value),
            Some(Type::Scalar(_) | Type::List(_)) | None => Shape::Unknown,
        }
    }

    /// Merges a patch into a map.
    fn map(self, shape: Shape<'a>, mut object: Object, mut patch: Object) -> Result<Object, PatchError> {
        match directive(&mut patch, "map")? {
            Directive::Replace => return Ok(without_directives(patch)),
            Directive::Delete => return Ok(Map::new()),
            Directive::Merge => {}
        }
        if let Some(Value::Array(keys)) = patch.remove(RETAIN_KEYS) {
            object.retain(|name, _| keys.iter().any(|key| key == name));
        }
        let mut orders = Map::new();
        for (name, value) in std::mem::take(&mut patch) {
            if let Some(field) = name.strip_prefix(SET_ORDER) {
                orders.insert(field.to_owned(), value);
            } else if let Some(field) = name.strip_prefix(DELETE_FROM) {
                delete_scalars(&mut object, field, &value);
            } else {
                patch.insert(name, value);
            }
        }
        for (name, value) in patch {
            let order = orders.remove(&name);
            let (ty, strategy) = lookup(shape, &name);
            let current = object.remove(&name);
            let merged = self.field(ty, strategy, current, value, order.as_ref())?;
            if let Some(merged) = merged {
                object.insert(name, merged);
            }
        }
        for (name, order) in orders {
            let (_, strategy) = lookup(shape, &name);
            if let Some(Value::Array(items)) = object.get_mut(&name) {
                let original = identities(strategy, items);
                *items = sort(std::mem::take(items), &order, strategy, &original, &[])?;
            }
        }
        Ok(object)
    }

    /// Merges one field; `None` deletes it.
    fn field(
        self,
        ty: Option<&'a Type>,
        strategy: &PatchStrategy,
        current: Option<Value>,
        patch: Value,
        order: Option<&Value>,
    ) -> Result<Option<Value>, PatchError> {
        match (current, patch, strategy) {
            (_, Value::Null, _) => Ok(None),
            (_, Value::Object(patch), PatchStrategy::Replace) => {
                Ok(Some(Value::Object(without_directives(patch))))
            }
            (current, Value::Object(patch), _) => {
                let is_deletion = patch.get(PATCH).is_some_and(|directive| directive == "delete");
                let current = match current {
                    Some(Value::Object(current)) => current,
                    _ => Map::new(),
                };
                let merged = self.deeper()?.map(self.shape(ty), current, patch)?;
                Ok((!is_deletion).then_some(Value::Object(merged)))
            }
            (current, Value::Array(patch), PatchStrategy::Merge { key, .. }) => {
                let current = match current {
                    Some(Value::Array(current)) => current,
                    _ => Vec::new(),
                };
                let item = match ty {
                    Some(Type::List(list)) => Some(&list.item),
                    _ => None,
                };
                self.deeper()?
                    .keyed_list(item, key, strategy, current, patch, order)
                    .map(|list| Some(Value::Array(list)))
            }
            (current, Value::Array(patch), PatchStrategy::Union) => {
                let mut list = match current {
                    Some(Value::Array(current)) => current,
                    _ => Vec::new(),
                };
                let original = list.clone();
                for item in &patch {
                    if !list.contains(item) {
                        list.push(item.clone());
                    }
                }
                Ok(Some(Value::Array(match order {
                    Some(order) => sort(list, order, strategy, &original, &patch)?,
                    None => list,
                })))
            }
            (_, Value::Array(patch), _) => Ok(Some(Value::Array(replacing_list(patch)))),
            (_, patch, _) => Ok(Some(patch)),
        }
    }

    /// Merges lists of maps by a key.
    fn keyed_list(
        self,
        item: Option<&'a Type>,
        key: &str,
        strategy: &PatchStrategy,
        mut list: Vec<Value>,
        patch: Vec<Value>,
        order: Option<&Value>,
    ) -> Result<Vec<Value>, PatchError> {
        if patch.iter().any(|item| is_bare_directive(item, "replace")) {
            let items = patch.into_iter().filter(|item| !is_bare_directive(item, "replace"));
            return items.map(|item| plain_item(item, key)).collect();
        }
        let original = identities(strategy, &list);
        let mut merged = Vec::new();
        for change in patch {
            let Value::Object(mut change) = change else {
                return Err(PatchError::NotObject(change.to_string()));
            };
            let Some(identity) = change.get(key).cloned() else {
                return Err(PatchError::MissingKey {
                    item: Value::Object(change).to_string(),
                    key: key.to_owned(),
                });
            };
            let found = list.iter().position(|item| item.get(key) == Some(&identity));
            match change.remove(PATCH) {
                Some(Value::String(directive)) if directive == "delete" => {
                    list.retain(|item| item.get(key) != Some(&identity));
                    continue;
                }
                Some(Value::String(directive)) if directive == "replace" => {
                    let replacement = Value::Object(without_directives(change));
                    put_item(&mut list, found, replacement);
                }
                Some(Value::String(directive)) if directive != "merge" => {
                    return Err(PatchError::Directive(directive, "list"));
                }
                _ => {
                    let current = match found.and_then(|index| list.get(index)) {
                        Some(Value::Object(current)) => current.clone(),
                        _ => Map::new(),
                    };
                    let change = self.map(self.shape(item), current, change)?;
                    put_item(&mut list, found, Value::Object(change));
                }
            }
            merged.push(identity);
        }
        match order {
            Some(order) => sort(list, order, strategy, &original, &merged),
            None => Ok(list),
        }
    }
}

enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &mut Object, place: &'static str) -> Result<Directive, PatchError> {
    match patch.remove(PATCH) {
        None => Ok(Directive::Merge),
        Some(Value::String(text)) => match text.as_str() {
            "merge" => Ok(Directive::Merge),
            "replace" => Ok(Directive::Replace),
            "delete" => Ok(Directive::Delete),
            _ => Err(PatchError::Directive(text, place)),
        },
        Some(other) => Err(PatchError::Directive(other.to_string(), place)),
    }
}

/// Whether an item is nothing but a directive about its list.
fn is_bare_directive(item: &Value, directive: &str) -> bool {
    item.as_object()
        .is_some_and(|item| item.len() == 1 && item.get(PATCH).is_some_and(|value| value == directive))
}

fn plain_item(item: Value, key: &str) -> Result<Value, PatchError> {
    match item {
        Value::Object(item) if item.contains_key(key) => Ok(Value::Object(without_directives(item))),
        other => Err(PatchError::MissingKey { item: other.to_string(), key: key.to_owned() }),
    }
}

fn put_item(list: &mut Vec<Value>, index: Option<usize>, item: Value) {
    match index.and_then(|index| list.get_mut(index)) {
        Some(place) => *place = item,
        None => list.push(item),
    }
}

fn lookup<'a>(shape: Shape<'a>, name: &str) -> (Option<&'a Type>, &'a PatchStrategy) {
    static UNSTATED: PatchStrategy = PatchStrategy::Unstated;
    match shape {
        Shape::Struct(structure) => match structure.field(name) {
            Some(field) => (Some(&field.ty), &field.patch),
            None => (None, &UNSTATED),
        },
        Shape::Map(value) => (Some(value), &UNSTATED),
        Shape::Unknown => (None, &UNSTATED),
    }
}

fn delete_scalars(object: &mut Object, field: &str, deleted: &Value) {
    if let (Some(Value::Array(items)), Some(deleted)) = (object.get_mut(field), deleted.as_array()) {
        items.retain(|item| !deleted.contains(item));
    }
}

/// A list that replaces; a bare `$patch: replace` in it is only a word.
fn replacing_list(items: Vec<Value>) -> Vec<Value> {
    items.into_iter().filter(|item| !is_bare_directive(item, "replace")).collect()
}

/// What replaces or is new holds no directives for later.
fn without_directives(object: Object) -> Object {
    let is_directive = |name: &str| {
        name == PATCH || name == RETAIN_KEYS || name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER)
    };
    let entries = object.into_iter().filter(|(name, value)| !is_directive(name) && !value.is_null());
    entries
        .map(|(name, value)| match value {
            Value::Object(inner) => (name, Value::Object(without_directives(inner))),
            other => (name, other),
        })
        .collect()
}

/// The value that identifies an item: that of its merge key, or the scalar itself.
fn identity(strategy: &PatchStrategy, item: &Value) -> Value {
    match strategy {
        PatchStrategy::Merge { key, .. } => item.get(&**key).cloned().unwrap_or(Value::Null),
        PatchStrategy::Unstated
        | PatchStrategy::Replace
        | PatchStrategy::RetainKeys
        | PatchStrategy::Union => item.clone(),
    }
}

fn identities(strategy: &PatchStrategy, items: &[Value]) -> Vec<Value> {
    items.iter().map(|item| identity(strategy, item)).collect()
}

/// Sorts a list as `order` says. Items that `order` does not name are the server's: they stay before the items that
/// they were before in `original`. `patched` are the items of the patch, all of which `order` must name.
fn sort(
    items: Vec<Value>,
    order: &Value,
    strategy: &PatchStrategy,
    original: &[Value],
    patched: &[Value],
) -> Result<Vec<Value>, PatchError> {
    let order = order.as_array().ok_or_else(|| PatchError::NotList(order.to_string()))?;
    let order = identities(strategy, order);
    if let Some(missing) = patched.iter().find(|patched| !order.contains(patched)) {
        return Err(PatchError::Order(missing.to_string()));
    }
    let place =
        |list: &[Value], item: &Value| list.iter().position(|other| *other == identity(strategy, item));
    let (mut named, kept): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| place(&order, item).is_some());
    named.sort_by_key(|item| place(&order, item));
    let (mut named, mut kept) = (named.into_iter().peekable(), kept.into_iter().peekable());
    let mut sorted = Vec::with_capacity(named.len() + kept.len());
    loop {
        let kept_first = match (named.peek(), kept.peek()) {
            (None, None) => return Ok(sorted),
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (Some(named), Some(kept)) => match (place(original, kept), place(original, named)) {
                (Some(kept), Some(named)) => kept < named,
                _ => false,
            },
        };
        sorted.extend(if kept_first { kept.next() } else { named.next() });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::Registry;

    fn patched(object: Value, patch: Value) -> Result<Value, String> {
        let resource = Registry::builtin().resource("apps", "v1", "deployments").unwrap();
        let schema = &resource.object.schema;
        super::super::strategic(schema, &object, &patch).map_err(|status| status.message)
    }

    fn pod(spec: Value) -> Value {
        json!({"spec": {"template": {"spec": spec}}})
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn patches_merge_as_the_schema_says() {
        struct Case {
            name: &'static str,
            object: Value,
            patch: Value,
            want: Value,
        }
        let cases = [
            Case {
                name: "maps merge, null deletes",
                object: json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
                patch: json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
                want: json!({"metadata": {"labels": {"b": "2", "c": "3"}}}),
            },
            Case {
                name: "containers merge by name, ports by number, others are kept",
                object: pod(
                    json!({"containers": [{"name": "a", "image": "1", "ports": [{"containerPort": 80}]},
                                                  {"name": "b", "image": "1"}]}),
                ),
                patch: pod(
                    json!({"containers": [{"name": "a", "image": "2", "ports": [{"containerPort": 81}]}]}),
                ),
                want: pod(json!({"containers": [{"name": "a", "image": "2",
                                                 "ports": [{"containerPort": 80}, {"containerPort": 81}]},
                                                {"name": "b", "image": "1"}]})),
            },
            Case {
                name: "an item is deleted",
                object: pod(json!({"containers": [{"name": "a"}, {"name": "b"}]})),
                patch: pod(json!({"containers": [{"$patch": "delete", "name": "a"}]})),
                want: pod(json!({"containers": [{"name": "b"}]})),
            },
            Case {
                name: "a list is replaced",
                object: pod(json!({"containers": [{"name": "a"}, {"name": "b"}]})),
                patch: pod(json!({"containers": [{"name": "c"}, {"$patch": "replace"}]})),
                want: pod(json!({"containers": [{"name": "c"}]})),
            },
            Case {
                name: "atomic lists are replaced",
                object: pod(json!({"tolerations": [{"key": "a"}, {"key": "b"}]})),
                patch: pod(json!({"tolerations": [{"key": "c"}]})),
                want: pod(json!({"tolerations": [{"key": "c"}]})),
            },
            Case {
                name: "a map is replaced",
                object: json!({"spec": {"selector": {"matchLabels": {"a": "1"}}}}),
                patch: json!({"spec": {"selector": {"$patch": "replace", "matchLabels": {"b": "2"}}}}),
                want: json!({"spec": {"selector": {"matchLabels": {"b": "2"}}}}),
            },
            Case {
                name: "a map is deleted",
                object: json!({"spec": {"strategy": {"type": "Recreate"}, "replicas": 1}}),
                patch: json!({"spec": {"strategy": {"$patch": "delete"}}}),
                want: json!({"spec": {"replicas": 1}}),
            },
            Case {
                name: "only the keys to retain stay",
                object: json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
                patch: json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
                want: json!({"spec": {"strategy": {"type": "Recreate"}}}),
            },
            Case {
                name: "a volume changes its source",
                object: pod(json!({"volumes": [{"name": "v", "emptyDir": {}}]})),
                patch: pod(json!({"volumes": [{"$retainKeys": ["name", "configMap"], "name": "v",
                                               "configMap": {"name": "c"}}]})),
                want: pod(json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]})),
            },
            Case {
                name: "finalizers unite",
                object: json!({"metadata": {"finalizers": ["a", "b"]}}),
                patch: json!({"metadata": {"finalizers": ["b", "c"]}}),
                want: json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            },
            Case {
                name: "finalizers are deleted and ordered",
                object: json!({"metadata": {"finalizers": ["a", "b"]}}),
                patch: json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"],
                                           "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]}}),
                want: json!({"metadata": {"finalizers": ["c", "b"]}}),
            },
            Case {
                name: "order is set, server items keep their neighbours",
                object: pod(json!({"containers": [{"name": "sidecar"}, {"name": "a"}, {"name": "b"}]})),
                patch: pod(
                    json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "c"}],
                                  "containers": [{"name": "c"}]}),
                ),
                want: pod(
                    json!({"containers": [{"name": "sidecar"}, {"name": "b"}, {"name": "a"}, {"name": "c"}]}),
                ),
            },
            Case {
                name: "order alone",
                object: pod(json!({"containers": [{"name": "a"}, {"name": "b"}]})),
                patch: pod(json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]})),
                want: pod(json!({"containers": [{"name": "b"}, {"name": "a"}]})),
            },
        ];
        for case in cases {
            assert_eq!(patched(case.object, case.patch), Ok(case.want), "{}", case.name);
        }
    }

    #[test]
    fn malformed_patches_are_refused() {
        let cases = [
            (
                pod(json!({"containers": [{"image": "x"}]})),
                "map: {\"image\":\"x\"} does not contain declared merge key: name",
            ),
            (json!({"spec": {"$patch": "shred"}}), "Unrecognized PatchStrategy: shred in map"),
            (pod(json!({"containers": [5]})), "invalid object type: 5 is not an object"),
        ];
        for (patch, want) in cases {
            let object = pod(json!({"containers": [{"name": "a"}]}));
            assert_eq!(patched(object, patch).unwrap_err(), want);
        }
    }
}
