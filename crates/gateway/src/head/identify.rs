//! Is this head one request, and which?

use fairway_model::http::{Host, InvalidPath, NormalPath};
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Version};

use super::ClientFacts;

/// What an unambiguous head asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identified {
    /// Its host, for matching.
    pub(crate) host: Host,
    /// Its host and port as the client wrote them: what the endpoint gets as `Host`.
    pub(crate) authority: HeaderValue,
    /// The protocol it wants to switch to (`websocket`).
    pub(crate) upgrade: Option<HeaderValue>,
    /// Whether it is a gRPC call, which needs HTTP/2 on both sides.
    pub(crate) grpc: bool,
    /// Whether the client takes trailers.
    pub(crate) trailers: bool,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHead {
    /// HTTP/1.1 without `Host` (RFC 9112 §3.2).
    #[error("the request names no host")]
    NoHost,
    /// More than one `Host` (RFC 9112 §3.2).
    #[error("the request names its host more than once")]
    SeveralHosts,
    /// Not a host name.
    #[error("the host is not a host name")]
    BadHost,
    /// HTTP/2 with a `host` other than `:authority` (RFC 9113 §8.3.1).
    #[error("the host differs from the authority")]
    HostDiffers,
    /// See [`InvalidPath`].
    #[error("the path cannot be matched")]
    BadPath,
    /// A URL of another scheme than http and https.
    #[error("the URL has an unknown scheme")]
    UnknownScheme,
    /// Both lengths given: the two ends might read different messages (RFC 9112 §6.3).
    #[error("the request has both Content-Length and Transfer-Encoding")]
    LengthAndChunked,
    /// More than one length, or not a number.
    #[error("the length of the body is ambiguous")]
    BadLength,
    /// A transfer coding other than `chunked`.
    #[error("the transfer coding is unknown")]
    UnknownTransferCoding,
    /// `CONNECT` and `TRACE` make no sense at a reverse proxy.
    #[error("the method is not allowed")]
    MethodNotAllowed,
    /// `Expect` with something else than `100-continue` (RFC 9110 §10.1.1).
    #[error("the expectation is unknown")]
    UnknownExpectation,
}

impl From<InvalidPath> for BadHead {
    fn from(_: InvalidPath) -> Self {
        Self::BadPath
    }
}

/// Reads a head.
pub(crate) fn identify(parts: &Parts, client: &ClientFacts) -> Result<Identified, BadHead> {
    if parts.method == Method::CONNECT || parts.method == Method::TRACE {
        return Err(BadHead::MethodNotAllowed);
    }
    check_framing(&parts.headers)?;
    check_expectation(&parts.headers)?;
    let authority = authority(parts, client)?;
    let host =
        authority.to_str().ok().and_then(|text| Host::parse(text).ok()).filter(|host| is_name(host.as_str()));
    NormalPath::parse(parts.uri.path())?;
    Ok(Identified {
        host: host.ok_or(BadHead::BadHost)?,
        authority,
        upgrade: upgrade(parts),
        grpc: parts.version == Version::HTTP_2 && is_grpc(&parts.headers),
        trailers: lists(&parts.headers, header::TE, "trailers"),
    })
}

/// Empty labels (`a..b`) name nothing, but a resolver behind us might read them in its own way.
fn is_name(host: &str) -> bool {
    !host.starts_with('.') && !host.contains("..")
}

fn check_framing(headers: &HeaderMap) -> Result<(), BadHead> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (codings.next(), lengths.next()) {
        (Some(_), Some(_)) => Err(BadHead::LengthAndChunked),
        (Some(coding), None) => {
            let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
            if chunked { Ok(()) } else { Err(BadHead::UnknownTransferCoding) }
        }
        (None, Some(length)) => {
            let digits = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
            if digits && lengths.next().is_none() { Ok(()) } else { Err(BadHead::BadLength) }
        }
        (None, None) => Ok(()),
    }
}

fn check_expectation(headers: &HeaderMap) -> Result<(), BadHead> {
    match headers.get(header::EXPECT) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(BadHead::UnknownExpectation)
        }
        Some(_) | None => Ok(()),
    }
}

/// The authority by precedence: that of the request target (`:authority` or absolute form, RFC 9112 §3.2.2), then `Host`, then, for
/// HTTP/1.0 without `Host`, the address that the client connected to.
fn authority(parts: &Parts, client: &ClientFacts) -> Result<HeaderValue, BadHead> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let named = hosts.next();
    if hosts.next().is_some() {
        return Err(BadHead::SeveralHosts);
    }
    if let Some(scheme) = parts.uri.scheme_str()
        && !matches!(scheme, "http" | "https")
    {
        return Err(BadHead::UnknownScheme);
    }
    if let Some(target) = parts.uri.authority() {
        let same = |named: &HeaderValue| named.as_bytes().eq_ignore_ascii_case(target.as_str().as_bytes());
        if parts.version == Version::HTTP_2 && named.is_some_and(|named| !same(named)) {
            return Err(BadHead::HostDiffers);
        }
        return HeaderValue::from_str(target.as_str()).map_err(|_| BadHead::BadHost);
    }
    match named {
        Some(named) => Ok(named.clone()),
        None if parts.version < Version::HTTP_11 => {
            HeaderValue::from_str(&client.local.ip().to_string()).map_err(|_| BadHead::BadHost)
        }
        None => Err(BadHead::NoHost),
    }
}

/// `h2c` is not passed on: the endpoint would take it as leave to speak HTTP/2 through us, past every rule.
fn upgrade(parts: &Parts) -> Option<HeaderValue> {
    if parts.version != Version::HTTP_11 || !lists(&parts.headers, header::CONNECTION, "upgrade") {
        return None;
    }
    let mut wanted = parts.headers.get_all(header::UPGRADE).iter();
    let protocol = wanted.next().filter(|_| wanted.next().is_none())?;
    let known = protocol.to_str().is_ok_and(|text| {
        !text.split(',').any(|one| {
            one.trim().eq_ignore_ascii_case("h2c") || one.trim().to_ascii_lowercase().starts_with("http/")
        })
    });
    known.then(|| protocol.clone())
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        value.as_bytes().strip_prefix(b"application/grpc").is_some_and(|rest| {
            // application/grpc-web is an HTTP/1.1 protocol of its own.
            matches!(rest.first(), None | Some(b'+' | b';'))
        })
    })
}

/// Whether a comma-separated field has this element.
fn lists(headers: &HeaderMap, name: header::HeaderName, wanted: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|element| element.trim().eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> ClientFacts {
        ClientFacts {
            peer: "192.0.2.1:4000".parse().unwrap(),
            local: "10.0.0.1:80".parse().unwrap(),
            secure: false,
        }
    }

    fn parts(version: Version, method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().version(version).method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    struct Case {
        name: &'static str,
        version: Version,
        method: &'static str,
        uri: &'static str,
        headers: &'static [(&'static str, &'static str)],
        want: Result<&'static str, BadHead>,
    }

    const fn get(
        name: &'static str,
        headers: &'static [(&'static str, &'static str)],
        want: Result<&'static str, BadHead>,
    ) -> Case {
        Case { name, version: Version::HTTP_11, method: "GET", uri: "/", headers, want }
    }

    #[test]
    fn a_head_is_one_request_or_refused() {
        const H: (&str, &str) = ("host", "h");
        let cases = [
            get("plain", &[("host", "Shop.Example:8080")], Ok("Shop.Example:8080")),
            get("no host", &[], Err(BadHead::NoHost)),
            Case {
                version: Version::HTTP_10,
                ..get("HTTP/1.0 without host: the address", &[], Ok("10.0.0.1"))
            },
            get("two hosts", &[H, ("host", "h")], Err(BadHead::SeveralHosts)),
            get("empty host", &[("host", "")], Err(BadHead::BadHost)),
            get("host with path", &[("host", "a/b")], Err(BadHead::BadHost)),
            get("host with user", &[("host", "me@h")], Err(BadHead::BadHost)),
            get("host list", &[("host", "a,b")], Err(BadHead::BadHost)),
            get("empty label", &[("host", "a..b")], Err(BadHead::BadHost)),
            Case { uri: "http://target/x", ..get("absolute form wins over Host", &[H], Ok("target")) },
            Case { uri: "ftp://target/x", ..get("foreign scheme", &[H], Err(BadHead::UnknownScheme)) },
            Case { version: Version::HTTP_2, uri: "https://a/", ..get("h2 without host", &[], Ok("a")) },
            Case {
                version: Version::HTTP_2,
                uri: "https://a/",
                ..get("h2 with another host", &[("host", "b")], Err(BadHead::HostDiffers))
            },
            get("one length", &[H, ("content-length", "5")], Ok("h")),
            get(
                "two lengths",
                &[H, ("content-length", "5"), ("content-length", "5")],
                Err(BadHead::BadLength),
            ),
            get("list of lengths", &[H, ("content-length", "5, 5")], Err(BadHead::BadLength)),
            get("signed length", &[H, ("content-length", "+5")], Err(BadHead::BadLength)),
            get("empty length", &[H, ("content-length", "")], Err(BadHead::BadLength)),
            get("chunked", &[H, ("transfer-encoding", "Chunked")], Ok("h")),
            get(
                "length and chunked",
                &[H, ("content-length", "5"), ("transfer-encoding", "chunked")],
                Err(BadHead::LengthAndChunked),
            ),
            get(
                "other coding",
                &[H, ("transfer-encoding", "gzip, chunked")],
                Err(BadHead::UnknownTransferCoding),
            ),
            get(
                "chunked twice",
                &[H, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                Err(BadHead::UnknownTransferCoding),
            ),
            get(
                "coding with a tail",
                &[H, ("transfer-encoding", "chunked;q=1")],
                Err(BadHead::UnknownTransferCoding),
            ),
            get("expectation", &[H, ("expect", "100-Continue")], Ok("h")),
            get("unknown expectation", &[H, ("expect", "gold")], Err(BadHead::UnknownExpectation)),
            Case { method: "TRACE", ..get("TRACE", &[H], Err(BadHead::MethodNotAllowed)) },
            Case { method: "OPTIONS", uri: "*", ..get("OPTIONS *", &[H], Err(BadHead::BadPath)) },
            Case { uri: "/../x", ..get("above the root", &[H], Err(BadHead::BadPath)) },
            Case { uri: "/%00", ..get("NUL", &[H], Err(BadHead::BadPath)) },
        ];
        for case in cases {
            let parts = parts(case.version, case.method, case.uri, case.headers);
            let got = identify(&parts, &client());
            let got = got.as_ref().map(|one| one.authority.to_str().unwrap()).map_err(|error| *error);
            assert_eq!(got, case.want, "{}", case.name);
        }
    }

    #[test]
    fn upgrades_are_websockets_and_the_like_never_http2() {
        type Case = (&'static [(&'static str, &'static str)], Version, Option<&'static str>);
        let cases: [Case; 6] = [
            (&[("connection", "Upgrade"), ("upgrade", "websocket")], Version::HTTP_11, Some("websocket")),
            (&[("connection", "keep-alive, upgrade"), ("upgrade", "x")], Version::HTTP_11, Some("x")),
            (&[("upgrade", "websocket")], Version::HTTP_11, None),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], Version::HTTP_11, None),
            (&[("connection", "upgrade"), ("upgrade", "websocket, HTTP/2.0")], Version::HTTP_11, None),
            (&[("connection", "upgrade"), ("upgrade", "websocket")], Version::HTTP_10, None),
        ];
        for (headers, version, want) in cases {
            let parts = parts(version, "GET", "/", headers);
            assert_eq!(upgrade(&parts).as_ref().map(|one| one.to_str().unwrap()), want, "{headers:?}");
        }
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (content_type, want) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let parts = parts(Version::HTTP_2, "POST", "https://a/", &[("content-type", content_type)]);
            assert_eq!(identify(&parts, &client()).unwrap().grpc, want, "{content_type}");
        }
    }
}
