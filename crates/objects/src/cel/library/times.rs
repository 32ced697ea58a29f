//! Moments and durations.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Zoned};

use super::{EvalError, Evaluated};
use crate::cel::value::Value;

/// Go's text of a duration, in seconds as CEL writes it.
pub(super) fn text(ns: i64) -> String {
    let (seconds, rest) = (ns / 1_000_000_000, (ns % 1_000_000_000).abs());
    let sign = if ns < 0 && seconds == 0 { "-" } else { "" };
    match rest {
        0 => format!("{seconds}s"),
        rest => format!("{sign}{seconds}.{rest:09}").trim_end_matches('0').to_owned() + "s",
    }
}

pub(super) fn add<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    match (a, b) {
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_add(*b).map(Value::Duration).ok_or_else(EvalError::overflow)
        }
        (Value::Timestamp(time), Value::Duration(ns)) | (Value::Duration(ns), Value::Timestamp(time)) => {
            let moved = time.checked_add(SignedDuration::from_nanos(*ns));
            moved.map(Value::Timestamp).map_err(|_| EvalError::overflow())
        }
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn subtract<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    match (a, b) {
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_sub(*b).map(Value::Duration).ok_or_else(EvalError::overflow)
        }
        (Value::Timestamp(time), Value::Duration(ns)) => {
            let moved = time.checked_sub(SignedDuration::from_nanos(*ns));
            moved.map(Value::Timestamp).map_err(|_| EvalError::overflow())
        }
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            let ns = i64::try_from(a.duration_since(*b).as_nanos());
            ns.map(Value::Duration).map_err(|_| EvalError::overflow())
        }
        _ => Err(EvalError::no_overload()),
    }
}

/// A function on a moment or a duration.
pub(super) fn method<'a>(name: &str, target: &Value<'a>, arguments: &[Value<'a>]) -> Evaluated<'a> {
    if let Value::Duration(ns) = target {
        let unit = match name {
            "getHours" => 3_600_000_000_000,
            "getMinutes" => 60_000_000_000,
            "getSeconds" => 1_000_000_000,
            "getMilliseconds" => 1_000_000,
            _ => return Err(EvalError::no_overload()),
        };
        return Ok(Value::Int(ns / unit));
    }
    let zone = match arguments {
        [] => TimeZone::UTC,
        [Value::String(zone)] => time_zone(zone)?,
        _ => return Err(EvalError::no_overload()),
    };
    let Value::Timestamp(time) = target else { return Err(EvalError::no_overload()) };
    let zoned: Zoned = time.to_zoned(zone);
    let number = match name {
        "getFullYear" => i64::from(zoned.year()),
        "getMonth" => i64::from(zoned.month()) - 1,
        "getDate" => i64::from(zoned.day()),
        "getDayOfMonth" => i64::from(zoned.day()) - 1,
        "getDayOfYear" => i64::from(zoned.day_of_year()) - 1,
        "getDayOfWeek" => i64::from(zoned.weekday().to_sunday_zero_offset()),
        "getHours" => i64::from(zoned.hour()),
        "getMinutes" => i64::from(zoned.minute()),
        "getSeconds" => i64::from(zoned.second()),
        "getMilliseconds" => i64::from(zoned.millisecond()),
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Value::Int(number))
}

/// `UTC` or an offset: this crate reads no files, and zones are in files.
fn time_zone(name: &str) -> Result<TimeZone, EvalError> {
    if matches!(name, "UTC" | "Z" | "GMT") {
        return Ok(TimeZone::UTC);
    }
    let (sign, rest) = match name.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, name.strip_prefix('+').unwrap_or(name)),
    };
    let parsed = rest.split_once(':').and_then(|(hours, minutes)| {
        let (hours, minutes) = (hours.parse::<u8>().ok()?, minutes.parse::<u8>().ok()?);
        jiff::tz::Offset::from_seconds(sign * (i32::from(hours) * 3600 + i32::from(minutes) * 60)).ok()
    });
    parsed.map(TimeZone::fixed).ok_or_else(|| EvalError::Failed(format!("unknown time zone {name}")))
}
