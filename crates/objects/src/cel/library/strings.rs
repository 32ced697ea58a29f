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
        ("format", [list]) => {
            let arguments = list.items(budget)?.ok_or_else(EvalError::no_overload)?;
            format(text, &arguments, budget)
        }
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
    // The byte of a character; the one after the last is the end.
    let byte = |at: usize| text.char_indices().map(|(byte, _)| byte).chain([text.len()]).nth(at);
    let from = match from {
        Some(from) => match usize::try_from(from).ok().and_then(byte) {
            Some(from) => Some(from),
            None => return out_of_range(from),
        },
        None => None,
    };
    let found = match (last, from) {
        (false, from) => {
            let from = from.unwrap_or(0);
            text.get(from..).and_then(|rest| rest.find(part)).map(|at| from + at)
        }
        (true, None) => text.rfind(part),
        (true, Some(from)) => {
            // A part that begins at `from` may end behind it.
            let end = from.saturating_add(part.len()).min(text.len());
            let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
            text.get(..end).and_then(|head| head.rfind(part)).filter(|at| *at <= from)
        }
    };
    let found = found.and_then(|at| text.get(..at)).map(|before| before.chars().count());
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
fn format<'a>(template: &str, arguments: &[Value<'a>], budget: &mut Budget) -> Evaluated<'a> {
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
        out.push_str(&formatted(verb, precision, argument, budget)?);
    }
    Ok(Value::text(out))
}

fn formatted(
    verb: Option<char>,
    precision: Option<usize>,
    argument: &Value<'_>,
    budget: &mut Budget,
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
        (Some('s'), _) => {
            let mut out = String::new();
            show(argument, &mut out, budget)?;
            Ok(out)
        }
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

/// Writes a value; paid while it is done, as comparing is.
fn show(value: &Value<'_>, out: &mut String, budget: &mut Budget) -> Result<(), EvalError> {
    budget.spend(1)?;
    if let Some(text) = as_text(value) {
        budget.spend(text.len() as u64 / 10)?;
        out.push_str(&text);
    } else if let Some(items) = value.items(budget)? {
        out.push('[');
        for (at, item) in items.iter().enumerate() {
            out.push_str(if at == 0 { "" } else { ", " });
            show(item, out, budget)?;
        }
        out.push(']');
    } else if matches!(value, Value::Null) {
        out.push_str("null");
    } else {
        out.push('{');
        for (at, key) in value.keys().unwrap_or_default().iter().enumerate() {
            out.push_str(if at == 0 { "" } else { ", " });
            show(key, out, budget)?;
            out.push_str(": ");
            if let Some(entry) = value.entry(key) {
                show(&entry, out, budget)?;
            }
        }
        out.push('}');
    }
    Ok(())
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
