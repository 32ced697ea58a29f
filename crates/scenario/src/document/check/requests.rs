//! Requests: from their shape to a plan without its files. Pure.

use std::time::Duration;

use fairway_toolbox::probe::{
    Asked, CONCURRENCY_MAX, HttpTarget, HttpVersion, Pace, RawTarget, ResolveTarget, Target, TlsTrust,
};

use super::{CheckError, optional};
use crate::document::raw;
use crate::document::step::{Authorities, ObjectRef, Probe, Source};

/// How long one request may take when it says nothing.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// The most of a TCP answer that is read.
const TCP_BYTES_MAX: u32 = 64 << 10;
/// Background requests a second when they say nothing.
const LOAD_RATE_DEFAULT: u32 = 50;

fn pace(
    count: Option<u64>,
    concurrency: Option<u32>,
    rate: Option<u32>,
    default_count: Option<u64>,
) -> Result<Pace, CheckError> {
    let concurrency = concurrency.unwrap_or(1);
    if concurrency == 0 || concurrency > CONCURRENCY_MAX {
        let given = concurrency.to_string();
        return Err(CheckError::Value { field: "concurrency", given, expected: "between 1 and 1024" });
    }
    if rate == Some(0) || count == Some(0) {
        return Err(CheckError::Value { field: "rate and count", given: "0".into(), expected: "at least 1" });
    }
    Ok(Pace { count: count.or(default_count), duration_ms: None, concurrency, rate_per_second: rate })
}

pub(super) fn request(raw: &raw::Request, default_count: Option<u64>) -> Result<Probe, CheckError> {
    let from = source(&raw.from)?;
    if raw.url.is_empty() {
        return Err(CheckError::Missing { action: "request", field: "url" });
    }
    let version = match raw.http.as_deref() {
        None => HttpVersion::Auto,
        Some("1.1" | "1") => HttpVersion::Http1,
        Some("2") => HttpVersion::Http2,
        Some(other) => {
            let given = other.to_owned();
            return Err(CheckError::Value { field: "http", given, expected: "\"1.1\" or \"2\"" });
        }
    };
    let asked = match (&raw.grpc, &raw.websocket) {
        (None, None) => Asked::Plain,
        (Some(message), None) => Asked::Grpc { message: message.clone() },
        (None, Some(messages)) => Asked::WebSocket { messages: messages.clone() },
        (Some(_), Some(_)) => {
            return Err(CheckError::NotHere { action: "a gRPC request", field: "websocket".into() });
        }
    };
    let tls = raw.tls.clone().unwrap_or_default();
    let target = HttpTarget {
        url: raw.url.clone(),
        version,
        method: raw.method.clone().unwrap_or_default(),
        headers: raw.headers.clone().into_iter().collect(),
        body: raw.body.clone(),
        connect_to: raw.to.clone(),
        tls: TlsTrust { authorities_pem: None, insecure: tls.insecure, server_name: tls.server_name },
        asked,
        reuse_connection: raw.reuse_connection,
    };
    Ok(Probe {
        from,
        target: Target::Http(target),
        authorities: tls.ca.as_deref().map(authorities),
        pace: pace(raw.count, raw.concurrency, raw.rate, default_count)?,
        timeout: optional("timeout", raw.timeout.as_deref())?.unwrap_or(TIMEOUT_DEFAULT),
    })
}

fn authorities(text: &str) -> Authorities {
    match ObjectRef::parse(text) {
        _ if text.contains("-----BEGIN") => Authorities::Text(text.to_owned()),
        Some(object) if object.kind == "secret" => Authorities::Secret(object),
        Some(_) | None => Authorities::File(text.to_owned()),
    }
}

pub(super) fn connect(
    raw: &raw::Connect,
    greeting: bool,
    default_count: Option<u64>,
) -> Result<Probe, CheckError> {
    let (address, is_tcp) = match (&raw.tcp, &raw.udp) {
        (Some(address), None) => (address, true),
        (None, Some(address)) => (address, false),
        _ => return Err(CheckError::Missing { action: "connect", field: "tcp or udp (one of them)" }),
    };
    let target = RawTarget {
        address: address.clone(),
        send: raw.send.clone(),
        read_bytes_max: if raw.send.is_some() { TCP_BYTES_MAX } else { 0 },
        expect_greeting: greeting,
    };
    Ok(Probe {
        from: source(&raw.from)?,
        target: if is_tcp { Target::Tcp(target) } else { Target::Udp(target) },
        authorities: None,
        pace: pace(raw.count, raw.concurrency, raw.rate, default_count)?,
        timeout: optional("timeout", raw.timeout.as_deref())?.unwrap_or(TIMEOUT_DEFAULT),
    })
}

pub(super) fn resolve(raw: &raw::Resolve, default_count: Option<u64>) -> Result<Probe, CheckError> {
    if raw.name.is_empty() {
        return Err(CheckError::Missing { action: "resolve", field: "name" });
    }
    // A variable has no value yet when the file is loaded.
    let server = raw.server.as_deref().filter(|text| !text.contains("${")).map(|text| {
        let expected = "an IP address";
        text.parse().map_err(|_| CheckError::Value { field: "server", given: text.to_owned(), expected })
    });
    let target = ResolveTarget {
        name: raw.name.clone(),
        record_type: raw.record_type.clone().unwrap_or_else(|| "A".into()),
        server: server.transpose()?,
    };
    Ok(Probe {
        from: source(&raw.from)?,
        target: Target::Resolve(target),
        authorities: None,
        pace: pace(raw.count, None, raw.rate, default_count)?,
        timeout: optional("timeout", raw.timeout.as_deref())?.unwrap_or(TIMEOUT_DEFAULT),
    })
}

/// Background requests go on until they are stopped; every answer is read for the pod that gave it.
pub(super) fn background(raw: &raw::Start) -> Result<Probe, CheckError> {
    if raw.load.is_empty() {
        return Err(CheckError::Missing { action: "start", field: "load" });
    }
    match (&raw.request, &raw.connect, &raw.resolve) {
        (Some(raw), None, None) => request(raw, None),
        (None, Some(raw), None) => connect(raw, true, None),
        (None, None, Some(raw)) => resolve(raw, None),
        _ => Err(CheckError::Missing { action: "start", field: "request, connect or resolve (one of them)" }),
    }
    .map(|mut probe| {
        probe.pace.rate_per_second.get_or_insert(LOAD_RATE_DEFAULT);
        probe
    })
}

fn source(text: &str) -> Result<Source, CheckError> {
    let expected = "pod/NAME, deployment/NAME, node/NAME or outside";
    match text.split_once('/') {
        None if text == "outside" => Ok(Source::Outside),
        Some(("node", name)) if !name.is_empty() => Ok(Source::Node(name.to_owned())),
        Some(_) => ObjectRef::parse(text).map(Source::Pod).ok_or_else(|| CheckError::Value {
            field: "from",
            given: text.to_owned(),
            expected,
        }),
        None => Err(CheckError::Value { field: "from", given: text.to_owned(), expected }),
    }
}
