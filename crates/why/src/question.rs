//! FROM and TO of the command line.

use std::fmt;
use std::net::IpAddr;

use fairway_model::{NodeName, PodKey, PortNumber, Protocol};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// `pod/<name>` (with the default namespace) or `pod/<namespace>/<name>`.
    Pod(PodKey),
    /// `node/<name>`: a process of the node.
    Node(NodeName),
    /// `outside`: a client that is not in the cluster.
    Outside,
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => write!(f, "pod {key}"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Outside => f.write_str("outside"),
        }
    }
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP in plain text.
    Http,
    /// HTTP in TLS.
    Https,
    /// Bytes over TCP, UDP or SCTP.
    Raw(Protocol),
}

/// What is asked for: a URL, `name:port`, `address:port`, with `tcp://` or `udp://` before it when it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What is spoken.
    pub scheme: Scheme,
    /// The name or address, as written.
    pub host: String,
    /// The port.
    pub port: PortNumber,
    /// The path, without query.
    pub path: String,
}

impl Target {
    /// The host, when it is an address.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// The transport protocol.
    pub fn protocol(&self) -> Protocol {
        match self.scheme {
            Scheme::Http | Scheme::Https => Protocol::Tcp,
            Scheme::Raw(protocol) => protocol,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Http => write!(f, "http://{}:{}{}", self.host, self.port, self.path),
            Scheme::Https => write!(f, "https://{}:{}{}", self.host, self.port, self.path),
            Scheme::Raw(protocol) => write!(f, "{}:{}/{protocol}", self.host, self.port),
        }
    }
}

/// Both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who asks.
    pub from: From,
    /// For what.
    pub to: Target,
}

/// Why the words are no question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuestion {
    /// FROM is none of the forms.
    #[error("FROM {given:?}: write pod/NAME, pod/NAMESPACE/NAME, node/NAME or outside")]
    From {
        /// As written.
        given: String,
    },
    /// The scheme is unknown.
    #[error("TO {given:?}: the scheme is http, https, tcp or udp")]
    Scheme {
        /// As written.
        given: String,
    },
    /// There is no port where one is needed, or it is none.
    #[error("TO {given:?}: write a URL, NAME:PORT or ADDRESS:PORT with a port from 1 to 65535")]
    Port {
        /// As written.
        given: String,
    },
}

impl Question {
    /// Reads both; `namespace` is for pods named without one.
    pub fn parse(from: &str, to: &str, namespace: &str) -> Result<Self, InvalidQuestion> {
        Ok(Self { from: parse_from(from, namespace)?, to: parse_target(to)? })
    }
}

fn parse_from(text: &str, namespace: &str) -> Result<From, InvalidQuestion> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        ["outside"] => Ok(From::Outside),
        ["node", name] if !name.is_empty() => Ok(From::Node(NodeName::from(*name))),
        ["pod", name] if !name.is_empty() => Ok(From::Pod(PodKey::new(namespace, name))),
        ["pod", namespace, name] if !name.is_empty() => Ok(From::Pod(PodKey::new(namespace, name))),
        _ => Err(InvalidQuestion::From { given: text.to_owned() }),
    }
}

fn parse_target(text: &str) -> Result<Target, InvalidQuestion> {
    let (scheme, rest) = match text.split_once("://") {
        Some(("http" | "ws", rest)) => (Scheme::Http, rest),
        Some(("https" | "wss", rest)) => (Scheme::Https, rest),
        Some(("tcp", rest)) => (Scheme::Raw(Protocol::Tcp), rest),
        Some(("udp", rest)) => (Scheme::Raw(Protocol::Udp), rest),
        Some(_) => return Err(InvalidQuestion::Scheme { given: text.to_owned() }),
        None => (Scheme::Raw(Protocol::Tcp), text),
    };
    let (authority, path) = rest.find('/').and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, "/"));
    let path = path.split(['?', '#']).next().unwrap_or("/");
    let bracket = authority.rfind(']').map_or(0, |at| at + 1);
    let colon = authority.get(bracket..).and_then(|tail| tail.find(':')).map(|at| at + bracket);
    let (host, port) = match colon.and_then(|at| authority.split_at_checked(at)) {
        Some((host, port)) => (host, port.get(1..).and_then(|port| port.parse().ok())),
        None => match scheme {
            Scheme::Http => (authority, Some(80)),
            Scheme::Https => (authority, Some(443)),
            Scheme::Raw(_) => (authority, None),
        },
    };
    match port.and_then(PortNumber::new) {
        Some(port) if !host.is_empty() => {
            Ok(Target { scheme, host: host.to_owned(), port, path: path.to_owned() })
        }
        _ => Err(InvalidQuestion::Port { given: text.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_urls_names_and_addresses_with_ports() {
        let cases = [
            ("http://cart/items?x=1", Some("http://cart:80/items")),
            ("https://shop.example.test", Some("https://shop.example.test:443/")),
            ("db-0.db:5432", Some("db-0.db:5432/TCP")),
            ("udp://kube-dns.kube-system:53", Some("kube-dns.kube-system:53/UDP")),
            ("10.96.0.1:443", Some("10.96.0.1:443/TCP")),
            ("http://[fd00::1]:8080/", Some("http://[fd00::1]:8080/")),
            ("db", None),
            ("db:0", None),
            ("db:x", None),
            (":80", None),
            ("ftp://x", None),
        ];
        for (given, want) in cases {
            assert_eq!(parse_target(given).ok().map(|target| target.to_string()).as_deref(), want, "{given}");
        }
        assert_eq!(parse_target("http://[fd00::1]:80").unwrap().address(), Some("fd00::1".parse().unwrap()));
    }

    #[test]
    fn askers_are_pods_nodes_and_the_outside() {
        assert_eq!(parse_from("pod/web-1", "shop"), Ok(From::Pod(PodKey::new("shop", "web-1"))));
        assert_eq!(parse_from("pod/other/web-1", "shop"), Ok(From::Pod(PodKey::new("other", "web-1"))));
        assert_eq!(parse_from("node/n1", "shop"), Ok(From::Node("n1".into())));
        assert_eq!(parse_from("outside", "shop"), Ok(From::Outside));
        assert!(parse_from("web-1", "shop").is_err());
    }
}
