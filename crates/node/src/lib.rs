//! The node agent: Services and load-balancer addresses in one kernel.
//!
//! What it is: a pure compiler from the model's decisions to nftables (one small set of shared maps, whatever the number of Services), and
//! a loop that follows the API and applies the difference in one transaction a change. What it is not: it decides nothing (crate `model`
//! does), it touches no rules but those of its own table `fairway`, and it is not needed for traffic to flow: rules, flows and addresses outlive it.
//!
//! Why this shape: kube-proxy's cost grows with the number of Services because each has chains of its own. Here an endpoint is one element of a
//! map, so a change costs the same in a cluster of any size, and because slots and elements are data, the whole way from objects to the
//! transaction is a function that tests can call.
//!
//! - [`layout`]: the fixed table: sets, base chains, rules
//! - [`ruleset`]: what varies, as data, and the kernel elements that it stands for
//! - [`compile`](mod@compile): model → ruleset, whole or only what a change touched
//! - [`change`]: ruleset → ruleset as one transaction; and from anything installed (adoption, drift)
//! - [`findings`](mod@findings): what is wrong with Services, as events on them
//! - [`world`]: snapshots of the watches → model, at the cost of the difference
//! - [`kernel`]: the sockets; [`run`]: the loop

mod affinity;
mod agent;
pub mod change;
pub mod compile;
#[cfg(test)]
mod example;
pub mod findings;
pub mod kernel;
#[cfg(test)]
mod law;
pub mod layout;
pub mod metrics;
pub mod ruleset;
pub mod world;

use std::net::SocketAddr;

use fairway_kit::findings::Recorder;
use fairway_kit::{ClientSource, Shutdown};
use fairway_model::{Cluster, NodeName};
use fairway_netfilter::Family;
use fairway_netns::Netns;
use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::Api;
use kube::runtime::watcher;

use crate::agent::{Agent, Watches};
use crate::kernel::{Kernel, KernelError};
use crate::metrics::Metrics;
use crate::world::World;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Config {
    /// `metadata.name` of the Node that this agent runs on.
    pub node_name: String,
    /// Where the API server is.
    pub client: ClientSource,
    /// Ranges of pods, Services and nodes. Rules are programmed for the families that have Service ranges.
    pub cluster: Cluster,
    /// The network namespace to program; that of the process, except in tests.
    pub netns: Netns,
    /// Which load-balancer addresses this node may answer for.
    pub load_balancer: LoadBalancer,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; kube-proxy's is port 10256.
    pub admin: Option<SocketAddr>,
}

/// Load-balancer addresses on the nodes' own network, found by ARP.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LoadBalancer {
    /// The pool. Addresses of other load balancers are forwarded but not answered for; every address of the pool on this node's `lo` is taken
    /// to be the agent's. Empty: this node answers for none.
    pub ranges: Vec<IpNet>,
    /// The interface towards the nodes' network.
    pub interface: String,
}

/// Why the agent stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client.
    #[error(transparent)]
    Client(#[from] fairway_kit::ClientError),
    /// No sockets to the kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The port of health and metrics is taken.
    #[error(
        "cannot serve health and metrics on {address}: {source}; give another address or stop what listens there (kube-proxy?)"
    )]
    Admin {
        /// The address.
        address: SocketAddr,
        /// The error of the system call.
        source: std::io::Error,
    },
    /// A defect of this program.
    #[error(
        "a turn of the agent ended abnormally ({source}); the rules in force stay, a restart repairs them"
    )]
    Turn {
        /// What tokio says.
        source: tokio::task::JoinError,
    },
}

/// Runs the agent until shutdown. What is in the kernel stays there; [`clean_up`] removes it.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let client =
        fairway_kit::connect(&config.client, concat!("fairway-node/", env!("CARGO_PKG_VERSION"))).await?;
    let kernel = Kernel::open(&config.netns)?;
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::register(&mut registry);
    let readiness = fairway_kit::admin::Readiness::default();
    if let Some(address) = config.admin {
        let served = fairway_kit::admin::serve(address, readiness.clone(), registry, shutdown.clone());
        served.await.map_err(|source| Error::Admin { address, source })?;
    }
    let watches = Watches {
        services: watch(Api::<core::Service>::all(client.clone()), &shutdown),
        slices: watch(Api::<discovery::EndpointSlice>::all(client.clone()), &shutdown),
        nodes: watch(Api::<core::Node>::all(client.clone()), &shutdown),
    };
    let events = Recorder::start(client, "fairway-node", &shutdown);
    let families = families(&config.cluster);
    let node = NodeName::from(config.node_name.as_str());
    let agent = Agent::new(
        kernel,
        World::new(config.cluster),
        node,
        config.load_balancer,
        &families,
        metrics,
        events,
    );
    agent.run(watches, readiness, shutdown).await
}

/// Removes the tables and load-balancer addresses of an agent that no longer runs.
pub fn clean_up(netns: &Netns, load_balancer: &LoadBalancer) -> Result<(), Error> {
    Ok(Kernel::open(netns)?.clean_up(&load_balancer.ranges)?)
}

fn watch<K>(api: Api<K>, shutdown: &Shutdown) -> fairway_kit::Watched<K>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    fairway_kit::watch::watch(api, watcher::Config::default(), shutdown.clone())
}

/// The families that Services have addresses of.
fn families(cluster: &Cluster) -> Vec<Family> {
    let has = |ipv4: bool| cluster.service_ranges.iter().any(|range| range.addr().is_ipv4() == ipv4);
    [(has(true), Family::Ip), (has(false), Family::Ip6)]
        .into_iter()
        .filter_map(|(has, family)| has.then_some(family))
        .collect()
}
