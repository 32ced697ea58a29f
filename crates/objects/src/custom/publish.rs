//! The tree for others: as the schema that merging walks, and as OpenAPI.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::structural::{Kind, ListType, Node};
use crate::document::{Document, Object};
use crate::schema::{self, Builder, Field, List, ListTopology, Scalar, Schema, Type};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The component name of a kind: its group backwards, version, kind.
pub fn component(group: &str, version: &str, kind: &str) -> String {
    let reversed: Vec<&str> = group.split('.').rev().collect();
    format!("{}.{version}.{kind}", reversed.join("."))
}

/// The tree as structures of an arena of its own.
pub fn schema(tree: &Node, name: &str) -> Schema {
    let mut builder = Builder::default();
    let root = builder.declare(name.to_owned());
    let metadata = builder.import(OBJECT_META);
    let mut fields = fields(&mut builder, tree, name);
    fields.retain(|field| !matches!(&*field.name, "apiVersion" | "kind" | "metadata"));
    for (name, ty) in [
        ("apiVersion", Type::Scalar(Scalar::String)),
        ("kind", Type::Scalar(Scalar::String)),
        ("metadata", metadata.map_or(Type::Scalar(Scalar::Any), Type::Struct)),
    ] {
        fields.push(schema::field(name.into(), ty, false));
    }
    builder.fill(root, fields, tree.atomic);
    Schema { types: builder.finish(), root }
}

fn fields(builder: &mut Builder, node: &Node, name: &str) -> Vec<Field> {
    let fields = node.properties.iter().map(|(field, child)| {
        let ty = ty(builder, child, &format!("{name}.{field}"));
        let published = schema::field(Cow::Owned(field.clone()), ty, node.checks.required.contains(field));
        let default = child.default.as_ref().and_then(serde_json::Value::as_str);
        Field { key_default: default.map(|text| Cow::Owned(text.to_owned())), ..published }
    });
    fields.collect()
}

fn ty(builder: &mut Builder, node: &Node, name: &str) -> Type {
    match node.kind {
        Kind::Unstated => Type::Scalar(Scalar::Any),
        Kind::String if node.checks.format == Some(super::format::Format::DateTime) => {
            Type::Scalar(Scalar::Time)
        }
        Kind::String => Type::Scalar(Scalar::String),
        Kind::Integer => Type::Scalar(Scalar::Int64),
        Kind::Number => Type::Scalar(Scalar::Double),
        Kind::Boolean => Type::Scalar(Scalar::Bool),
        Kind::IntOrString => Type::Scalar(Scalar::IntOrString),
        Kind::Array => {
            let item =
                node.items.as_deref().map_or(Type::Scalar(Scalar::Any), |item| ty(builder, item, name));
            let keys = |keys: &[String]| keys.iter().map(|key| Cow::Owned(key.clone())).collect();
            let topology = match &node.list {
                ListType::Atomic => ListTopology::Atomic,
                ListType::Set => ListTopology::Set,
                ListType::Map(names) => ListTopology::Map(keys(names)),
            };
            Type::List(Box::new(List { item, topology }))
        }
        Kind::Object => match &node.additional {
            Some(value) => {
                let value = ty(builder, value, name);
                Type::Map(Box::new(schema::Map { value, atomic: node.atomic }))
            }
            None if node.preserve_unknown || node.properties.is_empty() => Type::Scalar(Scalar::Any),
            None => {
                let id = builder.declare(name.to_owned());
                let fields = fields(builder, node, name);
                builder.fill(id, fields, node.atomic);
                Type::Struct(id)
            }
        },
    }
}

/// The tree as OpenAPI v3, with what every object has.
pub fn openapi(tree: &Node) -> Value {
    let mut document = node(tree);
    let text = |description: &str| json!({"type": "string", "description": description});
    let version = "Version of the schema of this object, as group/version.";
    document.put(&["properties", "apiVersion"], text(version));
    document.put(&["properties", "kind"], text("Name of the schema of this object."));
    document.put(&["properties", "metadata"], json!({"$ref": format!("#/components/schemas/{OBJECT_META}")}));
    document
}

fn node(node: &Node) -> Value {
    let mut out = Object::new();
    let mut put = |name: &str, value: Value| drop(out.insert(name.to_owned(), value));
    if !node.kind.name().is_empty() {
        put("type", node.kind.name().into());
    }
    if !node.description.is_empty() {
        put("description", node.description.as_str().into());
    }
    if node.nullable {
        put("nullable", true.into());
    }
    if let Some(default) = &node.default {
        put("default", default.clone());
    }
    if !node.properties.is_empty() {
        put("properties", members(&node.properties));
    }
    if let Some(value) = &node.additional {
        put("additionalProperties", self::node(value));
    }
    if let Some(item) = &node.items {
        put("items", self::node(item));
    }
    for (name, given) in [
        ("x-kubernetes-preserve-unknown-fields", node.preserve_unknown),
        ("x-kubernetes-embedded-resource", node.embedded),
        ("x-kubernetes-int-or-string", node.kind == Kind::IntOrString),
    ] {
        if given {
            put(name, true.into());
        }
    }
    if node.atomic {
        put("x-kubernetes-map-type", "atomic".into());
    }
    match &node.list {
        ListType::Atomic if node.kind == Kind::Array => put("x-kubernetes-list-type", "atomic".into()),
        ListType::Atomic => {}
        ListType::Set => put("x-kubernetes-list-type", "set".into()),
        ListType::Map(keys) => {
            put("x-kubernetes-list-type", "map".into());
            put("x-kubernetes-list-map-keys", json!(keys));
        }
    }
    if !node.rules.is_empty() {
        put("x-kubernetes-validations", node.rules.iter().map(super::rules::Rule::to_value).collect());
    }
    checks(node, &mut out);
    Value::Object(out)
}

fn members<'a>(nodes: impl IntoIterator<Item = (&'a String, &'a Node)>) -> Value {
    let members = nodes.into_iter().map(|(name, child)| (name.clone(), node(child)));
    Value::Object(members.collect::<Map<_, _>>())
}

fn checks(node: &Node, out: &mut Object) {
    let checks = &node.checks;
    let mut put =
        |name: &str, value: Option<Value>| drop(value.map(|value| out.insert(name.to_owned(), value)));
    put("enum", (!checks.one_of_values.is_empty()).then(|| checks.one_of_values.clone().into()));
    put("pattern", checks.pattern.as_ref().map(|pattern| pattern.text().into()));
    put("format", checks.format.map(|format| format.name().into()));
    for (name, exclusive, bound) in
        [("minimum", "exclusiveMinimum", checks.minimum), ("maximum", "exclusiveMaximum", checks.maximum)]
    {
        put(name, bound.map(|bound| number(bound.limit)));
        put(exclusive, bound.filter(|bound| bound.exclusive).map(|_| true.into()));
    }
    put("multipleOf", checks.multiple_of.map(number));
    for (name, count) in [
        ("minLength", checks.length_min),
        ("maxLength", checks.length_max),
        ("minItems", checks.items_min),
        ("maxItems", checks.items_max),
        ("minProperties", checks.properties_min),
        ("maxProperties", checks.properties_max),
    ] {
        put(name, count.map(Value::from));
    }
    put("required", (!checks.required.is_empty()).then(|| json!(checks.required)));
    for (name, all) in [("allOf", &checks.all_of), ("anyOf", &checks.any_of), ("oneOf", &checks.one_of)] {
        put(name, (!all.is_empty()).then(|| all.iter().map(self::node).collect()));
    }
    put("not", checks.not.as_deref().map(self::node));
}

/// Whole numbers without a fraction.
fn number(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 9e15 { Value::from(number as i64) } else { number.into() }
}
