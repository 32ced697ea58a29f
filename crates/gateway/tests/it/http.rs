//! Routing, heads, keep-alive, protocols.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;

use crate::support::{Client, Cluster, Endpoint, Fixture, world};

#[test]
fn requests_reach_the_backend_of_their_host_and_path() {
    world(|| async {
        let web = Endpoint::echo("10.244.1.2:8080").await;
        let api = Endpoint::echo("10.244.1.3:8080").await;
        let cluster = Cluster::new()
            .ingress("shop.example", &[("/", "web"), ("/api", "api"), ("/none", "nobody")])
            .ingress("*.wild.example", &[("/", "api")])
            .service("web", &[web.address])
            .service("api", &[api.address]);
        let fixture = Fixture::start(cluster);
        for (host, path, status, endpoint) in [
            ("shop.example", "/", 200, "10.244.1.2:8080"),
            ("SHOP.example:80", "/x/../y", 200, "10.244.1.2:8080"),
            ("shop.example", "/api/v1", 200, "10.244.1.3:8080"),
            ("shop.example", "/%61pi", 200, "10.244.1.3:8080"),
            ("a.wild.example", "/", 200, "10.244.1.3:8080"),
            ("a.b.wild.example", "/", 404, ""),
            ("other.example", "/", 404, ""),
            ("shop.example", "/none", 503, ""),
        ] {
            let reply = fixture.get(host, path).await;
            assert_eq!((reply.status.as_u16(), reply.from().as_str()), (status, endpoint), "{host}{path}");
            assert_eq!(reply.header("server"), "");
        }
        let metrics = fixture.metrics();
        let line = "nginx_ingress_controller_requests{method=\"GET\",status=\"200\",host=\"shop.example\",path=\"/api\",namespace=\"ns\",ingress=\"shop.example\",service=\"api\",canary=\"\"} 2";
        assert!(metrics.contains(line), "{metrics}");
        assert!(metrics.contains("fairway_gateway_failures_total{reason=\"no_rule\"} 2"), "{metrics}");
    });
}

#[test]
fn the_endpoint_sees_the_request_and_who_sent_it() {
    world(|| async {
        let web = Endpoint::echo("10.244.1.2:8080").await;
        let fixture =
            Fixture::start(Cluster::new().ingress("h", &[("/", "web")]).service("web", &[web.address]));
        let mut client = Client::http1(fixture.gateway.http()).await;
        let request = Request::put("/a%2Fb//c/../d?q=%20x")
            .header("host", "H:8080")
            .header("x-forwarded-for", "6.6.6.6")
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("x-kept", "2")
            .body(Full::new(Bytes::from_static(b"hello")))
            .unwrap();
        let seen = client.send(request).await.unwrap().seen();
        assert_eq!(seen["uri"], "/a%2Fb//c/../d?q=%20x");
        assert_eq!((&seen["method"], &seen["body"]), (&"PUT".into(), &"hello".into()));
        let headers = &seen["headers"];
        for (name, want) in [
            ("host", "H:8080"),
            ("content-length", "5"),
            ("x-forwarded-for", "10.244.0.1"),
            ("x-real-ip", "10.244.0.1"),
            ("x-original-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "H:8080"),
            ("x-forwarded-port", "80"),
            ("x-kept", "2"),
        ] {
            assert_eq!(headers[name], want, "{name} in {headers}");
        }
        assert!(headers.get("x-hop").is_none() && headers.get("via").is_none());
        assert_eq!(headers["x-request-id"].as_str().unwrap().len(), 32);
    });
}

#[test]
fn one_connection_carries_many_requests_on_both_sides() {
    world(|| async {
        let web = Endpoint::echo("10.244.1.2:8080").await;
        let fixture =
            Fixture::start(Cluster::new().ingress("h", &[("/", "web")]).service("web", &[web.address]));
        let mut client = Client::http1(fixture.gateway.http()).await;
        for path in ["/", "/?bytes=70000", "/?status=204", "/?status=304", "/?status=500", "/missing"] {
            let reply = client.get("h", path).await;
            assert_eq!(reply.from(), "10.244.1.2:8080", "{path}");
        }
        let head = Request::head("/?bytes=1234").header("host", "h").body(Full::default()).unwrap();
        let reply = client.send(head).await.unwrap();
        assert_eq!((reply.header("content-length").as_str(), reply.body.len()), ("1234", 0));
        let reply = client.get("h", "/?bytes=10").await;
        assert_eq!(reply.text(), "xxxxxxxxxx", "the answer to HEAD left nothing behind");
        assert_eq!(web.connections.load(Ordering::SeqCst), 1, "the connection to the endpoint is kept");
    });
}

#[test]
fn http_1_0_and_pipelining_work() {
    world(|| async {
        let web = Endpoint::echo("10.244.1.2:8080").await;
        let cluster = Cluster::new()
            .ingress("h", &[("/", "web")])
            .ingress("", &[("/", "web")])
            .service("web", &[web.address]);
        let fixture = Fixture::start(cluster);
        let reply = fixture.raw("GET /?bytes=3 HTTP/1.0\r\n\r\n").await;
        assert!(reply.starts_with("HTTP/1.0 200") && reply.ends_with("\r\n\r\nxxx"), "{reply}");
        let one = "GET /?bytes=3 HTTP/1.1\r\nHost: h\r\n\r\n";
        let last = "GET /?bytes=4 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let reply = fixture.raw(&format!("{one}{one}{last}")).await;
        assert_eq!(reply.matches("HTTP/1.1 200").count(), 3, "{reply}");
        assert!(reply.ends_with("\r\n\r\nxxxx"), "{reply}");
        let expect = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        let reply = fixture.raw(expect).await;
        assert!(reply.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"), "{reply}");
    });
}

#[test]
fn http_2_clients_are_served_by_http_1_endpoints_and_the_other_way_round() {
    world(|| async {
        let web = Endpoint::echo("10.244.1.2:8080").await;
        let mut cluster = Cluster::new()
            .ingress("h", &[("/", "web"), ("/h2c", "modern")])
            .service("web", &[web.address])
            .service("modern", &[web.address]);
        cluster.put_service("modern", Some("kubernetes.io/h2c"));
        let fixture = Fixture::start(cluster);
        let mut two = Client::http2(fixture.gateway.http()).await;
        let mut one = Client::http1(fixture.gateway.http()).await;
        for (client, path, version) in [(&mut two, "/", "HTTP/1.1"), (&mut one, "/h2c", "HTTP/2.0")] {
            let reply = client.get("h", path).await;
            assert_eq!(reply.status, StatusCode::OK);
            let seen = reply.seen();
            assert_eq!(seen["version"], version);
            assert_eq!(seen["headers"]["x-forwarded-host"], "h");
        }
        assert_eq!(two.get("h", "/?bytes=300000").await.body.len(), 300_000);
        assert_eq!(two.get("h", "/h2c?bytes=300000").await.body.len(), 300_000);
    });
}

#[test]
fn endpoints_take_turns() {
    world(|| async {
        let one = Endpoint::echo("10.244.1.2:8080").await;
        let two = Endpoint::echo("10.244.1.3:8080").await;
        let fixture = Fixture::start(
            Cluster::new().ingress("h", &[("/", "web")]).service("web", &[one.address, two.address]),
        );
        let mut client = Client::http1(fixture.gateway.http()).await;
        let mut first = 0;
        for _ in 0..20 {
            first += usize::from(client.get("h", "/").await.from() == "10.244.1.2:8080");
        }
        assert_eq!(first, 10);
    });
}
