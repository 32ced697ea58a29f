//! What the server costs: start, memory, create, list, delivery to watchers; beside an etcd on the same disk in the same run when one is given.
//! The server is a process of its own; it shares the machine's cores with this client.
//!
//! ```text
//! bench/apiserver [directory]                 the whole table, with Debian's etcd
//! example [--etcd <binary>] [directory]       the same by hand
//! example serve <directory>                   the server alone, until its input ends
//! ```
//!
//! The directory decides what a sync costs; the default is the system's directory for temporary files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement that fails is no measurement"
)]

mod client;
mod etcd;
mod ours;
#[path = "../../tests/it/server.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod server;

use std::path::PathBuf;
use std::time::Duration;

/// One line of the table.
pub(crate) struct Line {
    pub(crate) what: &'static str,
    pub(crate) goal: &'static str,
    pub(crate) ours: f64,
    pub(crate) etcd: Option<f64>,
    pub(crate) unit: &'static str,
}

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match arguments.next_if(|argument| argument == "serve") {
        Some(_) => runtime.block_on(ours::serve(PathBuf::from(arguments.next().unwrap()))),
        None => {
            let etcd = arguments.next_if(|argument| argument == "--etcd").and_then(|_| arguments.next());
            let base = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
            runtime.block_on(measure(&base, etcd.map(PathBuf::from)));
        }
    }
}

async fn measure(base: &std::path::Path, etcd: Option<PathBuf>) {
    let sync_us = plain_sync_us(base);
    let ours = ours::measure(base).await;
    let peer = match etcd {
        Some(binary) => etcd::measure(&binary, base).await,
        None => etcd::Numbers::default(),
    };
    println!("plain write of 2 KiB and fdatasync on this disk: p50 {sync_us:.0} µs\n");
    println!("| what | goal | ours | etcd | ratio |\n|---|---|---|---|---|");
    for line in ours.lines(&peer) {
        let (etcd, ratio) = match line.etcd {
            Some(etcd) => (format!("{etcd:.2} {}", line.unit), format!("{:.2}", line.ours / etcd)),
            None => ("–".to_owned(), "–".to_owned()),
        };
        println!("| {} | {} | {:.2} {} | {etcd} | {ratio} |", line.what, line.goal, line.ours, line.unit);
    }
}

/// What the disk itself takes.
fn plain_sync_us(base: &std::path::Path) -> f64 {
    use std::io::Write;
    let directory = tempfile::tempdir_in(base).unwrap();
    let mut file = std::fs::File::create(directory.path().join("f")).unwrap();
    let mut times = Vec::new();
    for _ in 0..500 {
        let started = std::time::Instant::now();
        file.write_all(&[7; 2048]).unwrap();
        file.sync_data().unwrap();
        times.push(started.elapsed());
    }
    quantile_ms(&mut times, 0.5) * 1000.0
}

pub(crate) fn quantile_ms(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    ms(times[((times.len() - 1) as f64 * share) as usize])
}

pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Resident memory of a process, MB.
pub(crate) fn resident_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
}

/// An object of about 2 KB with a number in it.
pub(crate) fn pod(number: usize) -> serde_json::Value {
    let variable = |n: usize| serde_json::json!({"name": format!("SETTING_{n}"), "value": format!("value-of-{n}-of-{number}")});
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("shop-frontend-6d5f7c8b9-{number:05}"), "namespace": "default",
            "labels": {"app.kubernetes.io/name": "frontend", "app.kubernetes.io/part-of": "shop", "pod-template-hash": "6d5f7c8b9"},
            "annotations": {"example.org/checksum": "0f9a4c1d2e3b5a6978", "example.org/team": "storefront"},
        },
        "spec": {
            "nodeName": format!("node-{}", number % 10),
            "containers": [{
                "name": "frontend", "image": "registry.example.org/shop/frontend:1.25.3",
                "ports": [{"name": "http", "containerPort": 8080}],
                "env": (0..6).map(variable).collect::<Vec<_>>(),
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 5},
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10},
                "volumeMounts": [{"name": "config", "mountPath": "/etc/frontend"}],
            }],
            "volumes": [{"name": "config", "configMap": {"name": "frontend"}}],
        },
    })
}
