//! What may be a name, a label, a port, an address, and what is said when it may not.
//!
//! Each check gives the messages of what is wrong, none when all is well; they become details of
//! [`FieldError::invalid`](crate::field::FieldError::invalid).

use std::net::IpAddr;

/// Bytes of a DNS-1123 label, a port name's host, a namespace.
pub const LABEL_BYTES_MAX: usize = 63;
/// Bytes of a DNS-1123 subdomain.
pub const SUBDOMAIN_BYTES_MAX: usize = 253;

const LABEL_FORM: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
    must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_FORM: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
    or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const WILDCARD_FORM: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, \
    which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character \
    (e.g. '*.example.com', regex used for validation is \
    '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035_FORM: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with \
    an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
    validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE_FORM: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' \
    or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
    used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED_FORM: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
    alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const CONFIG_KEY_FORM: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
    'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn too_long(bytes_max: usize) -> String {
    format!("must be no more than {bytes_max} bytes")
}

fn lower_or_digit(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Starts and ends with an alphanumeric, and has only such and `inner` characters.
fn framed(text: &str, edge: fn(u8) -> bool, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    edge(*first) && edge(*last) && bytes.iter().all(|c| edge(*c) || inner.contains(c))
}

fn is_label(text: &str) -> bool {
    framed(text, lower_or_digit, b"-")
}

/// RFC 1123 label: namespaces, containers, ports of pods, Services since 1.36.
pub fn dns_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_BYTES_MAX {
        errors.push(too_long(LABEL_BYTES_MAX));
    }
    if !is_label(text) {
        errors.push(LABEL_FORM.to_owned());
    }
    errors
}

/// RFC 1035 label: no leading digit.
pub fn dns_1035_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_BYTES_MAX {
        errors.push(too_long(LABEL_BYTES_MAX));
    }
    if !is_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        errors.push(LABEL_1035_FORM.to_owned());
    }
    errors
}

/// RFC 1123 subdomain: the name of most objects.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_BYTES_MAX {
        errors.push(too_long(SUBDOMAIN_BYTES_MAX));
    }
    if !text.split('.').all(is_label) {
        errors.push(SUBDOMAIN_FORM.to_owned());
    }
    errors
}

/// `*.` and a subdomain.
pub fn wildcard_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_BYTES_MAX {
        errors.push(too_long(SUBDOMAIN_BYTES_MAX));
    }
    if !text.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_label)) {
        errors.push(WILDCARD_FORM.to_owned());
    }
    errors
}

/// A name as one segment of a URL path.
pub fn path_segment(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    let bad = ['/', '%'].into_iter().filter(|c| text.contains(*c));
    bad.map(|c| format!("may not contain '{c}'")).collect()
}

/// `[prefix/]name`: keys of labels and annotations, application protocols.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a qualified name {QUALIFIED_FORM} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            )];
        }
        Some(("", name)) => {
            errors.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            errors.extend(dns_subdomain(prefix).into_iter().map(|error| format!("prefix part {error}")));
            name
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_BYTES_MAX {
        errors.push(format!("name part {}", too_long(LABEL_BYTES_MAX)));
    }
    if !framed(name, |c| c.is_ascii_alphanumeric(), b"-_.") {
        errors.push(format!("name part {QUALIFIED_FORM}"));
    }
    errors
}

/// The value of a label.
pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_BYTES_MAX {
        errors.push(too_long(LABEL_BYTES_MAX));
    }
    if !text.is_empty() && !framed(text, |c| c.is_ascii_alphanumeric(), b"-_.") {
        errors.push(LABEL_VALUE_FORM.to_owned());
    }
    errors
}

/// A key of a ConfigMap or Secret: a file name.
pub fn config_key(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_BYTES_MAX {
        errors.push(too_long(SUBDOMAIN_BYTES_MAX));
    }
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    if text.is_empty() || !text.bytes().all(allowed) {
        errors.push(CONFIG_KEY_FORM.to_owned());
    }
    match text {
        "." => errors.push("may not be '.'".to_owned()),
        ".." => errors.push("may not be '..'".to_owned()),
        text if text.starts_with("..") => errors.push("may not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

/// An IANA service name: ports by name.
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push("must be no more than 15 characters".to_owned());
    }
    if !text.bytes().all(|c| lower_or_digit(c) || c == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|c| c.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// A port number.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65_535).contains(&port) {
        return Vec::new();
    }
    vec!["must be between 1 and 65535, inclusive".to_owned()]
}

/// The name of an environment variable: anything printable but `=`.
pub fn env_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b'=') {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .to_owned(),
    ]
}

/// An address as Go parses them: no leading zeros, no zone.
pub fn ip(text: &str) -> Result<IpAddr, String> {
    let error = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    text.parse().map_err(|_| error.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_accepted_and_refused() {
        struct Case {
            check: fn(&str) -> Vec<String>,
            good: &'static [&'static str],
            bad: &'static [&'static str],
        }
        let cases = [
            Case { check: dns_label, good: &["a", "1-a", "a-1"], bad: &["", "-a", "A", "a.b", "a_"] },
            Case { check: dns_1035_label, good: &["a", "a-1"], bad: &["1a", "", "a-"] },
            Case { check: dns_subdomain, good: &["a", "a.b-c.1"], bad: &["", "a..b", ".a", "a_b", "A.b"] },
            Case { check: wildcard_subdomain, good: &["*.a", "*.a.b"], bad: &["*", "*a.b", "a.*", "*.*.a"] },
            Case { check: path_segment, good: &["a:b", "A"], bad: &[".", "..", "a/b", "a%b"] },
            Case {
                check: qualified_name,
                good: &["a", "A_b", "x.y/a"],
                bad: &["", "/a", "a/", "a/b/c", "-a"],
            },
            Case { check: label_value, good: &["", "a", "A_b.c"], bad: &["-a", "a b", "a/b"] },
            Case { check: config_key, good: &["a", ".a", "A_B.c"], bad: &["", ".", "..", "..a", "a/b"] },
            Case {
                check: port_name,
                good: &["http", "a-1"],
                bad: &["", "80", "a--b", "-a", "toolongtoolongto"],
            },
            Case { check: env_name, good: &["A", "a.b", "1"], bad: &["", "a=b", "a\tb"] },
        ];
        for case in cases {
            for good in case.good {
                assert_eq!((case.check)(good), Vec::<String>::new(), "{good}");
            }
            for bad in case.bad {
                assert!(!(case.check)(bad).is_empty(), "{bad}");
            }
        }
    }
}
