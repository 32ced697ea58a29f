//! WebSocket.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Cluster, Fixture, eventually, raw, raw_endpoint, read_head, world};

async fn websocket_endpoint(address: &str) -> std::net::SocketAddr {
    raw_endpoint(address, |stream| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() || socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[test]
fn websockets_echo_and_outlive_their_endpoint_leaving_the_pool() {
    world(|| async {
        let endpoint = websocket_endpoint("10.244.1.2:8080").await;
        let cluster = Cluster::new().ingress("h", &[("/", "web")]).service("web", &[endpoint]);
        let mut fixture = Fixture::start(cluster);
        let stream = TcpStream::connect(fixture.gateway.http()).await.unwrap();
        let (mut socket, response) = tokio_tungstenite::client_async("ws://h/chat", stream).await.unwrap();
        assert_eq!(response.status(), 101);
        for size in [0, 1, 100, 70_000] {
            let text = "x".repeat(size);
            socket.send(Message::text(text.clone())).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
        }
        fixture.cluster.put_endpoints("web", &[]);
        fixture.publish();
        socket.send(Message::text("still here")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));
        assert_eq!(fixture.get("h", "/").await.status, 503);
        socket.close(None).await.unwrap();
        while socket.next().await.is_some() {}
        eventually("counted when it is over", async || fixture.metrics().contains("status=\"101\"")).await;
    });
}

#[test]
fn an_endpoint_may_refuse_to_switch_and_must_not_switch_unasked() {
    world(|| async {
        let refuses = raw_endpoint("10.244.1.2:8080", |mut stream| async move {
            use tokio::io::AsyncWriteExt;
            let head = read_head(&mut stream).await;
            let answer = if head.contains("upgrade: websocket") {
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
            } else {
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
            };
            let _ = stream.write_all(answer.as_bytes()).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        })
        .await;
        let fixture = Fixture::start(Cluster::new().ingress("h", &[("/", "web")]).service("web", &[refuses]));
        let ask = |fields: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let websocket = ask("Connection: upgrade, close\r\nUpgrade: websocket\r\n");
        let reply = raw(fixture.gateway.http(), &websocket).await;
        assert!(reply.starts_with("HTTP/1.1 403") && reply.ends_with("no"), "{reply}");
        for fields in ["Connection: close\r\n", "Connection: upgrade, close\r\nUpgrade: h2c\r\n"] {
            let reply = raw(fixture.gateway.http(), &ask(fields)).await;
            assert!(reply.starts_with("HTTP/1.1 502"), "{fields}: {reply}");
        }
    });
}
