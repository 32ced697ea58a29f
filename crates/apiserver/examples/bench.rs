//! What the server costs: start, create, read, delivery to watchers, memory. Client and server share the process and the cores.
//!
//! ```text
//! cargo run --release -p fairway-apiserver --example bench [state directory]
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

#[path = "../tests/it/server.rs"]
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
mod server;

use std::time::{Duration, Instant};

use fairway_apiserver::store::{Collection, Keep, Key, Store};
use server::{Running, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const OBJECTS: usize = 1000;
const WATCHERS: usize = 100;

fn main() {
    let base = std::env::args().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        http(&base).await;
        store(&base).await;
    });
}

/// The store alone: one writer after another, then many at once.
async fn store(base: &std::path::Path) {
    let directory = tempfile::tempdir_in(base).unwrap();
    let store = Store::open(directory.path()).unwrap();
    let maps = Collection::new("", "configmaps");
    let put = |n: usize| {
        let (store, maps) = (store.clone(), maps.clone());
        async move {
            let key = Key::new("default", &format!("m{n}"));
            let value = config_map(key.name(), "value");
            store.commit(Keep::Yes, move |txn| Ok::<_, ()>(txn.put(&maps, &key, value))).await.unwrap();
        }
    };
    let mut times = Vec::new();
    for n in 0..500 {
        let started = Instant::now();
        put(n).await;
        times.push(started.elapsed());
    }
    report("store: put, one after another", times);
    let started = Instant::now();
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let puts: Vec<_> = (0..200).map(|n| put(task * 200 + n)).collect();
            tokio::spawn(async move {
                for put in puts {
                    put.await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    println!("store: put, 64 at once               {:8.0} /s", 12_800.0 / started.elapsed().as_secs_f64());
    store.close().await;
    let started = Instant::now();
    let store = Store::open(directory.path()).unwrap();
    println!(
        "store: open with {} objects       {:8.1} ms",
        store.state().objects(&maps).len(),
        ms(started.elapsed())
    );
}

/// Through TLS and HTTP/1.1.
async fn http(base: &std::path::Path) {
    let mut server = Running::start_in(base).await;
    println!("server: resident when empty           {:8.1} MiB", resident_mib());
    let mut client = server.client().await;
    let mut times = Vec::new();
    for n in 0..OBJECTS {
        let started = Instant::now();
        let answer = client.post(MAPS, &config_map(&format!("m{n}"), "value")).await;
        times.push(started.elapsed());
        assert_eq!(answer.code, 201);
    }
    report("server: create, one connection", times);
    let mut times = Vec::new();
    for n in 0..OBJECTS {
        let started = Instant::now();
        client.get(&format!("{MAPS}/m{n}")).await;
        times.push(started.elapsed());
    }
    report("server: get, one connection", times);
    let started = Instant::now();
    let list = client.get(MAPS).await;
    println!(
        "server: list of {OBJECTS} ({} KiB)       {:8.1} ms",
        list.text.len() / 1024,
        ms(started.elapsed())
    );

    let list = list.json();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        watchers
            .push(server.client().await.watch(&format!("{MAPS}?watch=1&resourceVersion={version}")).await);
    }
    let mut times = Vec::new();
    for n in 0..100 {
        client.merge(&format!("{MAPS}/m{n}"), &serde_json::json!({"data": {"k": "w"}})).await;
        let answered = Instant::now();
        for watcher in &mut watchers {
            watcher.next().await.unwrap();
        }
        times.push(answered.elapsed());
    }
    report("server: answer → seen by all 100 watchers", times);
    drop(watchers);
    let started = Instant::now();
    server.restart().await;
    println!("server: stop and start with {OBJECTS}      {:8.1} ms", ms(started.elapsed()));
    println!("server: resident at the end           {:8.1} MiB", resident_mib());
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| ms(times[((times.len() - 1) as f64 * share) as usize]);
    println!("{what:42} p50 {:7.3} ms   p99 {:7.3} ms", at(0.5), at(0.99));
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}
