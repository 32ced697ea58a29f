//! Addresses, ranges, URLs.

use std::net::IpAddr;
use std::rc::Rc;

use ipnet::IpNet;

use super::{EvalError, Evaluated};
use crate::cel::value::Value;

/// The parts of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl Url {
    /// Splits an absolute URL or an absolute path (RFC 3986).
    fn parse(text: &str) -> Option<Url> {
        if text.bytes().any(|c| c <= b' ' || c == 0x7f) {
            return None;
        }
        let text = text.split_once('#').map_or(text, |(before, _)| before);
        let (rest, query) = text.split_once('?').unwrap_or((text, ""));
        if rest.starts_with('/') && !rest.starts_with("//") {
            let path = rest.to_owned();
            return Some(Url { scheme: String::new(), host: String::new(), path, query: query.to_owned() });
        }
        let (scheme, rest) = rest.split_once(':')?;
        let letters = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(letters) {
            return None;
        }
        let (host, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at_checked(rest.find('/').unwrap_or(rest.len()))?,
            None => ("", rest),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let port = host.rsplit_once(':').filter(|_| !host.ends_with(']')).map_or("", |(_, port)| port);
        if !port.bytes().all(|c| c.is_ascii_digit()) {
            return None;
        }
        let (scheme, host) = (scheme.to_ascii_lowercase(), host.to_owned());
        Some(Url { scheme, host, path: path.to_owned(), query: query.to_owned() })
    }

    /// Host without port and brackets, and the port.
    fn host_and_port(&self) -> (&str, &str) {
        let (host, port) = match self.host.rsplit_once(':') {
            Some((host, port)) if !self.host.ends_with(']') => (host, port),
            _ => (self.host.as_str(), ""),
        };
        (host.trim_start_matches('[').trim_end_matches(']'), port)
    }
}

/// An address as Kubernetes takes it: no zone, no leading zeros, no IPv4 in IPv6.
fn ip(text: &str) -> Result<IpAddr, EvalError> {
    let address: Option<IpAddr> = text.parse().ok();
    let mapped = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let address = address.filter(|ip| !mapped(ip));
    address.ok_or_else(|| {
        EvalError::Failed(format!("IP Address {text:?} parse error during conversion from string"))
    })
}

fn cidr(text: &str) -> Result<IpNet, EvalError> {
    let range = text.parse::<IpNet>().ok();
    range.ok_or_else(|| {
        EvalError::Failed("network address parse error during conversion from string".to_owned())
    })
}

/// A function by name; none when there is no such one here.
pub(super) fn function<'a>(name: &str, arguments: &[Value<'a>]) -> Option<Evaluated<'a>> {
    let [Value::String(text)] = arguments else { return None };
    Some(match name {
        "ip" => ip(text).map(Value::Ip),
        "isIP" => Ok(Value::Bool(ip(text).is_ok())),
        "ip.isCanonical" => ip(text).map(|ip| Value::Bool(ip.to_string() == *text)),
        "cidr" => cidr(text).map(Value::Cidr),
        "isCIDR" => Ok(Value::Bool(cidr(text).is_ok())),
        "url" => {
            let url = Url::parse(text).map(|url| Value::Url(Rc::new(url)));
            url.ok_or_else(|| {
                EvalError::Failed(format!("URL parse error during conversion from string: {text:?}"))
            })
        }
        "isURL" => Ok(Value::Bool(Url::parse(text).is_some())),
        _ => return None,
    })
}

/// A function on an address, a range or a URL.
pub(super) fn method<'a>(name: &str, target: &Value<'a>, arguments: &[Value<'a>]) -> Evaluated<'a> {
    match target {
        Value::Ip(ip) => ip_method(name, ip),
        Value::Cidr(range) => cidr_method(name, range, arguments),
        Value::Url(url) => url_method(name, url),
        _ => Err(EvalError::no_overload()),
    }
}

fn ip_method<'a>(name: &str, ip: &IpAddr) -> Evaluated<'a> {
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), matches!(v4.octets(), [224, 0, 0, _])),
        IpAddr::V6(v6) => {
            (v6.is_unicast_link_local(), v6.segments().first().is_some_and(|first| first & 0xff0f == 0xff02))
        }
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    let truth = match name {
        "family" => return Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        "isUnspecified" => ip.is_unspecified(),
        "isLoopback" => ip.is_loopback(),
        "isLinkLocalMulticast" => link_local_multicast,
        "isLinkLocalUnicast" => link_local,
        "isGlobalUnicast" => {
            !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !link_local && !broadcast
        }
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Value::Bool(truth))
}

fn cidr_method<'a>(name: &str, range: &IpNet, arguments: &[Value<'a>]) -> Evaluated<'a> {
    Ok(match (name, arguments) {
        ("containsIP", [Value::Ip(address)]) => Value::Bool(range.contains(address)),
        ("containsIP", [Value::String(text)]) => Value::Bool(range.contains(&ip(text)?)),
        ("containsCIDR", [Value::Cidr(other)]) => Value::Bool(range.contains(other)),
        ("containsCIDR", [Value::String(text)]) => Value::Bool(range.contains(&cidr(text)?)),
        ("ip", []) => Value::Ip(range.addr()),
        ("masked", []) => Value::Cidr(range.trunc()),
        ("prefixLength", []) => Value::Int(range.prefix_len().into()),
        _ => return Err(EvalError::no_overload()),
    })
}

fn url_method<'a>(name: &str, url: &Url) -> Evaluated<'a> {
    let (host, port) = url.host_and_port();
    Ok(match name {
        "getScheme" => Value::text(url.scheme.as_str()),
        "getHost" => Value::text(url.host.as_str()),
        "getHostname" => Value::text(host),
        "getPort" => Value::text(port),
        "getEscapedPath" => Value::text(url.path.as_str()),
        "getQuery" => {
            let mut entries = std::collections::BTreeMap::<_, Vec<Value<'a>>>::new();
            for pair in url.query.split('&').filter(|pair| !pair.is_empty()) {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                let key = crate::cel::value::Key::String(name.to_owned());
                entries.entry(key).or_default().push(Value::text(value));
            }
            Value::Map(Rc::new(entries.into_iter().map(|(key, values)| (key, Value::list(values))).collect()))
        }
        _ => return Err(EvalError::no_overload()),
    })
}
