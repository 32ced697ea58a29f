//! delete and deletecollection: finalizers, grace, propagation.

use std::sync::Arc;

use bytes::Bytes;
use fairway_objects::convert::ListMeta;
use fairway_objects::decode::{self, FieldValidation};
use fairway_objects::document::{self, Document};
use fairway_objects::field::{FieldError, Path};
use fairway_objects::registry::{self, BuiltinKind, Generation, Resource};
use fairway_objects::status::{Qualified, Status};
use futures::StreamExt;
use http::Response;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::selection::Selection;
use super::{Call, Refusal, WriteOptions, answer};
use crate::admit::{self, Attributes, Operation, Warnings};
use crate::http::body::Body;
use crate::http::query::ListOptions;
use crate::store::{Keep, Key, Object, Txn};

/// Namespaces that the cluster cannot be without.
const UNDELETABLE: &[&str] = &["default", "kube-system", "kube-public"];

/// Objects of a collection that are deleted at once.
const DELETES_MAX: usize = 64;

/// What becomes of the objects that an object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Propagation {
    /// Deleted after it.
    Background,
    /// Deleted before it.
    Foreground,
    /// Left alone.
    Orphan,
}

/// The options of a delete, from its body or its query.
#[derive(Debug, Clone)]
pub(super) struct DeleteOptions {
    grace_seconds: Option<i64>,
    propagation: Option<Propagation>,
    uid: String,
    version: String,
    keep: Keep,
}

/// What a delete did.
enum Outcome {
    /// The object is gone.
    Removed(Arc<Object>),
    /// It stays until its finalizers and its grace are over.
    Waiting(Arc<Object>),
}

impl Call<'_> {
    pub(super) fn delete_options(&self, body: &Bytes) -> Result<DeleteOptions, Status> {
        let mut given = json!({});
        if !body.is_empty() {
            let object_type = registry::delete_options();
            given = decode::decode(object_type, self.content_type(), body, FieldValidation::Ignore)?.object;
        }
        let keep = self.write_options("DeleteOptions")?.keep;
        let dry = given.list(&["dryRun"]).iter().any(|value| value == "All");
        let mut policy = given.text(&["propagationPolicy"]);
        if policy.is_empty() {
            policy = self.query.text("propagationPolicy");
        }
        let orphans = given.at(&["orphanDependents"]).as_bool();
        let orphans = orphans
            .or_else(|| self.query.has("orphanDependents").then(|| self.query.flag("orphanDependents")));
        let propagation = match (policy, orphans) {
            ("Background", _) | ("", Some(false)) => Some(Propagation::Background),
            ("Foreground", _) => Some(Propagation::Foreground),
            ("Orphan", _) | ("", Some(true)) => Some(Propagation::Orphan),
            ("", None) => None,
            (other, _) => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                let error = FieldError::not_supported(&Path::new("propagationPolicy"), other, &supported);
                let kind = Qualified { group: "meta.k8s.io", name: "DeleteOptions" };
                return Err(Status::invalid_kind(kind, "", &[error]));
            }
        };
        Ok(DeleteOptions {
            grace_seconds: match given.int(&["gracePeriodSeconds"]) {
                Some(seconds) => Some(seconds),
                None => self.query.integer("gracePeriodSeconds")?,
            },
            propagation,
            uid: given.text(&["preconditions", "uid"]).to_owned(),
            version: given.text(&["preconditions", "resourceVersion"]).to_owned(),
            keep: if dry { Keep::DryRun } else { keep },
        })
    }

    pub(super) async fn delete(&self, name: &str, options: DeleteOptions) -> Result<Response<Body>, Status> {
        let (outcome, warnings) = self.delete_one(self.key(name), options).await?;
        match outcome {
            Outcome::Removed(object) if !self.resource.delete_returns_object => {
                let what = (self.resource.qualified(), name, object.metadata("uid"));
                let mut response = self.answer_status(&Status::success(200, Some(what)));
                answer::warn(&mut response, &warnings);
                Ok(response)
            }
            Outcome::Removed(object) | Outcome::Waiting(object) => self.answer(200, &object, &warnings),
        }
    }

    /// The stages of a delete: preconditions, admission of the object as it is, the transaction, which checks again.
    async fn delete_one(&self, key: Key, options: DeleteOptions) -> Result<(Outcome, Warnings), Status> {
        let current = self.api.store.state().object(&self.collection, &key).cloned();
        let current = current.ok_or_else(|| self.not_found(key.name()))?;
        check(&self.resource, key.name(), &current, &options)?;
        let write = WriteOptions { keep: options.keep, validation: FieldValidation::Ignore };
        let attributes = Attributes {
            namespace: key.namespace(),
            ..self.attributes(Operation::Delete, "", key.name(), write)
        };
        let mut warnings =
            admit::mutate(self.api, &attributes, &mut Value::Null, Some(current.value())).await?;
        warnings.extend(admit::validate(self.api, &attributes, &Value::Null, Some(current.value())).await?);
        Ok((self.commit_delete(key, options).await?, warnings))
    }

    async fn commit_delete(&self, key: Key, options: DeleteOptions) -> Result<Outcome, Status> {
        let (resource, collection) = (Arc::clone(&self.resource), self.collection.clone());
        let deleted = self.api.store.commit(options.keep, move |txn| {
            let current = txn.state().object(&collection, &key).cloned();
            let current = current.ok_or_else(|| Status::not_found(resource.qualified(), key.name()))?;
            check(&resource, key.name(), &current, &options)?;
            let now =
                Timestamp::from_millisecond(i64::try_from(txn.now_ms()).unwrap_or(0)).unwrap_or_default();
            let mut object = current.value().clone();
            begin(&resource, &mut object, &options, now);
            let outcome = finish(txn, &collection, &key, &current, object);
            admit::settle(txn, &resource);
            Ok::<_, Refusal>(outcome)
        });
        let outcome = deleted.await.map_err(|error| match Refusal::from(error) {
            Refusal::Final(status) => status,
            Refusal::Stale => Status::internal("a delete cannot be stale"),
        })?;
        self.follow_definitions();
        Ok(outcome)
    }

    pub(super) async fn delete_collection(&self, options: DeleteOptions) -> Result<Response<Body>, Status> {
        let form = self.form()?;
        let list = ListOptions::parse(self.query, false)?;
        let selection = Selection::parse(&self.served, &self.target.namespace, &list)?;
        let page = self.page(&list, &selection).await?;
        // Many at once, so that they share the sync of the store.
        let keys =
            page.objects.iter().map(|object| Key::new(object.metadata("namespace"), object.metadata("name")));
        let keys: Vec<Key> = keys.collect();
        let mut deleted = Vec::with_capacity(keys.len());
        let deletes = keys.into_iter().map(|key| self.delete_one(key, options.clone()));
        let mut deletes = futures::stream::iter(deletes).buffered(DELETES_MAX);
        while let Some(outcome) = deletes.next().await {
            match outcome {
                Ok((Outcome::Removed(object) | Outcome::Waiting(object), _)) => deleted.push(object),
                Err(status) if status.reason == fairway_objects::Reason::NotFound => {}
                Err(status) => return Err(status),
            }
        }
        let metadata =
            ListMeta { resource_version: self.api.store.state().revision(), ..ListMeta::default() };
        answer::list(form, &self.served, deleted, &metadata, self.query, &self.headers)
    }

    /// Deletes a pod with its own grace: what an eviction does.
    pub(super) async fn delete_gracefully(
        &self,
        name: &str,
        grace_seconds: Option<i64>,
        keep: Keep,
    ) -> Result<(), Status> {
        let options = DeleteOptions {
            grace_seconds,
            propagation: None,
            uid: String::new(),
            version: String::new(),
            keep,
        };
        self.delete_one(self.key(name), options).await.map(drop)
    }
}

/// Preconditions, and what may never be deleted.
fn check(resource: &Resource, name: &str, current: &Object, options: &DeleteOptions) -> Result<(), Status> {
    let (uid, version) = (current.metadata("uid"), current.metadata("resourceVersion"));
    if !options.uid.is_empty() && options.uid != uid {
        return Err(Status::uid_mismatch(resource.qualified(), name, &options.uid, uid));
    }
    if !options.version.is_empty() && options.version != version {
        return Err(Status::version_mismatch(resource.qualified(), name, &options.version, version));
    }
    if resource.builtin == Some(BuiltinKind::Namespace) && UNDELETABLE.contains(&name) {
        return Err(Status::forbidden(resource.qualified(), name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// Marks an object as being deleted: its finalizers after the propagation policy, its grace, its time.
fn begin(resource: &Resource, object: &mut Value, options: &DeleteOptions, now: Timestamp) {
    let grace = grace_seconds(resource, object, options.grace_seconds);
    let finalizers = finalizers(object, options.propagation);
    if !finalizers.is_empty() {
        object.put(&["metadata", "finalizers"], finalizers);
    } else {
        object.take_at(&["metadata", "finalizers"]);
    }
    let begun: Option<Timestamp> = object.text(&["metadata", "deletionTimestamp"]).parse().ok();
    let old_grace = object.int(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
    let at = match begun {
        // A second delete can only shorten the grace, counted from the first.
        Some(_) if grace >= old_grace => return,
        Some(at) => at - SignedDuration::from_secs(old_grace - grace),
        None => now + SignedDuration::from_secs(grace),
    };
    object.put(&["metadata", "deletionTimestamp"], at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    object.put(&["metadata", "deletionGracePeriodSeconds"], grace);
    if begun.is_none() && resource.generation != Generation::None {
        object.put(&["metadata", "generation"], object.int(&["metadata", "generation"]).unwrap_or(0) + 1);
    }
    if resource.builtin == Some(BuiltinKind::Namespace) {
        object.put(&["status", "phase"], "Terminating");
    }
}

/// Stores the mark, or removes the object when nothing keeps it.
fn finish(
    txn: &mut Txn,
    collection: &crate::store::Collection,
    key: &Key,
    current: &Arc<Object>,
    object: Value,
) -> Outcome {
    if is_finished(&object)
        && let Some(removed) = txn.remove(collection, key)
    {
        return Outcome::Removed(removed);
    }
    if object == *current.value() {
        return Outcome::Waiting(Arc::clone(current));
    }
    Outcome::Waiting(txn.put(collection, key, object))
}

/// True for an object whose deletion has begun and that neither finalizers nor grace keep.
pub(super) fn is_finished(object: &Value) -> bool {
    let held =
        object.has(&["metadata", "finalizers"]) && !object.list(&["metadata", "finalizers"]).is_empty();
    let graced = object.int(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) > 0;
    let is_namespace = object.text(&["kind"]) == "Namespace" && object.text(&["apiVersion"]) == "v1";
    let filled = is_namespace && !object.list(&["spec", "finalizers"]).is_empty();
    document::is_terminating(object) && !held && !graced && !filled
}

/// How long a pod may take to end; everything else takes no time.
fn grace_seconds(resource: &Resource, object: &Value, asked: Option<i64>) -> i64 {
    if resource.builtin != Some(BuiltinKind::Pod) {
        return 0;
    }
    let ended = matches!(object.text(&["status", "phase"]), "Succeeded" | "Failed");
    if object.text(&["spec", "nodeName"]).is_empty() || ended {
        return 0;
    }
    match asked.or_else(|| object.int(&["spec", "terminationGracePeriodSeconds"])).unwrap_or(30) {
        negative if negative < 0 => 1,
        seconds => seconds,
    }
}

/// The finalizers after a propagation policy: it replaces an earlier one.
fn finalizers(object: &Value, propagation: Option<Propagation>) -> Vec<String> {
    let mut finalizers: Vec<String> = document::finalizers(object).map(str::to_owned).collect();
    if let Some(propagation) = propagation {
        finalizers.retain(|finalizer| finalizer != "orphan" && finalizer != "foregroundDeletion");
        match propagation {
            Propagation::Background => {}
            Propagation::Foreground => finalizers.push("foregroundDeletion".to_owned()),
            Propagation::Orphan => finalizers.push("orphan".to_owned()),
        }
    }
    finalizers
}

#[cfg(test)]
mod tests {
    use fairway_objects::registry::Registry;

    use super::*;

    fn options(grace_seconds: Option<i64>, propagation: Option<Propagation>) -> DeleteOptions {
        DeleteOptions {
            grace_seconds,
            propagation,
            uid: String::new(),
            version: String::new(),
            keep: Keep::Yes,
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table of cases")]
    fn what_stays_and_for_how_long() {
        struct Case {
            name: &'static str,
            plural: &'static str,
            object: Value,
            options: DeleteOptions,
            want: (bool, Option<i64>, &'static [&'static str]),
        }
        let running = json!({"metadata": {}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
        let mut terminating = running.clone();
        terminating["metadata"] =
            json!({"deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30});
        let cases = [
            Case {
                name: "a running pod has 30 seconds",
                plural: "pods",
                object: running.clone(),
                options: options(None, None),
                want: (false, Some(30), &[]),
            },
            Case {
                name: "a forced one none",
                plural: "pods",
                object: running.clone(),
                options: options(Some(0), None),
                want: (true, Some(0), &[]),
            },
            Case {
                name: "a negative grace is one second",
                plural: "pods",
                object: running,
                options: options(Some(-5), None),
                want: (false, Some(1), &[]),
            },
            Case {
                name: "an unscheduled pod goes at once",
                plural: "pods",
                object: json!({"metadata": {}, "spec": {}}),
                options: options(None, None),
                want: (true, Some(0), &[]),
            },
            Case {
                name: "a second delete cannot lengthen",
                plural: "pods",
                object: terminating.clone(),
                options: options(Some(60), None),
                want: (false, Some(30), &[]),
            },
            Case {
                name: "but shorten",
                plural: "pods",
                object: terminating,
                options: options(Some(5), None),
                want: (false, Some(5), &[]),
            },
            Case {
                name: "others have no grace",
                plural: "services",
                object: json!({"metadata": {}}),
                options: options(Some(30), None),
                want: (true, Some(0), &[]),
            },
            Case {
                name: "foreground waits for dependents",
                plural: "services",
                object: json!({"metadata": {"finalizers": ["a"]}}),
                options: options(None, Some(Propagation::Foreground)),
                want: (false, Some(0), &["a", "foregroundDeletion"]),
            },
            Case {
                name: "a policy replaces another",
                plural: "services",
                object: json!({"metadata": {"finalizers": ["foregroundDeletion"]}}),
                options: options(None, Some(Propagation::Background)),
                want: (true, Some(0), &[]),
            },
        ];
        for case in cases {
            let resource = Registry::builtin().resource("", "v1", case.plural).unwrap();
            let mut object = case.object;
            begin(resource, &mut object, &case.options, "2026-01-01T00:00:00Z".parse().unwrap());
            let grace = object.int(&["metadata", "deletionGracePeriodSeconds"]);
            let finalizers: Vec<&str> = document::finalizers(&object).collect();
            assert_eq!((is_finished(&object), grace, finalizers.as_slice()), case.want, "{}", case.name);
        }
    }

    #[test]
    fn a_namespace_waits_for_its_content() {
        let resource = Registry::builtin().resource("", "v1", "namespaces").unwrap();
        let mut object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {}, "spec": {"finalizers": ["kubernetes"]}});
        begin(resource, &mut object, &options(None, None), Timestamp::UNIX_EPOCH);
        assert_eq!(object.text(&["status", "phase"]), "Terminating");
        assert!(!is_finished(&object));
        object.put(&["spec", "finalizers"], json!([]));
        assert!(is_finished(&object));
    }
}
