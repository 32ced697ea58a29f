//! `fairway status`: what is known of a cluster, as data.

use std::time::Duration;

use fairway_kit::{ClientSource, connect};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde::Serialize;

use crate::error::Error;
use crate::files;
use crate::lock::SupervisorLock;
use crate::manifests::{GATEWAY_SERVICE, SYSTEM_SELECTOR};
use crate::process::Process;
use crate::readiness::{address_of, answers, node_is_ready, pod_is_ready};
use crate::role::RunningRole;
use crate::settings::{ClusterName, Directories, Roots, Settings};

/// An API server that has not answered within this is down.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// A cluster as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// The supervisor, when it runs.
    pub supervisor: Option<u32>,
    /// Whether there is state for a next `up`.
    pub saved: bool,
    /// Its processes.
    pub processes: Vec<ProcessStatus>,
    /// How to reach it; `None` without saved settings.
    pub addresses: Option<Addresses>,
    /// What the API server says; `None` when it does not answer.
    pub objects: Option<Objects>,
}

/// A process of the cluster.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessStatus {
    /// Which.
    #[serde(flatten)]
    pub role: RunningRole,
    /// Whether it is there now.
    pub alive: bool,
}

/// How to reach a cluster.
#[derive(Clone, Debug, Serialize)]
pub struct Addresses {
    /// The API server's URL.
    pub api: String,
    /// The administrator's kubeconfig.
    pub kubeconfig: String,
    /// Cluster DNS, from pods and nodes.
    pub dns: String,
    /// The ranges.
    pub networks: crate::settings::Networks,
}

/// What the API server says.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Objects {
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
    /// The pods of DNS and gateway.
    pub system_pods: Vec<PodStatus>,
    /// The gateway's load-balancer address.
    pub gateway: Option<String>,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its Ready condition.
    pub ready: bool,
}

/// A system pod.
#[derive(Clone, Debug, Serialize)]
pub struct PodStatus {
    /// `namespace/name`.
    pub name: String,
    /// Where it runs.
    pub node: String,
    /// Its address.
    pub ip: String,
    /// Its Ready condition.
    pub ready: bool,
}

/// Looks. A cluster that does not run or does not exist is a status, not an error. Call it outside any async runtime.
pub fn status(name: &ClusterName, roots: &Roots) -> Result<Status, Error> {
    let directories = Directories::new(roots, name);
    let settings = Settings::load_if_any(&directories.settings_file())?;
    let supervisor = SupervisorLock::holder(&directories.lock_file());
    let roles: Vec<RunningRole> = files::read(&directories.processes_file())
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let alive = |role: &RunningRole| Process::open(role.pid).is_some();
    let processes = roles.into_iter().map(|role| ProcessStatus { alive: alive(&role), role }).collect();
    let objects = match &settings {
        Some(settings) if supervisor.is_some() => objects(settings)?,
        _ => None,
    };
    let addresses = settings.as_ref().map(|settings| Addresses {
        api: format!("https://{}", settings.api_address()),
        kubeconfig: directories.kubeconfig().display().to_string(),
        dns: settings.dns_address().to_string(),
        networks: settings.networks,
    });
    Ok(Status {
        name: name.to_string(),
        supervisor,
        saved: settings.is_some(),
        processes,
        addresses,
        objects,
    })
}

fn objects(settings: &Settings) -> Result<Option<Objects>, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { action: "start the runtime", source })?;
    let ask = async {
        let client =
            connect(&ClientSource::Kubeconfig(settings.directories.kubeconfig()), "fairway-status").await?;
        if !answers(&client).await {
            return Ok(None);
        }
        // A part that is refused or missing is shown as empty: the rest is still worth seeing.
        let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
        let selected = ListParams::default().labels(SYSTEM_SELECTOR);
        let pods = Api::<Pod>::all(client.clone()).list(&selected).await;
        let gateway = Api::<Service>::namespaced(client, GATEWAY_SERVICE.0).get(GATEWAY_SERVICE.1).await;
        Ok(Some(Objects {
            nodes: nodes.map(|list| list.iter().map(node_status).collect()).unwrap_or_default(),
            system_pods: pods.map(|list| list.iter().map(pod_status).collect()).unwrap_or_default(),
            gateway: gateway.ok().as_ref().and_then(address_of),
        }))
    };
    runtime.block_on(async { tokio::time::timeout(ANSWER_LIMIT, ask).await.unwrap_or(Ok(None)) })
}

fn node_status(node: &Node) -> NodeStatus {
    let addresses = node.status.iter().filter_map(|status| status.addresses.as_ref()).flatten();
    let internal = addresses
        .filter(|address| address.type_ == "InternalIP")
        .map(|address| address.address.clone())
        .next();
    NodeStatus {
        name: node.name_any(),
        address: internal.unwrap_or_default(),
        ready: node_is_ready(node, Timestamp::UNIX_EPOCH),
    }
}

fn pod_status(pod: &Pod) -> PodStatus {
    PodStatus {
        name: format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        ip: pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap_or_default(),
        ready: pod_is_ready(pod, Timestamp::UNIX_EPOCH),
    }
}
