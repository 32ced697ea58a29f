//! The shell around the pure parts: one worker a pod, fed by the watch, leaving pods alone when it ends.

mod hooks;
mod probing;
mod setup;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::Config;
use crate::cgroup::Cgroups;
use crate::cluster::{Cluster, PodId};
use crate::hostport::{self, Claim, Conflict, HostPorts};
use crate::image::Store;
use crate::names::{ClusterDns, uses_host_network};
use crate::network::{Addresses, PodNet};
use crate::plan::PodPaths;
use crate::sandbox;
use worker::{PodInput, Worker};

/// What all workers share.
pub(crate) struct Context {
    pub config: Config,
    pub cluster: Arc<dyn Cluster>,
    pub images: Store,
    pub dns: ClusterDns,
    pub addresses: Mutex<Addresses>,
    /// Held while the kernel is told, so that its table is never older than the one before.
    pub host_ports: tokio::sync::Mutex<HostPorts>,
    pub cgroups: Cgroups,
    pub live: Live,
}

/// Why a pod does not get its host ports.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostPortError {
    #[error(transparent)]
    Conflict(#[from] Conflict),
    #[error("host ports: {0}")]
    Kernel(#[from] fairway_netfilter::Error),
}

/// What survives the agent, in the pod's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub ip: Option<Ipv4Addr>,
    #[serde(default)]
    pub host_ports: Vec<Claim>,
}

/// One container as the kubelet API needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerView {
    pub attempt: u32,
    pub running: bool,
    /// The attempt has a log, be it of a container that ended.
    pub started: bool,
    /// Shown when there is no log yet.
    pub waiting: String,
    pub tty: bool,
    /// The inode of its mount namespace while it runs.
    pub mounts: Option<u64>,
    /// Its input ends with the first client that attaches to it.
    pub stdin_once: bool,
}

/// A pod as the kubelet API needs it.
#[derive(Clone, Debug)]
pub(crate) struct LivePod {
    pub id: PodId,
    pub paths: PodPaths,
    /// With the newest status, written or not.
    pub object: watch::Receiver<Arc<Pod>>,
    pub containers: watch::Receiver<BTreeMap<String, ContainerView>>,
}

/// The pods of this node by namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Live(RwLock<HashMap<(String, String), LivePod>>);

impl Live {
    /// The pod of that name.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<LivePod> {
        let pods = self.0.read().unwrap_or_else(PoisonError::into_inner);
        pods.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All of them, by namespace and name.
    pub(crate) fn all(&self) -> Vec<LivePod> {
        let pods = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<LivePod> = pods.values().cloned().collect();
        all.sort_by(|a, b| (&a.id.namespace, &a.id.name).cmp(&(&b.id.namespace, &b.id.name)));
        all
    }

    fn insert(&self, pod: LivePod) {
        let key = (pod.id.namespace.clone(), pod.id.name.clone());
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key, pod);
    }

    /// Removes that very pod; a successor of the same name stays.
    fn remove(&self, id: &PodId) {
        let mut pods = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let key = (id.namespace.clone(), id.name.clone());
        if pods.get(&key).is_some_and(|pod| pod.id == *id) {
            pods.remove(&key);
        }
    }
}

impl Context {
    pub(crate) fn new(config: Config, cluster: Arc<dyn Cluster>) -> Self {
        let images = Store::new(config.state_dir.join("images"));
        let dns = ClusterDns { servers: config.cluster_dns.clone(), domain: config.cluster_domain.clone() };
        let next =
            std::fs::read_to_string(cursor_path(&config)).ok().and_then(|text| text.trim().parse().ok());
        let addresses = Mutex::new(Addresses::new(config.pod_range, next));
        let (host_ports, cgroups) = (tokio::sync::Mutex::default(), Cgroups::open(&config.cluster));
        Self { config, cluster, images, dns, addresses, host_ports, cgroups, live: Live::default() }
    }

    /// Gives a pod its host ports and tells the kernel.
    pub(crate) async fn claim_ports(
        &self,
        id: &PodId,
        ip: Ipv4Addr,
        claims: Vec<Claim>,
    ) -> Result<(), HostPortError> {
        let mut ports = self.host_ports.lock().await;
        let none = claims.is_empty();
        ports.claim(&id.uid, &id.to_string(), ip, claims)?;
        if none { Ok(()) } else { Ok(self.install_ports(&ports).await?) }
    }

    /// Takes them back.
    pub(crate) async fn release_ports(&self, id: &PodId) {
        let mut ports = self.host_ports.lock().await;
        if ports.release(&id.uid)
            && let Err(error) = self.install_ports(&ports).await
        {
            tracing::warn!(%error, pod = %id, "the host ports of a pod that ended still lead to its address; the next pod with host ports on this node mends it");
        }
    }

    async fn install_ports(&self, ports: &HostPorts) -> Result<(), fairway_netfilter::Error> {
        let (ports, table) = (ports.clone(), hostport::table(&self.config.cluster));
        // A task that was cancelled told the kernel nothing: the next change tells all.
        tokio::task::spawn_blocking(move || ports.install(table)).await.unwrap_or(Ok(()))
    }

    /// Where the things of a pod are.
    pub(crate) fn paths(&self, id: &PodId) -> PodPaths {
        let run = self.config.node_run_dir().join("pods");
        let short: String = id.uid.chars().filter(|c| *c != '-').take(8).collect();
        PodPaths {
            directory: self.pods_dir().join(&id.uid),
            socket: run.join(format!("{short}.sock")),
            facts: self.config.run_dir.join("pods").join(format!("{}_{}.json", id.namespace, id.name)),
        }
    }

    fn pods_dir(&self) -> PathBuf {
        self.config.state_dir.join("nodes").join(&self.config.node_name).join("pods")
    }

    /// The names of a pod's network, unless it has the node's.
    pub(crate) fn net(&self, pod: &Pod, id: &PodId) -> Option<PodNet> {
        let own = !pod.spec.as_ref().is_some_and(uses_host_network);
        own.then(|| PodNet::new(&self.config.cluster, &id.uid))
    }

    /// Takes an address and remembers where to go on.
    pub(crate) fn take_address(&self) -> Result<Ipv4Addr, crate::network::Exhausted> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let ip = addresses.take()?;
        // Losing the position only means that addresses are taken again earlier.
        let _ = std::fs::write(cursor_path(&self.config), addresses.next().to_string());
        Ok(ip)
    }

    pub(crate) fn release_address(&self, ip: Ipv4Addr) {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).release(ip);
    }
}

fn cursor_path(config: &Config) -> PathBuf {
    config.state_dir.join("nodes").join(&config.node_name).join("address-cursor")
}

/// The pods of this node and their workers.
pub(crate) struct Agent {
    context: Arc<Context>,
    workers: HashMap<String, Running>,
}

struct Running {
    input: watch::Sender<PodInput>,
    task: tokio::task::JoinHandle<()>,
}

impl Agent {
    /// Prepares directories and claims the addresses of pods that are there already.
    pub(crate) fn new(context: Arc<Context>) -> std::io::Result<Self> {
        std::fs::create_dir_all(context.pods_dir())?;
        std::fs::create_dir_all(context.config.node_run_dir().join("pods"))?;
        std::fs::create_dir_all(context.config.run_dir.join("pods"))?;
        for record in records(&context.pods_dir()) {
            let Some(ip) = record.ip else { continue };
            context.addresses.lock().unwrap_or_else(PoisonError::into_inner).claim(ip);
            // Nobody else has the context yet, and the kernel has these already.
            if let Ok(mut ports) = context.host_ports.try_lock() {
                let label = format!("{}/{}", record.namespace, record.name);
                let _ = ports.claim(&record.uid, &label, ip, record.host_ports);
            }
        }
        Ok(Self { context, workers: HashMap::new() })
    }

    /// Removes what is left of pods that the API server does not have any more; `pods` is a complete list.
    pub(crate) async fn remove_orphans(&self, pods: &[Arc<Pod>]) {
        let known: Vec<&str> = pods.iter().filter_map(|pod| pod.metadata.uid.as_deref()).collect();
        let orphans = records(&self.context.pods_dir())
            .into_iter()
            .filter(|record| !known.contains(&record.uid.as_str()));
        join_all(orphans.map(|record| self.remove_orphan(record))).await;
    }

    async fn remove_orphan(&self, record: PodRecord) {
        tracing::info!(
            pod = format!("{}/{}", record.namespace, record.name),
            "removing what is left of a pod that was deleted meanwhile"
        );
        let id = PodId { namespace: record.namespace, name: record.name, uid: record.uid };
        let net = PodNet::new(&self.context.config.cluster, &id.uid);
        setup::tear_down(&self.context, &id, Some(net), record.ip).await;
        setup::forget(&self.context.paths(&id)).await;
        if let Some(ip) = record.ip {
            self.context.release_address(ip);
        }
    }

    /// Takes a complete list of this node's pods.
    pub(crate) fn apply(&mut self, pods: &[Arc<Pod>]) {
        self.workers.retain(|_, running| !running.task.is_finished());
        for pod in pods {
            let Some(uid) = pod.metadata.uid.clone() else { continue };
            match self.workers.get(&uid) {
                Some(running) => {
                    running.input.send_if_modified(|input| {
                        let changed = input.pod.metadata.resource_version != pod.metadata.resource_version;
                        if changed {
                            input.pod = pod.clone();
                        }
                        changed
                    });
                }
                None if self.is_left_to_others(pod) => {}
                None => self.start(uid, pod.clone()),
            }
        }
        let known: Vec<Option<&str>> = pods.iter().map(|pod| pod.metadata.uid.as_deref()).collect();
        for (uid, running) in &self.workers {
            if !known.contains(&Some(uid.as_str())) {
                running.input.send_if_modified(|input| !std::mem::replace(&mut input.gone, true));
            }
        }
    }

    /// A pod that this node is done with, and whose object only finalizers keep.
    fn is_left_to_others(&self, pod: &Pod) -> bool {
        let meta = &pod.metadata;
        meta.deletion_timestamp.is_some()
            && meta.deletion_grace_period_seconds == Some(0)
            && meta.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty())
            && !self.context.paths(&PodId::of(pod)).record().exists()
    }

    fn start(&mut self, uid: String, pod: Arc<Pod>) {
        let (input, receiver) = watch::channel(PodInput { pod: pod.clone(), gone: false });
        let worker = Worker::new(self.context.clone(), pod);
        let task = tokio::spawn(worker.run(receiver));
        self.workers.insert(uid, Running { input, task });
    }

    /// Lets go of the pods; with `stop` their processes and networks end, their objects and directories stay.
    pub(crate) async fn shut_down(self, stop: bool) {
        for running in self.workers.values() {
            running.task.abort();
        }
        if !stop {
            return;
        }
        let context = &self.context;
        join_all(records(&self.context.pods_dir()).into_iter().map(|record| async move {
            let id = PodId { namespace: record.namespace, name: record.name, uid: record.uid };
            let net = PodNet::new(&context.config.cluster, &id.uid);
            setup::tear_down(context, &id, Some(net), record.ip).await;
        }))
        .await;
    }
}

/// The pods that have a directory. A directory without a readable record is of a pod that did not come far: it has no network yet.
fn records(directory: &Path) -> Vec<PodRecord> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let read = |entry: std::fs::DirEntry| {
        serde_json::from_slice(&std::fs::read(entry.path().join("pod.json")).ok()?).ok()
    };
    entries.flatten().filter_map(read).collect()
}

/// Ends PID 1 of a pod that should not run any more.
pub(crate) async fn kill(paths: &PodPaths) {
    sandbox::kill(&paths.socket).await;
}
