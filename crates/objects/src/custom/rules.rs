//! `x-kubernetes-validations`: expressions that must hold at their place.
//!
//! They are compiled with the definition and evaluated for what a write changed; a rule that looks at the old value needs one, so it only applies
//! to updates, at places that can be followed from the old object to the new one.

use std::sync::Arc;

use serde_json::{Value, json};

use super::check::{Past, field};
use super::structural::{ListType, Node};
use crate::cel::{self, Budget, EvalError, Program, Type};
use crate::document::{Document, Object};
use crate::field::{FieldError, FieldErrorKind, Path};

/// Characters of a message that an expression makes.
const MESSAGE_LEN_MAX: usize = 5 << 10;
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// One expression that must hold at its place.
#[derive(Debug, Clone)]
pub struct Rule {
    text: String,
    message: String,
    message_text: String,
    reason: FieldErrorKind,
    field_path: Vec<PathStep>,
    field_path_text: String,
    optional_old: bool,
    is_transition: bool,
    program: Arc<Program>,
    message_program: Option<Arc<Program>>,
}

#[derive(Debug, Clone)]
enum PathStep {
    Field(String),
    Key(String),
}

impl Rule {
    /// Reads and compiles a rule of a place.
    pub fn parse(rule: &Value, path: &Path<'_>, node: &Node, errors: &mut Vec<FieldError>) -> Option<Rule> {
        let before = errors.len();
        let text = rule.text(&["rule"]);
        if text.trim().is_empty() {
            errors.push(FieldError::required(&path.field("rule"), "rule is not specified"));
        }
        texts(rule, path, errors);
        let reason = reason(rule.text(&["reason"]), path, errors);
        let field_path_text = rule.text(&["fieldPath"]);
        let field_path = parse_field_path(field_path_text, node);
        if let Err(why) = &field_path {
            let why = format!("fieldPath must be a valid path: {why}");
            errors.push(FieldError::invalid(&path.field("fieldPath"), field_path_text, &why));
        }
        if errors.len() > before {
            return None;
        }
        let optional_old = rule.is_true(&["optionalOldSelf"]);
        // `self` of the root also has the type and the name, as that of an embedded object has.
        let place = Type::object(node);
        let old = if optional_old { Type::Dyn } else { place };
        let variables = [("self", place), ("oldSelf", old)];
        let mut compile = |name: &str, text: &str, condition: bool| {
            let compiled = match condition {
                true => Program::compile_condition(text, &variables),
                false => Program::compile_text(text, &variables),
            };
            let failed =
                |error| FieldError::invalid(&path.field(name), text, &format!("compilation failed: {error}"));
            compiled.map(Arc::new).map_err(|error| errors.push(failed(error))).ok()
        };
        let message_text = rule.text(&["messageExpression"]);
        let program = compile("rule", text, true)?;
        let message_program = match message_text {
            "" => None,
            text => Some(compile("messageExpression", text, false)?),
        };
        let is_transition = program.mentions("oldSelf");
        if optional_old && !is_transition {
            let why = "may not be set if oldSelf is not used in rule";
            errors.push(FieldError::invalid(&path.field("optionalOldSelf"), true, why));
            return None;
        }
        Some(Rule {
            text: text.trim().to_owned(),
            message: rule.text(&["message"]).trim().to_owned(),
            message_text: message_text.to_owned(),
            reason,
            field_path: field_path.unwrap_or_default(),
            field_path_text: field_path_text.to_owned(),
            optional_old,
            is_transition,
            program,
            message_program,
        })
    }

    /// The rule as it was written.
    pub fn to_value(&self) -> Value {
        let mut out = json!({"rule": self.text});
        let texts = [
            ("message", &self.message),
            ("messageExpression", &self.message_text),
            ("fieldPath", &self.field_path_text),
        ];
        for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            out.put(&[name], text.as_str());
        }
        if self.reason != FieldErrorKind::Invalid {
            out.put(&["reason"], self.reason.reason());
        }
        if self.optional_old {
            out.put(&["optionalOldSelf"], true);
        }
        out
    }

    fn to_error(
        &self,
        path: &Path<'_>,
        variables: &[(&str, cel::Value<'_>)],
        budget: &mut Budget,
    ) -> FieldError {
        let made = self.message_program.as_ref().and_then(|program| {
            let variables: Vec<(&str, cel::Value<'_>)> = variables.to_vec();
            match program.evaluate(&variables, budget) {
                Ok(cel::Value::String(text)) => usable(&text),
                _ => None,
            }
        });
        let message = made.unwrap_or_else(|| self.stated());
        let mut error = FieldError::invalid_unshown(path, &message);
        match self.reason {
            FieldErrorKind::Required => error = FieldError::required(path, &message),
            FieldErrorKind::Forbidden => error = FieldError::forbidden(path, &message),
            FieldErrorKind::Duplicate => error.message = format!("Duplicate value: {message}"),
            _ => {}
        }
        error.kind = self.reason;
        error.field.push_str(&self.suffix(error.field.is_empty()));
        error
    }

    /// Where below its place the rule says the fault is.
    fn suffix(&self, at_root: bool) -> String {
        let mut out = String::new();
        for step in &self.field_path {
            match step {
                PathStep::Field(name) if at_root && out.is_empty() => out.push_str(name),
                PathStep::Field(name) => out.push_str(&format!(".{name}")),
                PathStep::Key(key) => out.push_str(&format!("[{key}]")),
            }
        }
        out
    }

    fn stated(&self) -> String {
        match self.message.as_str() {
            "" => format!("failed rule: {}", self.text),
            message => message.to_owned(),
        }
    }
}

/// A message that may be shown; the stated one is shown instead of others.
fn usable(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && !text.contains('\n') && text.len() <= MESSAGE_LEN_MAX).then(|| text.to_owned())
}

fn texts(rule: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let message = rule.text(&["message"]);
    if rule.has(&["message"]) && message.trim().is_empty() && !message.is_empty() {
        let why = "message must be non-empty if specified";
        errors.push(FieldError::invalid(&path.field("message"), message, why));
    } else if message.trim().contains('\n') {
        let why = "message must not contain line breaks";
        errors.push(FieldError::invalid(&path.field("message"), message, why));
    } else if message.is_empty() && rule.text(&["rule"]).trim().contains('\n') {
        let why = "message must be specified if rule contains line breaks";
        errors.push(FieldError::required(&path.field("message"), why));
    }
    let expression = rule.text(&["messageExpression"]);
    if !expression.is_empty() && expression.trim().is_empty() {
        let why = "must be non-empty if specified";
        errors.push(FieldError::required(&path.field("messageExpression"), why));
    }
}

fn reason(text: &str, path: &Path<'_>, errors: &mut Vec<FieldError>) -> FieldErrorKind {
    match text {
        "" | "FieldValueInvalid" => FieldErrorKind::Invalid,
        "FieldValueForbidden" => FieldErrorKind::Forbidden,
        "FieldValueRequired" => FieldErrorKind::Required,
        "FieldValueDuplicate" => FieldErrorKind::Duplicate,
        other => {
            let known =
                ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
            errors.push(FieldError::not_supported(&path.field("reason"), other, &known));
            FieldErrorKind::Invalid
        }
    }
}

/// `.a.b['c']`, along the schema.
fn parse_field_path(text: &str, node: &Node) -> Result<Vec<PathStep>, String> {
    let (mut steps, mut rest, mut node) = (Vec::new(), text, node);
    while !rest.is_empty() {
        let (name, is_key, after) = if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (name, after) = after.split_at_checked(end).ok_or("unexpected end")?;
            (name, false, after)
        } else {
            let inner = rest.strip_prefix("['").ok_or_else(|| format!("expected [ or . but got: {rest}"))?;
            let (name, after) = inner.split_once("']").ok_or("unexpected end of JSON path")?;
            (name, true, after)
        };
        let child = node.child(name).ok_or_else(|| format!("does not refer to a valid field: {name}"))?;
        let of_map = node.properties.is_empty();
        steps.push(if is_key && of_map {
            PathStep::Key(name.to_owned())
        } else {
            PathStep::Field(name.to_owned())
        });
        (node, rest) = (child, after);
    }
    Ok(steps)
}

/// What does not hold in an object; `old` is what it replaces. Ends when the budget does.
pub fn check(tree: &Node, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut run = Run { errors: Vec::new(), budget: Budget::new(cel::OBJECT_COST_MAX), over: false };
    run.node(tree, object, old, &Path::ROOT);
    run.errors
}

struct Run {
    errors: Vec<FieldError>,
    budget: Budget,
    over: bool,
}

impl Run {
    fn node(&mut self, node: &Node, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        if self.over || !node.has_rules || value.is_null() {
            return;
        }
        let unchanged = old == Some(value);
        for rule in &node.rules {
            if !self.over && (!unchanged || rule.is_transition) {
                self.rule(rule, node, value, old, path);
            }
        }
        match value {
            Value::Object(entries) => self.entries(node, entries, old, path),
            Value::Array(items) => {
                let Some(child) = node.items.as_deref() else { return };
                let past = Past::new(&node.list, old);
                for (index, item) in items.iter().enumerate() {
                    // A list without keys is replaced as a whole: its items have no past, but equal items are nothing new.
                    let before = match (&node.list, unchanged) {
                        (ListType::Map(_), _) => past.of(&node.list, item),
                        (_, true) => continue,
                        _ => None,
                    };
                    self.node(child, item, before, &path.index(index));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn entries(&mut self, node: &Node, entries: &Object, old: Option<&Value>, path: &Path<'_>) {
        for (name, value) in entries {
            let Some(child) = node.child(name) else { continue };
            let old = field(old, name);
            if node.properties.contains_key(name) {
                self.node(child, value, old, &path.field(name));
            } else {
                self.node(child, value, old, &path.key(name));
            }
        }
    }

    fn rule(&mut self, rule: &Rule, node: &Node, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        let this = cel::Value::json(value, Some(node));
        let before = old.filter(|old| !old.is_null()).map(|old| cel::Value::json(old, Some(node)));
        let before = match (rule.optional_old, before) {
            (true, before) => cel::Value::Optional(before.map(std::rc::Rc::new)),
            (false, Some(before)) => before,
            (false, None) if rule.is_transition => return,
            (false, None) => cel::Value::Null,
        };
        let variables = [("self", this), ("oldSelf", before)];
        match rule.program.evaluate(&variables, &mut self.budget) {
            Ok(cel::Value::Bool(true)) => {}
            Ok(_) => {
                let error = rule.to_error(path, &variables, &mut self.budget);
                self.errors.push(error);
            }
            Err(EvalError::TooExpensive) if self.budget.left() == 0 => {
                self.errors.push(FieldError::invalid_unshown(path, OUT_OF_BUDGET));
                self.over = true;
            }
            Err(error) => {
                let what = format!("{error} evaluating rule: {}", rule.stated());
                self.errors.push(FieldError::invalid_unshown(path, &what));
            }
        }
    }
}
