//! Expressions of a schema.

use serde_json::{Value, json};

use super::structural::Node;
use crate::document::Document;
use crate::field::{FieldError, Path};

/// One expression that must hold at its place.
#[derive(Debug, Clone)]
pub struct Rule {
    text: String,
}

impl Rule {
    /// Reads a rule of a place.
    pub fn parse(
        rule: &Value,
        _path: &Path<'_>,
        _node: &Node,
        _errors: &mut Vec<FieldError>,
    ) -> Option<Rule> {
        Some(Rule { text: rule.text(&["rule"]).to_owned() })
    }

    /// The rule as it was written.
    pub fn to_value(&self) -> Value {
        json!({"rule": self.text})
    }
}

/// What does not hold.
pub fn check(_tree: &Node, _object: &Value, _old: Option<&Value>) -> Vec<FieldError> {
    Vec::new()
}
