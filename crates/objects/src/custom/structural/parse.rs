//! From the `openAPIV3Schema` of a CustomResourceDefinition to the tree, with everything that is wrong with it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Bound, Checks, Kind, ListType, Node};
use crate::custom::format::Format;
use crate::custom::pattern::Pattern;
use crate::custom::rules::Rule;
use crate::document::Document;
use crate::field::{FieldError, Path};

/// Places of one schema at most.
const NODES_MAX: usize = 20_000;

/// Where a schema stands: that decides what it may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The object.
    Root,
    /// A field or an entry.
    Field,
    /// An item.
    Item,
    /// Below `allOf` and the like, where only restrictions may stand.
    Junctor,
    /// The same, of a place that is number or text: types may be named again.
    JunctorOfIntOrString,
}

impl Place {
    fn is_junctor(self) -> bool {
        matches!(self, Self::Junctor | Self::JunctorOfIntOrString)
    }
}

/// Keywords that a structural schema cannot have, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    ("$ref", "$ref is not supported"),
    ("$schema", "schema is not supported"),
    ("additionalItems", "additionalItems is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("id", "id is not supported"),
    ("patternProperties", "patternProperties is not supported"),
];

/// Keywords that only the tree itself may have.
const ONLY_IN_TREE: &[(&str, &str)] = &[
    ("default", "must be undefined to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("title", "must be empty to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be undefined to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

/// Reads the schema of an object at `path`. The tree is complete only when nothing was added to `errors`.
pub fn parse(schema: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) -> Node {
    let mut parser = Parser { errors, nodes: 0 };
    parser.node(schema, path, Place::Root)
}

struct Parser<'e> {
    errors: &'e mut Vec<FieldError>,
    nodes: usize,
}

impl Parser<'_> {
    fn node(&mut self, schema: &Value, path: &Path<'_>, place: Place) -> Node {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            if self.nodes == NODES_MAX + 1 {
                self.errors.push(FieldError::too_many(path, self.nodes, NODES_MAX));
            }
            return Node::default();
        }
        let Some(members) = schema.as_object() else { return Node::anything() };
        for (keyword, why) in FORBIDDEN {
            if members.contains_key(*keyword) {
                self.errors.push(FieldError::forbidden(&path.field(keyword), why));
            }
        }
        if schema.is_true(&["uniqueItems"]) {
            let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.errors.push(FieldError::forbidden(&path.field("uniqueItems"), why));
        }
        if place.is_junctor() {
            self.only_restrictions(members, path, place);
        }
        let mut node = Node {
            kind: self.kind(schema, path, place),
            nullable: schema.is_true(&["nullable"]),
            default: members.get("default").filter(|value| !value.is_null()).cloned(),
            description: schema.text(&["description"]).to_owned(),
            preserve_unknown: schema.is_true(&["x-kubernetes-preserve-unknown-fields"]),
            embedded: schema.is_true(&["x-kubernetes-embedded-resource"]),
            atomic: schema.text(&["x-kubernetes-map-type"]) == "atomic",
            ..Node::default()
        };
        self.children(schema, path, place, &mut node);
        node.checks = self.checks(schema, path, place, &node);
        if !place.is_junctor() {
            self.extensions(schema, path, place, &mut node);
            self.completeness(path, place, &node);
            node.has_rules = !node.rules.is_empty() || node.children().any(|child| child.has_rules);
        }
        node
    }

    fn only_restrictions(&mut self, members: &Map<String, Value>, path: &Path<'_>, place: Place) {
        for (keyword, why) in ONLY_IN_TREE {
            if members.get(*keyword).is_some_and(|value| *value != Value::Bool(false)) {
                self.errors.push(FieldError::forbidden(&path.field(keyword), why));
            }
        }
        if place == Place::Junctor && members.contains_key("type") {
            self.errors.push(FieldError::forbidden(&path.field("type"), "must be empty to be structural"));
        }
        if members.contains_key("additionalProperties") {
            let why = "must be undefined to be structural";
            self.errors.push(FieldError::forbidden(&path.field("additionalProperties"), why));
        }
    }

    fn kind(&mut self, schema: &Value, path: &Path<'_>, place: Place) -> Kind {
        let name = schema.text(&["type"]);
        let path = path.field("type");
        if schema.is_true(&["x-kubernetes-int-or-string"]) {
            if !name.is_empty() {
                let why = "must be empty if x-kubernetes-int-or-string is true";
                self.errors.push(FieldError::invalid(&path, name, why));
            }
            return Kind::IntOrString;
        }
        match (Kind::parse(name), name) {
            (Some(Kind::Object), _) => Kind::Object,
            (Some(_), name) if place == Place::Root => {
                self.errors.push(FieldError::invalid(&path, name, "must be object at the root"));
                Kind::Object
            }
            (Some(kind), _) => kind,
            (None, "") => {
                let keeps = schema.is_true(&["x-kubernetes-preserve-unknown-fields"]);
                let why = match place {
                    Place::Root => Some("must not be empty at the root"),
                    Place::Field if !keeps => Some("must not be empty for specified object fields"),
                    Place::Item if !keeps => Some("must not be empty for specified array items"),
                    _ => None,
                };
                self.errors.extend(why.map(|why| FieldError::required(&path, why)));
                if place == Place::Root { Kind::Object } else { Kind::Unstated }
            }
            (None, other) => {
                let known = ["array", "boolean", "integer", "number", "object", "string"];
                self.errors.push(FieldError::not_supported(&path, other, &known));
                Kind::Unstated
            }
        }
    }

    fn children(&mut self, schema: &Value, path: &Path<'_>, place: Place, node: &mut Node) {
        let below = |at: Place| if place.is_junctor() { place } else { at };
        let properties = path.field("properties");
        let mut known = BTreeMap::new();
        for (name, child) in schema.map(&["properties"]).into_iter().flatten() {
            let child_path = properties.key(name);
            if place == Place::Root && matches!(&**name, "apiVersion" | "kind" | "metadata") {
                self.type_meta(name, child, &child_path);
                continue;
            }
            known.insert(name.clone(), self.node(child, &child_path, below(Place::Field)));
        }
        node.properties = known;
        let additional = path.field("additionalProperties");
        match schema.at(&["additionalProperties"]) {
            Value::Null => {}
            Value::Bool(false) => {
                let why = "additionalProperties cannot be set to false";
                self.errors.push(FieldError::forbidden(&additional, why));
            }
            other => {
                if !node.properties.is_empty() {
                    let why = "additionalProperties and properties are mutual exclusive";
                    self.errors.push(FieldError::forbidden(&additional, why));
                }
                if place == Place::Root {
                    let why = "additionalProperties cannot be used at the root";
                    self.errors.push(FieldError::forbidden(&additional, why));
                }
                node.additional = Some(Box::new(self.node(other, &additional, below(Place::Field))));
            }
        }
        let items = path.field("items");
        match schema.at(&["items"]) {
            Value::Null => {}
            Value::Array(_) => {
                let why = "items must be a schema object and not an array";
                self.errors.push(FieldError::forbidden(&items, why));
            }
            other => node.items = Some(Box::new(self.node(other, &items, below(Place::Item)))),
        }
    }

    /// `apiVersion`, `kind` and `metadata` of the root are what they always are; the schema may only narrow the name.
    fn type_meta(&mut self, name: &str, schema: &Value, path: &Path<'_>) {
        if name != "metadata" {
            if !matches!(schema.text(&["type"]), "" | "string") {
                let given = schema.text(&["type"]);
                self.errors.push(FieldError::invalid(&path.field("type"), given, "must be string"));
            }
            return;
        }
        let narrows = schema.map(&["properties"]).into_iter().flatten();
        let mut narrows = narrows.map(|(name, _)| name.as_str());
        let allowed = narrows.all(|name| matches!(name, "name" | "generateName"));
        let other = schema.as_object().into_iter().flatten();
        let mut other = other.map(|(keyword, _)| keyword.as_str());
        if !allowed || !other.all(|keyword| matches!(keyword, "type" | "properties" | "description")) {
            let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            self.errors.push(FieldError::forbidden(path, why));
        }
    }

    fn extensions(&mut self, schema: &Value, path: &Path<'_>, place: Place, node: &mut Node) {
        let preserve = path.field("x-kubernetes-preserve-unknown-fields");
        if schema.at(&["x-kubernetes-preserve-unknown-fields"]) == &Value::Bool(false) {
            self.errors.push(FieldError::invalid(&preserve, false, "must be true or undefined"));
        }
        if node.embedded {
            if node.kind != Kind::Object {
                let why = "must be object if x-kubernetes-embedded-resource is true";
                self.errors.push(FieldError::invalid(&path.field("type"), node.kind.name(), why));
            }
            if !node.preserve_unknown && node.properties.is_empty() {
                let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
                self.errors.push(FieldError::required(&path.field("properties"), why));
            }
            if place == Place::Root {
                let why = "must be false at the root";
                self.errors.push(FieldError::forbidden(&path.field("x-kubernetes-embedded-resource"), why));
            }
        }
        if !matches!(schema.text(&["x-kubernetes-map-type"]), "" | "atomic" | "granular") {
            let given = schema.text(&["x-kubernetes-map-type"]);
            let path = path.field("x-kubernetes-map-type");
            self.errors.push(FieldError::not_supported(&path, given, &["atomic", "granular"]));
        }
        node.list = self.list_type(schema, path, node);
        let rules = path.field("x-kubernetes-validations");
        for (index, rule) in schema.list(&["x-kubernetes-validations"]).iter().enumerate() {
            node.rules.extend(Rule::parse(rule, &rules.index(index), node, self.errors));
        }
    }

    fn list_type(&mut self, schema: &Value, path: &Path<'_>, node: &Node) -> ListType {
        let name = schema.text(&["x-kubernetes-list-type"]);
        let type_path = path.field("x-kubernetes-list-type");
        let keys_path = path.field("x-kubernetes-list-map-keys");
        let keys = schema.list(&["x-kubernetes-list-map-keys"]);
        if !name.is_empty() && node.kind != Kind::Array {
            let why = "must be array if x-kubernetes-list-type is specified";
            self.errors.push(FieldError::invalid(&path.field("type"), node.kind.name(), why));
        }
        if name != "map" && !keys.is_empty() {
            let why = "must be empty if x-kubernetes-list-type is not map";
            self.errors.push(FieldError::invalid(&keys_path, keys.to_vec(), why));
        }
        let items = node.items.as_deref();
        match name {
            "" | "atomic" => ListType::Atomic,
            "set" => {
                let scalar = items.is_none_or(|items| {
                    items.atomic
                        || items.kind == Kind::Array && items.list == ListType::Atomic
                        || !matches!(items.kind, Kind::Object | Kind::Array)
                });
                if !scalar {
                    let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
                    let path = path.field("items");
                    self.errors.push(FieldError::invalid(&path.field("x-kubernetes-map-type"), "", why));
                }
                ListType::Set
            }
            "map" => {
                self.map_keys(path, &keys_path, keys, items);
                let keys = keys.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                ListType::Map(keys)
            }
            other => {
                let known = ["atomic", "map", "set"];
                self.errors.push(FieldError::not_supported(&type_path, other, &known));
                ListType::Atomic
            }
        }
    }

    fn map_keys(&mut self, path: &Path<'_>, keys_path: &Path<'_>, keys: &[Value], items: Option<&Node>) {
        if keys.is_empty() {
            let why = "must not be empty if x-kubernetes-list-type is map";
            self.errors.push(FieldError::required(keys_path, why));
        }
        let Some(items) = items else { return };
        if items.kind != Kind::Object {
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            let path = path.field("items");
            self.errors.push(FieldError::invalid(&path.field("type"), items.kind.name(), why));
        }
        for (index, key) in keys.iter().enumerate() {
            let key_path = keys_path.index(index);
            let name = key.as_str().unwrap_or_default();
            if keys.iter().take(index).any(|other| other == key) {
                self.errors.push(FieldError::duplicate(&key_path, name));
            }
            match items.properties.get(name) {
                None => {
                    let why = "entries must all be names of item properties";
                    self.errors.push(FieldError::invalid(&key_path, name, why));
                }
                Some(field) if matches!(field.kind, Kind::Object | Kind::Array) => {
                    let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    let at = path.field("items");
                    let at = at.field("properties");
                    let at = at.key(name);
                    self.errors.push(FieldError::invalid(&at.field("type"), field.kind.name(), why));
                }
                Some(field) => {
                    let required = items.checks.required.iter().any(|required| required == name);
                    if !required && field.default.is_none() {
                        let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                        let at = path.field("items");
                        let at = at.field("properties");
                        let at = at.key(name);
                        self.errors.push(FieldError::required(&at.field("default"), why));
                    }
                }
            }
        }
    }

    /// What a place of the tree needs so that nothing below it is without a type.
    fn completeness(&mut self, path: &Path<'_>, place: Place, node: &Node) {
        if node.kind == Kind::Array && node.items.is_none() {
            self.errors.push(FieldError::required(&path.field("items"), "must be specified"));
        }
        let checks = &node.checks;
        for (keyword, all) in
            [("allOf", &checks.all_of), ("anyOf", &checks.any_of), ("oneOf", &checks.one_of)]
        {
            let at = path.field(keyword);
            for (index, restriction) in all.iter().enumerate() {
                self.covered(path, &at.index(index), node, restriction, place);
            }
        }
        if let Some(not) = &checks.not {
            self.covered(path, &path.field("not"), node, not, place);
        }
    }

    /// Every field that a restriction (standing at `at`) speaks of must be in the tree (at `tree`).
    fn covered(&mut self, tree: &Path<'_>, at: &Path<'_>, node: &Node, restriction: &Node, place: Place) {
        let (tree_properties, properties) = (tree.field("properties"), at.field("properties"));
        for (name, below) in &restriction.properties {
            let known_anyway = matches!(&**name, "apiVersion" | "kind" | "metadata");
            let path = tree_properties.key(name);
            match node.properties.get(name) {
                Some(field) => self.covered(&path, &properties.key(name), field, below, Place::Field),
                None if known_anyway && (place == Place::Root || node.embedded) => {}
                None => {
                    let why = format!("because it is defined in {}", properties.key(name));
                    self.errors.push(FieldError::required(&path, &why));
                }
            }
        }
        if let Some(below) = &restriction.items {
            match &node.items {
                Some(items) => {
                    self.covered(&tree.field("items"), &at.field("items"), items, below, Place::Item);
                }
                None => {
                    let why = format!("because it is defined in {}", at.field("items"));
                    self.errors.push(FieldError::required(&tree.field("items"), &why));
                }
            }
        }
        let checks = &restriction.checks;
        let inner = checks.all_of.iter().chain(&checks.any_of).chain(&checks.one_of);
        for inner in inner.chain(checks.not.as_deref()) {
            self.covered(tree, at, node, inner, place);
        }
    }

    fn checks(&mut self, schema: &Value, path: &Path<'_>, place: Place, node: &Node) -> Checks {
        let number = |name: &str| schema.at(&[name]).as_f64();
        let count = |name: &str| schema.int(&[name]).map(|count| u64::try_from(count).unwrap_or(0));
        let bound = |name: &str, exclusive: &str| {
            Some(Bound { limit: number(name)?, exclusive: schema.is_true(&[exclusive]) })
        };
        let int_or_string = node.kind == Kind::IntOrString || place == Place::JunctorOfIntOrString;
        let below = if int_or_string { Place::JunctorOfIntOrString } else { Place::Junctor };
        let mut junctor = |name: &str| -> Vec<Node> {
            let path = path.field(name);
            let all = schema.list(&[name]).iter().enumerate();
            all.map(|(index, schema)| self.node(schema, &path.index(index), below)).collect()
        };
        let (all_of, any_of, one_of) = (junctor("allOf"), junctor("anyOf"), junctor("oneOf"));
        let not =
            schema.has(&["not"]).then(|| Box::new(self.node(schema.at(&["not"]), &path.field("not"), below)));
        let pattern = match schema.text(&["pattern"]) {
            "" => None,
            text => match Pattern::new(text) {
                Ok(pattern) => Some(pattern),
                Err(error) => {
                    let why = format!("must be a valid regular expression, but isn't: {error}");
                    self.errors.push(FieldError::invalid(&path.field("pattern"), text, &why));
                    None
                }
            },
        };
        Checks {
            one_of_values: schema.list(&["enum"]).to_vec(),
            pattern,
            format: Format::parse(schema.text(&["format"])),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            length_min: count("minLength"),
            length_max: count("maxLength"),
            items_min: count("minItems"),
            items_max: count("maxItems"),
            properties_min: count("minProperties"),
            properties_max: count("maxProperties"),
            required: schema
                .list(&["required"])
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            all_of,
            any_of,
            one_of,
            not,
        }
    }
}
