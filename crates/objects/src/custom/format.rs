//! What a text or number is, by the `format` of its schema. Formats that are not known allow everything.

use std::net::IpAddr;

use base64::Engine as _;
use serde_json::Value;

/// A known format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Fits 32 bits.
    Int32,
    /// Fits 64 bits.
    Int64,
    /// Number.
    Number,
    /// Base64.
    Byte,
    /// `2006-01-02`
    Date,
    /// RFC 3339.
    DateTime,
    /// `1h30m`, `2 days`.
    Duration,
    /// An address for mail.
    Email,
    /// RFC 1123 host name.
    Hostname,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// An address range.
    Cidr,
    /// A hardware address.
    Mac,
    /// A URI.
    Uri,
    /// A UUID, of this version or any (0).
    Uuid(u8),
    /// `#fff`
    HexColor,
    /// Anything, but not to be shown.
    Password,
    /// A label of Kubernetes and the like, by its name there.
    Name(&'static str),
}

const NAMES: &[&str] = &["k8s-short-name", "k8s-long-name"];

impl Format {
    /// By its name; none for formats that allow everything.
    pub fn parse(name: &str) -> Option<Format> {
        // Names count without their dashes.
        let plain: String = name.chars().filter(|c| *c != '-').collect();
        Some(match plain.as_str() {
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "float" | "double" => Self::Number,
            "byte" => Self::Byte,
            "date" => Self::Date,
            "datetime" => Self::DateTime,
            "duration" => Self::Duration,
            "email" => Self::Email,
            "hostname" => Self::Hostname,
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            "cidr" => Self::Cidr,
            "mac" => Self::Mac,
            "uri" => Self::Uri,
            "uuid" => Self::Uuid(0),
            "uuid3" => Self::Uuid(3),
            "uuid4" => Self::Uuid(4),
            "uuid5" => Self::Uuid(5),
            "hexcolor" => Self::HexColor,
            "password" => Self::Password,
            _ => Self::Name(NAMES.iter().find(|known| **known == name)?),
        })
    }

    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Number => "double",
            Self::Byte => "byte",
            Self::Date => "date",
            Self::DateTime => "date-time",
            Self::Duration => "duration",
            Self::Email => "email",
            Self::Hostname => "hostname",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Cidr => "cidr",
            Self::Mac => "mac",
            Self::Uri => "uri",
            Self::Uuid(3) => "uuid3",
            Self::Uuid(4) => "uuid4",
            Self::Uuid(5) => "uuid5",
            Self::Uuid(_) => "uuid",
            Self::HexColor => "hexcolor",
            Self::Password => "password",
            Self::Name(name) => name,
        }
    }

    /// Whether a value is of this format; a value of another type than the format speaks of always is.
    pub fn allows(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Int32, Value::Number(number)) => {
                number.as_i64().is_none_or(|number| i32::try_from(number).is_ok())
            }
            (Self::Int32 | Self::Int64 | Self::Number | Self::Password, _) => true,
            (format, Value::String(text)) => format.allows_text(text),
            _ => true,
        }
    }

    fn allows_text(self, text: &str) -> bool {
        match self {
            Self::Byte => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
            Self::Date => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
            Self::DateTime => is_date_time(text),
            Self::Duration => is_duration(text),
            Self::Email => is_email(text),
            Self::Hostname => {
                text.len() <= 253 && text.split('.').all(|label| is_label(&label.to_ascii_lowercase()))
            }
            Self::Ipv4 => matches!(text.parse(), Ok(IpAddr::V4(_))),
            Self::Ipv6 => matches!(text.parse(), Ok(IpAddr::V6(_))),
            Self::Cidr => text.parse::<ipnet::IpNet>().is_ok(),
            Self::Mac => is_mac(text),
            Self::Uri => is_uri(text),
            Self::Uuid(version) => is_uuid(text, version),
            Self::HexColor => {
                let digits = text.strip_prefix('#').unwrap_or(text);
                matches!(digits.len(), 3 | 6) && digits.bytes().all(|c| c.is_ascii_hexdigit())
            }
            Self::Name("k8s-short-name") => crate::names::dns_label(text).is_empty(),
            Self::Name(_) => crate::names::dns_subdomain(text).is_empty(),
            Self::Int32 | Self::Int64 | Self::Number | Self::Password => true,
        }
    }
}

fn is_label(text: &str) -> bool {
    crate::names::dns_label(text).is_empty()
}

/// RFC 3339, with a zone.
pub(crate) fn is_date_time(text: &str) -> bool {
    let shaped = text.len() >= 20 && text.as_bytes().get(10).is_some_and(|c| matches!(c, b'T' | b't' | b' '));
    shaped && text.parse::<jiff::Timestamp>().is_ok()
}

/// Go's `1h2m3.5s`, or a number and a unit in words: `2 days`.
fn is_duration(text: &str) -> bool {
    crate::cel::duration_ns(text).is_some() || is_spoken_duration(text)
}

fn is_spoken_duration(text: &str) -> bool {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let unit = text.get(digits..).unwrap_or_default().trim();
    let units = [
        "ns",
        "nano",
        "nanosecond",
        "us",
        "µs",
        "micro",
        "microsecond",
        "ms",
        "milli",
        "millisecond",
        "s",
        "sec",
        "second",
        "m",
        "min",
        "minute",
        "h",
        "hr",
        "hour",
        "d",
        "day",
        "w",
        "wk",
        "week",
    ];
    let singular = unit.strip_suffix('s').unwrap_or(unit);
    digits > 0 && (units.contains(&unit) || units.contains(&singular))
}

fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '<' | '>' | '(' | ')' | ',');
    !local.is_empty() && !domain.is_empty() && local.chars().all(plain) && domain.chars().all(plain)
}

fn is_mac(text: &str) -> bool {
    let hex = |part: &str, len: usize| part.len() == len && part.bytes().all(|c| c.is_ascii_hexdigit());
    let parts = |separator: char, len: usize, counts: &[usize]| {
        let all: Vec<&str> = text.split(separator).collect();
        counts.contains(&all.len()) && all.iter().all(|part| hex(part, len))
    };
    parts(':', 2, &[6, 8, 20]) || parts('-', 2, &[6, 8, 20]) || parts('.', 4, &[3, 4, 10])
}

/// A URI or an absolute path, as Go's `url.ParseRequestURI` takes them.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|c| c <= b' ' || c == 0x7f) {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    let Some((scheme, _)) = text.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.'))
}

fn is_uuid(text: &str, version: u8) -> bool {
    let plain: String = text.chars().filter(|c| *c != '-').collect();
    let digit = |at: usize| plain.as_bytes().get(at).map_or(0, |c| char::from(*c).to_digit(16).unwrap_or(0));
    let of_version = match version {
        0 => true,
        3 => digit(12) == 3,
        version => digit(12) == u32::from(version) && (8..12).contains(&digit(16)),
    };
    plain.len() == 32 && plain.bytes().all(|c| c.is_ascii_hexdigit()) && of_version
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formats_allow_what_they_name() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("byte", &["aGk=", ""], &["?", "aGk"]),
            ("date", &["2026-02-28"], &["2026-02-30", "26-2-3"]),
            ("date-time", &["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.5+01:00"], &["2026-01-02", "now"]),
            ("duration", &["1h30m", "5s", "2 days", "1.5h"], &["", "x", "5"]),
            ("email", &["a@b.c"], &["a", "@b"]),
            ("hostname", &["a.b-c", "A.b"], &["a_b", ""]),
            ("ipv4", &["1.2.3.4"], &["::1", "1.2.3"]),
            ("ipv6", &["::1"], &["1.2.3.4"]),
            ("cidr", &["10.0.0.0/8", "fd00::/8"], &["10.0.0.0", "10.0.0.0/33"]),
            ("mac", &["01:02:03:04:05:06", "0102.0304.0506"], &["01:02"]),
            ("uri", &["http://a/b", "/a"], &["a b", "a"]),
            ("uuid", &["01234567-89ab-cdef-0123-456789abcdef"], &["0123"]),
            ("uuid4", &["01234567-89ab-4def-8123-456789abcdef"], &["01234567-89ab-cdef-0123-456789abcdef"]),
            ("k8s-short-name", &["a-b"], &["a.b"]),
            ("k8s-long-name", &["a.b"], &["a_b"]),
        ];
        for (name, good, bad) in cases {
            let format = Format::parse(name).unwrap();
            for text in *good {
                assert!(format.allows(&json!(text)), "{name} {text}");
            }
            for text in *bad {
                assert!(!format.allows(&json!(text)), "{name} {text}");
            }
        }
        assert!(!Format::Int32.allows(&json!(1_i64 << 40)));
        assert_eq!(Format::parse("whatever"), None);
    }
}
