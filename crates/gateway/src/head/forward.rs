//! The head that an endpoint gets.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Uri, Version};

use super::{ClientFacts, Identified, remove_hop_by_hop};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const X_ORIGINAL_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-original-forwarded-for");
const X_ORIGINAL_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-original-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_SCHEME: HeaderName = HeaderName::from_static("x-scheme");
const PROXY: HeaderName = HeaderName::from_static("proxy");

/// How the request goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forwarded {
    /// HTTP/2 to the endpoint, or else HTTP/1.1.
    pub(crate) http2: bool,
    /// Whether there is a body whose length nobody said.
    pub(crate) chunked: bool,
    /// What becomes `X-Request-ID` unless the client sent one.
    pub(crate) request_id: u128,
}

/// Turns a client's head into the endpoint's: the target untouched (ingress-nginx 2.1), connection fields gone, the forwarding fields
/// of ingress-nginx section 11.1 set, those of the client overwritten.
pub(crate) fn forward(parts: &mut Parts, asked: &Identified, client: &ClientFacts, how: Forwarded) {
    let from_http2 = parts.version == Version::HTTP_2;
    let headers = &mut parts.headers;
    remove_hop_by_hop(headers);
    headers.remove(header::EXPECT);
    headers.remove(PROXY);
    remove_underscored(headers);
    if from_http2 && !how.http2 {
        join_cookies(headers);
    }
    set_forwarding(headers, asked, client);
    if !headers.contains_key(X_REQUEST_ID)
        && let Ok(id) = HeaderValue::try_from(format!("{:032x}", how.request_id))
    {
        headers.insert(X_REQUEST_ID, id);
    }
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    if how.http2 {
        headers.remove(header::HOST);
        if asked.trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        let uri = Uri::builder()
            .scheme("http")
            .authority(asked.authority.as_bytes())
            .path_and_query(target)
            .build();
        parts.uri = uri.unwrap_or_default();
        parts.version = Version::HTTP_2;
        return;
    }
    headers.insert(header::HOST, asked.authority.clone());
    if let Some(protocol) = &asked.upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    if how.chunked {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    parts.uri = target.parse().unwrap_or_default();
    parts.version = Version::HTTP_11;
}

fn set_forwarding(headers: &mut HeaderMap, asked: &Identified, client: &ClientFacts) {
    for (from, to) in
        [(X_FORWARDED_FOR, X_ORIGINAL_FORWARDED_FOR), (X_FORWARDED_HOST, X_ORIGINAL_FORWARDED_HOST)]
    {
        match headers.remove(from) {
            Some(value) => headers.insert(to, value),
            None => headers.remove(to),
        };
    }
    if let Ok(address) = HeaderValue::try_from(client.peer.ip().to_canonical().to_string()) {
        headers.insert(X_REAL_IP, address.clone());
        headers.insert(X_FORWARDED_FOR, address);
    }
    headers.insert(X_FORWARDED_HOST, asked.authority.clone());
    headers.insert(X_FORWARDED_PORT, HeaderValue::from_static(client.public_port()));
    for name in [X_FORWARDED_PROTO, X_FORWARDED_SCHEME, X_SCHEME] {
        headers.insert(name, HeaderValue::from_static(client.scheme()));
    }
}

/// `X_Real_IP` and `X-Real-IP` are the same variable to CGI-like applications: nginx drops names with an underscore, so do we.
fn remove_underscored(headers: &mut HeaderMap) {
    if !headers.keys().any(|name| name.as_str().contains('_')) {
        return;
    }
    let names: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// HTTP/2 may split cookies into several fields, HTTP/1.1 has one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::identify;

    struct Case {
        name: &'static str,
        version: Version,
        headers: &'static [(&'static str, &'static str)],
        http2: bool,
        chunked: bool,
        want: &'static [(&'static str, Option<&'static str>)],
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn the_endpoint_gets_a_clean_head() {
        let plain = Case {
            name: "",
            version: Version::HTTP_11,
            headers: &[],
            http2: false,
            chunked: false,
            want: &[],
        };
        let cases = [
            Case {
                name: "forwarding fields are ours",
                headers: &[
                    ("x-forwarded-for", "6.6.6.6"),
                    ("x-real-ip", "6.6.6.6"),
                    ("x-forwarded-proto", "https"),
                    ("x-original-forwarded-host", "forged"),
                ],
                want: &[
                    ("host", Some("h:81")),
                    ("x-forwarded-for", Some("192.0.2.1")),
                    ("x-original-forwarded-for", Some("6.6.6.6")),
                    ("x-original-forwarded-host", None),
                    ("x-real-ip", Some("192.0.2.1")),
                    ("x-forwarded-proto", Some("http")),
                    ("x-forwarded-scheme", Some("http")),
                    ("x-scheme", Some("http")),
                    ("x-forwarded-host", Some("h:81")),
                    ("x-forwarded-port", Some("80")),
                    ("x-request-id", Some("0000000000000000000000000000002a")),
                ],
                ..plain
            },
            Case {
                name: "a request id is kept",
                headers: &[("x-request-id", "mine")],
                want: &[("x-request-id", Some("mine"))],
                ..plain
            },
            Case {
                name: "connection fields go, listed ones too, length and host stay",
                headers: &[
                    ("connection", "close, x-private, content-length, host"),
                    ("x-private", "1"),
                    ("keep-alive", "5"),
                    ("te", "trailers"),
                    ("proxy-connection", "x"),
                    ("upgrade", "websocket"),
                    ("content-length", "3"),
                    ("expect", "100-continue"),
                    ("proxy", "evil"),
                    ("x_real_ip", "1.1.1.1"),
                    ("authorization", "kept"),
                ],
                want: &[
                    ("connection", None),
                    ("x-private", None),
                    ("keep-alive", None),
                    ("te", None),
                    ("proxy-connection", None),
                    ("upgrade", None),
                    ("expect", None),
                    ("proxy", None),
                    ("x_real_ip", None),
                    ("content-length", Some("3")),
                    ("host", Some("h:81")),
                    ("authorization", Some("kept")),
                ],
                ..plain
            },
            Case {
                name: "websocket",
                headers: &[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")],
                want: &[("connection", Some("upgrade")), ("upgrade", Some("websocket"))],
                ..plain
            },
            Case {
                name: "a chunked body stays chunked",
                headers: &[("transfer-encoding", "chunked")],
                chunked: true,
                want: &[("transfer-encoding", Some("chunked"))],
                ..plain
            },
            Case {
                name: "HTTP/2 to HTTP/1.1",
                version: Version::HTTP_2,
                headers: &[("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")],
                want: &[("cookie", Some("a=1; b=2")), ("host", Some("h:81")), ("te", None)],
                ..plain
            },
            Case {
                name: "HTTP/2 to HTTP/2",
                version: Version::HTTP_2,
                headers: &[("te", "trailers"), ("cookie", "a=1")],
                http2: true,
                want: &[("te", Some("trailers")), ("host", None), ("cookie", Some("a=1"))],
                ..plain
            },
        ];
        let client = ClientFacts {
            peer: "192.0.2.1:4000".parse().unwrap(),
            local: "10.0.0.1:8080".parse().unwrap(),
            secure: false,
        };
        for case in cases {
            let mut request = http::Request::builder().version(case.version);
            request = if case.version == Version::HTTP_2 {
                request.uri("http://h:81/a%2Fb//c?q=%20")
            } else {
                request.uri("/a%2Fb//c?q=%20").header("host", "h:81")
            };
            for (name, value) in case.headers {
                request = request.header(*name, *value);
            }
            let mut parts = request.body(()).unwrap().into_parts().0;
            let asked = identify(&parts, &client).unwrap();
            let how = Forwarded { http2: case.http2, chunked: case.chunked, request_id: 42 };
            forward(&mut parts, &asked, &client, how);
            for (name, want) in case.want {
                let got = parts.headers.get(*name).map(|value| value.to_str().unwrap());
                assert_eq!(got, *want, "{}: {name}", case.name);
            }
            let target = parts.uri.path_and_query().unwrap().as_str();
            assert_eq!(target, "/a%2Fb//c?q=%20", "{}: the target is untouched", case.name);
            assert_eq!(parts.uri.authority().is_some(), case.http2, "{}", case.name);
        }
    }
}
