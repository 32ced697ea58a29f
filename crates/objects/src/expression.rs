//! Expressions over an admission request: what policies, match conditions and their messages are written in.
//!
//! An expression is compiled once and evaluated over named documents. They have no types here: a field that is not there is an error when
//! it is read, and `has()` says whether it is. What an evaluation may cost is limited.

use std::collections::HashMap;

use base64::Engine as _;
use serde_json::Value;

use crate::cel::{self, Budget, CALL_COST_MAX, Key, Program, Type};

/// Bytes of an expression; longer ones are refused.
const EXPRESSION_BYTES_MAX: usize = 16 << 10;

/// The names that an expression may use.
const NAMES: &[&str] = &["namespaceObject", "object", "oldObject", "params", "request", "variables"];

/// Why an expression has no value for these documents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// Evaluation failed: a field that is not there, an overflow, a wrong type, too much work.
    #[error(transparent)]
    Failed(#[from] cel::EvalError),
    /// The value is of a type that no document has.
    #[error("the value is of type {0}")]
    NoDocument(&'static str),
}

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Expression {
    program: Program,
}

/// The documents that an expression may name.
#[derive(Debug, Clone, Default)]
pub struct Variables(HashMap<&'static str, Value>);

impl Variables {
    /// Gives a document one of the known names; again to replace it. Other names are not there for expressions.
    pub fn set(&mut self, name: &str, value: &Value) {
        if let Some(name) = NAMES.iter().find(|known| **known == name) {
            self.0.insert(name, value.clone());
        }
    }
}

impl Expression {
    /// Compiles.
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(format!(
                "compilation failed: the expression is longer than {EXPRESSION_BYTES_MAX} bytes"
            ));
        }
        let names: Vec<(&str, Type<'_>)> = NAMES.iter().map(|name| (*name, Type::Dyn)).collect();
        let program =
            Program::compile(text, &names).map_err(|error| format!("compilation failed: {error}"))?;
        Ok(Self { program })
    }

    /// The value over these documents.
    pub fn evaluate(&self, variables: &Variables) -> Result<Value, EvaluationError> {
        let named: Vec<(&str, cel::Value<'_>)> =
            variables.0.iter().map(|(name, value)| (*name, cel::Value::json(value, None))).collect();
        to_document(&self.program.evaluate(&named, &mut Budget::new(CALL_COST_MAX))?)
    }
}

fn to_document(value: &cel::Value<'_>) -> Result<Value, EvaluationError> {
    Ok(match value {
        cel::Value::Null | cel::Value::Optional(None) => Value::Null,
        cel::Value::Bool(value) => Value::Bool(*value),
        cel::Value::Int(number) => Value::from(*number),
        cel::Value::Uint(number) => Value::from(*number),
        cel::Value::Double(number) => Value::from(*number),
        cel::Value::String(text) => Value::String(text.to_string()),
        cel::Value::Bytes(bytes) => Value::String(base64::engine::general_purpose::STANDARD.encode(bytes)),
        cel::Value::List(items) => Value::Array(items.iter().map(to_document).collect::<Result<_, _>>()?),
        cel::Value::Map(map) => {
            let mut members = serde_json::Map::new();
            for (key, value) in map.iter() {
                let key = match key {
                    Key::String(text) => text.clone(),
                    Key::Int(number) => number.to_string(),
                    Key::Bool(value) => value.to_string(),
                };
                members.insert(key, to_document(value)?);
            }
            Value::Object(members)
        }
        cel::Value::JsonList(items, _) => Value::Array(items.to_vec()),
        cel::Value::JsonMap(members, _) => Value::Object((*members).clone()),
        cel::Value::Optional(Some(value)) => to_document(value)?,
        cel::Value::Timestamp(time) => Value::String(time.to_string()),
        other => return Err(EvaluationError::NoDocument(other.type_name())),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_read_documents() {
        struct Case {
            text: &'static str,
            want: Result<Value, &'static str>,
        }
        let cases = [
            Case { text: "object.spec.replicas <= 5", want: Ok(json!(true)) },
            Case { text: "object.spec.replicas + 1", want: Ok(json!(4)) },
            Case { text: "has(object.spec.paused) || oldObject == null", want: Ok(json!(true)) },
            Case { text: "object.spec.paused", want: Err("no such key: paused") },
            Case { text: "object.metadata.labels.exists(k, k == 'a/b')", want: Ok(json!(true)) },
            Case { text: "object.metadata.labels['a/b'].startsWith('x')", want: Ok(json!(true)) },
            Case { text: "object.spec.names.map(n, n.upperAscii()).join(',')", want: Ok(json!("A,B")) },
            Case { text: "quantity('1Gi').isGreaterThan(quantity('1Mi'))", want: Ok(json!(true)) },
            Case { text: "matches('v1.6.1', 'v1.[0-5].\\\\d+')", want: Ok(json!(false)) },
            Case { text: "object.spec", want: Ok(json!({"replicas": 3, "names": ["a", "b"]})) },
        ];
        let mut variables = Variables::default();
        variables.set(
            "object",
            &json!({
                "metadata": {"labels": {"a/b": "xy"}}, "spec": {"replicas": 3, "names": ["a", "b"]},
            }),
        );
        variables.set("oldObject", &Value::Null);
        for case in cases {
            let got = Expression::compile(case.text).unwrap().evaluate(&variables);
            let got = got.map_err(|error| error.to_string());
            assert_eq!(got, case.want.map_err(str::to_owned), "{}", case.text);
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        assert!(Expression::compile("object.").is_err());
        assert!(Expression::compile("missing == 1").is_err());
        assert!(Expression::compile(&"1+".repeat(10_000)).is_err());
    }
}
