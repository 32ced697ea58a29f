//! Functions of text.

use std::rc::Rc;

use super::convert::text as as_text;
use super::{Budget, EvalError, Evaluated, to_index};
use crate::cel::value::Value;
use crate::custom::format::Format;
use crate::custom::pattern::Pattern;
use crate::names;

/// A function on a text.
pub(super) fn method<'a>(
    name: &str,
    text: &str,
    arguments: &[Value<'a>],
    budget: &mut Budget,
) -> Evaluated<'a> {
    let made = |made: String| Ok(Value::text(made));
    match (name, arguments) {
        ("contains", [Value::String(part)]) => Ok(Value::Bool(text.contains(part.as_ref()))),
        ("startsWith", [Value::String(part)]) => Ok(Value::Bool(text.starts_with(part.as_ref()))),
        ("endsWith", [Value::String(part)]) => Ok(Value::Bool(text.ends_with(part.as_ref()))),
        ("matches", [Value::String(pattern)]) => {
            let pattern = compiled(pattern, text, budget)?;
            Ok(Value::Bool(pattern.matches(text)))
        }
        ("find", [Value::String(pattern)]) => {
            let pattern = compiled(pattern, text, budget)?;
            made(pattern.regex().find(text).map_or("", |found| found.as_str()).to_owned())
        }
        ("findAll", [Value::String(pattern), rest @ ..]) => {
            let pattern = compiled(pattern, text, budget)?;
            let limit = to_index(rest.first()).and_then(|limit| usize::try_from(limit).ok());
            let found = pattern.regex().find_iter(text).take(limit.unwrap_or(usize::MAX));
            Ok(Value::list(found.map(|found| Value::text(found.as_str())).collect()))
        }
        ("lowerAscii", []) => made(text.to_ascii_lowercase()),
        ("upperAscii", []) => made(text.to_ascii_uppercase()),
        ("trim", []) => made(text.trim().to_owned()),
        ("reverse", []) => made(text.chars().rev().collect()),
        ("charAt", [at]) => char_at(text, to_index(Some(at))),
        ("indexOf", [Value::String(part), rest @ ..]) => index_of(text, part, to_index(rest.first()), false),
        ("lastIndexOf", [Value::String(part), rest @ ..]) => {
            index_of(text, part, to_index(rest.first()), true)
        }
        ("substring", [from, rest @ ..]) => substring(text, to_index(Some(from)), to_index(rest.first())),
        ("split", [Value::String(separator), rest @ ..]) => {
            Ok(Value::list(split(text, separator, to_index(rest.first()))))
        }
        ("replace", [Value::String(from), Value::String(to), rest @ ..]) => {
            let limit = to_index(rest.first()).and_then(|limit| usize::try_from(limit).ok());
            let times = if from.is_empty() { text.len() + 1 } else { text.matches(from.as_ref()).count() };
            budget.spend((times.min(limit.unwrap_or(times)) * to.len()) as u64 / 10)?;
            made(match limit {
                Some(limit) => text.replacen(from.as_ref(), to, limit),
                None => text.replace(from.as_ref(), to),
            })
        }
        ("format", [list]) => format(text, &list.items().ok_or_else(EvalError::no_overload)?),
        _ => Err(EvalError::no_overload()),
    }
}

fn compiled(pattern: &str, text: &str, budget: &mut Budget) -> Result<Pattern, EvalError> {
    budget.spend(1000 + (text.len() as u64 / 10 + 1) * (pattern.len() as u64 / 4 + 1))?;
    Pattern::new(pattern).map_err(|error| EvalError::Failed(format!("invalid regular expression: {error}")))
}

fn out_of_range<T>(at: i64) -> Result<T, EvalError> {
    Err(EvalError::Failed(format!("index out of range: {at}")))
}

fn char_at<'a>(text: &str, at: Option<i64>) -> Evaluated<'a> {
    let at = at.ok_or_else(EvalError::no_overload)?;
    let Ok(index) = usize::try_from(at) else { return out_of_range(at) };
    match text.chars().nth(index) {
        Some(c) => Ok(Value::text(c)),
        None if index == text.chars().count() => Ok(Value::text("")),
        None => out_of_range(at),
    }
}

/// Positions count characters.
fn index_of<'a>(text: &str, part: &str, from: Option<i64>, last: bool) -> Evaluated<'a> {
    let (text, part): (Vec<char>, Vec<char>) = (text.chars().collect(), part.chars().collect());
    let from = match from {
        Some(from) => match usize::try_from(from).ok().filter(|from| *from <= text.len()) {
            Some(from) => Some(from),
            None => return out_of_range(from),
        },
        None => None,
    };
    let count = (text.len() + 1).saturating_sub(part.len());
    let begins = |at: &usize| text.get(*at..).is_some_and(|rest| rest.starts_with(&part));
    let found = match last {
        false => (from.unwrap_or(0)..count).find(begins),
        true => (0..count.min(from.map_or(count, |from| from + 1))).rev().find(begins),
    };
    Ok(Value::Int(found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)))
}

fn substring<'a>(text: &str, from: Option<i64>, to: Option<i64>) -> Evaluated<'a> {
    let from = from.ok_or_else(EvalError::no_overload)?;
    let len = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let to = to.unwrap_or(len);
    if from < 0 || from > len {
        return out_of_range(from);
    }
    if to < from || to > len {
        return out_of_range(to);
    }
    let count = |number: i64| usize::try_from(number).unwrap_or(0);
    Ok(Value::text(text.chars().skip(count(from)).take(count(to - from)).collect::<String>()))
}

fn split<'a>(text: &str, separator: &str, limit: Option<i64>) -> Vec<Value<'a>> {
    let limit = match limit {
        Some(0) => return Vec::new(),
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    if separator.is_empty() {
        let mut chars = text.chars();
        let mut out: Vec<Value<'a>> = chars.by_ref().take(limit.saturating_sub(1)).map(Value::text).collect();
        if !chars.as_str().is_empty() {
            out.push(Value::text(chars.as_str()));
        }
        return out;
    }
    text.splitn(limit, separator).map(Value::text).collect()
}

/// `"%s is %d".format(["a", 1])`
fn format<'a>(template: &str, arguments: &[Value<'a>]) -> Evaluated<'a> {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut chars = template.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut precision = None;
        let mut verb = chars.next();
        if verb == Some('.') {
            let digits: String = chars.clone().take_while(char::is_ascii_digit).collect();
            precision = digits.parse::<usize>().ok().filter(|precision| *precision <= 100);
            chars.by_ref().take(digits.len()).for_each(drop);
            verb = chars.next();
        }
        if verb == Some('%') {
            out.push('%');
            continue;
        }
        let argument =
            arguments.next().ok_or_else(|| EvalError::Failed("not enough arguments to format".to_owned()))?;
        out.push_str(&formatted(verb, precision, argument)?);
    }
    Ok(Value::text(out))
}

fn formatted(
    verb: Option<char>,
    precision: Option<usize>,
    argument: &Value<'_>,
) -> Result<String, EvalError> {
    let number = match argument {
        Value::Int(number) => i128::from(*number),
        Value::Uint(number) => i128::from(*number),
        _ => 0,
    };
    let whole = matches!(argument, Value::Int(_) | Value::Uint(_));
    let double = match argument {
        Value::Double(number) => Some(*number),
        Value::Int(_) | Value::Uint(_) => Some(number as f64),
        _ => None,
    };
    match (verb, double) {
        (Some('s'), _) => Ok(shown(argument)),
        (Some('d'), _) if whole => Ok(number.to_string()),
        (Some('f'), Some(number)) => Ok(format!("{number:.*}", precision.unwrap_or(6))),
        (Some('e'), Some(number)) => Ok(format!("{number:.*e}", precision.unwrap_or(6))),
        (Some('b'), _) if whole => Ok(format!("{number:b}")),
        (Some('o'), _) if whole => Ok(format!("{number:o}")),
        (Some('x'), _) if whole => Ok(format!("{number:x}")),
        (Some('X'), _) if whole => Ok(format!("{number:X}")),
        (Some(verb), _) => {
            let ty = argument.type_name();
            Err(EvalError::Failed(format!("could not parse formatting clause: %{verb} with {ty}")))
        }
        (None, _) => Err(EvalError::Failed("unexpected end of format string".to_owned())),
    }
}

fn shown(value: &Value<'_>) -> String {
    if let Some(text) = as_text(value) {
        return text;
    }
    if let Some(items) = value.items() {
        return format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", "));
    }
    let entries = value.keys().unwrap_or_default();
    let entries = entries
        .iter()
        .map(|key| format!("{}: {}", shown(key), value.entry(key).as_ref().map(shown).unwrap_or_default()));
    match value {
        Value::Null => "null".to_owned(),
        _ => format!("{{{}}}", entries.collect::<Vec<_>>().join(", ")),
    }
}

/// Formats that text can be checked against, by name.
pub(super) fn format_named<'a>(name: &str) -> Option<Value<'a>> {
    const NAMES: &[&str] = &[
        "byte",
        "date",
        "datetime",
        "dns1035Label",
        "dns1035LabelPrefix",
        "dns1123Label",
        "dns1123LabelPrefix",
        "dns1123Subdomain",
        "dns1123SubdomainPrefix",
        "labelValue",
        "qualifiedName",
        "uri",
        "uuid",
    ];
    NAMES.iter().find(|known| **known == name).map(|name| Value::Format(name))
}

/// What is wrong with a text, as an optional list.
pub(super) fn validate<'a>(format: &str, arguments: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text)] = arguments else { return Err(EvalError::no_overload()) };
    let prefix = |check: fn(&str) -> Vec<String>| {
        let base = text.strip_suffix('-').map_or_else(|| text.to_string(), |base| format!("{base}a"));
        check(&base)
    };
    let is = |format: Format, what: &str| match format.allows(&text.as_ref().into()) {
        true => Vec::new(),
        false => vec![format!("invalid {what}")],
    };
    let errors = match format {
        "dns1035Label" => names::dns_1035_label(text),
        "dns1035LabelPrefix" => prefix(names::dns_1035_label),
        "dns1123Label" => names::dns_label(text),
        "dns1123LabelPrefix" => prefix(names::dns_label),
        "dns1123Subdomain" => names::dns_subdomain(text),
        "dns1123SubdomainPrefix" => prefix(names::dns_subdomain),
        "labelValue" => names::label_value(text),
        "qualifiedName" => names::qualified_name(text),
        "uuid" => is(Format::Uuid(0), "uuid"),
        "uri" => is(Format::Uri, "URI"),
        "byte" => is(Format::Byte, "base64"),
        "date" => is(Format::Date, "date"),
        _ => is(Format::DateTime, "datetime"),
    };
    let errors: Vec<Value<'a>> = errors.into_iter().map(Value::text).collect();
    Ok(Value::Optional((!errors.is_empty()).then(|| Rc::new(Value::list(errors)))))
}
