//! The controllers of a cluster: what Kubernetes calls controller manager and scheduler, in one process.
//!
//! **What it is.** Deployments, ReplicaSets, ReplicationControllers, StatefulSets, DaemonSets, Jobs, CronJobs, the scheduler,
//! EndpointSlices and Endpoints, disruption budgets, load-balancer addresses, Ingress addresses, node health, what every namespace has,
//! garbage collection of objects and pods, the end of namespaces.
//!
//! **What it is not.** It serves nothing and programs no kernel; it reads and writes objects, nothing else.
//!
//! **Why this shape.** Every controller is a pure function `reconcile(&World, key, now) -> Plan`: it sees all objects as persistent
//! maps and answers with the writes that it wants. So each rule is a table of cases, whole rollouts are simulated in memory in
//! milliseconds, and a restart at any moment changes nothing, for no controller remembers anything. One engine runs them all:
//! each kind is watched once, each object is worked on once at a time, and own writes are visible at once
//! ([`cache`]), so a view that lags never makes anything twice.
//!
//! **What it must be allowed to do** (the ClusterRole of its user):
//!
//! | verbs | resources |
//! |---|---|
//! | get, list, watch | every kind of [`world`]; all resources by metadata, for garbage collection and ending namespaces |
//! | create | pods, pods/binding, endpoints, serviceaccounts, configmaps, events; replicasets and controllerrevisions (apps); jobs (batch); endpointslices (discovery.k8s.io) |
//! | update | pods, nodes, endpoints, configmaps; all of apps and batch that it creates; endpointslices; servicecidrs (networking.k8s.io); namespaces/finalize |
//! | update `/status` | pods, nodes, namespaces, services, replicationcontrollers; deployments, replicasets, statefulsets, daemonsets; jobs, cronjobs; poddisruptionbudgets; ingresses, servicecidrs |
//! | patch | events; all resources (finalizers and owner references) |
//! | delete, deletecollection | all resources |
//!
//! The main types: [`world::World`] (what is known), [`plan::Plan`] (what is wanted), [`task::Task`] (what is worked on),
//! [`queue::Queue`] (when), [`Config`] and [`run`] (the process).

use fairway_kit::admin::Readiness;
use fairway_kit::{ClientError, ClientSource, Shutdown, connect};

mod apply;
pub mod cache;
pub mod claim;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
mod discovered;
pub mod disruption;
pub mod endpoints;
mod engine;
pub mod events;
mod garbage;
pub mod index;
pub mod ingress_status;
pub mod job;
pub mod load_balancer;
pub mod metadata;
mod namespace;
pub mod namespace_defaults;
pub mod node_lifecycle;
pub mod plan;
pub mod pod;
pub mod pod_gc;
mod proportion;
pub mod queue;
pub mod replica_set;
mod revisions;
pub mod scheduler;
pub mod selector;
pub mod service_range;
#[cfg(test)]
mod simulation;
pub mod stateful_set;
pub mod task;
pub mod world;

pub use task::{Duties, Settings};

/// How the controllers run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API server is.
    pub client: ClientSource,
    /// What the controllers have to know besides the objects.
    pub settings: Settings,
    /// Set when every watch has delivered its first list.
    pub readiness: Readiness,
}

/// Why the controllers did not start. Once they run they go on, whatever the API server does.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client can be made.
    #[error("the controllers cannot start: {0}")]
    Client(#[from] ClientError),
}

/// Runs all controllers until shutdown.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let client = connect(&config.client, "fairway-controller").await?;
    let readiness = config.readiness;
    let mut settings = config.settings;
    settings.authority = settings.authority.or_else(|| authority(&config.client));
    engine::run(client, settings, shutdown, || readiness.set(true)).await;
    Ok(())
}

/// The authority (PEM) that the client checks the API server with; without one in a readable file, the ConfigMaps that hold it are
/// left as they are.
fn authority(source: &ClientSource) -> Option<String> {
    match source {
        ClientSource::InCluster => {
            std::fs::read_to_string("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt").ok()
        }
        ClientSource::Kubeconfig(path) => {
            let file = kube::config::Kubeconfig::read_from(path).ok()?;
            let context =
                file.contexts.iter().find(|context| Some(&context.name) == file.current_context.as_ref())?;
            let name = &context.context.as_ref()?.cluster;
            let cluster = file.clusters.iter().find(|cluster| cluster.name == *name)?.cluster.as_ref()?;
            match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
                (Some(data), _) => {
                    let bytes: k8s_openapi::ByteString = serde_json::from_value(data.as_str().into()).ok()?;
                    String::from_utf8(bytes.0).ok()
                }
                (None, Some(file)) => std::fs::read_to_string(file).ok(),
                (None, None) => None,
            }
        }
    }
}
