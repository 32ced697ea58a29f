//! The schema of a custom resource as a tree: what fields there are, how they merge, what may stand in them.
//!
//! A schema is structural when every place has a type and everything under `allOf`, `anyOf`, `oneOf` and `not` only restricts
//! what the tree already has. Only then can objects be pruned and defaulted, so anything else is refused with its CustomResourceDefinition.

use std::collections::BTreeMap;

use serde_json::Value;

use super::format::Format;
use super::pattern::Pattern;
use super::rules::Rule;

mod parse;

pub use parse::parse;

/// What stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Not said: a restriction of a place that has its type elsewhere, or a place where anything is kept.
    #[default]
    Unstated,
    /// A JSON object.
    Object,
    /// A list.
    Array,
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// True or false.
    Boolean,
    /// A whole number or a text.
    IntOrString,
}

impl Kind {
    /// The name in schemas and messages; "" for the two that have none.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unstated | Self::IntOrString => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    /// From the name in a schema.
    pub fn parse(name: &str) -> Option<Kind> {
        let all = [Self::Object, Self::Array, Self::String, Self::Integer, Self::Number, Self::Boolean];
        all.into_iter().find(|kind| kind.name() == name)
    }
}

/// What identifies an item of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListType {
    /// The list is one value.
    #[default]
    Atomic,
    /// Items are scalars, each at most once.
    Set,
    /// Items are objects, identified by these fields.
    Map(Vec<String>),
}

/// One place of the tree.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// What stands there.
    pub kind: Kind,
    /// Whether null may stand there.
    pub nullable: bool,
    /// What stands there when nothing is given.
    pub default: Option<Value>,
    /// Text for `kubectl explain`.
    pub description: String,
    /// Known fields of an object.
    pub properties: BTreeMap<String, Node>,
    /// What other entries of an object are; none allows no others.
    pub additional: Option<Box<Node>>,
    /// What the items of a list are.
    pub items: Option<Box<Node>>,
    /// Whether unknown fields are kept.
    pub preserve_unknown: bool,
    /// Whether an object of Kubernetes stands there, with type and metadata.
    pub embedded: bool,
    /// How a list merges.
    pub list: ListType,
    /// Whether an object is one value for apply.
    pub atomic: bool,
    /// What may stand there.
    pub checks: Checks,
    /// Expressions that must hold there, in the order of the schema.
    pub rules: Vec<Rule>,
    /// Whether any place at or below this one has an expression.
    pub has_rules: bool,
}

impl Node {
    /// A place where anything is kept.
    pub fn anything() -> Node {
        Node { preserve_unknown: true, ..Node::default() }
    }

    /// The place of a field or entry of this object.
    pub fn child(&self, name: &str) -> Option<&Node> {
        self.properties.get(name).or(self.additional.as_deref())
    }

    /// Whether null at this place is as good as nothing.
    pub fn drops_null(&self) -> bool {
        !(self.nullable || self.kind == Kind::Unstated && self.preserve_unknown)
    }

    /// Fields, entries, items.
    pub fn children(&self) -> impl Iterator<Item = &Node> {
        self.properties.values().chain(self.additional.as_deref()).chain(self.items.as_deref())
    }
}

/// A least or greatest number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// The number.
    pub limit: f64,
    /// Whether the number itself is out.
    pub exclusive: bool,
}

/// What may stand at a place, as far as it is no matter of type.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    /// The only values allowed; empty allows all.
    pub one_of_values: Vec<Value>,
    /// What text looks like.
    pub pattern: Option<Pattern>,
    /// What text or number is.
    pub format: Option<Format>,
    /// The least number.
    pub minimum: Option<Bound>,
    /// The greatest number.
    pub maximum: Option<Bound>,
    /// Numbers are a multiple of this.
    pub multiple_of: Option<f64>,
    /// Characters of a text at least.
    pub length_min: Option<u64>,
    /// Characters of a text at most.
    pub length_max: Option<u64>,
    /// Items of a list at least.
    pub items_min: Option<u64>,
    /// Items of a list at most.
    pub items_max: Option<u64>,
    /// Entries of an object at least.
    pub properties_min: Option<u64>,
    /// Entries of an object at most.
    pub properties_max: Option<u64>,
    /// Fields that must be there.
    pub required: Vec<String>,
    /// All of these hold.
    pub all_of: Vec<Node>,
    /// At least one of these holds.
    pub any_of: Vec<Node>,
    /// Exactly one of these holds.
    pub one_of: Vec<Node>,
    /// This does not hold.
    pub not: Option<Box<Node>>,
}
