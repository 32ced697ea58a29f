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
    let items = list.items(budget)?.unwrap_or_default();
    let position =
        |found: Option<usize>| Ok(Value::Int(found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)));
    match (name, arguments) {
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
        ("indexOf", [item]) => position(place(item, items.iter().enumerate(), budget)?),
        ("lastIndexOf", [item]) => position(place(item, items.iter().enumerate().rev(), budget)?),
        ("join", []) => join(&items, "", budget),
        ("join", [Value::String(separator)]) => join(&items, separator, budget),
        ("reverse", []) => Ok(Value::list(items.into_iter().rev().collect())),
        ("distinct", []) => {
            let mut out: Vec<Value<'a>> = Vec::new();
            for item in items {
                if !item.is_among(&out, budget)? {
                    out.push(item);
                }
            }
            Ok(Value::list(out))
        }
        ("sort", []) => sort(items),
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
            let mut out = Vec::with_capacity(items.len());
            for item in items {
                match item.items(budget)? {
                    Some(inner) => {
                        budget.spend(inner.len() as u64)?;
                        out.extend(inner);
                    }
                    None => out.push(item),
                }
            }
            Ok(Value::list(out))
        }
        _ => Err(EvalError::no_overload()),
    }
}

/// Where the first of `items` is that is the same.
fn place<'i, 'a: 'i>(
    item: &Value<'a>,
    items: impl Iterator<Item = (usize, &'i Value<'a>)>,
    budget: &mut Budget,
) -> Result<Option<usize>, EvalError> {
    for (at, other) in items {
        if other.equals(item, budget)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Items in their order. They must have one: sorting panics where comparisons contradict each other, as those with NaN or between types do.
fn sort<'a>(items: Vec<Value<'a>>) -> Evaluated<'a> {
    let Some(first) = items.first().cloned() else { return Ok(Value::list(items)) };
    if !items.iter().all(|item| item.type_name() == first.type_name() && item.compare(item).is_some()) {
        return Err(EvalError::no_overload());
    }
    let mut items = items;
    items.sort_by(|a, b| a.compare(b).unwrap_or(Ordering::Equal));
    Ok(Value::list(items))
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

fn join<'a>(items: &[Value<'a>], separator: &str, budget: &mut Budget) -> Evaluated<'a> {
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Value::String(text) => {
                budget.spend((text.len() + separator.len()) as u64 / 10)?;
                texts.push(text.as_ref());
            }
            _ => return Err(EvalError::no_overload()),
        }
    }
    Ok(Value::text(texts.join(separator)))
}

/// `sets.contains`, `sets.equivalent`, `sets.intersects`.
pub(super) fn sets<'a>(name: &str, a: &Value<'a>, b: &Value<'a>, budget: &mut Budget) -> Evaluated<'a> {
    let (Some(a), Some(b)) = (a.items(budget)?, b.items(budget)?) else {
        return Err(EvalError::no_overload());
    };
    let mut has_all = |all: &[Value<'a>], items: &[Value<'a>]| {
        for item in items {
            if !item.is_among(all, budget)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let holds = match name {
        "sets.contains" => has_all(&a, &b)?,
        "sets.equivalent" => has_all(&a, &b)? && has_all(&b, &a)?,
        _ => {
            let mut found = false;
            for item in &b {
                found = found || item.is_among(&a, budget)?;
            }
            found
        }
    };
    Ok(Value::Bool(holds))
}
