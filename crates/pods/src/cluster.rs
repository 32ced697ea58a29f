//! What a pod needs of the cluster, as a trait: the API server in production, nothing but memory in tests.

mod events;

use std::fmt;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret, Service, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};

use fairway_kit::{Shutdown, Watched};

use crate::env::{Sources, namespace_of};
use crate::volume::TokenWish;
pub(crate) use events::{Event, EventKind};

/// Which pod, beyond its name: another one may have taken it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodId {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl PodId {
    /// The identity of an object from the API server.
    pub(crate) fn of(pod: &Pod) -> Self {
        let own = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            namespace: namespace_of(pod).to_owned(),
            name: own(&pod.metadata.name),
            uid: own(&pod.metadata.uid),
        }
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the API server said to a write.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The pod is not there any more, or another one has its name.
    #[error("the pod is gone")]
    Gone,
    /// Worth another try.
    #[error("the API server: {0}")]
    Failed(String),
}

/// A token and how long it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub text: String,
    pub lifetime_secs: i64,
}

/// What a pod needs of the cluster.
pub(crate) trait Cluster: Send + Sync + 'static {
    /// The objects that pods refer to, as they are now.
    fn sources(&self) -> Sources;
    /// Ready when they are others; a clone for every waiter.
    fn sources_changed(&self) -> tokio::sync::watch::Receiver<u64>;
    /// Publishes a status.
    fn write_status<'a>(
        &'a self,
        pod: &'a PodId,
        status: &'a PodStatus,
    ) -> BoxFuture<'a, Result<(), ClusterError>>;
    /// Removes the object of a pod that has ended.
    fn delete<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<(), ClusterError>>;
    /// Asks for a service account token bound to the pod.
    fn token<'a>(
        &'a self,
        pod: &'a PodId,
        account: &'a str,
        wish: &'a TokenWish,
    ) -> BoxFuture<'a, Result<Token, ClusterError>>;
    /// Records an event; never waits.
    fn event(&self, event: Event);
}

/// The cluster behind an API server.
pub(crate) struct ApiCluster {
    client: kube::Client,
    config_maps: Watched<ConfigMap>,
    secrets: Watched<Secret>,
    services: Watched<Service>,
    changed: tokio::sync::watch::Receiver<u64>,
    recorder: events::Recorder,
}

impl ApiCluster {
    /// Starts watching; ready when the first complete lists are there.
    pub(crate) async fn start(client: kube::Client, node_name: &str, shutdown: &Shutdown) -> Self {
        let config = kube::runtime::watcher::Config::default;
        let config_maps =
            fairway_kit::watch::watch(Api::<ConfigMap>::all(client.clone()), config(), shutdown.clone());
        let secrets =
            fairway_kit::watch::watch(Api::<Secret>::all(client.clone()), config(), shutdown.clone());
        let services =
            fairway_kit::watch::watch(Api::<Service>::all(client.clone()), config(), shutdown.clone());
        let (tick, changed) = tokio::sync::watch::channel(0);
        let (mut one, mut two, mut three) = (config_maps.clone(), secrets.clone(), services.clone());
        one.synced().await;
        two.synced().await;
        three.synced().await;
        let stop = shutdown.clone();
        tokio::spawn(async move {
            // Services are read when a container starts; a change of theirs concerns no running pod.
            loop {
                let changed = async {
                    tokio::select! {
                        () = one.changed() => drop(one.snapshot()),
                        () = two.changed() => drop(two.snapshot()),
                    }
                };
                if stop.unless_requested(changed).await.is_none() {
                    return;
                }
                tick.send_modify(|version| *version += 1);
            }
        });
        let recorder = events::Recorder::start(client.clone(), node_name, shutdown.clone());
        Self { client, config_maps, secrets, services, changed, recorder }
    }

    fn pods(&self, pod: &PodId) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace)
    }
}

/// A status as a patch: what is absent now and may have been there before is said to be absent.
fn with_absent_fields(status: &PodStatus) -> serde_json::Value {
    use serde_json::{Map, Value};
    let absent = |fields: &mut Map<String, Value>, names: &[&str]| {
        for name in names {
            fields.entry(*name).or_insert(Value::Null);
        }
    };
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        absent(fields, &["reason", "message"]);
        let conditions = fields.get_mut("conditions").and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
            absent(condition, &["reason", "message"]);
        }
    }
    value
}

fn classify(error: kube::Error) -> ClusterError {
    match &error {
        // 409 comes from the uid in the request: another pod has the name.
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => ClusterError::Gone,
        _ => ClusterError::Failed(fairway_kit::reason(&error)),
    }
}

impl Cluster for ApiCluster {
    fn sources(&self) -> Sources {
        Sources {
            config_maps: self.config_maps.peek(),
            secrets: self.secrets.peek(),
            services: self.services.peek(),
        }
    }

    fn sources_changed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changed.clone()
    }

    fn write_status<'a>(
        &'a self,
        pod: &'a PodId,
        status: &'a PodStatus,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            // Strategic: conditions are merged by type, so those of readiness gates stay. The uid makes a patch of a successor fail.
            let patch =
                serde_json::json!({"metadata": {"uid": pod.uid}, "status": with_absent_fields(status)});
            let params = PatchParams::default();
            self.pods(pod)
                .patch_status(&pod.name, &params, &Patch::Strategic(patch))
                .await
                .map(|_| ())
                .map_err(classify)
        })
    }

    fn delete<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            let preconditions = Preconditions { uid: Some(pod.uid.clone()), resource_version: None };
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(preconditions),
                ..DeleteParams::default()
            };
            self.pods(pod).delete(&pod.name, &params).await.map(|_| ()).map_err(classify)
        })
    }

    fn token<'a>(
        &'a self,
        pod: &'a PodId,
        account: &'a str,
        wish: &'a TokenWish,
    ) -> BoxFuture<'a, Result<Token, ClusterError>> {
        Box::pin(async move {
            let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &pod.namespace);
            let bound = BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
            };
            let audiences = if wish.audience.is_empty() { Vec::new() } else { vec![wish.audience.clone()] };
            let spec = TokenRequestSpec {
                audiences: Some(audiences),
                bound_object_ref: Some(bound),
                expiration_seconds: Some(wish.expiration_secs),
            };
            let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
            let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
            let status = answer.map_err(|error| ClusterError::Failed(error.to_string()))?.status;
            let text = status.and_then(|status| status.token);
            let text = text
                .ok_or_else(|| ClusterError::Failed("the answer to a token request has no token".into()))?;
            Ok(Token { text, lifetime_secs: wish.expiration_secs })
        })
    }

    fn event(&self, event: Event) {
        self.recorder.record(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_is_over_is_taken_out() {
        let status: PodStatus = serde_json::from_value(serde_json::json!({"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "False", "reason": "Y"}]}))
        .unwrap();
        let want = serde_json::json!({"phase": "Running", "reason": null, "message": null, "conditions": [
            {"type": "Ready", "status": "True", "reason": null, "message": null},
            {"type": "X", "status": "False", "reason": "Y", "message": null}]});
        assert_eq!(with_absent_fields(&status), want);
    }
}
