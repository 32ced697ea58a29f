//! What to ask for, how often and until when. Data only.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Requests that one plan has under way at the same time, at most.
pub const CONCURRENCY_MAX: u32 = 1024;

/// One plan: the same request, again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What is asked for.
    pub target: Target,
    /// How often and until when.
    #[serde(default)]
    pub pace: Pace,
    /// One request may take so long, from the name's resolution to the last byte.
    pub timeout_ms: u64,
    /// The files that names are resolved by.
    #[serde(default)]
    pub resolver: ResolverFiles,
}

/// How often and until when. Whichever limit is met first ends the plan; without one the end of standard input does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pace {
    /// Requests in all.
    pub count: Option<u64>,
    /// No request starts later than this.
    pub duration_ms: Option<u64>,
    /// Requests under way at the same time, at most [`CONCURRENCY_MAX`].
    pub concurrency: u32,
    /// Requests started a second; as fast as answers come when absent.
    pub rate_per_second: Option<u32>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { count: Some(1), duration_ms: None, concurrency: 1, rate_per_second: None }
    }
}

/// The files that names are resolved by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResolverFiles {
    /// resolv.conf(5).
    pub resolv_conf: PathBuf,
    /// hosts(5); asked first, absent: not asked.
    pub hosts: Option<PathBuf>,
}

impl Default for ResolverFiles {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: Some("/etc/hosts".into()) }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// HTTP, gRPC or a WebSocket.
    Http(HttpTarget),
    /// A TCP connection.
    Tcp(RawTarget),
    /// A datagram and its answer.
    Udp(RawTarget),
    /// A DNS lookup.
    Resolve(ResolveTarget),
}

/// An HTTP request, and what is spoken over it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpTarget {
    /// `http://` or `https://` (`ws://`, `wss://`, `grpc://`, `grpcs://` choose what is spoken, too).
    pub url: String,
    /// The version that is spoken.
    pub version: HttpVersion,
    /// `GET` when empty.
    pub method: String,
    /// Sent as they are, in this order. `host` replaces the one from the URL.
    pub headers: Vec<(String, String)>,
    /// The request's body.
    pub body: Option<String>,
    /// Connect here (`address` or `address:port`) in place of the URL's host.
    pub connect_to: Option<String>,
    /// Who is trusted.
    pub tls: TlsTrust,
    /// What is spoken.
    pub asked: Asked,
    /// Send further requests on the same connection where the peer allows it.
    pub reuse_connection: bool,
}

/// The HTTP version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpVersion {
    /// HTTP/1.1 in clear text; within TLS what ALPN selects.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: by ALPN within TLS, by prior knowledge in clear text.
    Http2,
}

/// What is spoken over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// A request and its answer.
    #[default]
    Plain,
    /// A unary call of the toolbox's own echo service with this message (always HTTP/2).
    Grpc {
        /// The message to echo.
        message: String,
    },
    /// A WebSocket: one greeting is read, these messages are sent, and one answer to each awaited.
    WebSocket {
        /// The messages.
        messages: Vec<String>,
    },
}

/// Who is trusted in TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsTrust {
    /// Certificates in PEM. Nothing else is trusted.
    pub authorities_pem: Option<String>,
    /// Take any certificate.
    pub insecure: bool,
    /// The name asked for and verified, in place of the URL's host.
    pub server_name: Option<String>,
}

/// A TCP or UDP exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTarget {
    /// `host:port`.
    pub address: String,
    /// Sent once connected. For UDP one datagram (empty when absent).
    pub send: Option<String>,
    /// TCP: read until the peer closes or this many bytes came; 0 reads nothing. UDP always awaits one datagram.
    pub read_bytes_max: u32,
    /// TCP: the first line is the toolbox's greeting, read it.
    pub expect_greeting: bool,
}

/// A DNS lookup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResolveTarget {
    /// The name; search domains apply unless it ends with a dot.
    pub name: String,
    /// `A`, `AAAA`, `SRV`, `CNAME`, `PTR`, `TXT`, …
    pub record_type: String,
    /// Ask this server in place of the file's.
    pub server: Option<std::net::IpAddr>,
}

impl Plan {
    /// A single request with a time limit of 5 s.
    pub fn once(target: Target) -> Self {
        Self { target, pace: Pace::default(), timeout_ms: 5_000, resolver: ResolverFiles::default() }
    }
}
