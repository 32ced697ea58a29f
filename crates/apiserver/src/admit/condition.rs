//! `matchConditions`: expressions that must all be true for a webhook or policy to be about a request. Pure.

use fairway_objects::document::Document;
use fairway_objects::expression::{Expression, Variables as Named};
use serde_json::Value;

/// Conditions, compiled.
#[derive(Debug, Clone)]
pub(super) struct Conditions {
    list: std::sync::Arc<[(String, Result<Expression, String>)]>,
    fails_closed: bool,
}

/// Whether they are met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Met {
    /// All are true.
    Yes,
    /// One is false, or one failed and that does not matter.
    No,
    /// One failed.
    Failed(String),
}

/// The documents of an admission request: `object`, `oldObject`, `request`.
#[derive(Debug, Clone)]
pub(super) struct Variables(pub(super) Named);

impl Variables {
    /// From an admission request as webhooks get it.
    pub(super) fn new(request: &Value) -> Self {
        let mut named = Named::default();
        named.set("object", request.at(&["object"]));
        named.set("oldObject", request.at(&["oldObject"]));
        let mut facts = request.clone();
        facts.take_at(&["object"]);
        facts.take_at(&["oldObject"]);
        named.set("request", &facts);
        Self(named)
    }
}

impl Conditions {
    /// Reads `matchConditions`. `fails_closed`: a condition that fails refuses the request.
    pub(super) fn read(source: &Value, fails_closed: bool) -> Self {
        let compile = |condition: &Value| {
            let expression = Expression::compile(condition.text(&["expression"]));
            (condition.text(&["name"]).to_owned(), expression)
        };
        Self { list: source.list(&["matchConditions"]).iter().map(compile).collect(), fails_closed }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// A condition that is false decides, whatever else fails.
    pub(super) fn met(&self, variables: &Variables) -> Met {
        let mut failure = None;
        for (name, expression) in self.list.iter() {
            let value = match expression {
                Ok(expression) => expression.evaluate(&variables.0).map_err(|error| error.to_string()),
                Err(error) => Err(error.clone()),
            };
            match value {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return Met::No,
                Ok(_) => failure = failure.or_else(|| Some(format!("{name}: the value is no boolean"))),
                Err(error) => failure = failure.or_else(|| Some(format!("{name}: {error}"))),
            }
        }
        match failure {
            None => Met::Yes,
            Some(reason) if self.fails_closed => Met::Failed(reason),
            Some(_) => Met::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_false_condition_decides_and_a_failure_as_the_policy_says() {
        let request = json!({"object": {"a": 1}, "oldObject": null, "operation": "CREATE", "userInfo": {"username": "u"}});
        let met = |expressions: &[&str], fails_closed: bool| {
            let conditions: Vec<Value> =
                expressions.iter().map(|text| json!({"name": "c", "expression": text})).collect();
            Conditions::read(&json!({"matchConditions": conditions}), fails_closed)
                .met(&Variables::new(&request))
        };
        let mine = "request.userInfo.username == 'u' && request.operation == 'CREATE'";
        assert_eq!(met(&[mine, "object.a == 1", "oldObject == null"], true), Met::Yes);
        assert_eq!(met(&["object.b == 1", "false"], true), Met::No);
        assert_eq!(met(&["object.b == 1"], false), Met::No);
        assert_eq!(met(&["object.b == 1"], true), Met::Failed("c: no such key: b".to_owned()));
        assert!(matches!(met(&["object."], true), Met::Failed(_)));
    }
}
