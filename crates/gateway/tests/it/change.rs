//! Changes under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Client, Cluster, Endpoint, Fixture, eventually, world};

/// Clients that ask again and again; every answer but 200 is remembered.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    async fn start(address: std::net::SocketAddr, clients: usize) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut running = Vec::new();
        for _ in 0..clients {
            let (stop, done) = (stop.clone(), done.clone());
            let mut client = Client::http1(address).await;
            running.push(tokio::spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    match client.try_get("h", "/").await {
                        Ok(reply) if reply.status == 200 => {}
                        other => failures.push(format!("{other:?}")),
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
                failures
            }));
        }
        Self { stop, done, clients: running }
    }

    async fn more(&self, count: usize) {
        let from = self.done.load(Ordering::SeqCst);
        eventually("the load goes on", async || self.done.load(Ordering::SeqCst) > from + count).await;
    }

    async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        let mut failures = Vec::new();
        for client in self.clients {
            failures.extend(client.await.unwrap());
        }
        failures
    }
}

#[test]
fn rolling_endpoints_and_rules_under_load_fails_no_request() {
    world(|| async {
        let mut endpoints = vec![
            Endpoint::echo("10.244.1.10:8080").await,
            Endpoint::echo("10.244.1.11:8080").await,
            Endpoint::echo("10.244.1.12:8080").await,
        ];
        let addresses: Vec<_> = endpoints.iter().map(|one| one.address).collect();
        let cluster = Cluster::new().ingress("h", &[("/", "web")]).service("web", &addresses);
        let mut fixture = Fixture::start(cluster);
        let load = Load::start(fixture.gateway.http(), 8).await;
        for round in 0..15 {
            let fresh = Endpoint::echo(&format!("10.244.2.{}:8080", round + 1)).await;
            let old = endpoints.remove(0);
            endpoints.push(fresh);
            let addresses: Vec<_> = endpoints.iter().map(|one| one.address).collect();
            fixture.cluster.put_endpoints("web", &addresses);
            fixture.cluster.put_ingress(&format!("other-{round}.example"), &[("/", "web")], None);
            fixture.publish();
            load.more(20).await;
            old.kill().await;
            load.more(20).await;
        }
        assert_eq!(load.stop().await, Vec::<String>::new());
    });
}

#[test]
fn endpoints_that_die_before_anybody_knows_cost_no_idempotent_request() {
    world(|| async {
        let one = Endpoint::echo("10.244.1.2:8080").await;
        let two = Endpoint::echo("10.244.1.3:8080").await;
        let cluster =
            Cluster::new().ingress("h", &[("/", "web")]).service("web", &[one.address, two.address]);
        let fixture = Fixture::start(cluster);
        let load = Load::start(fixture.gateway.http(), 8).await;
        load.more(200).await;
        one.kill().await;
        load.more(200).await;
        assert_eq!(load.stop().await, Vec::<String>::new());
    });
}

#[test]
fn an_endpoint_that_left_gets_nothing_and_its_idle_connections_are_closed() {
    world(|| async {
        let one = Endpoint::echo("10.244.1.2:8080").await;
        let two = Endpoint::echo("10.244.1.3:8080").await;
        let cluster = Cluster::new().ingress("h", &[("/", "web")]).service("web", &[one.address]);
        let mut fixture = Fixture::start(cluster);
        let mut client = Client::http1(fixture.gateway.http()).await;
        assert_eq!(client.get("h", "/").await.from(), "10.244.1.2:8080");
        fixture.cluster.put_endpoints("web", &[two.address]);
        fixture.publish();
        for _ in 0..10 {
            assert_eq!(client.get("h", "/").await.from(), "10.244.1.3:8080");
        }
        eventually("the idle connection is closed", async || established("10.244.1.2:8080") == 0).await;
        assert!(established("10.244.1.3:8080") > 0);
        fixture.cluster.put_endpoints("web", &[]);
        fixture.publish();
        assert_eq!(client.get("h", "/").await.status, 503);
        fixture.cluster.put_endpoints("web", &[one.address]);
        fixture.publish();
        assert_eq!(client.get("h", "/").await.status, 200);
    });
}

/// Established connections to an address in this namespace.
fn established(address: &str) -> usize {
    let output =
        std::process::Command::new("ss").args(["-Htn", "state", "established", "dst", address]).output();
    let output = output.expect("the tool `ss` (Debian: iproute2)");
    String::from_utf8_lossy(&output.stdout).lines().count()
}

#[test]
fn connecting_to_an_endpoint_that_leaves_is_given_up_at_once() {
    world(|| async {
        let two = Endpoint::echo("10.244.1.3:8080").await;
        // A listener whose queue is full: connection attempts get no answer at all.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("10.244.1.2:8080".parse().unwrap()).unwrap();
        let full = socket.listen(0).unwrap();
        let address = full.local_addr().unwrap();
        let mut fillers = Vec::new();
        for _ in 0..3 {
            fillers.push(tokio::spawn(tokio::net::TcpStream::connect(address)));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let cluster = Cluster::new().ingress("h", &[("/", "web")]).service("web", &[address]);
        let mut fixture = Fixture::start(cluster);
        let gateway = fixture.gateway.http();
        let mut request = tokio::spawn(async move { Client::http1(gateway).await.get("h", "/").await });
        assert!(tokio::time::timeout(Duration::from_millis(200), &mut request).await.is_err());
        fixture.cluster.put_endpoints("web", &[two.address]);
        fixture.publish();
        let reply = tokio::time::timeout(Duration::from_secs(1), request).await.expect("at once").unwrap();
        assert_eq!(reply.from(), "10.244.1.3:8080");
    });
}
