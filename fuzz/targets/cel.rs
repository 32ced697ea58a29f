//! Expressions of strangers, compiled against a schema and evaluated over a document of it: they end, within their budget, with the same value
//! each time, and of the type that was told beforehand.
#![no_main]

use std::sync::LazyLock;

use fairway_fuzz::split;
use fairway_objects::cel::{Budget, CALL_COST_MAX, EvalError, Program, Type, Value};
use fairway_objects::custom::check;
use fairway_objects::custom::structural::{self, Node};
use fairway_objects::field::Path;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value as Json, json};

static SCHEMA: LazyLock<Node> = LazyLock::new(|| {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "integer"}, "f": {"type": "number"}, "s": {"type": "string"}, "t": {"type": "boolean"},
        "list": {"type": "array", "items": {"type": "integer"}},
        "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {
            "type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}}},
        "when": {"type": "string", "format": "date-time"}, "long": {"type": "string", "format": "duration"},
        "bytes": {"type": "string", "format": "byte"},
        "either": {"x-kubernetes-int-or-string": true}, "name-space": {"type": "string"},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }});
    let mut errors = Vec::new();
    let node = structural::parse(&schema, &Path::new("schema"), &mut errors);
    assert_eq!(errors, []);
    node
});

static DOCUMENT: LazyLock<Json> = LazyLock::new(|| {
    json!({
        "a": 1, "f": 1.5, "s": "hello", "t": true, "list": [3, 1, 2], "set": ["a", "b"], "map": {"x": 1, "y z": 2},
        "items": [{"name": "a", "port": 80}, {"name": "b"}], "when": "2026-01-02T03:04:05Z", "long": "90s",
        "bytes": "aGk=", "either": "25%", "name-space": "n", "any": {"b": [1, 2.5, {"c": null}]},
    })
});

/// The type of the value, and what is left of the budget.
fn evaluate(program: &Program, this: &Json, node: Option<&Node>) -> (Result<&'static str, EvalError>, u64) {
    let variables = [("self", Value::json(this, node))];
    let mut budget = Budget::new(CALL_COST_MAX);
    let value = program.evaluate(&variables, &mut budget);
    (value.map(|value| value.type_name()), budget.left())
}

// An expression; then, if there is a zero byte, a document.
fuzz_target!(|input: &[u8]| {
    let (source, document) = split(input);
    let Ok(source) = std::str::from_utf8(source) else { return };
    let given = serde_json::from_slice(document).ok();
    let given = given.filter(|given| check::value(&SCHEMA, given, None, &Path::ROOT).is_empty());
    let this = given.as_ref().unwrap_or(&DOCUMENT);

    match Program::compile(source, &[("self", Type::Dyn)]) {
        Ok(program) => assert_eq!(evaluate(&program, this, None), evaluate(&program, this, None)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let variables = [("self", Type::of(&SCHEMA))];
    let condition = Program::compile_condition(source, &variables);
    let text = Program::compile_text(source, &variables);
    let (program, told) = match (&condition, &text) {
        (Ok(program), Ok(_)) => (program, None),
        (Ok(program), Err(_)) => (program, Some("bool")),
        (Err(_), Ok(program)) => (program, Some("string")),
        (Err(_), Err(_)) => return,
    };
    if let (Ok(came), _) = evaluate(program, this, Some(&SCHEMA)) {
        assert!(told.is_none_or(|told| told == came), "{told:?} was told, {came} came: {source}");
    }
});
