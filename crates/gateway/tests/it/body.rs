//! Bodies: streamed, chunked, with trailers, slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fairway_gateway::Limits;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Client, Cluster, Endpoint, Fixture, eventually, raw_endpoint, read_head, world};

#[test]
fn chunked_bodies_and_their_trailers_pass_in_both_directions() {
    world(|| async {
        let web = Endpoint::echo("10.244.1.2:8080").await;
        let fixture =
            Fixture::start(Cluster::new().ingress("h", &[("/", "web")]).service("web", &[web.address]));
        let reply = fixture
            .raw("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\nConnection: close\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nx-sum: 9\r\n\r\n")
            .await;
        let seen: serde_json::Value = serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(seen["body"], "abcde");
        assert_eq!(seen["trailers"]["x-sum"], "9");
        assert_eq!(seen["headers"]["transfer-encoding"], "chunked");
        assert!(seen["headers"].get("content-length").is_none());
        let get = "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nz\r\n0\r\n\r\n";
        let reply = fixture.raw(get).await;
        assert!(reply.contains("\"body\":\"z\""), "a GET may have a body: {reply}");
    });
}

#[test]
fn grpc_goes_as_http_2_with_its_trailers() {
    world(|| async {
        let grpc = Endpoint::serve("10.244.1.2:50051", |request| async move {
            let te = request.headers().get("te").cloned().unwrap_or(HeaderValue::from_static("none"));
            let version = format!("{:?}", request.version());
            let message = request.into_body().collect().await.unwrap().to_bytes();
            let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
            let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
            let body = StreamBody::new(futures::stream::iter(frames)).boxed();
            let response = Response::builder().header("content-type", "application/grpc");
            response.header("x-te", te).header("x-version", version).body(body).unwrap()
        })
        .await;
        let fixture =
            Fixture::start(Cluster::new().ingress("h", &[("/", "grpc")]).service("grpc", &[grpc.address]));
        let mut client = Client::http2(fixture.gateway.http()).await;
        let request = Request::post("http://h/pkg.Service/Call")
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(b"\0\0\0\0\x01x")))
            .unwrap();
        let reply = client.send(request).await.unwrap();
        assert_eq!(
            (reply.header("x-te").as_str(), reply.header("x-version").as_str()),
            ("trailers", "HTTP/2.0")
        );
        assert_eq!(reply.body, Bytes::from_static(b"\0\0\0\0\x01x"));
        assert_eq!(reply.trailers.unwrap()["grpc-status"], "0");
    });
}

#[test]
fn a_slow_reader_slows_the_endpoint_down_and_gets_everything() {
    const TOTAL: u64 = 64 << 20;
    world(|| async {
        let written = Arc::new(AtomicU64::new(0));
        let counter = written.clone();
        let endpoint = raw_endpoint("10.244.1.2:8080", move |mut stream| {
            let counter = counter.clone();
            async move {
                read_head(&mut stream).await;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                let block = vec![7; 64 << 10];
                for _ in 0..TOTAL / (64 << 10) {
                    if stream.write_all(&block).await.is_err() {
                        return;
                    }
                    counter.fetch_add(64 << 10, Ordering::SeqCst);
                }
            }
        })
        .await;
        let fixture =
            Fixture::start(Cluster::new().ingress("h", &[("/", "web")]).service("web", &[endpoint]));
        let mut client = TcpStream::connect(fixture.gateway.http()).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut before = u64::MAX;
        eventually("the endpoint is held up", async || {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = written.load(Ordering::SeqCst);
            now > 0 && std::mem::replace(&mut before, now) == now
        })
        .await;
        // What the kernel buffers of two connections hold, and our own few tens of KiB.
        assert!(before < TOTAL / 2, "{before} bytes were taken from the endpoint though nobody read them");
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert!(all.len() as u64 > TOTAL, "{} bytes", all.len());
    });
}

#[test]
fn uploads_are_streamed_not_stored() {
    world(|| async {
        let endpoint = raw_endpoint("10.244.1.2:8080", |mut stream| async move {
            read_head(&mut stream).await;
            let mut first = [0; 4];
            stream.read_exact(&mut first).await.unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nseen\r\n")
                .await
                .unwrap();
            let mut rest = [0; 4];
            stream.read_exact(&mut rest).await.unwrap();
            stream.write_all(b"3\r\nend\r\n0\r\n\r\n").await.unwrap();
        })
        .await;
        let fixture =
            Fixture::start(Cluster::new().ingress("h", &[("/", "web")]).service("web", &[endpoint]));
        let mut client = TcpStream::connect(fixture.gateway.http()).await.unwrap();
        let head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\nConnection: close\r\n\r\nhalf";
        client.write_all(head).await.unwrap();
        let mut reply = String::new();
        while !reply.contains("seen") {
            let mut some = [0; 512];
            let count = client.read(&mut some).await.unwrap();
            assert!(count > 0, "closed after {reply}");
            reply.push_str(std::str::from_utf8(&some[..count]).unwrap());
        }
        client.write_all(b"done").await.unwrap();
        client.read_to_string(&mut reply).await.unwrap();
        assert!(reply.ends_with("3\r\nend\r\n0\r\n\r\n"), "{reply}");
    });
}

#[test]
fn a_body_beyond_the_limit_is_413_whether_its_length_is_said_or_not() {
    world(|| async {
        let web = Endpoint::echo("10.244.1.2:8080").await;
        let cluster = Cluster::new().ingress("h", &[("/", "web")]).service("web", &[web.address]);
        let limits = Limits { request_body_bytes_max: Some(4), ..Limits::default() };
        let fixture = Fixture::with_limits(cluster, limits);
        for (request, status) in [
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfour", "200"),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nConnection: close\r\n\r\nfives", "413"),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nfives\r\n0\r\n\r\n",
                "413",
            ),
        ] {
            let reply = fixture.raw(request).await;
            assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {reply}");
        }
    });
}
