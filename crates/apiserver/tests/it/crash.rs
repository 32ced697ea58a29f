//! A server that is killed while it writes: what it acknowledged is there, versions never go back, watches go on or are told to start anew.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fairway_apiserver::Server;
use rand::Rng;
use serde_json::Value;

use crate::server::{Client, Identity, Pki, config, config_map, connect};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DIRECTORY: &str = "FAIRWAY_CRASH_TEST_DIRECTORY";
const WRITERS: usize = 4;
const NAMES: usize = 5;
const ROUNDS: usize = 8;

/// The server of the test below, in a process of its own: this test of the same executable, told by the environment where its files are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_process() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let server = Server::bind(config(directory, directory)).await.unwrap();
    println!("\nlistening {}", server.addresses()[0]);
    server.serve(std::future::pending()).await;
}

struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::server_process", "--nocapture"])
            .env(DIRECTORY, directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address =
            lines.map_while(Result::ok).find_map(|line| line.strip_prefix("listening ")?.parse().ok());
        Self { child, address: address.expect("the server's address") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL: nothing is flushed, nothing is said.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a writer knows of one object: the last acknowledged change, and a later one whose answer never came.
#[derive(Debug, Clone, Default)]
struct Known {
    version: u64,
    /// None: deleted, or never there.
    content: Option<String>,
    /// What may have happened since.
    pending: Option<Option<String>>,
}

type Knowledge = Arc<Mutex<BTreeMap<String, Known>>>;

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// Creates, changes and deletes its own objects until the connection breaks. Every acknowledged version goes to `acknowledged`.
async fn write(
    mut client: Client,
    writer: usize,
    knowledge: Knowledge,
    acknowledged: Arc<Mutex<BTreeSet<u64>>>,
) {
    for step in 0_u64.. {
        let name = format!("w{writer}-{}", step % NAMES as u64);
        let known = knowledge.lock().unwrap().entry(name.clone()).or_default().clone();
        let content = format!("{writer}-{step}-{}", rand::rng().random::<u32>());
        let delete = known.content.is_some() && step % 7 == 0;
        let wanted = (!delete).then(|| content.clone());
        knowledge.lock().unwrap().get_mut(&name).unwrap().pending = Some(wanted.clone());
        let (method, path) = match (&known.content, delete) {
            (None, _) => ("POST", MAPS.to_owned()),
            (Some(_), true) => ("DELETE", format!("{MAPS}/{name}")),
            (Some(_), false) => ("PUT", format!("{MAPS}/{name}")),
        };
        let body = if delete { String::new() } else { config_map(&name, &content).to_string() };
        let Some(answer) = client.try_ask(method, &path, body).await else { return };
        assert!(matches!(answer.code, 200 | 201), "{method} {path}: {answer:?}");
        let mut knowledge = knowledge.lock().unwrap();
        let known = knowledge.get_mut(&name).unwrap();
        let newer = if delete { known.version } else { version(&answer.json()) };
        assert!(delete || newer > known.version, "{answer:?} after {known:?}");
        if !delete {
            acknowledged.lock().unwrap().insert(newer);
        }
        *known = Known { version: newer, content: wanted, pending: None };
    }
}

/// Follows from a version until the connection breaks or `until` is reached; the versions seen, in order. A server that no longer knows
/// the position says so, and the test ends: it keeps far more than is written here.
async fn follow(client: Client, from: u64, until: u64, seen: Arc<Mutex<Vec<u64>>>) {
    let mut watch = client.watch(&format!("/api/v1/configmaps?watch=1&resourceVersion={from}")).await;
    let mut at = from;
    while at < until
        && let Some(event) = watch.next_or_broken().await
    {
        assert_ne!(event["type"], "ERROR", "{event}");
        let newer = version(&event["object"]);
        assert!(newer > at, "{newer} after {at}");
        at = newer;
        seen.lock().unwrap().push(at);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_that_it_acknowledged() {
    let pki = Pki::new();
    pki.identity("server", &[]);
    let admin: Identity = pki.identity("admin", &["system:masters"]);
    let knowledge = Knowledge::default();
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (mut newest, mut from) = (0, None);
    for round in 0..ROUNDS {
        let process = Process::start(pki.directory.path());
        let client = || connect(&pki, process.address, Some(&admin));
        let list = client().await.get(MAPS).await.json();
        let now = version(&list);
        assert!(now >= newest, "round {round}: at {now}, but {newest} was seen before");
        check(&list, &knowledge, round);
        let from = *from.get_or_insert(now);
        let at = seen.lock().unwrap().last().copied().unwrap_or(from);
        assert!(now >= at, "round {round}: at {now}, but an event of {at} was sent before");
        let follower = tokio::spawn(follow(client().await, at, u64::MAX, Arc::clone(&seen)));
        let writers: Vec<_> = {
            let mut writers = Vec::new();
            for writer in 0..WRITERS {
                let client = client().await;
                writers.push(tokio::spawn(write(
                    client,
                    writer,
                    Arc::clone(&knowledge),
                    Arc::clone(&acknowledged),
                )));
            }
            writers
        };
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(50..400))).await;
        drop(process);
        for writer in writers {
            writer.await.unwrap();
        }
        follower.await.unwrap();
        newest = acknowledged.lock().unwrap().last().copied().unwrap_or(now).max(now);
    }
    let process = Process::start(pki.directory.path());
    let list = connect(&pki, process.address, Some(&admin)).await.get(MAPS).await.json();
    check(&list, &knowledge, ROUNDS);
    let last = list["items"].as_array().unwrap().iter().map(version).max().unwrap();
    let at = seen.lock().unwrap().last().copied().unwrap_or(0);
    follow(connect(&pki, process.address, Some(&admin)).await, at, last, Arc::clone(&seen)).await;
    let seen: BTreeSet<u64> = seen.lock().unwrap().iter().copied().collect();
    let missed: Vec<u64> = acknowledged.lock().unwrap().difference(&seen).copied().collect();
    assert!(missed.is_empty(), "acknowledged, but the watch never told of {missed:?}");
    assert!(
        acknowledged.lock().unwrap().len() > ROUNDS * WRITERS,
        "too little was written to prove anything"
    );
}

/// Every object is as its writer knows it, or as the change makes it whose answer never came; from now on it is known again.
fn check(list: &Value, knowledge: &Knowledge, round: usize) {
    let items = list["items"].as_array().unwrap();
    let found: BTreeMap<&str, &Value> =
        items.iter().map(|item| (item["metadata"]["name"].as_str().unwrap(), item)).collect();
    for (name, known) in knowledge.lock().unwrap().iter_mut() {
        let object = found.get(name.as_str());
        let content = object.map(|object| object["data"]["k"].as_str().unwrap().to_owned());
        let version = object.map_or(known.version, |object| version(object));
        let as_acknowledged = content == known.content && version == known.version;
        let as_pending = known.pending.as_ref() == Some(&content) && version >= known.version;
        assert!(
            as_acknowledged || as_pending,
            "round {round}: {name} is {content:?} @{version}, known {known:?}"
        );
        *known = Known { version, content, pending: None };
    }
}
