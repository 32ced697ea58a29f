//! An agent without an API server: objects in memory, everything else real. Whatever a test leaves is removed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairway_netns::{Links, Netns};
use futures::future::BoxFuture;
use futures::{SinkExt, StreamExt};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message as Frame;

use super::super::{Agent, Context, setup};
use crate::Config;
use crate::cluster::{Cluster, ClusterError, Event, PodId, Token};
use crate::env::Sources;
use crate::network::PodNet;
use crate::plan::PodPaths;
use crate::volume::TokenWish;

/// How long a condition may take to come true.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What the agent writes and reads instead of an API server.
pub(super) struct MemoryCluster {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    sources_changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    statuses: HashMap<String, (PodStatus, usize)>,
    events: Vec<Event>,
    deleted: HashSet<String>,
    config_maps: BTreeMap<String, ConfigMap>,
    phases: Vec<(String, String)>,
    tokens: usize,
    token_secs_max: Option<i64>,
}

impl MemoryCluster {
    fn new() -> Self {
        Self { inner: Mutex::default(), changed: watch::channel(0).0, sources_changed: watch::channel(0).0 }
    }

    pub(super) fn put_config_map(&self, name: &str, data: &[(&str, &str)]) {
        let data: BTreeMap<_, _> =
            data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut map = ConfigMap { data: Some(data), ..ConfigMap::default() };
        map.metadata.name = Some(name.to_owned());
        map.metadata.namespace = Some("ns".to_owned());
        map.metadata.resource_version = Some(uuid::Uuid::new_v4().to_string());
        self.inner.lock().unwrap().config_maps.insert(name.to_owned(), map);
        self.sources_changed.send_modify(|version| *version += 1);
    }

    /// Tokens last no longer than that.
    pub(super) fn limit_tokens(&self, secs: i64) {
        self.inner.lock().unwrap().token_secs_max = Some(secs);
    }

    /// Every phase that was written of a pod, in order.
    pub(super) fn phases(&self, pod: &PodId) -> Vec<String> {
        let inner = self.inner.lock().unwrap();
        inner.phases.iter().filter(|(uid, _)| *uid == pod.uid).map(|(_, phase)| phase.clone()).collect()
    }

    pub(super) fn is_deleted(&self, pod: &PodId) -> bool {
        self.inner.lock().unwrap().deleted.contains(&pod.uid)
    }

    pub(super) fn last_status(&self, pod: &PodId) -> Option<PodStatus> {
        self.inner.lock().unwrap().statuses.get(&pod.uid).map(|(status, _)| status.clone())
    }

    pub(super) fn writes(&self, pod: &PodId) -> usize {
        self.inner.lock().unwrap().statuses.get(&pod.uid).map_or(0, |(_, writes)| *writes)
    }
}

impl Cluster for MemoryCluster {
    fn sources(&self) -> Sources {
        let config_maps = self.inner.lock().unwrap().config_maps.values().cloned().collect();
        crate::env::tests::sources_of(config_maps, Vec::new())
    }

    fn sources_changed(&self) -> watch::Receiver<u64> {
        self.sources_changed.subscribe()
    }

    fn write_status<'a>(
        &'a self,
        pod: &'a PodId,
        status: &'a PodStatus,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        let mut inner = self.inner.lock().unwrap();
        inner.phases.push((pod.uid.clone(), status.phase.clone().unwrap_or_default()));
        let slot = inner.statuses.entry(pod.uid.clone()).or_default();
        // What comes back from an API server went through JSON.
        let status = serde_json::from_value(serde_json::to_value(status).unwrap()).unwrap();
        *slot = (status, slot.1 + 1);
        self.changed.send_modify(|version| *version += 1);
        Box::pin(async { Ok(()) })
    }

    fn delete<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<(), ClusterError>> {
        self.inner.lock().unwrap().deleted.insert(pod.uid.clone());
        self.changed.send_modify(|version| *version += 1);
        Box::pin(async { Ok(()) })
    }

    fn token<'a>(
        &'a self,
        _: &'a PodId,
        _: &'a str,
        wish: &'a TokenWish,
    ) -> BoxFuture<'a, Result<Token, ClusterError>> {
        let mut inner = self.inner.lock().unwrap();
        inner.tokens += 1;
        let lifetime_secs = inner.token_secs_max.unwrap_or(wish.expiration_secs);
        let text = format!("token-{}", inner.tokens);
        Box::pin(async move { Ok(Token { text, lifetime_secs }) })
    }

    fn event(&self, event: Event) {
        self.inner.lock().unwrap().events.push(event);
    }
}

/// Whether a condition is true.
pub(super) fn condition(status: &PodStatus, type_: &str) -> Option<bool> {
    status
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == type_)
        .map(|condition| condition.status == "True")
}

/// What came over the channels of an exec.
pub(super) struct Output {
    pub stdout: String,
    pub stderr: String,
    pub status: serde_json::Value,
}

pub(super) struct World {
    pub cluster: Arc<MemoryCluster>,
    directory: tempfile::TempDir,
    config: Config,
    context: Arc<Context>,
    agent: Option<Agent>,
    pods: BTreeMap<String, Arc<Pod>>,
    version: u64,
    node_address: Option<Ipv4Addr>,
    _server: fairway_kit::Trigger,
}

impl World {
    pub(super) async fn new() -> Self {
        let program =
            std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/pod_program");
        assert!(program.exists(), "{} is missing: build the crate's examples", program.display());
        let directory = tempfile::Builder::new().prefix("fwp").tempdir().unwrap();
        let number = std::process::id();
        let config = Config {
            cluster: format!("t{number}"),
            node_name: "node-1".into(),
            state_dir: directory.path().join("state"),
            run_dir: directory.path().join("run"),
            client: fairway_kit::ClientSource::InCluster,
            node_ip: [127, 0, 0, 1].into(),
            // A range of the benchmarking block (RFC 2544), other for every test process.
            pod_range: format!("198.{}.{}.0/24", 18 + number % 2, number / 2 % 256).parse().unwrap(),
            cluster_dns: vec![[10, 96, 0, 10].into()],
            cluster_domain: "cluster.local".into(),
            executable: program,
            zone: None,
            stop_pods_on_shutdown: true,
        };
        let cluster = Arc::new(MemoryCluster::new());
        let context = Arc::new(Context::new(config.clone(), cluster.clone()));
        let agent = Some(Agent::new(context.clone()).unwrap());
        let server = serve(&config, &context);
        Self {
            cluster,
            directory,
            config,
            context,
            agent,
            pods: BTreeMap::new(),
            version: 0,
            node_address: None,
            _server: server,
        }
    }

    pub(super) fn create(&mut self, name: &str, spec: serde_json::Value) -> PodId {
        let uid = uuid::Uuid::new_v4().to_string();
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "ns", "name": name, "uid": uid}, "spec": spec
        }))
        .unwrap();
        let id = PodId::of(&pod);
        self.pods.insert(uid, Arc::new(pod));
        self.apply();
        id
    }

    pub(super) fn delete(&mut self, pod: &PodId, grace_secs: i64) {
        self.change(pod, |object| {
            object.metadata.deletion_grace_period_seconds = Some(grace_secs);
            object.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                crate::lifecycle::later(jiff::Timestamp::now(), jiff::SignedDuration::from_secs(grace_secs)),
            ));
        });
    }

    /// A path of this machine that goes with the world.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn cluster_name(&self) -> String {
        self.config.cluster.clone()
    }

    /// An address of the node that is not a loopback address: the last but one of the pods' range.
    pub(super) fn add_node_address(&mut self) -> Ipv4Addr {
        let address = Ipv4Addr::from(u32::from(self.config.pod_range.broadcast()) - 1);
        let mut links = Links::open(&Netns::host().unwrap()).unwrap();
        links.add_address("lo", IpNet::from(IpAddr::from(address))).unwrap();
        self.node_address = Some(address);
        address
    }

    pub(super) fn change(&mut self, pod: &PodId, change: impl FnOnce(&mut Pod)) {
        let mut object = (*self.pods[&pod.uid]).clone();
        self.version += 1;
        object.metadata.resource_version = Some(self.version.to_string());
        change(&mut object);
        self.pods.insert(pod.uid.clone(), Arc::new(object));
        self.apply();
    }

    /// The object is gone without the agent being told.
    pub(super) fn forget(&mut self, pod: &PodId) {
        self.pods.remove(&pod.uid);
    }

    fn apply(&mut self) {
        let list: Vec<Arc<Pod>> = self.pods.values().cloned().collect();
        self.agent.as_mut().unwrap().apply(&list);
    }

    /// Ends the agent (with its pods or without) and starts another one, which sees the statuses that were written.
    pub(super) async fn restart_agent(&mut self, stop_pods: bool) {
        self.agent.take().unwrap().shut_down(stop_pods).await;
        for (uid, pod) in &mut self.pods {
            let mut object = (**pod).clone();
            object.status =
                self.cluster.inner.lock().unwrap().statuses.get(uid).map(|(status, _)| status.clone());
            *pod = Arc::new(object);
        }
        self.context = Arc::new(Context::new(self.config.clone(), self.cluster.clone()));
        self._server = serve(&self.config, &self.context);
        let agent = Agent::new(self.context.clone()).unwrap();
        let list: Vec<Arc<Pod>> = self.pods.values().cloned().collect();
        agent.remove_orphans(&list).await;
        self.agent = Some(agent);
        self.apply();
    }

    pub(super) fn paths(&self, pod: &PodId) -> PodPaths {
        self.context.paths(pod)
    }

    pub(super) fn has_network(&self, pod: &PodId) -> bool {
        let net = PodNet::new(&self.config.cluster, &pod.uid);
        fairway_netns::Netns::path(&net.netns).exists()
            || PathBuf::from(format!("/sys/class/net/{}", net.link)).exists()
    }

    pub(super) fn write_state(&self, path: &str, text: &str) {
        let path = self.config.state_dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Waits for a status.
    pub(super) async fn status(&self, pod: &PodId, wanted: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let mut changed = self.cluster.changed.subscribe();
        let began = Instant::now();
        loop {
            changed.mark_unchanged();
            if let Some(status) = self.cluster.last_status(pod).filter(|status| wanted(status)) {
                return status;
            }
            let left = PATIENCE.saturating_sub(began.elapsed());
            if tokio::time::timeout(left, changed.changed()).await.is_err() {
                panic!(
                    "{pod}: last status {:#?}\nevents {:#?}",
                    self.cluster.last_status(pod),
                    self.events(pod)
                );
            }
        }
    }

    /// Waits for anything.
    pub(super) async fn until<F: Future<Output = bool>>(&self, condition: impl Fn() -> F) {
        let began = Instant::now();
        while !condition().await {
            assert!(
                began.elapsed() < PATIENCE,
                "it did not become true; events: {:#?}",
                self.cluster.inner.lock().unwrap().events
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) fn events(&self, pod: &PodId) -> Vec<(&'static str, String)> {
        let inner = self.cluster.inner.lock().unwrap();
        let own = inner.events.iter().filter(|event| event.pod == *pod);
        own.map(|event| (event.reason, event.message.clone())).collect()
    }

    /// The log of the first attempt, once a word is in it.
    pub(super) async fn log_until(&self, pod: &PodId, container: &str, word: &str) -> String {
        let path = self.paths(pod).log(container, 0);
        let read = || String::from_utf8(crate::logs::last_lines(&path, 1000, 1 << 20)).unwrap();
        self.until(|| async { read().contains(word) }).await;
        read()
    }

    /// Runs a command over the kubelet socket; standard output and the Status.
    pub(super) async fn exec(
        &self,
        pod: &PodId,
        container: &str,
        command: &[&str],
    ) -> (String, serde_json::Value) {
        let command: Vec<String> =
            command.iter().map(|word| format!("command={}", word.replace('/', "%2F"))).collect();
        let path = format!("/exec/ns/{}/{container}?output=1&{}", pod.name, command.join("&"));
        match self.try_exec_channels(&path, b"", false).await {
            Some(output) => (output.stdout, output.status),
            None => (String::new(), serde_json::Value::Null),
        }
    }

    pub(super) async fn exec_channels(&self, path: &str, input: &[u8], close: bool) -> Output {
        self.try_exec_channels(path, input, close).await.expect("an upgrade")
    }

    /// A WebSocket over the kubelet socket, if the agent agrees.
    pub(super) async fn upgrade(
        &self,
        path: &str,
        protocol: &str,
    ) -> Option<tokio_tungstenite::WebSocketStream<UnixStream>> {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let request = http::Request::get(format!("ws://node{path}"))
            .header("host", "node")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", protocol)
            .body(())
            .unwrap();
        tokio_tungstenite::client_async(request, stream).await.ok().map(|(socket, _)| socket)
    }

    async fn try_exec_channels(&self, path: &str, input: &[u8], close: bool) -> Option<Output> {
        let mut socket = self.upgrade(path, "v5.channel.k8s.io").await?;
        let channel = |number: u8, bytes: &[u8]| Frame::Binary([&[number], bytes].concat().into());
        if !input.is_empty() {
            socket.send(channel(0, input)).await.unwrap();
        }
        if close {
            socket.send(channel(255, &[0])).await.unwrap();
        }
        let (mut stdout, mut stderr, mut status) = (Vec::new(), Vec::new(), serde_json::Value::Null);
        while let Ok(Some(Ok(frame))) = tokio::time::timeout(PATIENCE, socket.next()).await {
            let Frame::Binary(bytes) = frame else { continue };
            match bytes.split_first().unwrap() {
                (1, data) => stdout.extend_from_slice(data),
                (2, data) => stderr.extend_from_slice(data),
                (3, data) => status = serde_json::from_slice(data).unwrap(),
                (other, _) => panic!("channel {other}"),
            }
        }
        Some(Output {
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
            status,
        })
    }

    pub(super) async fn http_get(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nhost: node\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.config.node_run_dir().join("kubelet.sock")
    }

    pub(super) fn kill_pid_1(&self, pod: &PodId) {
        let facts: serde_json::Value =
            serde_json::from_slice(&std::fs::read(self.paths(pod).facts).unwrap()).unwrap();
        let pid = i32::try_from(facts["pid"].as_i64().unwrap()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    /// An image with a shell and what it needs, made of this machine's files.
    pub(super) fn load_shell_image(&self) -> &'static str {
        let listed = std::process::Command::new("ldd")
            .arg("/bin/ls")
            .output()
            .expect("ldd (package libc-bin) is needed");
        let libraries = String::from_utf8(listed.stdout).unwrap();
        let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
        let mut files: Vec<(String, Vec<u8>)> = ["/bin/sh", "/bin/ls", "/bin/sleep"]
            .into_iter()
            .chain(libraries)
            .map(|path| (path.trim_start_matches('/').to_owned(), std::fs::read(path).unwrap()))
            .collect();
        files.push((
            "bin/whoami-number".into(),
            b"#!/bin/sh\nread a b < /proc/self/loginuid; echo 0\n".to_vec(),
        ));
        let mut layer = tar::Builder::new(Vec::new());
        let mut add = |name: &str, bytes: &[u8], kind: tar::EntryType, link: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            if link.is_empty() {
                layer.append_data(&mut header, name, bytes).unwrap();
            } else {
                layer.append_link(&mut header, name, link).unwrap();
            }
        };
        for (name, bytes) in &files {
            add(name, bytes, tar::EntryType::Regular, "");
        }
        add("run", b"", tar::EntryType::Directory, "");
        add("var/run", b"", tar::EntryType::Symlink, "/run");
        let layer = layer.into_inner().unwrap();
        use sha2::Digest;
        let digest = sha2::Sha256::digest(&layer)
            .iter()
            .fold(String::from("sha256:"), |text, byte| text + &format!("{byte:02x}"));
        let config = serde_json::json!({
            "config": {"Entrypoint": ["/bin/sh"], "Env": ["FROM_IMAGE=yes", "PATH=/bin"], "WorkingDir": "/work"},
            "rootfs": {"diff_ids": [digest]}
        });
        let mut archive = tar::Builder::new(Vec::new());
        let manifest = br#"[{"Config":"c.json","RepoTags":["example.com/shell:1"],"Layers":["layer.tar"]}]"#;
        for (name, bytes) in [
            ("c.json", config.to_string().into_bytes()),
            ("layer.tar", layer),
            ("manifest.json", manifest.to_vec()),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, &*bytes).unwrap();
        }
        let file = self.directory.path().join("shell.tar");
        std::fs::write(&file, archive.into_inner().unwrap()).unwrap();
        self.context.images.load(&file).unwrap();
        "example.com/shell:1"
    }

    pub(super) async fn close(mut self) {
        self.agent.take().unwrap().shut_down(true).await;
    }
}

fn serve(config: &Config, context: &Arc<Context>) -> fairway_kit::Trigger {
    let (trigger, shutdown) = fairway_kit::shutdown::channel();
    crate::server::serve(&config.node_run_dir().join("kubelet.sock"), context.clone(), shutdown).unwrap();
    trigger
}

impl Drop for World {
    /// Also after a failed assertion nothing stays behind.
    fn drop(&mut self) {
        if let Some(address) = self.node_address {
            let mut links = Links::open(&Netns::host().unwrap()).unwrap();
            links.remove_address("lo", IpNet::from(IpAddr::from(address))).unwrap();
        }
        let context = self.context.clone();
        let cleaner = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for record in super::super::records(&context.pods_dir()) {
                    let id = PodId { namespace: record.namespace, name: record.name, uid: record.uid };
                    let net = PodNet::new(&context.config.cluster, &id.uid);
                    setup::tear_down(&context, &id, Some(net), record.ip).await;
                }
            });
        });
        cleaner.join().unwrap();
    }
}
