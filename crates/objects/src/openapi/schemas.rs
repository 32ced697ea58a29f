//! Components: the structures that the kinds of a document reach.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::custom::publish;
use crate::document::{Document, Object};
use crate::registry::{ObjectType, Resource, delete_options};
use crate::schema::{Field, ListTopology, PatchStrategy, Scalar, Schema, Struct, Type, Types};

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The component name of an object. Kinds that are only query parameters have none.
pub(super) fn component(object: &ObjectType) -> Option<&str> {
    let name: &str = &object.schema.structure().name;
    (!name.is_empty()).then_some(name)
}

/// The component name of lists of a resource.
pub(super) fn list_component(resource: &Resource) -> Option<String> {
    component(&resource.object).map(|name| format!("{name}List"))
}

/// Schemas by name.
#[derive(Default)]
pub(super) struct Components {
    schemas: BTreeMap<String, Value>,
}

impl Components {
    /// Adds what the operations of a resource speak.
    pub(super) fn add_resource(&mut self, resource: &Resource) {
        self.add_object(&resource.object);
        for subresource in &resource.subresources {
            self.add_object(&subresource.object);
        }
        if !resource.is_stored() {
            return;
        }
        self.add_schema(&delete_options().schema);
        self.schemas.insert(PATCH.to_owned(), json!({"type": "object"}));
        for name in [STATUS, LIST_META] {
            if let Some(schema) = Schema::builtin(name) {
                self.add_schema(&schema);
            }
        }
        if let (Some(item), Some(name)) = (component(&resource.object), list_component(resource)) {
            let kind = [group_version_kind(&resource.object, &resource.list_kind)];
            let list = json!({
                "type": "object",
                "required": ["items"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": reference(LIST_META),
                    "items": {"type": "array", "items": reference(item)},
                },
                "x-kubernetes-group-version-kind": kind,
            });
            self.schemas.insert(name, list);
        }
    }

    fn add_object(&mut self, object: &ObjectType) {
        match (&object.custom, component(object)) {
            (Some(custom), Some(name)) => {
                self.schemas.insert(name.to_owned(), publish::openapi(&custom.tree));
                let metadata = object.schema.structure().field("metadata").map(|field| field.ty.clone());
                if let Some(Type::Struct(root)) = metadata {
                    self.add_schema(&Schema { types: Arc::clone(&object.schema.types), root });
                }
            }
            _ => self.add_schema(&object.schema),
        }
        let kind = [group_version_kind(object, &object.kind)];
        if let Some(schema) = component(object).and_then(|name| self.schemas.get_mut(name)) {
            schema.put(&["x-kubernetes-group-version-kind"], json!(kind));
        }
    }

    fn add_schema(&mut self, schema: &Schema) {
        let mut pending = vec![schema.root];
        while let Some(id) = pending.pop() {
            let structure = schema.types.get(id);
            if structure.name.is_empty() || self.schemas.contains_key(&*structure.name) {
                continue;
            }
            self.schemas.insert(structure.name.to_string(), structure_schema(&schema.types, structure));
            for field in structure.fields() {
                self.follow(&field.ty, &mut pending);
            }
        }
    }

    fn follow(&mut self, ty: &Type, pending: &mut Vec<crate::schema::StructId>) {
        match ty {
            Type::Struct(id) => pending.push(*id),
            Type::List(list) => self.follow(&list.item, pending),
            Type::Map(map) => self.follow(&map.value, pending),
            Type::Scalar(scalar) => {
                if let Some((name, schema)) = named_scalar(*scalar) {
                    self.schemas.entry(name.to_owned()).or_insert(schema);
                }
            }
        }
    }

    pub(super) fn into_schemas(self) -> BTreeMap<String, Value> {
        self.schemas
    }
}

pub(super) fn group_version_kind(object: &ObjectType, kind: &str) -> Value {
    json!({"group": object.group, "version": object.version, "kind": kind})
}

/// Scalars that have a component of their own, so that explanations show their name.
fn named_scalar(scalar: Scalar) -> Option<(&'static str, Value)> {
    Some(match scalar {
        Scalar::Quantity => (
            "io.k8s.apimachinery.pkg.api.resource.Quantity",
            json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        ),
        Scalar::Time => {
            ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", json!({"type": "string", "format": "date-time"}))
        }
        Scalar::MicroTime => (
            "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
            json!({"type": "string", "format": "date-time"}),
        ),
        Scalar::IntOrString => (
            "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        ),
        Scalar::String
        | Scalar::Bytes
        | Scalar::Int32
        | Scalar::Int64
        | Scalar::Bool
        | Scalar::Double
        | Scalar::Any => return None,
    })
}

fn structure_schema(types: &Types, structure: &Struct) -> Value {
    let mut properties = Object::new();
    for field in structure.fields() {
        properties.insert(field.name.to_string(), field_schema(types, field));
    }
    let required: Vec<&str> =
        structure.fields().iter().filter(|field| field.required).map(|field| &*field.name).collect();
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema.put(&["required"], required);
    }
    if structure.atomic {
        schema.put(&["x-kubernetes-map-type"], "atomic");
    }
    schema
}

fn field_schema(types: &Types, field: &Field) -> Value {
    let mut schema = type_schema(types, &field.ty);
    let (strategy, key) = match &field.patch {
        PatchStrategy::Unstated => return schema,
        PatchStrategy::Replace => ("replace", None),
        PatchStrategy::RetainKeys => ("retainKeys", None),
        PatchStrategy::Union => ("merge", None),
        PatchStrategy::Merge { key, retain_keys: false } => ("merge", Some(key)),
        PatchStrategy::Merge { key, retain_keys: true } => ("merge,retainKeys", Some(key)),
    };
    // Whatever stands beside a reference is ignored, so the reference goes one level down.
    if schema.get("$ref").is_some() {
        schema = json!({"allOf": [schema]});
    }
    schema.put(&["x-kubernetes-patch-strategy"], strategy);
    if let Some(key) = key {
        schema.put(&["x-kubernetes-patch-merge-key"], &**key);
    }
    schema
}

fn type_schema(types: &Types, ty: &Type) -> Value {
    match ty {
        Type::Scalar(scalar) => scalar_schema(*scalar),
        Type::Struct(id) => reference(&types.get(*id).name),
        Type::List(list) => {
            let mut schema = json!({"type": "array", "items": type_schema(types, &list.item)});
            match &list.topology {
                ListTopology::Atomic => schema.put(&["x-kubernetes-list-type"], "atomic"),
                ListTopology::Set => schema.put(&["x-kubernetes-list-type"], "set"),
                ListTopology::Map(keys) => {
                    schema.put(&["x-kubernetes-list-type"], "map");
                    schema.put(&["x-kubernetes-list-map-keys"], json!(keys));
                }
            }
            schema
        }
        Type::Map(map) => {
            let mut schema =
                json!({"type": "object", "additionalProperties": type_schema(types, &map.value)});
            if map.atomic {
                schema.put(&["x-kubernetes-map-type"], "atomic");
            }
            schema
        }
    }
}

fn scalar_schema(scalar: Scalar) -> Value {
    if let Some((name, _)) = named_scalar(scalar) {
        return reference(name);
    }
    match scalar {
        Scalar::Bytes => json!({"type": "string", "format": "byte"}),
        Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
        Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
        Scalar::Bool => json!({"type": "boolean"}),
        Scalar::Double => json!({"type": "number", "format": "double"}),
        Scalar::Any => json!({"type": "object"}),
        Scalar::String | Scalar::Quantity | Scalar::Time | Scalar::MicroTime | Scalar::IntOrString => {
            json!({"type": "string"})
        }
    }
}
