//! Stopping loses nothing that could be finished.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Client, Cluster, Endpoint, Fixture, eventually, full, raw_endpoint, read_head, world};

async fn slow_endpoint(address: &str) -> Endpoint {
    Endpoint::serve(address, |request| async move {
        if request.uri().path() == "/slow" {
            tokio::time::sleep(Duration::from_millis(600)).await;
        }
        http::Response::new(full("done"))
    })
    .await
}

#[test]
fn requests_under_way_are_finished_and_clients_are_told_to_go_elsewhere() {
    world(|| async {
        let web = slow_endpoint("10.244.1.2:8080").await;
        let fixture =
            Fixture::start(Cluster::new().ingress("h", &[("/", "web")]).service("web", &[web.address]));
        let address = fixture.gateway.http();
        let mut one = Client::http1(address).await;
        let mut two = Client::http2(address).await;
        assert_eq!(one.get("h", "/").await.header("connection"), "");
        let mut idle = TcpStream::connect(address).await.unwrap();
        let slow_one = tokio::spawn(async move { one.get("h", "/slow").await });
        let slow_two = tokio::spawn(async move { two.get("h", "/slow").await });
        tokio::time::sleep(Duration::from_millis(50)).await;

        let stopping = tokio::spawn(fixture.gateway.stop(Duration::from_millis(200), Duration::from_secs(5)));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let late = Client::http1(address).await.get("h", "/").await;
        assert_eq!((late.status.as_u16(), late.header("connection").as_str()), (200, "close"), "lame duck");
        eventually("the port is closed", async || TcpStream::connect(address).await.is_err()).await;
        assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0, "idle connections are closed");
        assert_eq!(slow_one.await.unwrap().text(), "done");
        assert_eq!(slow_two.await.unwrap().text(), "done");
        assert!(stopping.await.unwrap(), "nothing had to be cut");
    });
}

#[test]
fn what_does_not_end_in_time_is_cut() {
    world(|| async {
        let endless = raw_endpoint("10.244.1.2:8080", |mut stream| async move {
            read_head(&mut stream).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        })
        .await;
        let fixture = Fixture::start(Cluster::new().ingress("h", &[("/", "web")]).service("web", &[endless]));
        let mut client = TcpStream::connect(fixture.gateway.http()).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!fixture.gateway.stop(Duration::ZERO, Duration::from_millis(100)).await);
        assert_eq!(client.read(&mut [0]).await.unwrap_or(0), 0);
    });
}
