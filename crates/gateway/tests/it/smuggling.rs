//! Requests that two parsers could read differently: refused, or handed on in one form that leaves nothing to interpret.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Cluster, Fixture, raw, raw_endpoint, world};

/// What must become of a request.
#[derive(Debug, Clone, Copy)]
enum Want {
    /// A 4xx or a closed connection; nothing reaches the endpoint.
    Refused,
    /// One request reaches the endpoint, with this as its head's last part (lower case) and body.
    Body(&'static str),
}

use Want::{Body, Refused};

const CASES: &[(&str, &str, Want)] = &[
    ("plain", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", Body("")),
    ("length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", Body("abc")),
    (
        "chunked",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Body("3\r\nabc\r\n0\r\n\r\n"),
    ),
    (
        "CL.TE: the same",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Body("3\r\nabc\r\n0\r\n\r\n"),
    ),
    (
        "TE.CL: chunked wins and the length is gone",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Body("3\r\nabc\r\n0\r\n\r\n"),
    ),
    (
        "two lengths",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        Refused,
    ),
    ("list of lengths", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\nabc", Refused),
    ("plus length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc", Refused),
    ("minus length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -3\r\n\r\nabc", Refused),
    ("hexadecimal length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3\r\n\r\nabc", Refused),
    ("huge length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\nabc", Refused),
    ("empty length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: \r\n\r\nabc", Refused),
    ("unknown coding", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", Refused),
    ("identity", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n", Refused),
    (
        "coding before chunked",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "coding after chunked",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "two codings",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "chunked in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "vertical tab before chunked",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "space before colon",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "folded coding",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    ("folded field", "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", Refused),
    ("first line folded", "GET / HTTP/1.1\r\n Host: h\r\n\r\n", Refused),
    ("bare CR in a value", "GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", Refused),
    ("NUL in a value", "GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", Refused),
    ("NUL in a name", "GET / HTTP/1.1\r\nHost: h\r\nX\0: a\r\n\r\n", Refused),
    ("field without colon", "GET / HTTP/1.1\r\nHost: h\r\nnonsense\r\n\r\n", Refused),
    ("empty name", "GET / HTTP/1.1\r\nHost: h\r\n: a\r\n\r\n", Refused),
    ("no host", "GET / HTTP/1.1\r\n\r\n", Refused),
    ("two hosts", "GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", Refused),
    ("host with space", "GET / HTTP/1.1\r\nHost: h x\r\n\r\n", Refused),
    ("host with path", "GET / HTTP/1.1\r\nHost: h/x\r\n\r\n", Refused),
    ("host with user", "GET / HTTP/1.1\r\nHost: a@h\r\n\r\n", Refused),
    ("two spaces in the request line", "GET  / HTTP/1.1\r\nHost: h\r\n\r\n", Refused),
    ("tab in the request line", "GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", Refused),
    ("no version", "GET /\r\nHost: h\r\n\r\n", Refused),
    ("version 2.0 in text", "GET / HTTP/2.0\r\nHost: h\r\n\r\n", Refused),
    ("version 1.2", "GET / HTTP/1.2\r\nHost: h\r\n\r\n", Refused),
    ("lower-case version", "GET / http/1.1\r\nHost: h\r\n\r\n", Refused),
    ("CONNECT", "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", Refused),
    ("TRACE", "TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", Refused),
    ("target without slash", "GET x HTTP/1.1\r\nHost: h\r\n\r\n", Refused),
    ("encoded way up", "GET /%2e%2e/x HTTP/1.1\r\nHost: h\r\n\r\n", Refused),
    ("encoded NUL", "GET /%00 HTTP/1.1\r\nHost: h\r\n\r\n", Refused),
    (
        "chunk size with sign",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "chunk size with 0x",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "chunk size overflow",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "chunk longer than said",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "chunk ended by LF",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n",
        Refused,
    ),
    (
        "extension with bare LF",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x\nabc\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "chunk extensions are not handed on",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
        Body("3\r\nabc\r\n0\r\n\r\n"),
    ),
    ("bare LF lines become CR LF", "GET / HTTP/1.1\nHost: h\n\n", Body("")),
    ("empty lines before", "\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", Body("")),
    ("length of a GET", "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", Body("abc")),
    (
        "underscored length",
        "POST / HTTP/1.1\r\nHost: h\r\nContent_Length: 9\r\nContent-Length: 3\r\n\r\nabc",
        Body("abc"),
    ),
    (
        "length listed by Connection",
        "POST / HTTP/1.1\r\nHost: h\r\nConnection: content-length\r\nContent-Length: 3\r\n\r\nabc",
        Body("abc"),
    ),
    ("absolute form with another Host", "GET http://h/ HTTP/1.1\r\nHost: other\r\n\r\n", Body("")),
    (
        "upper-case coding",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Body("3\r\nabc\r\n0\r\n\r\n"),
    ),
];

/// An endpoint that takes everything down and answers every head it can see.
async fn recorder(seen: Arc<Mutex<String>>) -> std::net::SocketAddr {
    raw_endpoint("10.244.1.2:8080", move |mut stream| {
        let seen = seen.clone();
        async move { record(&mut stream, &seen).await }
    })
    .await
}

async fn record(stream: &mut TcpStream, seen: &Mutex<String>) {
    let mut buffer = [0; 4096];
    let mut all = String::new();
    loop {
        let Ok(count @ 1..) = stream.read(&mut buffer).await else { return };
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        seen.lock().unwrap().push_str(&text);
        all.push_str(&text);
        let Some((head, body)) = all.split_once("\r\n\r\n") else { continue };
        let complete = if head.contains("transfer-encoding: chunked") {
            body.ends_with("0\r\n\r\n")
        } else {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            body.len() >= length.map_or(0, |length| length.parse().unwrap())
        };
        if complete {
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            return;
        }
    }
}

#[test]
fn ambiguous_requests_are_refused_or_handed_on_in_one_form() {
    world(|| async {
        let seen = Arc::new(Mutex::new(String::new()));
        let address = recorder(seen.clone()).await;
        let fixture = Fixture::start(Cluster::new().ingress("h", &[("/", "web")]).service("web", &[address]));
        for (name, request, want) in CASES {
            seen.lock().unwrap().clear();
            // A second request behind it ends the connection, and must never be swallowed by or melt into the first.
            let follow = "GET /follow HTTP/1.1\r\nHost: unknown\r\nConnection: close\r\n\r\n";
            let reply = raw(fixture.gateway.http(), &format!("{request}{follow}")).await;
            let arrived = seen.lock().unwrap().clone();
            match want {
                Refused => {
                    assert!(
                        reply.is_empty()
                            || reply.starts_with("HTTP/1.1 4")
                            || reply.starts_with("HTTP/1.0 4")
                            || reply.starts_with("HTTP/1.1 505"),
                        "{name}: {reply}"
                    );
                    let complete =
                        arrived.contains("\r\n\r\n") && !arrived.contains("transfer-encoding: chunked");
                    assert!(
                        !complete && !arrived.ends_with("0\r\n\r\n"),
                        "{name}: the endpoint got {arrived:?}"
                    );
                }
                Body(body) => {
                    assert!(reply.starts_with("HTTP/1.1 200"), "{name}: {reply}");
                    let (head, rest) =
                        arrived.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{name}: {arrived:?}"));
                    assert_eq!(rest, *body, "{name}: {arrived:?}");
                    let count = |field: &str| head.lines().filter(|line| line.starts_with(field)).count();
                    assert_eq!(count("host: "), 1, "{name}: {head}");
                    assert!(head.contains("host: h"), "{name}: {head}");
                    let framings = count("content-length: ") + count("transfer-encoding: ");
                    assert_eq!(framings, usize::from(!body.is_empty()), "{name}: {head}");
                    assert!(!head.replace("\r\n", "").contains(['\n', '\r']), "{name}: {head:?}");
                }
            }
            assert!(!arrived.contains("/follow"), "{name}: {arrived:?}");
        }
        assert!(CASES.len() >= 50);
    });
}
