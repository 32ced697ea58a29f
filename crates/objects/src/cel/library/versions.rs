//! Amounts and versions: what is ordered by more than its text.

use std::cmp::Ordering;
use std::fmt;
use std::rc::Rc;

use super::{EvalError, Evaluated};
use crate::cel::value::Value;
use crate::quantity::Quantity;

/// A semantic version (semver.org 2.0).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<String>,
    build: String,
}

impl Semver {
    fn parse(text: &str, normalize: bool) -> Option<Semver> {
        let text = if normalize { text.strip_prefix('v').unwrap_or(text) } else { text };
        let (text, build) = text.split_once('+').unwrap_or((text, ""));
        let (core, pre) = match text.split_once('-') {
            Some((core, pre)) => (core, pre.split('.').map(str::to_owned).collect()),
            None => (text, Vec::new()),
        };
        let mut numbers = [0; 3];
        let parts: Vec<&str> = core.split('.').collect();
        if parts.len() > 3 || !normalize && parts.len() != 3 {
            return None;
        }
        for (number, part) in numbers.iter_mut().zip(&parts) {
            let plain = part.bytes().all(|c| c.is_ascii_digit())
                && (normalize || *part == "0" || !part.starts_with('0'));
            *number = part.parse().ok().filter(|_| plain)?;
        }
        let letters =
            |text: &String| !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        pre.iter().all(letters).then(|| Semver { numbers, pre, build: build.to_owned() })
    }

    fn order(&self, other: &Self) -> Ordering {
        let part = |a: &String, b: &String| match (a.parse::<u64>(), b.parse::<u64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => a.cmp(b),
        };
        let pre = match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let mut parts = self.pre.iter().zip(&other.pre).map(|(a, b)| part(a, b));
                let differing = parts.find(|order| *order != Ordering::Equal);
                differing.unwrap_or_else(|| self.pre.len().cmp(&other.pre.len()))
            }
        };
        self.numbers.cmp(&other.numbers).then(pre)
    }
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if !self.pre.is_empty() {
            write!(f, "-{}", self.pre.join("."))?;
        }
        if !self.build.is_empty() {
            write!(f, "+{}", self.build)?;
        }
        Ok(())
    }
}

/// A function by name; none when there is no such one here.
pub(super) fn function<'a>(name: &str, arguments: &[Value<'a>]) -> Option<Evaluated<'a>> {
    let (text, normalize) = match arguments {
        [Value::String(text)] => (text, false),
        [Value::String(text), Value::Bool(normalize)] => (text, *normalize),
        _ => return None,
    };
    let invalid = |what: &str| EvalError::Failed(format!("{what} parse error: {text:?}"));
    Some(match name {
        "quantity" => Quantity::parse(text)
            .map(|quantity| Value::Quantity(Rc::new(quantity)))
            .map_err(|_| invalid("quantity")),
        "isQuantity" => Ok(Value::Bool(Quantity::parse(text).is_ok())),
        "semver" => {
            let version = Semver::parse(text, normalize).map(|version| Value::Semver(Rc::new(version)));
            version.ok_or_else(|| invalid("semver"))
        }
        "isSemver" => Ok(Value::Bool(Semver::parse(text, normalize).is_some())),
        _ => return None,
    })
}

fn compared<'a>(name: &str, order: Ordering) -> Evaluated<'a> {
    match name {
        "compareTo" => Ok(Value::Int(order as i64)),
        "isGreaterThan" => Ok(Value::Bool(order == Ordering::Greater)),
        "isLessThan" => Ok(Value::Bool(order == Ordering::Less)),
        _ => Err(EvalError::no_overload()),
    }
}

/// A function on an amount or a version.
pub(super) fn method<'a>(name: &str, target: &Value<'a>, arguments: &[Value<'a>]) -> Evaluated<'a> {
    match (target, arguments) {
        (Value::Semver(a), [Value::Semver(b)]) => compared(name, a.order(b)),
        (Value::Semver(version), []) => {
            let [major, minor, patch] = version.numbers;
            let number = match name {
                "major" => major,
                "minor" => minor,
                "patch" => patch,
                _ => return Err(EvalError::no_overload()),
            };
            Ok(Value::Int(i64::try_from(number).unwrap_or(i64::MAX)))
        }
        (Value::Quantity(a), [b]) => quantity_with(name, a, b),
        (Value::Quantity(quantity), []) => {
            let millis = quantity.millis();
            Ok(match name {
                "sign" => Value::Int(millis.signum()),
                "isInteger" => Value::Bool(millis % 1000 == 0),
                "asInteger" if millis % 1000 == 0 => Value::Int(quantity.value()),
                "asInteger" => return Err(EvalError::Failed("cannot convert value to integer".to_owned())),
                "asApproximateFloat" => Value::Double(millis as f64 / 1000.0),
                _ => return Err(EvalError::no_overload()),
            })
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn quantity_with<'a>(name: &str, a: &Quantity, b: &Value<'a>) -> Evaluated<'a> {
    let other = match b {
        Value::Quantity(other) => **other,
        Value::Int(number) => Quantity::parse(&number.to_string()).map_err(|_| EvalError::overflow())?,
        _ => return Err(EvalError::no_overload()),
    };
    let made = match name {
        "add" => a.millis().checked_add(other.millis()),
        "sub" => a.millis().checked_sub(other.millis()),
        _ => return compared(name, a.cmp(&other)),
    };
    let made = made.and_then(|millis| Quantity::parse(&format!("{millis}m")).ok());
    made.map(|quantity| Value::Quantity(Rc::new(quantity))).ok_or_else(EvalError::overflow)
}
