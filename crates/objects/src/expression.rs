//! Expressions of the Common Expression Language over documents: what admission policies and match conditions are written in.
//!
//! An expression is compiled once and evaluated over named documents, with the functions that Kubernetes adds. Documents have no types
//! here: a field that is not there is an error when it is read, and `has()` says whether it is.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use kube_cel::KubeCelExt;
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::{Context, Program, Value as Cel};
use serde_json::Value;

/// Bytes of an expression; longer ones are refused, because parsing goes as deep as they nest.
const EXPRESSION_BYTES_MAX: usize = 16 << 10;

/// Why a text is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The text cannot be parsed.
    #[error("compilation failed: {0}")]
    Syntax(String),
    /// The text is too long.
    #[error("compilation failed: the expression is longer than {EXPRESSION_BYTES_MAX} bytes")]
    TooLong,
}

/// Why an expression has no value for these documents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// Evaluation failed: a field that is not there, an overflow, a wrong type.
    #[error("{0}")]
    Failed(String),
    /// The value is of a type that no document has.
    #[error("the value is of type {0}")]
    NoDocument(String),
}

/// A compiled expression.
pub struct Expression {
    program: Program,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Expression")
    }
}

/// The documents that an expression may name.
#[derive(Debug, Clone, Default)]
pub struct Variables(HashMap<String, Cel>);

impl Variables {
    /// Gives a document a name; again to replace it.
    pub fn set(&mut self, name: &str, value: &Value) {
        self.0.insert(name.to_owned(), to_cel(value));
    }
}

impl Expression {
    /// Compiles.
    pub fn compile(text: &str) -> Result<Self, CompileError> {
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(CompileError::TooLong);
        }
        let program = Program::compile(text).map_err(|error| CompileError::Syntax(error.to_string()))?;
        Ok(Self { program })
    }

    /// The value over these documents.
    pub fn evaluate(&self, variables: &Variables) -> Result<Value, EvaluationError> {
        let mut context = Context::default();
        context.register_all();
        for (name, value) in &variables.0 {
            context.add_variable_from_value(name.as_str(), value.clone());
        }
        let value = self.program.execute(&context);
        to_document(&value.map_err(|error| EvaluationError::Failed(describe(&error)))?)
    }
}

/// The words of Kubernetes for what goes wrong most.
fn describe(error: &kube_cel::cel::ExecutionError) -> String {
    use kube_cel::cel::ExecutionError;
    match error {
        ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        ExecutionError::NoSuchOverload => "no such overload".to_owned(),
        ExecutionError::UndeclaredReference(name) => format!("undeclared reference to '{name}'"),
        other => other.to_string(),
    }
}

fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Cel::Int(number),
            (None, Some(number)) => Cel::UInt(number),
            (None, None) => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(members) => {
            let members =
                members.iter().map(|(name, value)| (Key::String(Arc::new(name.clone())), to_cel(value)));
            Cel::Map(Map { map: Arc::new(members.collect()) })
        }
    }
}

fn to_document(value: &Cel) -> Result<Value, EvaluationError> {
    Ok(match value {
        Cel::Null => Value::Null,
        Cel::Bool(value) => Value::Bool(*value),
        Cel::Int(number) => Value::from(*number),
        Cel::UInt(number) => Value::from(*number),
        Cel::Float(number) => Value::from(*number),
        Cel::String(text) => Value::String(text.to_string()),
        Cel::Bytes(bytes) => {
            Value::String(base64::engine::general_purpose::STANDARD.encode(bytes.as_slice()))
        }
        Cel::List(items) => Value::Array(items.iter().map(to_document).collect::<Result<_, _>>()?),
        Cel::Map(map) => {
            let mut members = serde_json::Map::new();
            for (key, value) in map.map.iter() {
                let key = match key {
                    Key::String(text) => text.to_string(),
                    Key::Int(number) => number.to_string(),
                    Key::Uint(number) => number.to_string(),
                    Key::Bool(value) => value.to_string(),
                };
                members.insert(key, to_document(value)?);
            }
            Value::Object(members)
        }
        Cel::Timestamp(time) => Value::String(time.to_rfc3339()),
        Cel::Duration(duration) => Value::String(format!("{}s", duration.num_seconds())),
        other => return Err(EvaluationError::NoDocument(other.type_of().to_string())),
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
            Case { text: "missing == 1", want: Err("undeclared reference to 'missing'") },
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
        assert!(Expression::compile(&"1+".repeat(10_000)).is_err());
    }
}
