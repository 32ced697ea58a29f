//! Functions of lists and sets.

use std::cmp::Ordering;

use super::{Budget, EvalError, Evaluated, arithmetic, to_index};
use crate::cel::ast::Operator;
use crate::cel::value::Value;

/// A function on a list.
pub(super) fn method<'a>(
    name: &str,
    list: &Value<'a>,
    arguments: &[Value<'a>],
    budget: &mut Budget,
) -> Evaluated<'a> {
    let items = list.items().unwrap_or_default();
    let position =
        |found: Option<usize>| Ok(Value::Int(found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)));
    let mut spent = 0;
    let result = match (name, arguments) {
        ("isSorted", []) => {
            let sorted = items.windows(2).all(|pair| match pair {
                [a, b] => a.compare(b).is_some_and(|order| order != Ordering::Greater),
                _ => true,
            });
            Ok(Value::Bool(sorted))
        }
        ("sum", []) => sum(&items),
        ("min", []) => extreme(items, Ordering::Less, "min"),
        ("max", []) => extreme(items, Ordering::Greater, "max"),
        ("indexOf", [item]) => position(items.iter().position(|other| other.equals(item, &mut spent))),
        ("lastIndexOf", [item]) => position(items.iter().rposition(|other| other.equals(item, &mut spent))),
        ("join", []) => join(&items, ""),
        ("join", [Value::String(separator)]) => join(&items, separator),
        ("reverse", []) => Ok(Value::list(items.into_iter().rev().collect())),
        ("distinct", []) => {
            let mut out: Vec<Value<'a>> = Vec::new();
            for item in items {
                if !out.iter().any(|other| other.equals(&item, &mut spent)) {
                    out.push(item);
                }
                budget.spend(std::mem::take(&mut spent))?;
            }
            Ok(Value::list(out))
        }
        ("sort", []) => {
            let mut items = items;
            items.sort_by(|a, b| a.compare(b).unwrap_or(Ordering::Equal));
            Ok(Value::list(items))
        }
        ("slice", [from, to]) => {
            let (from, to) = (to_index(Some(from)), to_index(Some(to)));
            let range = from.zip(to).and_then(|(from, to)| {
                items.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?).map(<[_]>::to_vec)
            });
            range
                .map(Value::list)
                .ok_or_else(|| EvalError::Failed("cannot slice, index out of bounds".to_owned()))
        }
        ("flatten", []) => {
            let one = |item: Value<'a>| item.items().unwrap_or_else(|| vec![item]);
            Ok(Value::list(items.into_iter().flat_map(one).collect()))
        }
        _ => Err(EvalError::no_overload()),
    };
    budget.spend(spent)?;
    result
}

fn sum<'a>(items: &[Value<'a>]) -> Evaluated<'a> {
    let Some((first, rest)) = items.split_first() else { return Ok(Value::Int(0)) };
    rest.iter().try_fold(first.clone(), |sum, item| match (&sum, item) {
        (Value::Duration(_), _) => super::times::add(&sum, item),
        _ => arithmetic(Operator::Add, &sum, item),
    })
}

fn extreme<'a>(items: Vec<Value<'a>>, wanted: Ordering, name: &str) -> Evaluated<'a> {
    let mut items = items.into_iter();
    let first = items.next();
    let first = first.ok_or_else(|| EvalError::Failed(format!("{name} called on empty list")))?;
    items.try_fold(first, |best, item| match item.compare(&best) {
        Some(order) if order == wanted => Ok(item),
        Some(_) => Ok(best),
        None => Err(EvalError::no_overload()),
    })
}

fn join<'a>(items: &[Value<'a>], separator: &str) -> Evaluated<'a> {
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Value::String(text) => texts.push(text.as_ref()),
            _ => return Err(EvalError::no_overload()),
        }
    }
    Ok(Value::text(texts.join(separator)))
}

/// `sets.contains`, `sets.equivalent`, `sets.intersects`.
pub(super) fn sets<'a>(name: &str, a: &Value<'a>, b: &Value<'a>, budget: &mut Budget) -> Evaluated<'a> {
    let (Some(a), Some(b)) = (a.items(), b.items()) else { return Err(EvalError::no_overload()) };
    let mut spent = 0;
    let mut has =
        |all: &[Value<'a>], item: &Value<'a>| all.iter().any(|other| other.equals(item, &mut spent));
    let holds = match name {
        "sets.contains" => b.iter().all(|item| has(&a, item)),
        "sets.equivalent" => b.iter().all(|item| has(&a, item)) && a.iter().all(|item| has(&b, item)),
        _ => b.iter().any(|item| has(&a, item)),
    };
    budget.spend(spent)?;
    Ok(Value::Bool(holds))
}
