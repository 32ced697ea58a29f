//! The server of this project, in a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use fairway_apiserver::{Config, Server, TlsFiles};
use http_body_util::BodyExt;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::client::{self, Connection};
use crate::etcd::Numbers as Peer;
use crate::server::{Identity, Pki};
use crate::{Line, ms, pod, quantile_ms, resident_mb};

/// Objects written one after another over one connection.
pub(crate) const ONE_BY_ONE: usize = 1000;
/// Connections that write at once.
pub(crate) const AT_ONCE: usize = 64;
/// Objects that they write together.
pub(crate) const AT_ONCE_TOTAL: usize = 8960;
/// Watchers of one resource.
pub(crate) const WATCHERS: usize = 1000;
/// Watches that share an HTTP/2 connection, as the watches of a client library do.
pub(crate) const WATCHERS_PER_CONNECTION: usize = 20;
/// Changes that they see.
pub(crate) const WATCH_ROUNDS: usize = 100;
/// Between two of them.
pub(crate) const WATCH_PAUSE: Duration = Duration::from_millis(30);

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";

/// What was measured.
pub(crate) struct Numbers {
    ready_empty_ms: f64,
    ready_thousand_ms: f64,
    ready_full_ms: f64,
    resident_empty_mb: f64,
    resident_full_mb: f64,
    resident_restarted_mb: f64,
    create_p50_ms: f64,
    create_p99_ms: f64,
    creates_per_s: f64,
    list_ms: f64,
    delivery_p50_ms: f64,
    delivery_p99_ms: f64,
    slow_watcher_mb: f64,
}

impl Numbers {
    pub(crate) fn lines(&self, peer: &Peer) -> Vec<Line> {
        let line = |what, goal, ours, etcd, unit| Line { what, goal, ours, etcd, unit };
        vec![
            line("ready, nothing stored", "–", self.ready_empty_ms, peer.ready_ms, "ms"),
            line("ready, 1,000 objects", "< 150 ms", self.ready_thousand_ms, None, "ms"),
            line("ready, 10,000 objects", "–", self.ready_full_ms, None, "ms"),
            line("resident, nothing stored", "< 40 MB", self.resident_empty_mb, peer.resident_empty_mb, "MB"),
            line(
                "resident, 10,000 objects just written",
                "< 100 MB",
                self.resident_full_mb,
                peer.resident_full_mb,
                "MB",
            ),
            line(
                "resident, 10,000 objects after a restart",
                "< 100 MB",
                self.resident_restarted_mb,
                None,
                "MB",
            ),
            line(
                "create with sync, one connection, p50",
                "< 1 ms",
                self.create_p50_ms,
                peer.create_p50_ms,
                "ms",
            ),
            line("create with sync, one connection, p99", "–", self.create_p99_ms, peer.create_p99_ms, "ms"),
            line(
                "creates with sync over 64 connections",
                "> 10,000/s",
                self.creates_per_s,
                peer.creates_per_s,
                "/s",
            ),
            line("list of 10,000 pods", "< 150 ms", self.list_ms, peer.list_ms, "ms"),
            line(
                "write sent → seen, 1,000 watchers, p50",
                "–",
                self.delivery_p50_ms,
                peer.delivery_p50_ms,
                "ms",
            ),
            line(
                "write sent → seen, 1,000 watchers, p99",
                "< 5 ms",
                self.delivery_p99_ms,
                peer.delivery_p99_ms,
                "ms",
            ),
            line(
                "growth by a watcher that does not read, 64 MB written",
                "bounded",
                self.slow_watcher_mb,
                None,
                "MB",
            ),
        ]
    }
}

/// The server alone, until standard input ends.
pub(crate) async fn serve(directory: PathBuf) {
    let path = |name: &str| directory.join(name);
    let config = Config {
        state_dir: path("store"),
        run_dir: path("run"),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        advertise: "127.0.0.1:0".parse().unwrap(),
        service_range: "10.96.0.0/16".parse().unwrap(),
        node_port_range: 30000..=32767,
        tls: TlsFiles {
            certificate: path("server.crt"),
            key: path("server.key"),
            client_authority: path("ca.crt"),
        },
        service_account_key: path("sa.key"),
        definitions: Vec::new(),
    };
    let server = Server::bind(config).await.unwrap();
    println!("{}", server.addresses()[0]);
    server
        .serve(async {
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
        })
        .await;
}

/// A server process.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts it; the time is that until `/readyz` said ok.
    async fn start(pki: &Pki, tls: &Arc<rustls::ClientConfig>) -> (Self, f64) {
        let started = Instant::now();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("serve")
            .arg(pki.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let process = Self { child, address: line.trim().parse().unwrap() };
        let (code, _) = Connection::secure(process.address, tls)
            .await
            .unwrap()
            .ask("GET", &process.uri("/readyz"), JSON, Bytes::new())
            .await;
        assert_eq!(code, 200);
        (process, ms(started.elapsed()))
    }

    fn uri(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    fn stop(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }

    fn resident_mb(&self) -> f64 {
        resident_mb(self.child.id())
    }
}

pub(crate) async fn measure(base: &Path) -> Numbers {
    let pki = Pki::new_in(base);
    pki.identity("server", &[]);
    let admin: Identity = pki.identity("admin", &["system:masters"]);
    let one = client::tls(&pki, &admin, b"http/1.1");
    let two = client::tls(&pki, &admin, b"h2");
    let (process, ready_empty_ms) = Process::start(&pki, &one).await;
    let resident_empty_mb = process.resident_mb();
    let mut connection = Connection::secure(process.address, &one).await.unwrap();
    let mut times = Vec::new();
    for n in 0..ONE_BY_ONE {
        let body = Bytes::from(pod(90_000 + n).to_string());
        let started = Instant::now();
        let (code, _) = connection.ask("POST", &process.uri(PODS), JSON, body).await;
        times.push(started.elapsed());
        assert_eq!(code, 201);
    }
    let (create_p50_ms, create_p99_ms) = (quantile_ms(&mut times, 0.5), quantile_ms(&mut times, 0.99));
    process.stop();
    let (process, ready_thousand_ms) = Process::start(&pki, &one).await;
    let creates_per_s = many(&process, &one).await;
    let resident_full_mb = process.resident_mb();
    let mut connection = Connection::secure(process.address, &one).await.unwrap();
    let mut lists = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        let (_, len) = connection.ask("GET", &process.uri(PODS), JSON, Bytes::new()).await;
        lists.push(started.elapsed());
        assert!(len > 15_000_000, "{len}");
    }
    process.stop();
    let (process, ready_full_ms) = Process::start(&pki, &one).await;
    let resident_restarted_mb = process.resident_mb();
    let mut deliveries = watch(&process, &one, &two).await;
    let slow_watcher_mb = slow(&process, &one).await;
    process.stop();
    Numbers {
        ready_empty_ms,
        ready_thousand_ms,
        ready_full_ms,
        resident_empty_mb,
        resident_full_mb,
        resident_restarted_mb,
        create_p50_ms,
        create_p99_ms,
        creates_per_s,
        list_ms: quantile_ms(&mut lists, 0.5),
        delivery_p50_ms: quantile_ms(&mut deliveries, 0.5),
        delivery_p99_ms: quantile_ms(&mut deliveries, 0.99),
        slow_watcher_mb,
    }
}

async fn many(process: &Process, tls: &Arc<rustls::ClientConfig>) -> f64 {
    let each = AT_ONCE_TOTAL / AT_ONCE;
    let mut prepared = Vec::new();
    for task in 0..AT_ONCE {
        let bodies: Vec<Bytes> = (0..each).map(|n| Bytes::from(pod(task * each + n).to_string())).collect();
        prepared.push((Connection::secure(process.address, tls).await.unwrap(), bodies));
    }
    let uri = process.uri(PODS);
    let started = Instant::now();
    let tasks = prepared.into_iter().map(|(mut connection, bodies)| {
        let uri = uri.clone();
        tokio::spawn(async move {
            for body in bodies {
                let (code, _) = connection.ask("POST", &uri, JSON, body).await;
                assert_eq!(code, 201);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    (each * AT_ONCE) as f64 / started.elapsed().as_secs_f64()
}

fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// A small object that carries the time at which it was sent.
pub(crate) fn marked(round: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("watched-{}", round % 10)},
        "data": {"sent": format!("<{:015}>", epoch().elapsed().as_nanos())},
    })
}

/// Reports how long ago the marks in some bytes were sent.
pub(crate) fn report_marks(data: &[u8], seen: &UnboundedSender<Duration>) {
    let now = epoch().elapsed();
    for mark in data.split(|byte| *byte == b'<').filter_map(|part| part.get(..16)?.strip_suffix(b">")) {
        let sent: u64 = std::str::from_utf8(mark).unwrap().parse().unwrap();
        let _ = seen.send(now - Duration::from_nanos(sent));
    }
}

/// All that arrive.
pub(crate) async fn collect(arrivals: &mut UnboundedReceiver<Duration>) -> Vec<Duration> {
    let mut times = Vec::new();
    while times.len() < WATCHERS * WATCH_ROUNDS {
        let arrival = tokio::time::timeout(Duration::from_secs(20), arrivals.recv()).await;
        times.push(arrival.unwrap_or_else(|_| panic!("only {} events arrived", times.len())).unwrap());
    }
    times
}

async fn watch(
    process: &Process,
    one: &Arc<rustls::ClientConfig>,
    two: &Arc<rustls::ClientConfig>,
) -> Vec<Duration> {
    let mut writer = Connection::secure(process.address, one).await.unwrap();
    for round in 0..10 {
        writer.ask("POST", &process.uri(MAPS), JSON, Bytes::from(marked(round).to_string())).await;
    }
    let (seen, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let mut connections = Vec::new();
    for _ in 0..WATCHERS / WATCHERS_PER_CONNECTION {
        let connection = Connection::secure(process.address, two).await.unwrap();
        for _ in 0..WATCHERS_PER_CONNECTION {
            let uri = process
                .uri(&format!("{MAPS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"));
            let mut response = connection.another().start("GET", &uri, JSON, Bytes::new()).await;
            assert_eq!(response.status(), 200);
            let seen = seen.clone();
            tokio::spawn(async move {
                while let Some(Ok(frame)) = response.body_mut().frame().await {
                    if let Some(data) = frame.data_ref() {
                        report_marks(data, &seen);
                    }
                }
            });
        }
        connections.push(connection);
    }
    for round in 0..WATCH_ROUNDS {
        let uri = process.uri(&format!("{MAPS}/watched-{}", round % 10));
        let (code, _) = writer.ask("PUT", &uri, JSON, Bytes::from(marked(round).to_string())).await;
        assert_eq!(code, 200);
        tokio::time::sleep(WATCH_PAUSE).await;
    }
    collect(&mut arrivals).await
}

/// How much the server grows by a watcher that reads nothing while 64 MB are written to what it watches.
async fn slow(process: &Process, tls: &Arc<rustls::ClientConfig>) -> f64 {
    let mut watcher = Connection::secure(process.address, tls).await.unwrap();
    let _unread = watcher.start("GET", &process.uri(&format!("{MAPS}?watch=1")), JSON, Bytes::new()).await;
    let mut writer = Connection::secure(process.address, tls).await.unwrap();
    let before = process.resident_mb();
    let mut largest: f64 = 0.0;
    let big = |n: usize| {
        let data = format!("{n:08}").repeat(64 << 10);
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"k": data}})
            .to_string()
    };
    writer.ask("POST", &process.uri(MAPS), JSON, Bytes::from(big(0))).await;
    for n in 1..128 {
        let (code, _) =
            writer.ask("PUT", &process.uri(&format!("{MAPS}/big")), JSON, Bytes::from(big(n))).await;
        assert_eq!(code, 200);
        largest = largest.max(process.resident_mb());
    }
    largest - before
}
