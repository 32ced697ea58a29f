//! Custom resources: the catalog follows the definitions in the store, and definitions that go take their objects with them.
//!
//! The store's order decides. Whoever writes a definition has the catalog follow before the answer; a task does the same for writes that nobody
//! waits for, and what no request does: deleting the objects of a definition, giving a name to who waited for it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use fairway_objects::Qualified;
use fairway_objects::custom::definition::{self, CLEANUP_FINALIZER};
use fairway_objects::document::{self, Document};
use fairway_objects::registry::{BuiltinKind, Registry, Resource};
use fairway_objects::status::Status;
use fairway_objects::strategy::{self, Creation};
use fairway_objects::{defaults, validate};
use jiff::Timestamp;
use serde_json::Value;

use crate::catalog::{Catalog, Kinds};
use crate::server::Api;
use crate::store::{Collection, CommitError, Keep, Key, Object, Objects, Txn};

/// Objects of a definition that are deleted in one transaction.
const DELETES_MAX: usize = 500;

fn collection() -> Collection {
    Collection::new(definition::GROUP, definition::PLURAL)
}

fn now(txn: &Txn) -> Timestamp {
    Timestamp::from_millisecond(i64::try_from(txn.now_ms()).unwrap_or(0)).unwrap_or_default()
}

impl Api {
    /// Makes the catalog follow the store. What did not change keeps its resources and documents.
    pub(crate) fn refresh_catalog(&self) {
        let _one_at_a_time = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        let definitions = self.store.state().objects(&collection());
        let old = self.catalog.load_full();
        let mut kinds = BTreeMap::new();
        for (key, object) in &definitions {
            let known = old.kinds.get(key);
            if known.is_some_and(|known| known.revision == object.revision()) {
                kinds.extend(known.map(|known| (key.clone(), known.clone())));
                continue;
            }
            let definition = object.document();
            let resources = match known.filter(|known| known.serves(&definition)) {
                Some(known) => known.resources.clone(),
                None if definition::is_established(&definition) => {
                    definition::resources(&definition).into_iter().map(Arc::new).collect()
                }
                None => Vec::new(),
            };
            kinds.insert(key.clone(), Kinds::new(object.revision(), &definition, resources));
        }
        if old.kinds.len() == kinds.len()
            && old.kinds.iter().zip(&kinds).all(|((_, old), (_, new))| old.revision == new.revision)
        {
            return;
        }
        let custom = kinds.values().flat_map(|kinds| &kinds.resources).cloned();
        let registry = Registry::builtin().with_shared(custom);
        self.catalog.store(Arc::new(Catalog::following(&old, Arc::new(registry), kinds)));
        self.catalogs.send_modify(|count| *count += 1);
    }

    /// Makes the definitions that a cluster begins with, those that are not there.
    pub(crate) async fn boot_definitions(&self) -> Result<(), CommitError<Status>> {
        let absent: Vec<Value> = {
            let known = self.store.state().objects(&collection());
            let is_absent = |value: &&Value| !known.contains_key(&Key::new("", document::name(value)));
            self.definitions.iter().filter(is_absent).cloned().collect()
        };
        let made = move |txn: &mut Txn| absent.into_iter().try_for_each(|value| make(txn, value));
        self.store.commit(Keep::Yes, made).await?;
        self.refresh_catalog();
        Ok(())
    }
}

/// Stores a new definition.
fn make(txn: &mut Txn, mut value: Value) -> Result<(), Status> {
    let resource = Registry::builtin().resource(definition::GROUP, "v1", definition::PLURAL);
    let Some(resource) = resource else { return Ok(()) };
    let uid = crate::random_uid().to_string();
    let creation = Creation { namespace: "", uid: &uid, now: now(txn), random: 0 };
    strategy::prepare_for_create(resource, &mut value, &creation);
    defaults::apply(resource, &mut value);
    let errors = validate::create(resource, &value);
    if !errors.is_empty() {
        return Err(Status::invalid(&resource.object, document::name(&value), &errors));
    }
    reserve(txn, resource, &mut value, None)?;
    let key = Key::new("", document::name(&value));
    txn.put(&collection(), &key, value);
    Ok(())
}

/// The last look at the write of a definition or of a custom resource.
pub(crate) fn reserve(
    txn: &Txn,
    resource: &Resource,
    new: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if resource.builtin == Some(BuiltinKind::CustomResourceDefinition) {
        let others = txn.state().objects(&collection());
        if old.is_none() {
            let mut finalizers: Vec<&str> = document::finalizers(new).collect();
            if !finalizers.contains(&CLEANUP_FINALIZER) {
                finalizers.push(CLEANUP_FINALIZER);
            }
            let finalizers: Vec<Value> = finalizers.into_iter().map(Value::from).collect();
            new.put(&["metadata", "finalizers"], finalizers);
        }
        definition::settle(new, others.values().map(|other| other.value()), now(txn));
        return Ok(());
    }
    let Some(custom) = resource.custom() else { return Ok(()) };
    let name = Qualified { group: resource.group(), name: &resource.plural }.to_string();
    let Some(current) = txn.state().object(&collection(), &Key::new("", &name)) else {
        return Err(Status::resource_not_found());
    };
    let current = current.value();
    if old.is_none() && document::is_terminating(current) {
        let mut status = Status::method_not_allowed();
        status.message = "create not allowed while custom resource definition is terminating".to_owned();
        return Err(status);
    }
    let (uid, generation) = &custom.definition;
    let same = document::uid(current) == uid
        && (document::is_terminating(current)
            || current.int(&["metadata", "generation"]) == Some(*generation));
    if !same {
        return Err(Status::unavailable(
            "the definition of this resource has just changed, please try again",
        ));
    }
    Ok(())
}

/// Follows definitions until the server stops.
pub(crate) async fn run(api: Arc<Api>) {
    let mut newest = api.store.log(&collection()).subscribe();
    let mut revisions = api.store.revision();
    loop {
        newest.mark_unchanged();
        revisions.mark_unchanged();
        api.refresh_catalog();
        let (progress, waiting) = tend(&api).await;
        if progress {
            continue;
        }
        tokio::select! {
            () = api.stop.cancelled() => return,
            changed = newest.changed() => if changed.is_err() { return },
            // Objects with finalizers go when others let them.
            changed = revisions.changed(), if waiting => if changed.is_err() { return },
        }
    }
}

/// One step of what is to be done; whether anything was, and whether something is waited for.
async fn tend(api: &Api) -> (bool, bool) {
    let (mut progress, mut waiting) = (false, false);
    for (key, object) in &api.store.state().objects(&collection()) {
        let value = object.value();
        let going = document::is_terminating(value);
        let step: fn(&mut Txn, &Key) -> bool = match going {
            true if document::finalizers(value).all(|finalizer| finalizer != CLEANUP_FINALIZER) => continue,
            true => clean_up,
            false if definition::is_settled(value) => continue,
            false => resettle,
        };
        waiting |= going;
        let own = key.clone();
        let done = api.store.commit(Keep::Yes, move |txn| Ok::<_, std::convert::Infallible>(step(txn, &own)));
        match done.await {
            Ok(done) => progress |= done,
            Err(_) => {
                tracing::warn!(
                    definition = key.name(),
                    "cannot follow this definition; trying again with the next change"
                );
            }
        }
    }
    (progress, waiting)
}

/// Gives a definition names that became free.
fn resettle(txn: &mut Txn, key: &Key) -> bool {
    let objects = txn.state().objects(&collection());
    let Some(current) = objects.get(key) else { return false };
    let mut settled = current.value().clone();
    definition::settle(&mut settled, objects.values().map(|other| other.value()), now(txn));
    if settled == *current.value() {
        return false;
    }
    txn.put(&collection(), key, settled);
    true
}

/// Deletes objects of a definition that is going, then lets it go.
fn clean_up(txn: &mut Txn, key: &Key) -> bool {
    let Some(current) = txn.state().object(&collection(), key).cloned() else { return false };
    if !document::finalizers(current.value()).any(|finalizer| finalizer == CLEANUP_FINALIZER) {
        return false;
    }
    let definition = current.value();
    let of =
        Collection::new(definition.text(&["spec", "group"]), definition.text(&["spec", "names", "plural"]));
    let objects = txn.state().objects(&of);
    let deleted = delete_some(txn, &of, &objects);
    let gone = txn.state().objects(&of).is_empty();
    let mut new = definition.clone();
    definition::set_terminating(&mut new, now(txn), gone);
    if gone {
        let rest: Vec<Value> = document::finalizers(&new)
            .filter(|finalizer| *finalizer != CLEANUP_FINALIZER)
            .map(Value::from)
            .collect();
        if rest.is_empty() {
            new.at_mut(&["metadata"])
                .and_then(Value::as_object_mut)
                .map(|metadata| metadata.remove("finalizers"));
            return txn.remove_as(&collection(), key, new).is_some();
        }
        new.put(&["metadata", "finalizers"], rest);
    }
    if new != *definition {
        txn.put(&collection(), key, new);
        return true;
    }
    deleted
}

/// Removes objects without finalizers, marks the others; whether there was any to do it to.
fn delete_some(txn: &mut Txn, of: &Collection, objects: &Objects) -> bool {
    let begun = |object: &Object| {
        document::is_terminating(object.value()) && document::finalizers(object.value()).next().is_some()
    };
    let todo = objects.iter().filter(|(_, object)| !begun(object)).take(DELETES_MAX);
    let mut any = false;
    for (key, object) in todo {
        any = true;
        if document::finalizers(object.value()).next().is_none() {
            txn.remove(of, key);
            continue;
        }
        let mut marked = object.value().clone();
        marked.put(&["metadata", "deletionTimestamp"], strategy::timestamp(now(txn)));
        marked.put(&["metadata", "deletionGracePeriodSeconds"], 0);
        strategy::grow_generation(&mut marked);
        txn.put(of, key, marked);
    }
    any
}
