//! Endpoints that are gone, slow, or talk nonsense; clients that do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fairway_gateway::Limits;
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Client, Cluster, Endpoint, Fixture, eventually, ip, raw_endpoint, read_head, world};

fn quick() -> Limits {
    Limits {
        connect_timeout: Duration::from_millis(300),
        upstream_timeout: Duration::from_millis(300),
        header_timeout: Duration::from_millis(300),
        client_idle_timeout: Duration::from_millis(300),
        handshake_timeout: Duration::from_millis(300),
        ..Limits::default()
    }
}

#[test]
fn a_request_goes_on_to_the_next_endpoint_when_one_takes_no_connections() {
    world(|| async {
        let web = Endpoint::echo("10.244.1.2:8080").await;
        let dead = "10.244.1.3:8080".parse().unwrap();
        let cluster = Cluster::new().ingress("h", &[("/", "web")]).service("web", &[web.address, dead]);
        let fixture = Fixture::start(cluster);
        let mut client = Client::http1(fixture.gateway.http()).await;
        for _ in 0..20 {
            let body = Full::new(Bytes::from_static(b"body"));
            let request = Request::post("/").header("host", "h").body(body).unwrap();
            let reply = client.send(request).await.unwrap();
            assert_eq!((reply.status.as_u16(), &reply.seen()["body"]), (200, &"body".into()));
        }
        assert!(fixture.metrics().contains("fairway_gateway_retries_total 10"), "{}", fixture.metrics());
    });
}

#[test]
fn what_cannot_be_served_says_so_in_time() {
    world(|| async {
        ip(&["route", "add", "blackhole", "10.99.0.0/16"]);
        let slow = raw_endpoint("10.244.1.2:1", |mut stream| async move {
            read_head(&mut stream).await;
            tokio::time::sleep(Duration::from_secs(30)).await;
        })
        .await;
        let nonsense = raw_endpoint("10.244.1.2:2", |mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").await;
        })
        .await;
        let large = raw_endpoint("10.244.1.2:3", |mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await;
            let _ = stream.write_all(&vec![b'x'; 200_000]).await;
        })
        .await;
        let hangs_up = raw_endpoint("10.244.1.2:4", |mut stream| async move {
            read_head(&mut stream).await;
        })
        .await;
        let refuses = "10.244.1.2:5".parse().unwrap();
        let cluster = Cluster::new()
            .ingress(
                "h",
                &[
                    ("/slow", "slow"),
                    ("/nonsense", "nonsense"),
                    ("/large", "large"),
                    ("/gone", "gone"),
                    ("/dead", "dead"),
                ],
            )
            .service("slow", &[slow])
            .service("nonsense", &[nonsense])
            .service("large", &[large])
            .service("gone", &[hangs_up])
            .service("dead", &[refuses]);
        let fixture = Fixture::with_limits(cluster, quick());
        for (path, status) in
            [("/slow", 504), ("/nonsense", 502), ("/large", 502), ("/gone", 502), ("/dead", 502)]
        {
            let started = Instant::now();
            let reply = fixture.get("h", path).await;
            assert_eq!(reply.status.as_u16(), status, "{path}");
            assert!(started.elapsed() < Duration::from_secs(3), "{path} took {:?}", started.elapsed());
        }
    });
}

/// A server that answers one request a connection and closes it a moment later without having said so.
async fn forgetful(address: &str) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let served = Arc::new(AtomicUsize::new(0));
    let counter = served.clone();
    let address = raw_endpoint(address, move |mut stream| {
        let counter = counter.clone();
        async move {
            let head = read_head(&mut stream).await;
            if head.contains("content-length: 4") {
                let _ = stream.read_exact(&mut [0; 4]).await;
            }
            if !head.is_empty() {
                counter.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    (address, served)
}

#[test]
fn connections_that_endpoints_closed_silently_cost_no_request() {
    world(|| async {
        let (address, served) = forgetful("10.244.1.2:8080").await;
        let fixture = Fixture::start(Cluster::new().ingress("h", &[("/", "web")]).service("web", &[address]));
        let mut client = Client::http1(fixture.gateway.http()).await;
        for round in 0..50 {
            let request = if round % 2 == 0 {
                Request::get("/").header("host", "h").body(Full::default())
            } else {
                Request::post("/").header("host", "h").body(Full::new(Bytes::from_static(b"four")))
            };
            let reply = client.send(request.unwrap()).await.unwrap();
            assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, "ok"), "round {round}");
        }
        assert_eq!(served.load(Ordering::SeqCst), 50, "nothing was sent twice");
    });
}

#[test]
fn clients_beyond_the_limits_are_refused_or_closed() {
    world(|| async {
        let web = Endpoint::echo("10.244.1.2:8080").await;
        let cluster = Cluster::new().ingress("h", &[("/", "web")]).service("web", &[web.address]);
        let fixture = Fixture::with_limits(cluster, quick());
        let large = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(70_000));
        assert!(fixture.raw(&large).await.starts_with("HTTP/1.1 431"));
        let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "x: y\r\n".repeat(101));
        assert!(fixture.raw(&many).await.starts_with("HTTP/1.1 431"));
        for (name, begun) in [
            ("says nothing", ""),
            ("slow head", "GET / HTTP/1.1\r\nHo"),
            ("h2 preface only", "PRI * HTTP/2.0\r\n"),
        ] {
            let started = Instant::now();
            fixture.raw(begun).await;
            assert!(started.elapsed() < Duration::from_secs(3), "{name}: {:?}", started.elapsed());
        }
        let slow_body = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf";
        let reply = fixture.raw(slow_body).await;
        assert!(reply.starts_with("HTTP/1.1 408"), "{reply}");
    });
}

#[test]
fn beyond_the_connection_limit_clients_wait_for_a_place() {
    world(|| async {
        let web = Endpoint::echo("10.244.1.2:8080").await;
        let cluster = Cluster::new().ingress("h", &[("/", "web")]).service("web", &[web.address]);
        let fixture = Fixture::with_limits(cluster, Limits { connections_max: 1, ..Limits::default() });
        // Both workers are full when connections wait whichever worker got them.
        let mut idle = Vec::new();
        for _ in 0..16 {
            idle.push(TcpStream::connect(fixture.gateway.http()).await.unwrap());
        }
        eventually("both workers are full", async || {
            fixture.metrics().contains("connection_limit_hits_total 2")
        })
        .await;
        let state = "nginx_ingress_controller_nginx_process_connections{state=\"active\"} 2";
        assert!(fixture.metrics().contains(state), "{}", fixture.metrics());
        let mut waiting = tokio::spawn({
            let address = fixture.gateway.http();
            async move { Client::http1(address).await.get("h", "/").await.status }
        });
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
        drop(idle);
        assert_eq!(waiting.await.unwrap(), 200);
    });
}

#[test]
fn a_client_that_leaves_takes_its_request_with_it() {
    world(|| async {
        let left = Arc::new(AtomicUsize::new(0));
        let counter = left.clone();
        let endpoint = raw_endpoint("10.244.1.2:8080", move |mut stream| {
            let counter = counter.clone();
            async move {
                read_head(&mut stream).await;
                if stream.read_u8().await.is_err() {
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
        .await;
        let fixture =
            Fixture::start(Cluster::new().ingress("h", &[("/", "web")]).service("web", &[endpoint]));
        let mut client = TcpStream::connect(fixture.gateway.http()).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(client);
        eventually("the endpoint notices", async || left.load(Ordering::SeqCst) == 1).await;
        eventually("counted as 499", async || fixture.metrics().contains("status=\"499\"")).await;
    });
}

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[test]
fn a_client_that_opens_and_resets_streams_is_sent_away() {
    const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];
    world(|| async {
        let web = Endpoint::echo("10.244.1.2:8080").await;
        let cluster = Cluster::new().ingress("h", &[("/", "web")]).service("web", &[web.address]);
        let fixture = Fixture::start(cluster);
        let mut client = TcpStream::connect(fixture.gateway.http()).await.unwrap();
        let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        flood.extend(frame(4, 0, 0, &[]));
        // GET http://h/ by the static table, then RST_STREAM with CANCEL.
        for stream in (1..4000).step_by(2) {
            flood.extend(frame(1, 5, stream, &[0x82, 0x86, 0x84, 0x41, 1, b'h']));
            flood.extend(frame(3, 0, stream, &[0, 0, 0, 8]));
        }
        let _ = client.write_all(&flood).await;
        let mut reply = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), client.read_to_end(&mut reply))
            .await
            .expect("closed");
        let went_away = reply.windows(4).any(|bytes| bytes == ENHANCE_YOUR_CALM);
        assert!(went_away, "no GOAWAY with ENHANCE_YOUR_CALM in {} bytes", reply.len());
        assert_eq!(fixture.get("h", "/").await.status, 200);
    });
}
