//! The same questions to an etcd over its own protocol, gRPC without TLS: what a kube-apiserver would pay beneath itself.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Bytes;

use crate::client::Connection;
use crate::{ms, ours, pod, quantile_ms, resident_mb};

/// What was measured; none without an etcd.
#[derive(Default)]
pub(crate) struct Numbers {
    pub(crate) ready_ms: Option<f64>,
    pub(crate) resident_empty_mb: Option<f64>,
    pub(crate) resident_full_mb: Option<f64>,
    pub(crate) create_p50_ms: Option<f64>,
    pub(crate) create_p99_ms: Option<f64>,
    pub(crate) creates_per_s: Option<f64>,
    pub(crate) list_ms: Option<f64>,
    pub(crate) delivery_p50_ms: Option<f64>,
    pub(crate) delivery_p99_ms: Option<f64>,
}

struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A field of a protobuf message that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = vec![number << 3 | 2];
    let mut len = bytes.len();
    while len > 127 {
        encoded.push(len as u8 & 127 | 128);
        len >>= 7;
    }
    encoded.push(len as u8);
    encoded.extend_from_slice(bytes);
    encoded
}

fn message(body: &[u8]) -> Bytes {
    let mut framed = vec![0];
    framed.extend_from_slice(&(body.len() as u32).to_be_bytes());
    framed.extend_from_slice(body);
    Bytes::from(framed)
}

fn put(key: &str, value: &[u8]) -> Bytes {
    message(&[field(1, key.as_bytes()), field(2, value)].concat())
}

const GRPC: &str = "application/grpc";
const PREFIX: &str = "/registry/pods/";
const PREFIX_END: &str = "/registry/pods0";

async fn ask(connection: &mut Connection, address: SocketAddr, method: &str, body: Bytes) -> usize {
    let (code, len) =
        connection.ask("POST", &format!("http://{address}/etcdserverpb.{method}"), GRPC, body).await;
    assert_eq!(code, 200);
    len
}

pub(crate) async fn measure(binary: &Path, base: &Path) -> Numbers {
    let directory = tempfile::Builder::new().prefix("fw-bench-etcd-").tempdir_in(base).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let started = Instant::now();
    let child = Command::new(binary)
        .arg("--data-dir")
        .arg(directory.path().join("data"))
        .args([
            "--listen-client-urls",
            &format!("http://{address}"),
            "--advertise-client-urls",
            &format!("http://{address}"),
        ])
        .args(["--listen-peer-urls", "http://127.0.0.1:0", "--log-level", "error"])
        .args([
            "--initial-advertise-peer-urls",
            "http://127.0.0.1:0",
            "--initial-cluster",
            "default=http://127.0.0.1:0",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let etcd = Etcd(child);
    let mut connection = loop {
        if let Ok(connection) = Connection::plain_two(address).await {
            break connection;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "etcd does not listen");
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    ask(&mut connection, address, "KV/Put", put("/ready", b"1")).await;
    let mut numbers = Numbers { ready_ms: Some(ms(started.elapsed())), ..Numbers::default() };
    numbers.resident_empty_mb = Some(resident_mb(etcd.0.id()));
    let mut times = Vec::new();
    for n in 0..ours::ONE_BY_ONE {
        let body = put(&format!("{PREFIX}one-{n}"), pod(n).to_string().as_bytes());
        let started = Instant::now();
        ask(&mut connection, address, "KV/Put", body).await;
        times.push(started.elapsed());
    }
    numbers.create_p50_ms = Some(quantile_ms(&mut times, 0.5));
    numbers.create_p99_ms = Some(quantile_ms(&mut times, 0.99));
    numbers.creates_per_s = Some(many(address).await);
    ask(
        &mut connection,
        address,
        "KV/Range",
        message(&[field(1, PREFIX.as_bytes()), field(2, PREFIX_END.as_bytes())].concat()),
    )
    .await;
    let started = Instant::now();
    ask(
        &mut connection,
        address,
        "KV/Range",
        message(&[field(1, PREFIX.as_bytes()), field(2, PREFIX_END.as_bytes())].concat()),
    )
    .await;
    numbers.list_ms = Some(ms(started.elapsed()));
    numbers.resident_full_mb = Some(resident_mb(etcd.0.id()));
    let mut times = watch(address, connection).await;
    numbers.delivery_p50_ms = Some(quantile_ms(&mut times, 0.5));
    numbers.delivery_p99_ms = Some(quantile_ms(&mut times, 0.99));
    numbers
}

async fn many(address: SocketAddr) -> f64 {
    let mut tasks = Vec::new();
    let each = ours::AT_ONCE_TOTAL / ours::AT_ONCE;
    let mut bodies = Vec::new();
    for task in 0..ours::AT_ONCE {
        let key = |n: usize| format!("{PREFIX}many-{task}-{n}");
        let puts: Vec<Bytes> = (0..each).map(|n| put(&key(n), pod(n).to_string().as_bytes())).collect();
        bodies.push((Connection::plain_two(address).await.unwrap(), puts));
    }
    let started = Instant::now();
    for (mut connection, puts) in bodies {
        tasks.push(tokio::spawn(async move {
            for body in puts {
                ask(&mut connection, address, "KV/Put", body).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    (each * ours::AT_ONCE) as f64 / started.elapsed().as_secs_f64()
}

async fn watch(address: SocketAddr, mut writer: Connection) -> Vec<Duration> {
    let (seen, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let mut connections = Vec::new();
    let create = message(&field(1, &[field(1, b"/watched/"), field(2, b"/watched0")].concat()));
    for _ in 0..ours::WATCHERS / ours::WATCHERS_PER_CONNECTION {
        let connection = Connection::plain_two(address).await.unwrap();
        for _ in 0..ours::WATCHERS_PER_CONNECTION {
            let mut stream = connection.another();
            let (seen, create) = (seen.clone(), create.clone());
            let mut response = stream
                .start("POST", &format!("http://{address}/etcdserverpb.Watch/Watch"), GRPC, create)
                .await;
            tokio::spawn(async move {
                while let Some(Ok(frame)) = response.body_mut().frame().await {
                    if let Some(data) = frame.data_ref() {
                        ours::report_marks(data, &seen);
                    }
                }
            });
        }
        connections.push(connection);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for round in 0..ours::WATCH_ROUNDS {
        let body = put(&format!("/watched/{}", round % 10), ours::marked(round).to_string().as_bytes());
        ask(&mut writer, address, "KV/Put", body).await;
        tokio::time::sleep(ours::WATCH_PAUSE).await;
    }
    ours::collect(&mut arrivals).await
}
