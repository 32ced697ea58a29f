//! Conversions between types.

use std::rc::Rc;

use super::{EvalError, Evaluated, times};
use crate::cel::value::Value;

/// The functions.
pub(super) const NAMES: &[&str] =
    &["bool", "bytes", "double", "duration", "int", "string", "timestamp", "uint"];

/// A value as another type.
pub(super) fn convert<'a>(to: &str, value: &Value<'a>) -> Evaluated<'a> {
    let converted = match (to, value) {
        ("bool", Value::Bool(_))
        | ("bytes", Value::Bytes(_))
        | ("double", Value::Double(_))
        | ("duration", Value::Duration(_))
        | ("int", Value::Int(_))
        | ("string", Value::String(_))
        | ("timestamp", Value::Timestamp(_))
        | ("uint", Value::Uint(_)) => Some(value.clone()),
        ("bool", Value::String(text)) => match text.as_ref() {
            "true" | "TRUE" | "True" | "t" | "1" => Some(Value::Bool(true)),
            "false" | "FALSE" | "False" | "f" | "0" => Some(Value::Bool(false)),
            _ => None,
        },
        ("bytes", Value::String(text)) => Some(Value::Bytes(text.as_bytes().into())),
        ("double", Value::Int(number)) => Some(Value::Double(*number as f64)),
        ("double", Value::Uint(number)) => Some(Value::Double(*number as f64)),
        ("double", Value::String(text)) => text.parse().ok().map(Value::Double),
        ("int", Value::Uint(number)) => i64::try_from(*number).ok().map(Value::Int),
        ("int", Value::Double(number)) if number.abs() < 9.2e18 => Some(Value::Int(*number as i64)),
        ("int", Value::String(text)) => text.parse().ok().map(Value::Int),
        ("int", Value::Timestamp(time)) => Some(Value::Int(time.as_second())),
        ("int", Value::Duration(ns)) => Some(Value::Int(*ns)),
        ("uint", Value::Int(number)) => u64::try_from(*number).ok().map(Value::Uint),
        ("uint", Value::Double(number)) if (0.0..1.8e19).contains(number) => {
            Some(Value::Uint(*number as u64))
        }
        ("uint", Value::String(text)) => text.parse().ok().map(Value::Uint),
        ("timestamp", Value::String(text)) => text.parse().ok().map(Value::Timestamp),
        ("timestamp", Value::Int(seconds)) => {
            jiff::Timestamp::from_second(*seconds).ok().map(Value::Timestamp)
        }
        ("duration", Value::String(text)) => crate::cel::duration_ns(text).map(Value::Duration),
        ("duration", Value::Int(ns)) => Some(Value::Duration(*ns)),
        ("string", value) => text(value).map(Value::text),
        _ => return Err(EvalError::no_overload()),
    };
    converted.ok_or_else(|| {
        EvalError::Failed(format!("type conversion error from '{}' to '{to}'", value.type_name()))
    })
}

/// A value as text.
pub(super) fn text(value: &Value<'_>) -> Option<String> {
    Some(match value {
        Value::String(text) => text.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Bytes(bytes) => String::from_utf8(bytes.to_vec()).ok()?,
        Value::Timestamp(time) => time.to_string(),
        Value::Duration(ns) => times::text(*ns),
        Value::Ip(ip) => ip.to_string(),
        Value::Cidr(range) => range.to_string(),
        Value::Quantity(quantity) => quantity.to_string(),
        Value::Semver(version) => version.to_string(),
        Value::Type(name) => (*name).to_owned(),
        _ => return None,
    })
}

/// Whether a value is the zero of its type.
pub(super) fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Optional(None) => true,
        Value::Bool(value) => !value,
        Value::Int(number) => *number == 0,
        Value::Uint(number) => *number == 0,
        Value::Double(number) => *number == 0.0,
        Value::Duration(ns) => *ns == 0,
        Value::Optional(Some(value)) => is_zero(&Rc::clone(value)),
        other => other.len() == Some(0),
    }
}
