//! Local pods: the part of a node that a kubelet and a container runtime are elsewhere.
//!
//! A pod is processes of this machine in namespaces of their own. There is no container runtime and no registry: images are the
//! executable itself, host commands, or archives that were loaded ([`image`]).
//!
//! Not here: Services and policies (crate `node`), scheduling (crate `controllers`), who may use exec and logs (crate `apiserver`).
//!
//! Two programs live in this crate. [`pod_main`] is PID 1 of one pod: small, one thread, outlives the agent. [`run`] is the agent: it
//! watches the pods of its node and drives them. The shape of the agent is that of the whole project: what to do next
//! (`lifecycle::reconcile`), the published status (`status::compute`), variables, names, volumes, plans and probe verdicts are pure
//! functions with tables of cases; workers in `agent` carry out and fold what happened.
//!
//! Limits of this runtime, on purpose: containers of a pod share its PID namespace (a debug container sees its target without asking),
//! resource limits are enforced where the machine has control groups for it and are only reported elsewhere, hostPath volumes show
//! any path of this machine (a local cluster belongs to who runs it), hostPID and hostIPC change nothing, extended attributes of image
//! files are not kept.

mod agent;
mod beneath;
mod capability;
mod cgroup;
mod cluster;
mod env;
mod hostport;
pub mod image;
mod init;
mod lifecycle;
mod logs;
mod names;
mod network;
mod plan;
mod probe;
mod protocol;
mod registration;
mod sandbox;
mod server;
pub mod spdy;
mod status;
mod sys;
mod volume;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use fairway_kit::{ClientSource, Shutdown};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;

use agent::{Agent, Context};
use cluster::ApiCluster;
pub use init::pod_main;

/// How a node runs its pods. The process must be in the node's network namespace.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's name: part of namespace and path names.
    pub cluster: String,
    /// This node's name.
    pub node_name: String,
    /// The cluster's state, `/var/lib/fairway/<cluster>`.
    pub state_dir: PathBuf,
    /// The cluster's run directory, `/run/fairway/<cluster>`.
    pub run_dir: PathBuf,
    /// Where the API server is.
    pub client: ClientSource,
    /// The node's address on the underlay.
    pub node_ip: IpAddr,
    /// Addresses for this node's pods.
    pub pod_range: Ipv4Net,
    /// Name servers for pods with dnsPolicy ClusterFirst.
    pub cluster_dns: Vec<IpAddr>,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// The `fairway` executable: PID 1 of pods, and inside the built-in images.
    pub executable: PathBuf,
    /// For the label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// End the pods' processes and networks on shutdown. Otherwise they run on and the next agent takes them over.
    pub stop_pods_on_shutdown: bool,
}

impl Config {
    /// Where this node's sockets are.
    pub(crate) fn node_run_dir(&self) -> PathBuf {
        self.run_dir.join("nodes").join(&self.node_name)
    }
}

/// Why the pods of a node cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client for the API server.
    #[error(transparent)]
    Client(#[from] fairway_kit::ClientError),
    /// Directories or sockets of the node.
    #[error("node {node}: cannot {action}: {source}")]
    Files {
        /// The node.
        node: String,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Registers the node and runs its pods until shutdown. Pods of an earlier agent are taken over without being touched.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let files = |action| {
        let node = config.node_name.clone();
        move |source| Error::Files { node, action, source }
    };
    let client = fairway_kit::connect(&config.client, "fairway-node").await?;
    // Pods are only scheduled to a node that is there: this comes before everything that takes time.
    tokio::spawn(registration::keep_alive(client.clone(), config.clone(), shutdown.clone()));
    let own =
        kube::runtime::watcher::Config::default().fields(&format!("spec.nodeName={}", config.node_name));
    let mut pods = fairway_kit::watch::watch(Api::<Pod>::all(client.clone()), own, shutdown.clone());
    let started = shutdown.unless_requested(ApiCluster::start(client, &config.node_name, &shutdown)).await;
    let Some(cluster) = started else { return Ok(()) };
    let socket = config.node_run_dir().join("kubelet.sock");
    let stop_pods = config.stop_pods_on_shutdown;
    let context = Arc::new(Context::new(config.clone(), Arc::new(cluster)));
    let mut agent = Agent::new(context.clone()).map_err(files("make its directories"))?;
    server::serve(&socket, context, shutdown.clone()).map_err(files("listen on its kubelet socket"))?;
    let hold = shutdown.hold();
    if shutdown.unless_requested(pods.synced()).await.is_some() {
        let list: Vec<Arc<Pod>> = pods.peek().objects.values().cloned().collect();
        agent.remove_orphans(&list).await;
    }
    while shutdown.unless_requested(pods.changed()).await.is_some() {
        let list: Vec<Arc<Pod>> = pods.snapshot().objects.values().cloned().collect();
        agent.apply(&list);
    }
    agent.shut_down(stop_pods).await;
    drop(hold);
    Ok(())
}
