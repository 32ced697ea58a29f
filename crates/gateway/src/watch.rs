//! The role: watches → [`Compiler`] → [`Gateway`], until it is asked to stop. When the API server is gone, the last state stays in force.

mod names;
mod secrets;

use fairway_kit::admin::{self, Readiness};
use fairway_kit::findings::{Finding, Recorder, Subject};
use fairway_kit::watch::{ObjectKey, Watched, watch};
use fairway_kit::{Shutdown, connect};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use kube::runtime::watcher;
use kube::{Api, Client};
use prometheus_client::registry::Registry;
use tokio::time::{Duration, Instant};

use crate::control::{Compiler, Inputs, Objects};
use crate::gateway::Gateway;
use crate::{Config, Error};
use names::Names;
use secrets::Secrets;

/// How long readiness waits for the Secrets of the first table: one that cannot be read must not keep all others from being served.
const FIRST_SECRETS_TIMEOUT: Duration = Duration::from_secs(3);

/// Serves until shutdown is requested and everything under way is finished or the drain time is over.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let client = connect(&config.client, "fairway-gateway").await?;
    let gateway = Gateway::start(&config)?;
    let readiness = Readiness::default();
    let mut registry = Registry::default();
    gateway.register_metrics(&mut registry);
    let hold = shutdown.hold();
    // Health and metrics stay until the last request is finished: their own trigger stops them.
    let (admin_trigger, admin_shutdown) = fairway_kit::shutdown::channel();
    admin::serve(config.admin, readiness.clone(), registry, admin_shutdown)
        .await
        .map_err(|source| Error::Admin { address: config.admin, source })?;
    tracing::info!(http = %gateway.http(), https = %gateway.https(), "gateway started");
    let mut follower = Follower::new(client, &gateway, &shutdown);
    shutdown.unless_requested(follower.follow(&gateway, &readiness)).await;
    readiness.set(false);
    drop(follower);
    tracing::info!("gateway is leaving: new connections for a moment, then only what is under way");
    if !gateway.stop(config.lame_duck, config.drain).await {
        tracing::warn!(drain_s = config.drain.as_secs(), "the drain time is over: what was left is cut");
    }
    admin_trigger.stop(Duration::ZERO).await;
    drop(hold);
    Ok(())
}

/// The watches and what is made of them.
struct Follower {
    ingresses: Watched<networking::Ingress>,
    classes: Watched<networking::IngressClass>,
    services: Watched<core::Service>,
    slices: Watched<discovery::EndpointSlice>,
    secrets: Secrets,
    names: Names,
    events: Recorder,
    compiler: Compiler,
}

impl Follower {
    fn new(client: Client, gateway: &Gateway, shutdown: &Shutdown) -> Self {
        let all = watcher::Config::default;
        Self {
            ingresses: watch(Api::all(client.clone()), all(), shutdown.clone()),
            classes: watch(Api::all(client.clone()), all(), shutdown.clone()),
            services: watch(Api::all(client.clone()), all(), shutdown.clone()),
            slices: watch(Api::all(client.clone()), all(), shutdown.clone()),
            secrets: Secrets::new(client.clone()),
            names: Names::new(),
            events: Recorder::start(client, "fairway-gateway", shutdown),
            compiler: gateway.compiler(),
        }
    }

    async fn follow(&mut self, gateway: &Gateway, readiness: &Readiness) {
        self.ingresses.synced().await;
        self.classes.synced().await;
        self.services.synced().await;
        self.slices.synced().await;
        self.publish(gateway);
        self.first_secrets(gateway).await;
        readiness.set(true);
        tracing::info!("gateway is ready: the first table is in force");
        loop {
            self.changed(gateway).await;
        }
    }

    async fn first_secrets(&mut self, gateway: &Gateway) {
        let deadline = Instant::now() + FIRST_SECRETS_TIMEOUT;
        while !self.secrets.all_synced() {
            if tokio::time::timeout_at(deadline, self.changed(gateway)).await.is_err() {
                tracing::warn!("some Secrets cannot be read yet; their hosts get the default certificate");
                return;
            }
        }
    }

    /// Waits for a change and puts it in force.
    async fn changed(&mut self, gateway: &Gateway) {
        tokio::select! {
            () = self.slices.changed() => {}
            () = self.services.changed() => {}
            () = self.ingresses.changed() => {}
            () = self.classes.changed() => {}
            () = self.secrets.changed() => {}
            resolved = self.names.resolved() => {
                if self.compiler.resolved(&resolved.backend, &resolved.target, &resolved.addresses) {
                    gateway.pools_replaced();
                }
                return;
            }
        }
        self.publish(gateway);
    }

    fn publish(&mut self, gateway: &Gateway) {
        let inputs = Inputs {
            ingresses: self.ingresses.snapshot().objects.clone(),
            classes: self.classes.snapshot().objects.clone(),
            services: self.services.snapshot().objects.clone(),
            slices: self.slices.snapshot().objects.clone(),
            secrets: self.secrets.objects(),
        };
        let ingresses = inputs.ingresses.clone();
        gateway.publish(self.compiler.update(inputs));
        self.secrets.want(&self.compiler.wanted_secrets());
        self.names.want(&self.compiler.external_targets());
        self.report(&ingresses);
    }

    fn report(&self, ingresses: &Objects<networking::Ingress>) {
        let told = |found: crate::control::Finding| {
            let (namespace, name) = (&found.ingress.namespace, &found.ingress.name);
            let key = ObjectKey::new(namespace, name);
            let about = Subject {
                api_version: "networking.k8s.io/v1",
                kind: "Ingress",
                namespace: namespace.to_string(),
                name: name.to_string(),
                uid: ingresses.get(&key).and_then(|ingress| ingress.metadata.uid.clone()),
            };
            Finding { about, reason: found.reason, message: found.message }
        };
        let found = self.compiler.findings(|secret| self.secrets.is_synced(secret));
        self.events.report(found.into_iter().map(told).collect());
    }
}
