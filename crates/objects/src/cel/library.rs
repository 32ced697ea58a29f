//! Operators, indexing, and the functions: the standard ones and those of Kubernetes.

use std::rc::Rc;

use super::ast::Operator;
use super::value::Value;
use super::{Budget, EvalError};

mod convert;
mod lists;
mod net;
mod strings;
mod times;
mod versions;

pub use net::Url;
pub use versions::Semver;

type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// Every function that is called on a value, with the least and greatest number of arguments.
pub(super) const METHODS: &[(&str, usize, usize)] = &[
    ("add", 1, 1),
    ("asApproximateFloat", 0, 0),
    ("asInteger", 0, 0),
    ("charAt", 1, 1),
    ("compareTo", 1, 1),
    ("contains", 1, 1),
    ("containsCIDR", 1, 1),
    ("containsIP", 1, 1),
    ("distinct", 0, 0),
    ("endsWith", 1, 1),
    ("family", 0, 0),
    ("find", 1, 1),
    ("findAll", 1, 2),
    ("flatten", 0, 1),
    ("format", 1, 1),
    ("getDate", 0, 1),
    ("getDayOfMonth", 0, 1),
    ("getDayOfWeek", 0, 1),
    ("getDayOfYear", 0, 1),
    ("getEscapedPath", 0, 0),
    ("getFullYear", 0, 1),
    ("getHost", 0, 0),
    ("getHostname", 0, 0),
    ("getHours", 0, 1),
    ("getMilliseconds", 0, 1),
    ("getMinutes", 0, 1),
    ("getMonth", 0, 1),
    ("getPort", 0, 0),
    ("getQuery", 0, 0),
    ("getScheme", 0, 0),
    ("getSeconds", 0, 1),
    ("hasValue", 0, 0),
    ("indexOf", 1, 2),
    ("ip", 0, 0),
    ("isGlobalUnicast", 0, 0),
    ("isGreaterThan", 1, 1),
    ("isInteger", 0, 0),
    ("isLessThan", 1, 1),
    ("isLinkLocalMulticast", 0, 0),
    ("isLinkLocalUnicast", 0, 0),
    ("isLoopback", 0, 0),
    ("isSorted", 0, 0),
    ("isUnspecified", 0, 0),
    ("join", 0, 1),
    ("lastIndexOf", 1, 2),
    ("lowerAscii", 0, 0),
    ("major", 0, 0),
    ("masked", 0, 0),
    ("matches", 1, 1),
    ("max", 0, 0),
    ("min", 0, 0),
    ("minor", 0, 0),
    ("or", 1, 1),
    ("orValue", 1, 1),
    ("patch", 0, 0),
    ("prefixLength", 0, 0),
    ("replace", 2, 3),
    ("reverse", 0, 0),
    ("sign", 0, 0),
    ("size", 0, 0),
    ("slice", 2, 2),
    ("sort", 0, 0),
    ("split", 1, 2),
    ("startsWith", 1, 1),
    ("sub", 1, 1),
    ("substring", 1, 2),
    ("sum", 0, 0),
    ("trim", 0, 0),
    ("upperAscii", 0, 0),
    ("validate", 1, 1),
    ("value", 0, 0),
];

/// Every function that is called by its name alone or in a namespace.
pub(super) const FUNCTIONS: &[(&str, usize, usize)] = &[
    ("bool", 1, 1),
    ("bytes", 1, 1),
    ("cidr", 1, 1),
    ("double", 1, 1),
    ("duration", 1, 1),
    ("dyn", 1, 1),
    ("format.named", 1, 1),
    ("int", 1, 1),
    ("ip", 1, 1),
    ("ip.isCanonical", 1, 1),
    ("isCIDR", 1, 1),
    ("isIP", 1, 1),
    ("isQuantity", 1, 1),
    ("isSemver", 1, 2),
    ("isURL", 1, 1),
    ("lists.range", 1, 1),
    ("matches", 2, 2),
    ("optional.none", 0, 0),
    ("optional.of", 1, 1),
    ("optional.ofNonZeroValue", 1, 1),
    ("quantity", 1, 1),
    ("semver", 1, 2),
    ("sets.contains", 2, 2),
    ("sets.equivalent", 2, 2),
    ("sets.intersects", 2, 2),
    ("size", 1, 1),
    ("string", 1, 1),
    ("strings.quote", 1, 1),
    ("timestamp", 1, 1),
    ("type", 1, 1),
    ("uint", 1, 1),
    ("url", 1, 1),
];

/// Whether functions have this in front of them.
pub(super) fn is_namespace(name: &str) -> bool {
    matches!(name, "format" | "ip" | "lists" | "optional" | "sets" | "strings")
}

/// The type of this name, as expressions compare with it.
pub(super) fn type_named(name: &str) -> Option<&'static str> {
    const TYPES: &[&str] =
        &["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];
    TYPES.iter().find(|known| **known == name).copied()
}

/// Calls a function by name.
pub(super) fn function<'a>(name: &str, arguments: &[Value<'a>], budget: &mut Budget) -> Evaluated<'a> {
    spend_on(arguments, budget)?;
    let made = call(name, arguments, budget)?;
    budget.spend(made.made_cost())?;
    Ok(made)
}

fn call<'a>(name: &str, arguments: &[Value<'a>], budget: &mut Budget) -> Evaluated<'a> {
    if let Some(format) = name.strip_prefix("format.").filter(|_| arguments.is_empty()) {
        return strings::format_named(format).ok_or_else(EvalError::no_overload);
    }
    match (name, arguments) {
        ("size", [value]) => size(value),
        ("matches", [text, pattern]) => method("matches", &[text.clone(), pattern.clone()], budget),
        ("dyn", [value]) => Ok(value.clone()),
        ("type", [value]) => Ok(Value::Type(value.type_name())),
        ("optional.none", []) => Ok(Value::Optional(None)),
        ("optional.of", [value]) => Ok(Value::Optional(Some(Rc::new(value.clone())))),
        ("optional.ofNonZeroValue", [value]) => {
            Ok(Value::Optional((!convert::is_zero(value)).then(|| Rc::new(value.clone()))))
        }
        ("format.named", [Value::String(name)]) => {
            Ok(Value::Optional(strings::format_named(name).map(Rc::new)))
        }
        ("lists.range", [Value::Int(len)]) => {
            budget.spend(u64::try_from(*len).unwrap_or(0))?;
            Ok(Value::list((0..*len).map(Value::Int).collect()))
        }
        ("strings.quote", [Value::String(text)]) => Ok(Value::text(format!("{text:?}"))),
        (name, [a, b]) if name.starts_with("sets.") => lists::sets(name, a, b, budget),
        (name, [value]) if convert::NAMES.contains(&name) => convert::convert(name, value),
        (name, arguments) => net::function(name, arguments)
            .or_else(|| versions::function(name, arguments))
            .unwrap_or_else(|| Err(EvalError::no_overload())),
    }
}

/// Calls a function on the first of `values`.
pub(super) fn method<'a>(name: &str, values: &[Value<'a>], budget: &mut Budget) -> Evaluated<'a> {
    spend_on(values, budget)?;
    let made = call_on(name, values, budget)?;
    budget.spend(made.made_cost())?;
    Ok(made)
}

fn call_on<'a>(name: &str, values: &[Value<'a>], budget: &mut Budget) -> Evaluated<'a> {
    let (Some(target), arguments) = (values.first(), values.get(1..).unwrap_or_default()) else {
        return Err(EvalError::no_overload());
    };
    match (name, target) {
        ("size", value) => size(value),
        ("hasValue", Value::Optional(value)) => Ok(Value::Bool(value.is_some())),
        ("value", Value::Optional(Some(value))) => Ok((**value).clone()),
        ("value", Value::Optional(None)) => Err(EvalError::Failed("optional.none() dereference".to_owned())),
        (_, Value::String(text)) => strings::method(name, text, arguments, budget),
        (_, Value::List(_) | Value::JsonList(..)) => lists::method(name, target, arguments, budget),
        (_, Value::Duration(_) | Value::Timestamp(_)) => times::method(name, target, arguments),
        (_, Value::Ip(_) | Value::Cidr(_) | Value::Url(_)) => net::method(name, target, arguments),
        (_, Value::Quantity(_) | Value::Semver(_)) => versions::method(name, target, arguments),
        ("validate", Value::Format(format)) => strings::validate(format, arguments),
        _ => Err(EvalError::no_overload()),
    }
}

/// Work grows with what it is done to.
fn spend_on(values: &[Value<'_>], budget: &mut Budget) -> Result<(), EvalError> {
    let cost = |value: &Value<'_>| match value {
        Value::String(text) => text.len() as u64 / 10,
        Value::Bytes(bytes) => bytes.len() as u64 / 10,
        Value::List(items) => items.len() as u64,
        Value::JsonList(items, _) => items.len() as u64,
        _ => 0,
    };
    budget.spend(1 + values.iter().map(cost).sum::<u64>())
}

fn size<'a>(value: &Value<'a>) -> Evaluated<'a> {
    let len = value.len().and_then(|len| i64::try_from(len).ok());
    len.map(Value::Int).ok_or_else(EvalError::no_overload)
}

/// `a[b]`
pub(super) fn index<'a>(operand: &Value<'a>, index: &Value<'a>, optional: bool) -> Evaluated<'a> {
    if let Value::Optional(inner) = operand {
        return match inner {
            None => Ok(Value::Optional(None)),
            Some(inner) => self::index(inner, index, true),
        };
    }
    let wrap = |value: Value<'a>| if optional { Value::Optional(Some(Rc::new(value))) } else { value };
    let at = match index {
        Value::Int(at) => usize::try_from(*at).ok(),
        Value::Uint(at) => usize::try_from(*at).ok(),
        Value::Double(at) if at.fract() == 0.0 && *at >= 0.0 => Some(*at as usize),
        _ => None,
    };
    let found = match operand {
        Value::List(items) => at.and_then(|at| items.get(at).cloned()),
        Value::JsonList(items, node) => {
            let node = node.and_then(|node| node.items.as_deref());
            at.and_then(|at| items.get(at)).map(|item| Value::json(item, node))
        }
        Value::Map(_) | Value::JsonMap(..) => operand.entry(index),
        _ => return Err(EvalError::no_overload()),
    };
    match (found, optional) {
        (Some(value), _) => Ok(wrap(value)),
        (None, true) => Ok(Value::Optional(None)),
        (None, false) => Err(EvalError::Failed(match (operand, index) {
            (Value::List(_) | Value::JsonList(..), Value::Int(at)) => format!("index out of bounds: {at}"),
            (_, Value::String(key)) => format!("no such key: {key}"),
            (_, Value::Int(key)) => format!("no such key: {key}"),
            _ => "no such key".to_owned(),
        })),
    }
}

/// An operator on two values.
pub(super) fn binary<'a>(
    operator: Operator,
    a: &Value<'a>,
    b: &Value<'a>,
    budget: &mut Budget,
) -> Evaluated<'a> {
    use std::cmp::Ordering::{Greater, Less};
    match operator {
        Operator::Equal | Operator::NotEqual => {
            let equal = a.equals(b, budget)?;
            Ok(Value::Bool(equal == (operator == Operator::Equal)))
        }
        Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
            if let (Value::Double(a), _) | (_, Value::Double(a)) = (a, b)
                && a.is_nan()
            {
                return Ok(Value::Bool(false));
            }
            if let (Value::String(a), Value::String(b)) = (a, b) {
                budget.spend(a.len().min(b.len()) as u64 / 16)?;
            }
            let order = a.compare(b).ok_or_else(EvalError::no_overload)?;
            Ok(Value::Bool(match operator {
                Operator::Less => order == Less,
                Operator::LessOrEqual => order != Greater,
                Operator::Greater => order == Greater,
                _ => order != Less,
            }))
        }
        Operator::In => contains(a, b, budget),
        Operator::Add => add(a, b, budget),
        Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Remainder => {
            arithmetic(operator, a, b)
        }
        Operator::And | Operator::Or => Err(EvalError::no_overload()),
    }
}

fn contains<'a>(item: &Value<'a>, list: &Value<'a>, budget: &mut Budget) -> Evaluated<'a> {
    if let Some(items) = list.items(budget)? {
        return Ok(Value::Bool(item.is_among(&items, budget)?));
    }
    match list {
        Value::Map(_) | Value::JsonMap(..) => Ok(Value::Bool(list.entry(item).is_some())),
        _ => Err(EvalError::no_overload()),
    }
}

fn add<'a>(a: &Value<'a>, b: &Value<'a>, budget: &mut Budget) -> Evaluated<'a> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => {
            budget.spend((a.len() + b.len()) as u64 / 10)?;
            Ok(Value::text(format!("{a}{b}")))
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            budget.spend((a.len() + b.len()) as u64 / 10)?;
            Ok(Value::Bytes([&**a, &**b].concat().into()))
        }
        (Value::Timestamp(_) | Value::Duration(_), _) => times::add(a, b),
        (Value::List(_) | Value::JsonList(..), _) => {
            let (Some(mut all), Some(more)) = (a.items(budget)?, b.items(budget)?) else {
                return Err(EvalError::no_overload());
            };
            budget.spend((all.len() + more.len()) as u64)?;
            all.extend(more);
            Ok(Value::list(all))
        }
        _ => arithmetic(Operator::Add, a, b),
    }
}

fn arithmetic<'a>(operator: Operator, a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    let by_zero = || {
        let what = if operator == Operator::Divide { "division by zero" } else { "modulus by zero" };
        EvalError::Failed(what.to_owned())
    };
    match (a, b) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0))
            if matches!(operator, Operator::Divide | Operator::Remainder) =>
        {
            Err(by_zero())
        }
        (Value::Int(a), Value::Int(b)) => match operator {
            Operator::Add => a.checked_add(*b),
            Operator::Subtract => a.checked_sub(*b),
            Operator::Multiply => a.checked_mul(*b),
            Operator::Divide => a.checked_div(*b),
            _ => a.checked_rem(*b),
        }
        .map(Value::Int)
        .ok_or_else(EvalError::overflow),
        (Value::Uint(a), Value::Uint(b)) => match operator {
            Operator::Add => a.checked_add(*b),
            Operator::Subtract => a.checked_sub(*b),
            Operator::Multiply => a.checked_mul(*b),
            Operator::Divide => a.checked_div(*b),
            _ => a.checked_rem(*b),
        }
        .map(Value::Uint)
        .ok_or_else(EvalError::overflow),
        (Value::Double(a), Value::Double(b)) => match operator {
            Operator::Add => Ok(Value::Double(a + b)),
            Operator::Subtract => Ok(Value::Double(a - b)),
            Operator::Multiply => Ok(Value::Double(a * b)),
            Operator::Divide => Ok(Value::Double(a / b)),
            _ => Err(EvalError::no_overload()),
        },
        (Value::Timestamp(_) | Value::Duration(_), _) if operator == Operator::Subtract => {
            times::subtract(a, b)
        }
        _ => Err(EvalError::no_overload()),
    }
}

/// A whole number as an index.
fn to_index(value: Option<&Value<'_>>) -> Option<i64> {
    match value {
        Some(Value::Int(number)) => Some(*number),
        _ => None,
    }
}

/// Whether `format.<name>()` exists.
pub(super) fn is_format(name: &str) -> bool {
    strings::format_named(name).is_some()
}
