//! Host names of requests and of rules.

use std::fmt;
use std::sync::Arc;

/// Host names are at most this long (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// The host of a request: lower case, without port and trailing dot, only bytes that a name or an address can have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(Arc<str>);

/// The text is no host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a host name")]
pub struct InvalidHost;

impl Host {
    /// From a `Host` header, an `:authority` or a server name: `name`, `name:port`, `[v6]:port`.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        let (name, port) = match text.rfind(']') {
            Some(end) => text.split_at_checked(end + 1).ok_or(InvalidHost)?,
            None => text.split_at_checked(text.find(':').unwrap_or(text.len())).ok_or(InvalidHost)?,
        };
        let port_is_fine = match port.strip_prefix(':') {
            Some(digits) => digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()),
            None => port.is_empty(),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let allowed = |byte: u8| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'[' | b']' | b':')
        };
        if !port_is_fine || name.is_empty() || name.len() > HOST_BYTES_MAX || !name.bytes().all(allowed) {
            return Err(InvalidHost);
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is left of the name after its first label, if there is something.
    pub fn parent(&self) -> Option<&str> {
        self.0.split_once('.').map(|(_, parent)| parent).filter(|parent| !parent.is_empty())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The host of a rule. The order is the precedence: an exact name before a wildcard before "any host".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// This name only.
    Exact(Host),
    /// `*.parent`: exactly one label before `parent` (Ingress: "wildcard only covers a single DNS label").
    Wildcard(Host),
    /// Every host that no other pattern of the table names.
    Any,
}

impl HostPattern {
    /// From `spec.rules[].host`; "" is any host.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        if text.is_empty() {
            return Ok(Self::Any);
        }
        if text.contains(':') {
            return Err(InvalidHost);
        }
        match text.strip_prefix("*.") {
            Some(parent) => Host::parse(parent).map(Self::Wildcard),
            None => Host::parse(text).map(Self::Exact),
        }
    }

    /// Whether a request for this host could be meant.
    pub fn matches(&self, host: &Host) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard(parent) => host.parent() == Some(parent.as_str()),
            Self::Any => true,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
            Self::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_lower_case_without_port_and_dot() {
        let cases = [
            ("Shop.Example", Some("shop.example")),
            ("shop.example:8080", Some("shop.example")),
            ("shop.example.", Some("shop.example")),
            ("10.0.0.1:80", Some("10.0.0.1")),
            ("[::1]:80", Some("[::1]")),
            ("", None),
            (":80", None),
            ("a b", None),
            ("a/b", None),
            ("a:x", None),
            ("a:123456", None),
            ("a\u{e9}", None),
        ];
        for (given, want) in cases {
            assert_eq!(Host::parse(given).ok().as_ref().map(Host::as_str), want, "{given}");
        }
        assert!(Host::parse(&"a".repeat(254)).is_err());
    }

    #[test]
    fn a_wildcard_covers_one_label() {
        let pattern = HostPattern::parse("*.example.com").unwrap();
        for (host, want) in [
            ("a.example.com", true),
            ("a.b.example.com", false),
            ("example.com", false),
            ("aexample.com", false),
        ] {
            assert_eq!(pattern.matches(&Host::parse(host).unwrap()), want, "{host}");
        }
    }
}
