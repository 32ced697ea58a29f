//! Objects of any kind through the Kubernetes API.

use std::future::Future;
use std::time::{Duration, Instant};

use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::discovery::{Discovery, Scope};
use serde_json::{Value, json};

use super::cluster::Cluster;
use crate::document::step::{self, ObjectRef, PatchBody};

/// An API server that does not answer is asked again for so long: scenarios kill it on purpose.
const RETRY_FOR: Duration = Duration::from_secs(10);
/// The pause between.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Why something could not be done with an object.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{}", fairway_kit::reason(.0.as_ref()))]
    Kube(#[from] Box<kube::Error>),
    #[error("the API server serves no kind \"{kind}\"")]
    NoKind { kind: String },
    #[error("{what} is not a manifest: {detail}")]
    Manifest { what: String, detail: String },
    #[error("{object}: {detail}")]
    Object { object: String, detail: String },
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        Self::Kube(Box::new(error))
    }
}

/// One kind that the API server serves.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) resource: ApiResource,
    pub(super) namespaced: bool,
}

/// What the API server serves.
#[derive(Debug)]
pub(super) struct Kinds(Vec<Kind>);

/// What people write in place of kinds.
const SHORT_NAMES: [(&str, &str); 20] = [
    ("cj", "cronjob"),
    ("cm", "configmap"),
    ("crd", "customresourcedefinition"),
    ("deploy", "deployment"),
    ("ds", "daemonset"),
    ("ep", "endpoints"),
    ("ev", "event"),
    ("gtw", "gateway"),
    ("ing", "ingress"),
    ("netpol", "networkpolicy"),
    ("no", "node"),
    ("ns", "namespace"),
    ("po", "pod"),
    ("pvc", "persistentvolumeclaim"),
    ("rs", "replicaset"),
    ("sa", "serviceaccount"),
    ("sc", "storageclass"),
    ("sts", "statefulset"),
    ("svc", "service"),
    ("quota", "resourcequota"),
];

impl Kinds {
    pub(super) async fn discover(client: &kube::Client) -> Result<Self, ApiError> {
        let discovery = retried(|| Discovery::new(client.clone()).run()).await?;
        let kinds =
            discovery.groups_alphabetical().into_iter().flat_map(|group| group.recommended_resources());
        Ok(Self(
            kinds
                .map(|(resource, capabilities)| Kind {
                    resource,
                    namespaced: capabilities.scope == Scope::Namespaced,
                })
                .collect(),
        ))
    }

    /// By kind, plural or short name in any case. The core group comes first in the alphabet.
    pub(super) fn find(&self, word: &str) -> Result<Kind, ApiError> {
        let word = word.to_ascii_lowercase();
        let full =
            SHORT_NAMES.iter().find(|(short, _)| *short == word).map_or(word.as_str(), |(_, full)| full);
        let named =
            |kind: &&Kind| kind.resource.kind.eq_ignore_ascii_case(full) || kind.resource.plural == full;
        let found = self.0.iter().find(named).cloned();
        found.ok_or_else(|| ApiError::NoKind { kind: word.clone() })
    }

    fn of_manifest(&self, manifest: &DynamicObject) -> Result<Kind, ApiError> {
        let types = manifest.types.clone().unwrap_or_default();
        let served = |kind: &&Kind| {
            kind.resource.kind == types.kind && group_of(&types.api_version) == kind.resource.group
        };
        let found = self.0.iter().find(served).cloned();
        let mut kind = found
            .ok_or_else(|| ApiError::NoKind { kind: format!("{} {}", types.api_version, types.kind) })?;
        // The version that the manifest is written in, whichever the server prefers.
        kind.resource.api_version.clone_from(&types.api_version);
        kind.resource.version = types.api_version.split('/').next_back().unwrap_or_default().to_owned();
        Ok(kind)
    }
}

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// Asks again while the API server does not answer. What it answered, also an error, is final.
pub(super) async fn retried<T, F>(mut ask: impl FnMut() -> F) -> Result<T, ApiError>
where
    F: Future<Output = kube::Result<T>>,
{
    let deadline = Instant::now() + RETRY_FOR;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(kube::Error::Service(_) | kube::Error::HyperError(_)) if Instant::now() < deadline => {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

impl Cluster {
    /// The API of a kind in a namespace; the namespace does not matter for kinds that have none.
    pub(super) fn api(&self, kind: &Kind, namespace: &str) -> Api<DynamicObject> {
        if kind.namespaced {
            Api::namespaced_with(self.client.clone(), namespace, &kind.resource)
        } else {
            Api::all_with(self.client.clone(), &kind.resource)
        }
    }

    /// The API that an object is found in, seen from a scenario's namespace.
    pub(super) async fn api_of(
        &self,
        object: &ObjectRef,
        home: &str,
    ) -> Result<Api<DynamicObject>, ApiError> {
        let kind = self.kind(|kinds| kinds.find(&object.kind)).await?;
        Ok(self.api(&kind, object.namespace.as_deref().unwrap_or(home)))
    }

    /// The object as JSON, or nothing.
    pub(super) async fn find(&self, object: &ObjectRef, home: &str) -> Result<Option<Value>, ApiError> {
        let api = self.api_of(object, home).await?;
        let found = retried(|| api.get_opt(&object.name)).await?;
        Ok(found.map(|found| json!(found)))
    }

    /// Objects of a kind with these labels.
    pub(super) async fn list(
        &self,
        kind: &str,
        namespace: &str,
        labels: &str,
    ) -> Result<Vec<Value>, ApiError> {
        let api = self.api(&self.kind(|kinds| kinds.find(kind)).await?, namespace);
        let params = ListParams::default().labels(labels);
        let list = retried(|| api.list(&params)).await?;
        Ok(list.items.into_iter().map(|object| json!(object)).collect())
    }

    /// Creates an object, or merges it into the one that is there. Returns it when it lies outside of the scenario's namespace.
    pub(super) async fn apply(&self, manifest: Value, home: &str) -> Result<Option<ObjectRef>, ApiError> {
        let what =
            manifest.get("kind").and_then(Value::as_str).unwrap_or("an object without kind").to_owned();
        let mut object: DynamicObject = serde_json::from_value(manifest)
            .map_err(|error| ApiError::Manifest { what: what.clone(), detail: error.to_string() })?;
        let kind = self.kind(|kinds| kinds.of_manifest(&object)).await?;
        let name = object.metadata.name.clone().filter(|name| !name.is_empty());
        let name = name.ok_or(ApiError::Manifest { what, detail: "it has no metadata.name".into() })?;
        if kind.namespaced && object.metadata.namespace.is_none() {
            object.metadata.namespace = Some(home.to_owned());
        }
        let namespace = object.metadata.namespace.clone();
        let api = self.api(&kind, namespace.as_deref().unwrap_or(home));
        let params = PostParams::default();
        let created = retried(|| api.create(&params, &object)).await;
        match created {
            Err(ApiError::Kube(error)) if is_code(&error, 409) => {
                let (params, patch) = (PatchParams::default(), Patch::Merge(&object));
                retried(|| api.patch(&name, &params, &patch)).await?;
            }
            other => {
                other?;
            }
        }
        let elsewhere = !kind.namespaced || namespace.as_deref() != Some(home);
        Ok(elsewhere.then(|| ObjectRef { namespace, kind: kind.resource.kind.to_ascii_lowercase(), name }))
    }

    pub(super) async fn patch(&self, patch: &step::Patch, home: &str) -> Result<(), ApiError> {
        let (api, params) = (self.api_of(&patch.object, home).await?, PatchParams::default());
        let name = patch.object.name.as_str();
        let body: Patch<Value> = match &patch.body {
            PatchBody::Merge(value) => Patch::Merge(value.clone()),
            PatchBody::Strategic(value) => Patch::Strategic(value.clone()),
            PatchBody::Json(operations) => {
                let operations = serde_json::from_value(Value::Array(operations.clone()));
                Patch::Json(operations.map_err(|error| ApiError::Object {
                    object: patch.object.to_string(),
                    detail: format!("the JSON patch: {error}"),
                })?)
            }
        };
        match &patch.subresource {
            None => retried(|| api.patch(name, &params, &body)).await?,
            Some(subresource) => retried(|| api.patch_subresource(subresource, name, &params, &body)).await?,
        };
        Ok(())
    }

    /// Deletes an object; one that is not there is deleted already.
    pub(super) async fn delete(&self, object: &ObjectRef, home: &str) -> Result<(), ApiError> {
        let api = self.api_of(object, home).await?;
        let params = DeleteParams::default();
        match retried(|| api.delete(&object.name, &params)).await {
            Err(ApiError::Kube(error)) if is_code(&error, 404) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Sets `spec.replicas`.
    pub(super) async fn scale(&self, object: &ObjectRef, replicas: u32, home: &str) -> Result<(), ApiError> {
        let body = PatchBody::Merge(json!({ "spec": { "replicas": replicas } }));
        self.patch(&step::Patch { object: object.clone(), body, subresource: None }, home).await
    }

    /// The pod itself, or the first pod of a workload that is ready (else running).
    pub(super) async fn pod_of(&self, object: &ObjectRef, home: &str) -> Result<PodName, ApiError> {
        let namespace = object.namespace.as_deref().unwrap_or(home).to_owned();
        if object.is_pod() {
            return Ok(PodName { namespace, name: object.name.clone() });
        }
        let failed =
            |detail: &str| ApiError::Object { object: object.to_string(), detail: detail.to_owned() };
        let owner = self.find(object, home).await?.ok_or_else(|| failed("it does not exist"))?;
        let labels = owner.pointer("/spec/selector/matchLabels").or_else(|| owner.pointer("/spec/selector"));
        let labels = labels.and_then(Value::as_object).filter(|labels| !labels.is_empty());
        let labels = labels.ok_or_else(|| failed("it selects no pods by labels"))?;
        let selector: Vec<_> = labels
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let mut pods = self.list("pod", &namespace, &selector.join(",")).await?;
        pods.retain(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
        pods.sort_by_key(|pod| (!is_ready(pod), name_of(pod).to_owned()));
        let pod = pods.first().ok_or_else(|| failed("it has no pods"))?;
        Ok(PodName { namespace, name: name_of(pod).to_owned() })
    }
}

/// A pod by its two names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodName {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// `metadata.name`, or nothing.
pub(super) fn name_of(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// The status of a condition.
pub(super) fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|condition| condition.get("type").and_then(Value::as_str) == Some(name))
}

pub(super) fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").and_then(|condition| condition.get("status")).and_then(Value::as_str)
        == Some("True")
}

pub(super) fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds() -> Kinds {
        let kind = |group: &str, kind: &str, plural: &str, namespaced| {
            let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
            let resource = ApiResource {
                group: group.into(),
                version: "v1".into(),
                api_version,
                kind: kind.into(),
                plural: plural.into(),
            };
            Kind { resource, namespaced }
        };
        Kinds(vec![
            kind("", "Event", "events", true),
            kind("", "Service", "services", true),
            kind("apps", "Deployment", "deployments", true),
            kind("events.k8s.io", "Event", "events", true),
        ])
    }

    #[test]
    fn a_kind_is_found_by_what_people_write() {
        let kinds = kinds();
        for word in ["deployment", "Deployment", "deployments", "deploy"] {
            assert_eq!(kinds.find(word).unwrap().resource.kind, "Deployment", "{word}");
        }
        assert_eq!(kinds.find("events").unwrap().resource.group, "");
        assert!(matches!(kinds.find("banana"), Err(ApiError::NoKind { .. })));
    }

    #[test]
    fn a_manifest_says_group_and_version() {
        let manifest = |version: &str, kind: &str| -> DynamicObject {
            serde_json::from_value(json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}}))
                .unwrap()
        };
        let kinds = kinds();
        let found = kinds.of_manifest(&manifest("apps/v1beta1", "Deployment")).unwrap();
        assert_eq!(
            (found.resource.api_version.as_str(), found.resource.version.as_str()),
            ("apps/v1beta1", "v1beta1")
        );
        assert_eq!(
            kinds.of_manifest(&manifest("events.k8s.io/v1", "Event")).unwrap().resource.group,
            "events.k8s.io"
        );
        assert!(kinds.of_manifest(&manifest("v1", "Deployment")).is_err());
    }
}
