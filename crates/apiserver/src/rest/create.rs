//! create.

use std::sync::Arc;

use bytes::Bytes;
use fairway_objects::document::{self, Document};
use fairway_objects::registry::{BuiltinKind, Registry};
use fairway_objects::status::Status;
use fairway_objects::strategy::{self, Creation};
use fairway_objects::{defaults, validate};
use http::Response;
use jiff::Timestamp;
use serde_json::Value;

use super::apply::Owners;
use super::{Call, Refusal, WriteOptions, not_stored, present};
use crate::admit::{self, Operation};
use crate::http::body::Body;
use crate::store::{Collection, CommitError, Keep, Key, Object, Txn};

/// Names that are tried for a `generateName`.
const NAMES_MAX: usize = 8;

impl Call<'_> {
    pub(super) async fn create_from(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        let options = self.write_options("CreateOptions")?;
        let decoded = self.decode_written("", body, options.validation)?;
        if !self.resource.is_stored() {
            return self.review(decoded.object).await;
        }
        let (object, warnings) = self.create(decoded.object, options, Owners::Track).await?;
        self.answer_created(options, &object, &[decoded.warnings, warnings].concat())
    }

    /// 201 with the object; a dry run shows no resource version, because there is none.
    pub(super) fn answer_created(
        &self,
        options: WriteOptions,
        object: &Object,
        warnings: &[String],
    ) -> Result<Response<Body>, Status> {
        if options.keep == Keep::Yes {
            return self.answer(201, object, warnings);
        }
        let shown = present::present(&self.resource, object);
        let mut value = shown.as_ref().unwrap_or(object).value().clone();
        value.take_at(&["metadata", "resourceVersion"]);
        self.answer_value(201, &value, warnings)
    }

    /// Stores a decoded object as a new one.
    pub(super) async fn create(
        &self,
        object: Value,
        options: WriteOptions,
        owners: Owners,
    ) -> Result<(Arc<Object>, Vec<String>), Status> {
        if self.resource.is_namespaced() && self.target.namespace.is_empty() {
            return Err(Status::method_not_allowed());
        }
        let stated = document::namespace(&object);
        if self.resource.is_namespaced() && !stated.is_empty() && stated != self.target.namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        if !object.text(&["metadata", "resourceVersion"]).is_empty() {
            return Err(Status::version_on_create());
        }
        let generated =
            document::name(&object).is_empty() && !object.text(&["metadata", "generateName"]).is_empty();
        for _ in 1..if generated { NAMES_MAX } else { 1 } {
            match self.create_once(object.clone(), options, owners).await {
                Err(status) if status.reason == fairway_objects::Reason::AlreadyExists => {}
                result => return result,
            }
        }
        self.create_once(object, options, owners).await
    }

    async fn create_once(
        &self,
        mut object: Value,
        options: WriteOptions,
        owners: Owners,
    ) -> Result<(Arc<Object>, Vec<String>), Status> {
        let uid = crate::random_uid().to_string();
        let creation = Creation {
            namespace: if self.resource.is_namespaced() { &self.target.namespace } else { "" },
            uid: &uid,
            now: Timestamp::now(),
            random: rand::random(),
        };
        strategy::prepare_for_create(&self.resource, &mut object, &creation);
        // What admission adds afterwards has no owner.
        defaults::apply(&self.resource, &mut object);
        if owners == Owners::Track {
            self.track("", None, &mut object);
        }
        let name = document::name(&object).to_owned();
        let attributes = self.attributes(Operation::Create, "", &name, options);
        let mut warnings = admit::mutate(self.api, &attributes, &mut object, None).await?;
        let errors = validate::create(&self.resource, &object);
        if !errors.is_empty() {
            return Err(Status::invalid(&self.resource.object, document::name(&object), &errors));
        }
        warnings.extend(admit::validate(self.api, &attributes, &object, None).await?);
        Ok((self.commit_new(object, options).await?, warnings))
    }

    /// Stores an admitted object, unless another write made it impossible meanwhile.
    async fn commit_new(&self, mut object: Value, options: WriteOptions) -> Result<Arc<Object>, Status> {
        let (api, resource, collection) =
            (Arc::clone(self.api), Arc::clone(&self.resource), self.collection.clone());
        let stored = self.api.store.commit(options.keep, move |txn| {
            let key = Key::new(document::namespace(&object), document::name(&object));
            if let Some(existing) = txn.state().object(&collection, &key) {
                let terminating = document::is_terminating(existing.value());
                return Err(Refusal::Final(Status::already_exists(
                    resource.qualified(),
                    key.name(),
                    terminating,
                )));
            }
            admit::reserve(&api, txn, &resource, &key, &mut object, None)?;
            present::to_stored(&resource, &mut object);
            let stored = txn.put(&collection, &key, object);
            if resource.builtin == Some(BuiltinKind::Namespace) {
                api.furnish_namespace(txn, key.name());
            }
            admit::settle(&api, txn, &resource, &key);
            Ok(stored)
        });
        match stored.await {
            Ok(stored) => {
                self.follow_definitions();
                Ok(stored)
            }
            Err(CommitError::Refused(Refusal::Final(status))) => Err(status),
            Err(CommitError::Refused(Refusal::Stale)) => Err(Status::internal("a create cannot be stale")),
            Err(CommitError::NotStored(error)) => Err(not_stored(&error)),
        }
    }
}

impl crate::server::Api {
    /// What every namespace has from its first moment: the account `default` and the authority of this server, so that a pod created right
    /// after its namespace finds both.
    pub(crate) fn furnish_namespace(&self, txn: &mut Txn, namespace: &str) {
        let now = Timestamp::from_millisecond(i64::try_from(txn.now_ms()).unwrap_or(0)).unwrap_or_default();
        let furniture = [
            ("serviceaccounts", crate::boot::default_account()),
            ("configmaps", crate::boot::root_authority(&self.authority_pem)),
        ];
        for (plural, mut object) in furniture {
            let Some(resource) = Registry::builtin().resource("", "v1", plural) else { continue };
            let (collection, key) =
                (Collection::new("", plural), Key::new(namespace, document::name(&object)));
            if txn.state().object(&collection, &key).is_some() {
                continue;
            }
            let uid = crate::random_uid().to_string();
            let creation = Creation { namespace, uid: &uid, now, random: 0 };
            strategy::prepare_for_create(resource, &mut object, &creation);
            defaults::apply(resource, &mut object);
            txn.put(&collection, &key, object);
        }
    }
}
