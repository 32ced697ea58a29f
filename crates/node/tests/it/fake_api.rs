//! As much of an API server as the agent needs: list, watch and create over plain HTTP/1.1.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

#[derive(Default)]
struct State {
    version: u64,
    /// By path and name.
    objects: BTreeMap<(String, String), Value>,
    watchers: Vec<(String, Sender<String>)>,
}

/// Serves until the test ends.
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    pub(crate) kubeconfig: PathBuf,
    _directory: tempfile::TempDir,
}

pub(crate) const SERVICES: &str = "/api/v1/services";
pub(crate) const NODES: &str = "/api/v1/nodes";
pub(crate) const EVENTS: &str = "/api/v1/namespaces/shop/events";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

impl FakeApi {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
            "clusters": [{"name": "k", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}]});
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { state, kubeconfig, _directory: directory }
    }

    /// Creates or replaces an object.
    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let old = state.objects.insert((path.into(), name), object.clone());
        let event = json!({"type": if old.is_some() { "MODIFIED" } else { "ADDED" }, "object": object});
        state.watchers.retain(|(watched, sender)| watched != path || sender.send(event.to_string()).is_ok());
    }

    /// The objects of a path.
    pub(crate) fn objects(&self, path: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        state.objects.iter().filter(|((at, _), _)| at == path).map(|(_, object)| object.clone()).collect()
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut body_len = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            if let Some(len) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                body_len = len.trim().parse().unwrap();
            }
        }
        let mut sent = vec![0; body_len];
        reader.read_exact(&mut sent)?;
        let target = request.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if query.contains("watch=true") {
            let since = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("resourceVersion="))
                .and_then(|text| text.parse().ok());
            return watch(&mut stream, &follow(state, path, since.unwrap_or(0)));
        }
        let (status, answer) = if request.starts_with("POST") {
            create(&mut state.lock().unwrap(), path, &sent)
        } else {
            ("200 OK", list(&state.lock().unwrap(), path))
        };
        let body = answer.to_string();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
}

fn create(state: &mut State, path: &str, sent: &[u8]) -> (&'static str, Value) {
    let object: Value = serde_json::from_slice(sent).unwrap();
    let key = (path.to_owned(), object["metadata"]["name"].as_str().unwrap().to_owned());
    if state.objects.contains_key(&key) {
        let exists = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "AlreadyExists", "code": 409});
        return ("409 Conflict", exists);
    }
    state.objects.insert(key, object.clone());
    ("201 Created", object)
}

fn list(state: &State, path: &str) -> Value {
    let of_path = state.objects.iter().filter(|((at, _), _)| at == path);
    let items: Vec<&Value> = of_path.map(|(_, object)| object).collect();
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": state.version.to_string()}, "items": items})
}

fn follow(state: &Mutex<State>, path: &str, since: u64) -> Receiver<String> {
    let (sender, receiver) = channel();
    let mut state = state.lock().unwrap();
    // What came between the list and this watch.
    for ((at, _), object) in &state.objects {
        let version: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        if at == path && version > since {
            sender.send(json!({"type": "MODIFIED", "object": object}).to_string()).unwrap();
        }
    }
    state.watchers.push((path.into(), sender));
    receiver
}

fn watch(stream: &mut TcpStream, events: &Receiver<String>) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    for event in events {
        write!(stream, "{:x}\r\n{event}\n\r\n", event.len() + 1)?;
    }
    Ok(())
}
