//! What a path and its query ask the HTTP server to do. Pure.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::duration;

/// The most bytes that `/bytes/N` sends.
const BYTES_MAX: u64 = 1 << 30;
/// The most chunks that `/stream` sends.
const CHUNKS_MAX: u32 = 100_000;

/// How one request is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Behaviour {
    /// Waits this long before the first byte.
    pub(super) delay: Duration,
    /// The status of the answer, where the action does not decide it.
    pub(super) status: StatusCode,
    /// Added to the answer (`/headers?x-a=1`).
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// What is sent.
    pub(super) action: Action,
}

/// What is sent as the answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The JSON description of who answered and what was asked.
    Describe,
    /// The request's body, byte for byte, as it comes.
    Echo,
    /// That many bytes.
    Bytes(u64),
    /// Lines of text, one `every` so often.
    Stream {
        /// How many.
        chunks: u32,
        /// The pause after each.
        every: Duration,
    },
    /// 200 when ready, else 503.
    Ready,
    /// Sets what `/ready` answers.
    SetReady(bool),
    /// Ends the process with this code, after the answer.
    Exit(u8),
    /// Half an answer, then the connection is cut.
    Abort,
    /// A WebSocket that says who it is and then echoes.
    WebSocket,
}

/// Why a request cannot be served as asked; answered with 400.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRequest {
    #[error("{name}={value}: {expected}")]
    Value { name: &'static str, value: String, expected: &'static str },
    #[error("{0}")]
    Duration(#[from] duration::DurationError),
}

/// Reads path and query. `?status=`, `?delay=` work on every path.
pub(super) fn parse(method: &Method, path: &str, query: &str) -> Result<Behaviour, BadRequest> {
    let mut behaviour = Behaviour {
        delay: Duration::ZERO,
        status: StatusCode::OK,
        headers: Vec::new(),
        action: Action::Describe,
    };
    let (mut chunks, mut every, mut code, mut set) = (10, Duration::from_millis(50), 0, None);
    let is_headers = path == "/headers";
    for (name, value) in pairs(query) {
        match name.as_str() {
            "status" => behaviour.status = status(&value)?,
            "delay" => behaviour.delay = duration::parse(&value)?,
            "every" => every = duration::parse(&value)?,
            "chunks" => {
                chunks = number("chunks", &value, u64::from(CHUNKS_MAX))?.try_into().unwrap_or(CHUNKS_MAX)
            }
            "code" => code = number("code", &value, 255)?.try_into().unwrap_or(u8::MAX),
            "set" => set = Some(boolean(&value)?),
            _ if is_headers => behaviour.headers.push(header(&name, &value)?),
            // Any other query belongs to whoever tests it: it is described in the answer.
            _ => {}
        }
    }
    let mut segments = path.trim_start_matches('/').split('/');
    behaviour.action = match (segments.next().unwrap_or(""), segments.next()) {
        ("status", Some(text)) => {
            behaviour.status = status(text)?;
            Action::Describe
        }
        ("delay", Some(text)) => {
            behaviour.delay = duration::parse(text)?;
            Action::Describe
        }
        ("bytes", Some(text)) => Action::Bytes(number("bytes", text, BYTES_MAX)?),
        ("stream", None) => Action::Stream { chunks, every },
        ("echo", None) => Action::Echo,
        ("ready", None) if method == Method::POST => Action::SetReady(set.unwrap_or(true)),
        ("ready", None) => Action::Ready,
        ("exit", None) => Action::Exit(code),
        ("abort", None) => Action::Abort,
        ("ws", None) => Action::WebSocket,
        _ => Action::Describe,
    };
    Ok(behaviour)
}

fn status(text: &str) -> Result<StatusCode, BadRequest> {
    let bad =
        || BadRequest::Value { name: "status", value: text.to_owned(), expected: "a status from 200 to 599" };
    let code: u16 = text.parse().map_err(|_| bad())?;
    StatusCode::from_u16(code).ok().filter(|_| (200..600).contains(&code)).ok_or_else(bad)
}

fn number(name: &'static str, text: &str, max: u64) -> Result<u64, BadRequest> {
    let value = text.parse().ok().filter(|&number| number <= max);
    value.ok_or_else(|| BadRequest::Value {
        name,
        value: text.to_owned(),
        expected: "a number within the limit",
    })
}

fn boolean(text: &str) -> Result<bool, BadRequest> {
    text.parse().map_err(|_| BadRequest::Value {
        name: "set",
        value: text.to_owned(),
        expected: "true or false",
    })
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), BadRequest> {
    let bad =
        || BadRequest::Value { name: "headers", value: format!("{name}: {value}"), expected: "a header" };
    Ok((name.parse().map_err(|_| bad())?, value.parse().map_err(|_| bad())?))
}

/// The pairs of a query, percent-decoded. A part without `=` has an empty value.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    query.split('&').filter(|part| !part.is_empty()).map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(name), decode(value))
    })
}

/// Percent-decodes; what is not a valid escape stays as it is.
fn decode(text: &str) -> String {
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some((&byte, tail)) = rest.split_first() {
        let escape = if byte == b'%' { tail.split_at_checked(2) } else { None };
        let decoded = escape.and_then(|(pair, after)| {
            let pair = std::str::from_utf8(pair).ok()?;
            Some((u8::from_str_radix(pair, 16).ok()?, after))
        });
        match decoded {
            Some((value, after)) => {
                out.push(value);
                rest = after;
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(action: Action) -> Behaviour {
        Behaviour { delay: Duration::ZERO, status: StatusCode::OK, headers: Vec::new(), action }
    }

    #[test]
    fn a_path_says_what_is_sent() {
        let delayed = Behaviour { delay: Duration::from_millis(200), ..plain(Action::Describe) };
        let failing = Behaviour { status: StatusCode::SERVICE_UNAVAILABLE, ..plain(Action::Describe) };
        let headers = vec![(HeaderName::from_static("x-a"), HeaderValue::from_static("1 2"))];
        let cases = [
            ("GET", "/", "", plain(Action::Describe)),
            ("GET", "/cart/7", "q=1", plain(Action::Describe)),
            ("GET", "/status/503", "", failing),
            ("GET", "/delay/200ms", "", delayed),
            ("GET", "/bytes/65536", "", plain(Action::Bytes(65_536))),
            (
                "GET",
                "/stream",
                "chunks=3&every=1ms",
                plain(Action::Stream { chunks: 3, every: Duration::from_millis(1) }),
            ),
            ("POST", "/echo", "", plain(Action::Echo)),
            ("GET", "/ready", "", plain(Action::Ready)),
            ("POST", "/ready", "set=false", plain(Action::SetReady(false))),
            ("POST", "/exit", "code=3", plain(Action::Exit(3))),
            ("GET", "/ws", "", plain(Action::WebSocket)),
            ("GET", "/headers", "x-a=1%202", Behaviour { headers, ..plain(Action::Describe) }),
        ];
        for (method, path, query, want) in cases {
            let method: Method = method.parse().unwrap();
            assert_eq!(parse(&method, path, query), Ok(want), "{method} {path}?{query}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        for (path, query) in [
            ("/status/banana", ""),
            ("/status/100", ""),
            ("/delay/5", ""),
            ("/bytes/99999999999", ""),
            ("/stream", "chunks=x"),
            ("/headers", "a%0a=1"),
            ("/ready", "set=maybe"),
        ] {
            assert!(parse(&Method::GET, path, query).is_err(), "{path}?{query}");
        }
    }

    #[test]
    fn percent_escapes_that_are_none_stay() {
        for (given, want) in
            [("a%20b", "a b"), ("100%", "100%"), ("%zz", "%zz"), ("%4", "%4"), ("%41%", "A%")]
        {
            assert_eq!(decode(given), want);
        }
    }
}
