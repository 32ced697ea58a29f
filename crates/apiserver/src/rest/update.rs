//! update and patch, of objects and of their parts.

use std::sync::Arc;

use bytes::Bytes;
use fairway_objects::convert;
use fairway_objects::decode::{self, Decoded, FieldValidation};
use fairway_objects::document::{self, Document};
use fairway_objects::field::{FieldError, Path};
use fairway_objects::patch::{self, PatchType};
use fairway_objects::status::{Qualified, Status};
use fairway_objects::{defaults, scale, strategy, validate};
use http::Response;
use serde_json::Value;

use super::apply::Owners;
use super::{Call, Refusal, TRIES_MAX, WriteOptions, present};
use crate::admit::{self, Operation, Warnings};
use crate::http::body::Body;
use crate::http::query;
use crate::store::{Key, Object};

/// A change that was decided, with what to tell the client beside it.
pub(super) struct Changed {
    pub(super) object: Arc<Object>,
    pub(super) warnings: Warnings,
}

impl Call<'_> {
    pub(super) async fn update(
        &self,
        name: &str,
        part: &str,
        body: &Bytes,
    ) -> Result<Response<Body>, Status> {
        let options = self.write_options("UpdateOptions")?;
        let decoded = self.decode_written(part, body, options.validation)?;
        self.check_address(name, &decoded.object)?;
        let absent = self.api.store.state().object(&self.collection, &self.key(name)).is_none();
        if absent
            && part.is_empty()
            && self.resource.create_on_update
            && document::uid(&decoded.object).is_empty()
        {
            let mut object = decoded.object;
            object.take_at(&["metadata", "resourceVersion"]);
            let (created, warnings) = self.create(object, options, Owners::Track).await?;
            return self.answer_created(options, &created, &[decoded.warnings, warnings].concat());
        }
        let conditional = !decoded.object.text(&["metadata", "resourceVersion"]).is_empty();
        let whole = part.is_empty() || part == "status" && self.resource.custom().is_some();
        if whole && !conditional && !self.resource.unconditional_update {
            let error = FieldError::invalid(
                &Path::new("metadata").field("resourceVersion"),
                0,
                "must be specified for an update",
            );
            let kind = Qualified { group: self.resource.group(), name: &self.resource.plural };
            return Err(Status::invalid_kind(kind, name, &[error]));
        }
        let change = |current: &Value| match part {
            "scale" => {
                let changed = self.with_scale(current, &decoded.object)?;
                Ok(Decoded { warnings: decoded.warnings.clone(), ..changed })
            }
            "finalize" => Ok(with_finalizers(current, &decoded.object)),
            _ => Ok(decoded.clone()),
        };
        let changed = self.change(name, part, options, &change).await?;
        self.answer_part(part, &changed)
    }

    pub(super) async fn patch(
        &self,
        name: &str,
        part: &str,
        patch_type: PatchType,
        body: &Bytes,
    ) -> Result<Response<Body>, Status> {
        let options = self.write_options("PatchOptions")?;
        if self.query.has("force") {
            let error =
                FieldError::forbidden(&Path::new("force"), "may not be specified for non-apply patch");
            return Err(Status::invalid_kind(
                Qualified { group: "meta.k8s.io", name: "PatchOptions" },
                "",
                &[error],
            ));
        }
        let document = patch::parse(body)?;
        let object_type = self.served.subresource(part).map_or(&self.served.object, |part| &part.object);
        let apply = |base: &Value| {
            let base = convert::served(&self.served, base);
            let patched = patch::apply(patch_type, &object_type.schema, &base, &document)?;
            let normalized = decode::normalize(object_type, patched, options.validation)?;
            self.check_address(name, &normalized.object)?;
            let object = convert::stored(&self.served, normalized.object);
            Ok::<_, Status>(Decoded { object, ..normalized })
        };
        let change = |current: &Value| match part {
            "scale" => self.with_scale(current, &apply(&scale::read(&self.resource, current))?.object),
            _ => apply(current),
        };
        let changed = self.change(name, part, options, &change).await?;
        self.answer_part(part, &changed)
    }

    /// Reads, changes and stores; again when somebody was faster and the client did not insist on a version.
    async fn change(
        &self,
        name: &str,
        part: &str,
        options: WriteOptions,
        change: &(dyn Fn(&Value) -> Result<Decoded, Status> + Sync),
    ) -> Result<Changed, Status> {
        let key = self.key(name);
        for _ in 0..TRIES_MAX {
            let state = self.api.store.state();
            let current =
                Arc::clone(state.object(&self.collection, &key).ok_or_else(|| self.not_found(name))?);
            let shown = present::shared(&self.resource, &current);
            let decoded = change(shown.value())?;
            let (admitted, warnings) =
                self.admit_update(name, part, decoded.object, &shown, options, Owners::Track).await?;
            match self.replace(&key, admitted, current, options).await {
                Ok(object) => return Ok(Changed { object, warnings: [decoded.warnings, warnings].concat() }),
                Err(Refusal::Final(status)) => return Err(status),
                Err(Refusal::Stale) => {}
            }
        }
        Err(Status::modified(self.resource.qualified(), name))
    }

    /// The stages of an update between the decoded object and the transaction.
    pub(super) async fn admit_update(
        &self,
        name: &str,
        part: &str,
        mut new: Value,
        current: &Object,
        options: WriteOptions,
        owners: Owners,
    ) -> Result<(Value, Warnings), Status> {
        self.check_preconditions(name, &mut new, current)?;
        let written = if part == "scale" { "" } else { part };
        // What is left to the server is no change: first the defaults, then the comparisons.
        defaults::apply(&self.resource, &mut new);
        strategy::prepare_for_update(&self.resource, written, &mut new, current.value());
        if owners == Owners::Track {
            self.track(part, Some(current.value()), &mut new);
        }
        let attributes = self.attributes(Operation::Update, part, name, options);
        let mut warnings = admit::mutate(self.api, &attributes, &mut new, Some(current.value())).await?;
        let errors = validate::update(&self.resource, written, &new, current.value());
        if !errors.is_empty() {
            return Err(Status::invalid(&self.resource.object, name, &errors));
        }
        warnings.extend(admit::validate(self.api, &attributes, &new, Some(current.value())).await?);
        Ok((new, warnings))
    }

    /// The uid and the version that the client states must be those of the stored object.
    fn check_preconditions(&self, name: &str, new: &mut Value, current: &Object) -> Result<(), Status> {
        let uid = document::uid(new);
        if !uid.is_empty() && uid != current.metadata("uid") {
            return Err(Status::uid_mismatch(self.resource.qualified(), name, uid, current.metadata("uid")));
        }
        let version =
            query::revision(new.text(&["metadata", "resourceVersion"]))?.filter(|version| *version != 0);
        if version.is_some_and(|version| version != current.revision()) {
            return Err(Status::modified(self.resource.qualified(), name));
        }
        new.put(&["metadata", "resourceVersion"], current.metadata("resourceVersion"));
        Ok(())
    }

    /// Stores `new` over `current` if that is still there; removes it instead when only its last finalizer kept it.
    pub(super) async fn replace(
        &self,
        key: &Key,
        mut new: Value,
        current: Arc<Object>,
        options: WriteOptions,
    ) -> Result<Arc<Object>, Refusal> {
        present::to_stored(&self.resource, &mut new);
        let finished = super::delete::is_finished(&new);
        if !finished && strategy::is_no_op(&new, current.value()) {
            return Ok(current);
        }
        let (api, resource, collection) =
            (Arc::clone(self.api), Arc::clone(&self.resource), self.collection.clone());
        let key = key.clone();
        let stored = self.api.store.commit(options.keep, move |txn| {
            let newest = txn.state().object(&collection, &key).ok_or(Refusal::Stale)?;
            if newest.revision() != current.revision() {
                return Err(Refusal::Stale);
            }
            if finished {
                return txn.remove_as(&collection, &key, new).ok_or(Refusal::Stale);
            }
            admit::reserve(&api, txn, &resource, &key, &mut new, Some(current.value()))?;
            let stored = txn.put(&collection, &key, new);
            admit::settle(txn, &resource);
            Ok(stored)
        });
        let stored = stored.await?;
        self.follow_definitions();
        Ok(stored)
    }

    /// The object in a body must be the one in the path.
    pub(super) fn check_address(&self, name: &str, object: &Value) -> Result<(), Status> {
        let stated = document::name(object);
        if !stated.is_empty() && stated != name {
            return Err(Status::bad_request(format!(
                "the name of the object ({stated}) does not match the name on the URL ({name})"
            )));
        }
        let namespace = document::namespace(object);
        if self.resource.is_namespaced() && !namespace.is_empty() && namespace != self.target.namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Ok(())
    }

    fn with_scale(&self, current: &Value, scale: &Value) -> Result<Decoded, Status> {
        let mut object = current.clone();
        scale::write(&self.resource, &mut object, scale);
        decode::normalize(&self.resource.object, object, FieldValidation::Ignore)
    }

    pub(super) fn answer_part(&self, part: &str, changed: &Changed) -> Result<Response<Body>, Status> {
        let warnings = &changed.warnings;
        match part {
            "scale" => self.answer_value(200, &scale::read(&self.resource, changed.object.value()), warnings),
            _ => self.answer(200, &changed.object, warnings),
        }
    }
}

/// A namespace with the finalizers of another document.
fn with_finalizers(current: &Value, given: &Value) -> Decoded {
    let mut object = current.clone();
    object.put(&["spec", "finalizers"], given.at(&["spec", "finalizers"]).clone());
    let version = given.text(&["metadata", "resourceVersion"]);
    if !version.is_empty() {
        object.put(&["metadata", "resourceVersion"], version);
    }
    Decoded { object, warnings: Vec::new() }
}
