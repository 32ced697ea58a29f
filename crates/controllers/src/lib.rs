//! The controllers of a cluster: what Kubernetes calls controller manager and scheduler, in one process.
//!
//! **What it is.** Deployments, ReplicaSets, StatefulSets, the scheduler, EndpointSlices and Endpoints, load-balancer addresses, Ingress
//! addresses, node health, garbage collection, the end of namespaces.
//!
//! **What it is not.** It serves nothing and programs no kernel; it reads and writes objects, nothing else.
//!
//! **Why this shape.** Every controller is a pure function `reconcile(&World, key, now) -> Plan`: it sees all objects as persistent
//! maps and answers with the writes that it wants. So each rule is a table of cases, whole rollouts are simulated in memory in
//! milliseconds, and a restart at any moment changes nothing, for no controller remembers anything. One engine runs them all:
//! each kind is watched once, each object is worked on once at a time, and own writes are visible at once
//! ([`cache`]), so a view that lags never makes anything twice.
//!
//! The main types: [`world::World`] (what is known), [`plan::Plan`] (what is wanted), [`task::Task`] (what is worked on),
//! [`queue::Queue`] (when), [`Config`] and [`run`] (the process).

use fairway_kit::admin::Readiness;
use fairway_kit::{ClientError, ClientSource, Shutdown, connect};

mod apply;
pub mod cache;
pub mod claim;
pub mod deployment;
mod discovered;
pub mod endpoints;
mod engine;
pub mod events;
mod garbage;
pub mod ingress_status;
pub mod load_balancer;
pub mod metadata;
mod namespace;
pub mod node_lifecycle;
pub mod plan;
pub mod pod;
pub mod pod_gc;
pub mod queue;
pub mod replica_set;
pub mod scheduler;
pub mod selector;
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
    engine::run(client, config.settings, shutdown, || readiness.set(true)).await;
    Ok(())
}
