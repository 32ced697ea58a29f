//! Plans carried out: requests to the API server, and their answers laid over the caches.

use std::fmt::Debug;
use std::time::Instant;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Binding, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Status};
use kube::Client;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams, Preconditions,
    PropagationPolicy,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use fairway_kit::watch::{ObjectKey, key_of, revision_of};

use crate::cache::{Cache, Confirmed};
use crate::events::Recorder;
use crate::index::Indexed;
use crate::metadata::{is_deleting, name_of, namespace_of};
use crate::plan::{Deletion, Notice, Severity, Write};
use crate::world::*;

/// Independent writes of one plan that are under way at the same time. A plan starts with one and doubles while all is well, so
/// that a mistake that the API server refuses is made once and not five hundred times.
const CONCURRENT_WRITES_MAX: usize = 32;

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The object is newer than what was seen, or exists already: looked at again with the newer state.
    #[error("{verb} {what}: changed by someone else meanwhile")]
    Conflict {
        /// create, replace, …
        verb: &'static str,
        /// Kind and name.
        what: String,
    },
    /// The API server says no.
    #[error("{verb} {what}: refused: {message}; retried with back-off")]
    Refused {
        /// create, replace, …
        verb: &'static str,
        /// Kind and name.
        what: String,
        /// Its words.
        message: String,
        /// Forbidden because the namespace is ending.
        ending: bool,
    },
    /// No answer.
    #[error("{verb} {what}: no answer ({}); retried with back-off", fairway_kit::reason(source.as_ref()))]
    Unreachable {
        /// create, replace, …
        verb: &'static str,
        /// Kind and name.
        what: String,
        /// What went wrong.
        source: Box<kube::Error>,
    },
}

impl WriteError {
    fn of(verb: &'static str, what: String, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 409 => Self::Conflict { verb, what },
            kube::Error::Api(status) if status.code == 404 && verb != "create" => {
                Self::Conflict { verb, what }
            }
            kube::Error::Api(status) => {
                let ending = status.code == 403 && status.message.contains("being terminated");
                Self::Refused { verb, what, message: status.message.clone(), ending }
            }
            other => Self::Unreachable { verb, what, source: Box::new(other) },
        }
    }
}

macro_rules! api {
    (namespaced, $client:expr, $namespace:expr) => {
        Api::namespaced($client, $namespace)
    };
    (cluster, $client:expr, $namespace:expr) => {
        Api::all($client)
    };
}

macro_rules! define_caches {
    ($($kind:ident $field:ident $scope:ident $group:literal $plural:literal,)*) => {
        /// One cache a kind.
        #[derive(Debug, Default)]
        pub(crate) struct Caches {
            $(pub(crate) $field: Cache<$kind>,)*
        }

        impl Caches {
            /// One view over all kinds.
            pub(crate) fn world(&self) -> World {
                $(let $field = self.$field.indexed_view();)*
                World { $($field: $field.0,)* index: Indexes { $($field: $field.1,)* } }
            }

            /// Forgets own writes that were never confirmed.
            pub(crate) fn expire(&self, now: Instant) -> Vec<Change> {
                let mut changes = Vec::new();
                $(changes.extend(self.$field.expire(now).into_iter().map(Change::from));)*
                changes
            }

            /// When [`Caches::expire`] is due.
            pub(crate) fn expires_at(&self) -> Option<Instant> {
                [$(self.$field.expires_at()),*].into_iter().flatten().min()
            }
        }

        impl Applier<'_> {
            async fn create(&self, object: Object) -> Result<Written, WriteError> {
                match object {
                    $(Object::$kind(object) => {
                        let api: Api<$kind> = api!($scope, self.client.clone(), namespace_of(&object.metadata));
                        create(&api, &self.caches.$field, *object, Kind::$kind).await
                    })*
                }
            }

            async fn replace(&self, object: Object, status: bool) -> Result<Written, WriteError> {
                match object {
                    $(Object::$kind(object) => {
                        let api: Api<$kind> = api!($scope, self.client.clone(), namespace_of(&object.metadata));
                        replace(&api, &self.caches.$field, *object, Kind::$kind, status).await
                    })*
                }
            }

            async fn delete(&self, deletion: Deletion) -> Result<Written, WriteError> {
                match deletion.kind {
                    $(Kind::$kind => {
                        let api: Api<$kind> = api!($scope, self.client.clone(), &deletion.key.namespace);
                        delete(&api, &self.caches.$field, deletion).await
                    })*
                }
            }
        }
    };
}
with_kinds!(define_caches);

/// What a write did.
pub(crate) struct Written {
    /// Name of the object, for events.
    name: String,
    /// What readers see from now on.
    pub(crate) changes: Vec<Change>,
}

/// Carries out one task's plan.
pub(crate) struct Applier<'a> {
    pub(crate) client: &'a Client,
    pub(crate) caches: &'a Caches,
    pub(crate) recorder: &'a Recorder,
    pub(crate) component: &'static str,
    pub(crate) tell: &'a dyn Listener,
}

/// Told of every change that a write made, as it happens.
pub(crate) trait Listener: Send + Sync {
    /// Readers see these from now on.
    fn changed(&self, changes: Vec<Change>);
}

impl Applier<'_> {
    /// All writes in order; independent ones next to each other run at the same time. Ends at the first failure.
    pub(crate) async fn carry_out(&self, writes: Vec<Write>) -> Result<(), WriteError> {
        let mut writes = writes.into_iter().peekable();
        let mut width = 1;
        while let Some(first) = writes.next() {
            let mut batch = vec![first];
            while batch.len() < width && batch.iter().all(is_independent) {
                let Some(next) = writes.next_if(is_independent) else { break };
                batch.push(next);
            }
            width = if batch.iter().all(is_independent) { (width * 2).min(CONCURRENT_WRITES_MAX) } else { 1 };
            for outcome in join_all(batch.into_iter().map(|write| self.write(write))).await {
                outcome?;
            }
        }
        Ok(())
    }

    async fn write(&self, write: Write) -> Result<(), WriteError> {
        let written = match write {
            Write::Create(object) => self.create(object).await?,
            Write::Replace(object) => self.replace(object, false).await?,
            Write::ReplaceStatus(object) => self.replace(object, true).await?,
            Write::Adopt { object, owner } => {
                self.check_owner(&object, &owner).await?;
                self.replace(object, false).await?
            }
            Write::Delete(deletion) => self.delete(deletion).await?,
            Write::CreatePod { pod, owner } => {
                let outcome = self.create((*pod).into()).await;
                self.told(outcome, owner, ["SuccessfulCreate", "FailedCreate"], "Created pod: ")?
            }
            Write::DeletePod { pod, owner } => {
                let outcome = self.delete(pod).await;
                self.told(outcome, owner, ["SuccessfulDelete", "FailedDelete"], "Deleted pod: ")?
            }
            Write::Bind { pod, node } => self.bind(*pod, node).await?,
            Write::Finalize(namespace) => self.finalize(*namespace).await?,
        };
        self.tell.changed(written.changes);
        Ok(())
    }

    /// The outcome of work on a pod, told to the readers of its owner.
    fn told(
        &self,
        outcome: Result<Written, WriteError>,
        owner: ObjectReference,
        [success, failure]: [&'static str; 2],
        message: &str,
    ) -> Result<Written, WriteError> {
        let notice = match &outcome {
            Ok(written) => Some((Severity::Normal, success, format!("{message}{}", written.name))),
            Err(WriteError::Refused { message, ending: false, .. }) => {
                Some((Severity::Warning, failure, message.clone()))
            }
            Err(
                WriteError::Refused { .. } | WriteError::Conflict { .. } | WriteError::Unreachable { .. },
            ) => None,
        };
        if let Some((severity, reason, message)) = notice {
            self.recorder.tell(self.component, Notice { regarding: owner, severity, reason, message });
        }
        outcome
    }

    /// Asks the API server, not the cache: the cache of the owner's kind may be behind that of the object's kind.
    async fn check_owner(&self, object: &Object, owner: &OwnerReference) -> Result<(), WriteError> {
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &owner.kind));
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace_of(object.meta()), &resource);
        let what = || format!("{:?} {}", object.kind(), name_of(object.meta()));
        let found = api.get_metadata_opt(&owner.name).await;
        let found = found.map_err(|error| WriteError::of("adopt", what(), error))?;
        match found {
            Some(found)
                if found.metadata.uid.as_ref() == Some(&owner.uid) && !is_deleting(&found.metadata) =>
            {
                Ok(())
            }
            Some(_) | None => Err(WriteError::Conflict { verb: "adopt", what: what() }),
        }
    }

    async fn bind(&self, mut pod: Pod, node: String) -> Result<Written, WriteError> {
        let key = key_of(&pod);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let binding = Binding {
            metadata: ObjectMeta {
                name: pod.metadata.name.clone(),
                namespace: pod.metadata.namespace.clone(),
                // Precondition: a pod of the same name made since then is decided for itself.
                uid: pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.clone()),
                ..ObjectReference::default()
            },
        };
        let answer =
            api.create_subresource::<_, Status>("binding", &key.name, &PostParams::default(), &binding).await;
        answer.map_err(|error| WriteError::of("bind", format!("Pod {key}"), error))?;
        let before = revision_of(&pod);
        pod.spec.get_or_insert_default().node_name = Some(node);
        let deltas =
            self.caches.pods.wrote(key.clone(), Some(pod), Confirmed::ByOtherThan(before), Instant::now());
        Ok(written(&key, deltas))
    }

    async fn finalize(&self, namespace: Namespace) -> Result<Written, WriteError> {
        let key = key_of(&namespace);
        let api: Api<Namespace> = Api::all(self.client.clone());
        let answer = api.replace_subresource("finalize", &key.name, &PostParams::default(), &namespace).await;
        answer.map_err(|error| WriteError::of("finalize", format!("Namespace {key}"), error))?;
        Ok(written::<Namespace>(&key, Vec::new()))
    }
}

/// Whether the write depends on none before it in its plan.
fn is_independent(write: &Write) -> bool {
    match write {
        Write::CreatePod { .. } | Write::DeletePod { .. } | Write::Bind { .. } | Write::Delete(_) => true,
        Write::Create(_) | Write::Replace(_) | Write::ReplaceStatus(_) => false,
        Write::Adopt { .. } | Write::Finalize(_) => false,
    }
}

fn written<K>(key: &ObjectKey, deltas: Vec<Delta<K>>) -> Written
where
    Change: From<Delta<K>>,
{
    Written { name: key.name.to_string(), changes: deltas.into_iter().map(Change::from).collect() }
}

/// What `kube` asks of a type that is read and written.
pub(crate) trait Stored:
    kube::Resource + Clone + PartialEq + Debug + Serialize + DeserializeOwned + Indexed
{
}

impl<K: kube::Resource + Clone + PartialEq + Debug + Serialize + DeserializeOwned + Indexed> Stored for K {}

async fn create<K: Stored>(
    api: &Api<K>,
    cache: &Cache<K>,
    object: K,
    kind: Kind,
) -> Result<Written, WriteError>
where
    Change: From<Delta<K>>,
{
    let what = || {
        let meta = object.meta();
        let name = meta.name.as_deref().or(meta.generate_name.as_deref()).unwrap_or("");
        format!("{kind:?} {}/{name}", namespace_of(meta))
    };
    let created = api.create(&PostParams::default(), &object).await;
    let created = created.map_err(|error| WriteError::of("create", what(), error))?;
    let (key, revision) = (key_of(&created), revision_of(&created));
    Ok(written(
        &key,
        cache.wrote(key.clone(), Some(created), Confirmed::AtRevision(revision), Instant::now()),
    ))
}

async fn replace<K: Stored>(
    api: &Api<K>,
    cache: &Cache<K>,
    object: K,
    kind: Kind,
    status: bool,
) -> Result<Written, WriteError>
where
    Change: From<Delta<K>>,
{
    let name = name_of(object.meta());
    let answer = if status {
        api.replace_status(name, &PostParams::default(), &object).await
    } else {
        api.replace(name, &PostParams::default(), &object).await
    };
    let verb = if status { "report the status of" } else { "replace" };
    let replaced =
        answer.map_err(|error| WriteError::of(verb, format!("{kind:?} {}", key_of(&object)), error))?;
    let (key, revision) = (key_of(&replaced), revision_of(&replaced));
    Ok(written(
        &key,
        cache.wrote(key.clone(), Some(replaced), Confirmed::AtRevision(revision), Instant::now()),
    ))
}

async fn delete<K: Stored>(api: &Api<K>, cache: &Cache<K>, deletion: Deletion) -> Result<Written, WriteError>
where
    Change: From<Delta<K>>,
{
    let key = deletion.key;
    let params = DeleteParams {
        grace_period_seconds: deletion.grace_period_seconds,
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: deletion.uid.map(|uid| Preconditions { uid: Some(uid), resource_version: None }),
        ..DeleteParams::default()
    };
    let before = cache.view().get(&key).map(|object| revision_of(&**object));
    let deltas = match api.delete(&key.name, &params).await.map(|answer| answer.left()) {
        Ok(Some(object)) if is_waiting(object.meta()) => {
            let revision = revision_of(&object);
            cache.wrote(key.clone(), Some(object), Confirmed::AtRevision(revision), Instant::now())
        }
        Ok(_) => match before {
            Some(before) => cache.wrote(key.clone(), None, Confirmed::ByOtherThan(before), Instant::now()),
            None => Vec::new(),
        },
        // It is gone, or another of the same name has taken its place.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Vec::new(),
        Err(error) => return Err(WriteError::of("delete", format!("{:?} {key}", deletion.kind), error)),
    };
    Ok(written(&key, deltas))
}

/// Marked, but still there: for its finalizers or for its node.
fn is_waiting(meta: &ObjectMeta) -> bool {
    let finalizers = meta.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
    is_deleting(meta) && (finalizers || meta.deletion_grace_period_seconds.is_some_and(|seconds| seconds > 0))
}
