//! The Node object of this node, its Ready condition, and its Lease.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};

use crate::Config;
use crate::env::memory_bytes;
use fairway_kit::Shutdown;

/// Kubernetes' own figures: the lease is renewed every 10 s and lasts 40 s, the status is written every 5 min when nothing changes.
const RENEW: Duration = Duration::from_secs(10);
const LEASE_SECS: i32 = 40;
const STATUS_EVERY: u32 = 30;
/// Between attempts while the API server does not answer.
const RETRY: Duration = Duration::from_millis(200);
const PODS_MAX: u32 = 250;
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Facts of the machine, read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub cpus: usize,
    pub memory_bytes: i128,
    /// Of the file system that pods write to.
    pub storage_bytes: u64,
    pub kernel: String,
    pub os_image: String,
    pub machine_id: String,
    pub boot_id: String,
}

impl Machine {
    /// What this machine says of itself.
    pub(crate) fn read(state_dir: &Path) -> Self {
        let read =
            |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let release = read("/etc/os-release");
        let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Self {
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: memory_bytes(),
            storage_bytes: nix::sys::statvfs::statvfs(state_dir)
                .map_or(0, |stat| stat.blocks().saturating_mul(stat.fragment_size())),
            kernel: read("/proc/sys/kernel/osrelease"),
            os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
            machine_id: read("/etc/machine-id"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
        }
    }
}

/// The object to create when there is none.
pub(crate) fn node(config: &Config, machine: &Machine, now: Timestamp) -> Node {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), config.node_name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), architecture().to_owned()),
    ]);
    if let Some(zone) = &config.zone {
        labels.insert("topology.kubernetes.io/zone".to_owned(), zone.clone());
    }
    let range = config.pod_range.to_string();
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: Some(range.clone()),
            pod_cidrs: Some(vec![range]),
            ..NodeSpec::default()
        }),
        status: Some(status(config, machine, None, now)),
    }
}

/// The status to write; the transition time of `before` is kept while the condition holds.
pub(crate) fn status(
    config: &Config,
    machine: &Machine,
    before: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let known = |type_: &str, status: &str| {
        let conditions = before.and_then(|before| before.conditions.as_deref()).unwrap_or_default();
        let same = conditions.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        same.and_then(|condition| condition.last_transition_time.clone()).or(Some(Time(now)))
    };
    let condition = |type_: &str, status: &str, reason: &str, message: &str| NodeCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: known(type_, status),
    };
    let resources: BTreeMap<String, Quantity> = [
        ("cpu", machine.cpus.to_string()),
        ("memory", format!("{}Ki", machine.memory_bytes / 1024)),
        ("ephemeral-storage", format!("{}Ki", machine.storage_bytes / 1024)),
        ("pods", PODS_MAX.to_string()),
    ]
    .into_iter()
    .map(|(name, quantity)| (name.to_owned(), Quantity(quantity)))
    .collect();
    let version = concat!("v1.36.0+fairway-", env!("CARGO_PKG_VERSION"));
    NodeStatus {
        addresses: Some(vec![
            NodeAddress { type_: "InternalIP".to_owned(), address: config.node_ip.to_string() },
            NodeAddress { type_: "Hostname".to_owned(), address: config.node_name.clone() },
        ]),
        capacity: Some(resources.clone()),
        allocatable: Some(resources),
        conditions: Some(vec![
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "not measured"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "not measured"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "not measured"),
            condition("Ready", "True", "KubeletReady", "the node agent runs pods"),
        ]),
        node_info: Some(NodeSystemInfo {
            architecture: architecture().to_owned(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: concat!("fairway://", env!("CARGO_PKG_VERSION")).to_owned(),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: version.to_owned(),
            kubelet_version: version.to_owned(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.machine_id.clone(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Registers the node and keeps it alive until shutdown.
pub(crate) async fn keep_alive(client: kube::Client, config: Config, shutdown: Shutdown) {
    let machine = Machine::read(&config.state_dir);
    let mut round: u32 = 0;
    loop {
        let wait = match beat(&client, &config, &machine, round.is_multiple_of(STATUS_EVERY)).await {
            Ok(()) => {
                round = round.wrapping_add(1);
                RENEW
            }
            Err(error) => {
                tracing::debug!(
                    error = fairway_kit::reason(&error),
                    node = config.node_name,
                    "the node could not report to the API server; trying again"
                );
                round = 0;
                RETRY
            }
        };
        if shutdown.unless_requested(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

async fn beat(
    client: &kube::Client,
    config: &Config,
    machine: &Machine,
    with_status: bool,
) -> kube::Result<()> {
    if with_status {
        write_node(client, config, machine).await?;
    }
    renew_lease(client, config).await
}

async fn write_node(client: &kube::Client, config: &Config, machine: &Machine) -> kube::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let wanted = node(config, machine, Timestamp::now());
    let found = match nodes.get_opt(&config.node_name).await? {
        Some(found) => found,
        // A create may drop the status, which is written below in any case.
        None => nodes.create(&PostParams::default(), &wanted).await?,
    };
    let params = PatchParams::default();
    let patch = serde_json::json!({"metadata": {"labels": wanted.metadata.labels}, "spec": wanted.spec});
    nodes.patch(&config.node_name, &params, &Patch::Merge(patch)).await?;
    let status = status(config, machine, found.status.as_ref(), Timestamp::now());
    nodes
        .patch_status(&config.node_name, &params, &Patch::Merge(serde_json::json!({"status": status})))
        .await?;
    Ok(())
}

async fn renew_lease(client: &kube::Client, config: &Config) -> kube::Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASE_NAMESPACE);
    let now = MicroTime(Timestamp::now());
    let patch = serde_json::json!({"spec": {"renewTime": now, "holderIdentity": config.node_name, "leaseDurationSeconds": LEASE_SECS}});
    match leases.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let spec = LeaseSpec {
                holder_identity: Some(config.node_name.clone()),
                lease_duration_seconds: Some(LEASE_SECS),
                renew_time: Some(now),
                ..LeaseSpec::default()
            };
            let metadata = ObjectMeta { name: Some(config.node_name.clone()), ..ObjectMeta::default() };
            leases.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await.map(|_| ())
        }
        other => other.map(|_| ()),
    }
}
