//! Evaluation, within a budget.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::ast::{Expr, ExprKind, Literal, Loop, LoopKind, Operator};
use super::library;
use super::value::Value;
use super::{Budget, EvalError};

/// Nesting of expressions and bodies of comprehensions at most.
const DEPTH_MAX: usize = 128;

type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// Names and what they stand for, the innermost first.
#[derive(Clone, Copy)]
pub(super) struct Scope<'s, 'a> {
    pub(super) name: &'s str,
    pub(super) value: &'s Value<'a>,
    pub(super) outer: Option<&'s Scope<'s, 'a>>,
}

impl<'a> Scope<'_, 'a> {
    fn find(&self, name: &str) -> Option<&Value<'a>> {
        let mut scope = Some(self);
        while let Some(this) = scope {
            if this.name == name {
                return Some(this.value);
            }
            scope = this.outer;
        }
        None
    }
}

/// Evaluates expressions of one program.
pub(super) struct Evaluator<'v, 'a, 'b> {
    pub(super) variables: &'v [(&'v str, Value<'a>)],
    pub(super) budget: &'b mut Budget,
    pub(super) depth: usize,
}

impl<'a> Evaluator<'_, 'a, '_> {
    pub(super) fn evaluate(&mut self, expr: &'a Expr, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        self.budget.spend(1)?;
        if self.depth == DEPTH_MAX {
            return Err(EvalError::TooDeep);
        }
        self.depth += 1;
        let value = self.expr(expr, scope);
        self.depth -= 1;
        if let Ok(value) = &value {
            self.budget.spend(value.copied_cost())?;
        }
        value
    }

    fn expr(&mut self, expr: &'a Expr, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        match &expr.kind {
            ExprKind::Literal(literal) => Ok(constant(literal)),
            ExprKind::Name(name) => self.name(name, scope),
            ExprKind::Select { operand, field, optional } => {
                let operand = self.evaluate(operand, scope)?;
                select(&operand, field, *optional)
            }
            ExprKind::Has { operand, field } => {
                let operand = self.evaluate(operand, scope)?;
                has(&operand, field)
            }
            ExprKind::Index { operand, index, optional } => {
                let operand = self.evaluate(operand, scope)?;
                let index = self.evaluate(index, scope)?;
                library::index(&operand, &index, *optional)
            }
            ExprKind::Call { function, target, arguments } => {
                self.call(function, target.as_deref(), arguments, scope)
            }
            ExprKind::Matches { operand, pattern } => match self.evaluate(operand, scope)? {
                Value::String(text) => {
                    self.budget
                        .spend((text.len() as u64 / 10 + 1) * (pattern.text().len() as u64 / 4 + 1))?;
                    Ok(Value::Bool(pattern.matches(&text)))
                }
                _ => Err(EvalError::no_overload()),
            },
            ExprKind::List(items) => self.list(items, scope),
            ExprKind::Map(entries) => self.map(entries, scope),
            ExprKind::Not(operand) => match self.evaluate(operand, scope)? {
                Value::Bool(value) => Ok(Value::Bool(!value)),
                _ => Err(EvalError::no_overload()),
            },
            ExprKind::Negate(operand) => match self.evaluate(operand, scope)? {
                Value::Int(number) => number.checked_neg().map(Value::Int).ok_or_else(EvalError::overflow),
                Value::Double(number) => Ok(Value::Double(-number)),
                Value::Duration(ns) => ns.checked_neg().map(Value::Duration).ok_or_else(EvalError::overflow),
                _ => Err(EvalError::no_overload()),
            },
            ExprKind::Binary { operator, left, right } => self.binary(*operator, left, right, scope),
            ExprKind::Choice { condition, yes, no } => match self.evaluate(condition, scope)? {
                Value::Bool(true) => self.evaluate(yes, scope),
                Value::Bool(false) => self.evaluate(no, scope),
                _ => Err(EvalError::no_overload()),
            },
            ExprKind::Loop(all) => self.comprehension(all, scope),
            ExprKind::Bind { name, value, body } => {
                let value = self.evaluate(value, scope)?;
                self.evaluate(body, Some(&Scope { name, value: &value, outer: scope }))
            }
            ExprKind::OptMap { operand, name, body, flat } => self.opt_map(operand, name, body, *flat, scope),
        }
    }

    fn name(&self, name: &str, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let known = scope.and_then(|scope| scope.find(name));
        let known =
            known.or_else(|| self.variables.iter().find(|(other, _)| *other == name).map(|(_, value)| value));
        match known {
            Some(value) => Ok(value.clone()),
            None => library::type_named(name)
                .map(Value::Type)
                .ok_or_else(|| EvalError::Failed(format!("undeclared reference to '{name}'"))),
        }
    }

    fn call(
        &mut self,
        function: &str,
        target: Option<&'a Expr>,
        arguments: &'a [Expr],
        scope: Option<&Scope<'_, 'a>>,
    ) -> Evaluated<'a> {
        // `format.dns1123Label()`: a namespace is no value.
        let namespace = match target.map(|target| &target.kind) {
            Some(ExprKind::Name(name)) if library::is_namespace(name) && self.name(name, scope).is_err() => {
                Some(name.as_str())
            }
            _ => None,
        };
        let mut values = Vec::with_capacity(arguments.len() + 1);
        if let (Some(target), None) = (target, namespace) {
            values.push(self.evaluate(target, scope)?);
        }
        if let (Some(Value::Optional(first)), "or" | "orValue") = (values.first(), function) {
            return match (first, arguments) {
                (Some(value), _) if function == "orValue" => Ok((**value).clone()),
                (Some(value), _) => Ok(Value::Optional(Some(Rc::clone(value)))),
                (None, [other]) => self.evaluate(other, scope),
                (None, _) => Err(EvalError::no_overload()),
            };
        }
        for argument in arguments {
            values.push(self.evaluate(argument, scope)?);
        }
        match (namespace, target) {
            (Some(namespace), _) => {
                library::function(&format!("{namespace}.{function}"), &values, self.budget)
            }
            (None, Some(_)) => library::method(function, &values, self.budget),
            (None, None) => library::function(function, &values, self.budget),
        }
    }

    fn list(&mut self, items: &'a [(Expr, bool)], scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let mut out = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match (self.evaluate(item, scope)?, optional) {
                (Value::Optional(value), true) => out.extend(value.map(|value| (*value).clone())),
                (_, true) => return Err(EvalError::no_overload()),
                (value, false) => out.push(value),
            }
        }
        Ok(Value::list(out))
    }

    fn map(&mut self, entries: &'a [(Expr, Expr, bool)], scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let mut out = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.evaluate(key, scope)?;
            let key = key.key().ok_or_else(|| EvalError::Failed("unsupported key type".to_owned()))?;
            let value = match (self.evaluate(value, scope)?, optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(value)), true) => (*value).clone(),
                (_, true) => return Err(EvalError::no_overload()),
                (value, false) => value,
            };
            if out.insert(key, value).is_some() {
                return Err(EvalError::Failed("Failed with repeated key".to_owned()));
            }
        }
        Ok(Value::Map(Rc::new(out)))
    }

    fn binary(
        &mut self,
        operator: Operator,
        left: &'a Expr,
        right: &'a Expr,
        scope: Option<&Scope<'_, 'a>>,
    ) -> Evaluated<'a> {
        let deciding = match operator {
            Operator::Or => Some(true),
            Operator::And => Some(false),
            _ => None,
        };
        let Some(deciding) = deciding else {
            let left = self.evaluate(left, scope)?;
            let right = self.evaluate(right, scope)?;
            return library::binary(operator, &left, &right, self.budget);
        };
        // An error of one side does not matter when the other decides.
        let left = self.truth(left, scope);
        if matches!(&left, Ok(value) if *value == deciding) || matches!(&left, Err(error) if error.is_final())
        {
            return left.map(Value::Bool);
        }
        match (left, self.truth(right, scope)) {
            (_, Ok(right)) if right == deciding => Ok(Value::Bool(deciding)),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(_), Ok(_)) => Ok(Value::Bool(!deciding)),
        }
    }

    fn truth(&mut self, expr: &'a Expr, scope: Option<&Scope<'_, 'a>>) -> Result<bool, EvalError> {
        match self.evaluate(expr, scope)? {
            Value::Bool(value) => Ok(value),
            _ => Err(EvalError::no_overload()),
        }
    }

    fn opt_map(
        &mut self,
        operand: &'a Expr,
        name: &'a str,
        body: &'a Expr,
        flat: bool,
        scope: Option<&Scope<'_, 'a>>,
    ) -> Evaluated<'a> {
        match self.evaluate(operand, scope)? {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(value)) => {
                let made = self.evaluate(body, Some(&Scope { name, value: &value, outer: scope }))?;
                Ok(if flat { made } else { Value::Optional(Some(Rc::new(made))) })
            }
            _ => Err(EvalError::no_overload()),
        }
    }

    fn comprehension(&mut self, all: &'a Loop, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let range = self.evaluate(&all.range, scope)?;
        let items = range.items(self.budget)?;
        let over_list = items.is_some();
        let pairs: Vec<(Value<'a>, Value<'a>)> = match (items, range.keys()) {
            (Some(items), _) => {
                let index = |index: usize| Value::Int(i64::try_from(index).unwrap_or(i64::MAX));
                items.into_iter().enumerate().map(|(at, item)| (index(at), item)).collect()
            }
            (None, Some(keys)) => {
                keys.into_iter().filter_map(|key| range.entry(&key).map(|value| (key, value))).collect()
            }
            (None, None) => return Err(EvalError::no_overload()),
        };
        let mut outcome = Outcome::new(all.kind);
        for (key, item) in pairs {
            self.budget.spend(1)?;
            let (first, second) = match (&all.second, over_list) {
                (Some(_), _) | (None, false) => (&key, Some(&item)),
                (None, true) => (&item, None),
            };
            let outer =
                all.second.as_deref().zip(second).map(|(name, value)| Scope { name, value, outer: scope });
            let scope = Scope { name: &all.name, value: first, outer: outer.as_ref().or(scope) };
            if let Some(filter) = &all.filter
                && !self.truth(filter, Some(&scope))?
            {
                continue;
            }
            let decided = match all.kind {
                LoopKind::All | LoopKind::Exists => {
                    let truth = self.truth(&all.body, Some(&scope));
                    outcome.decide(all.kind, truth)?
                }
                LoopKind::ExistsOne => {
                    outcome.count += usize::from(self.truth(&all.body, Some(&scope))?);
                    false
                }
                LoopKind::Filter => {
                    if self.truth(&all.body, Some(&scope))? {
                        outcome.items.push(first.clone());
                    }
                    false
                }
                LoopKind::List => {
                    outcome.items.push(self.evaluate(&all.body, Some(&scope))?);
                    false
                }
                LoopKind::Map => {
                    let value = self.evaluate(&all.body, Some(&scope))?;
                    outcome.entries.extend(key.key().map(|key| (key, value)));
                    false
                }
            };
            if decided {
                break;
            }
        }
        outcome.finish(all.kind)
    }
}

/// What a comprehension has so far.
struct Outcome<'a> {
    truth: bool,
    error: Option<EvalError>,
    count: usize,
    items: Vec<Value<'a>>,
    entries: BTreeMap<super::value::Key, Value<'a>>,
}

impl<'a> Outcome<'a> {
    fn new(kind: LoopKind) -> Self {
        Self {
            truth: kind == LoopKind::All,
            error: None,
            count: 0,
            items: Vec::new(),
            entries: BTreeMap::new(),
        }
    }

    /// Takes one truth value of `all` or `exists`; whether that decides. An error counts only if nothing else decides.
    fn decide(&mut self, kind: LoopKind, truth: Result<bool, EvalError>) -> Result<bool, EvalError> {
        match truth {
            Ok(truth) if truth != (kind == LoopKind::All) => {
                (self.truth, self.error) = (truth, None);
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) if error.is_final() => Err(error),
            Err(error) => {
                self.error.get_or_insert(error);
                Ok(false)
            }
        }
    }

    fn finish(self, kind: LoopKind) -> Evaluated<'a> {
        match (kind, self.error) {
            (_, Some(error)) => Err(error),
            (LoopKind::All | LoopKind::Exists, None) => Ok(Value::Bool(self.truth)),
            (LoopKind::ExistsOne, None) => Ok(Value::Bool(self.count == 1)),
            (LoopKind::Filter | LoopKind::List, None) => Ok(Value::list(self.items)),
            (LoopKind::Map, None) => Ok(Value::Map(Rc::new(self.entries))),
        }
    }
}

fn constant(literal: &Literal) -> Value<'_> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(number) => Value::Int(*number),
        Literal::Uint(number) => Value::Uint(*number),
        Literal::Double(number) => Value::Double(*number),
        Literal::String(text) => Value::String(text.as_str().into()),
        Literal::Bytes(bytes) => Value::Bytes(bytes.as_slice().into()),
    }
}

fn select<'a>(operand: &Value<'a>, field: &str, optional: bool) -> Evaluated<'a> {
    let wrap = |value: Option<Value<'a>>| Value::Optional(value.map(Rc::new));
    match operand {
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(value)) => Ok(wrap(value.field(field))),
        Value::Map(_) | Value::JsonMap(..) if optional => Ok(wrap(operand.field(field))),
        Value::Map(_) | Value::JsonMap(..) => {
            operand.field(field).ok_or_else(|| EvalError::Failed(format!("no such key: {field}")))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn has<'a>(operand: &Value<'a>, field: &str) -> Evaluated<'a> {
    match operand {
        Value::Map(_) | Value::JsonMap(..) => Ok(Value::Bool(operand.field(field).is_some())),
        Value::Optional(value) => {
            Ok(Value::Bool(value.as_ref().is_some_and(|value| value.field(field).is_some())))
        }
        _ => Err(EvalError::no_overload()),
    }
}
