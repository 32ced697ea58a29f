//! Texts that have one canonical form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::fmt::strtime;
use serde_json::Value;

use crate::quantity::Quantity;

/// Most digits and letters of a quantity.
const QUANTITY_BYTES_MAX: usize = 256;

pub(super) fn quantity(text: &str) -> Result<Value, String> {
    if text.len() > QUANTITY_BYTES_MAX {
        return Err(crate::quantity::FORM.to_owned());
    }
    Quantity::parse(text).map(|quantity| quantity.to_string().into()).map_err(|error| error.to_string())
}

/// RFC 3339 to the second in UTC. Empty text is no time.
pub(super) fn time(text: &str) -> Result<Value, String> {
    parse_time(text, "2006-01-02T15:04:05Z07:00", "%Y-%m-%dT%H:%M:%SZ")
}

/// RFC 3339 to the microsecond in UTC.
pub(super) fn micro_time(text: &str) -> Result<Value, String> {
    parse_time(text, "2006-01-02T15:04:05.000000Z07:00", "%Y-%m-%dT%H:%M:%S.%6fZ")
}

fn parse_time(text: &str, layout: &str, format: &str) -> Result<Value, String> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    let is_rfc3339 = text.as_bytes().get(10) == Some(&b'T') && !text.contains('[');
    let time: Option<Timestamp> = text.parse().ok().filter(|_| is_rfc3339);
    let time =
        time.ok_or_else(|| format!("parsing time \"\\\"{text}\\\"\" as \"\\\"{layout}\\\"\": cannot parse"))?;
    strtime::format(format, time).map(Value::String).map_err(|error| error.to_string())
}

/// Base64 with padding; line breaks are dropped.
pub(super) fn bytes(mut text: String) -> Result<Value, String> {
    if text.contains(['\n', '\r']) {
        text.retain(|c| c != '\n' && c != '\r');
    }
    match STANDARD.decode(&text) {
        Ok(_) => Ok(Value::String(text)),
        Err(error) => {
            let offset = match error {
                base64::DecodeError::InvalidByte(offset, _)
                | base64::DecodeError::InvalidLastSymbol(offset, _) => offset,
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => text.len(),
            };
            Err(format!("illegal base64 data at input byte {offset}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_canonical() {
        assert_eq!(time("2024-01-02T03:04:05.678+01:00").unwrap(), "2024-01-02T02:04:05Z");
        assert_eq!(micro_time("2024-01-02T03:04:05Z").unwrap(), "2024-01-02T03:04:05.000000Z");
        assert!(time("yesterday").unwrap_err().starts_with("parsing time \"\\\"yesterday\\\"\" as "));
    }

    #[test]
    fn base64_is_checked() {
        assert_eq!(bytes("aGVs\nbG8=".to_owned()).unwrap(), "aGVsbG8=");
        assert_eq!(bytes("a".to_owned()).unwrap_err(), "illegal base64 data at input byte 1");
    }
}
