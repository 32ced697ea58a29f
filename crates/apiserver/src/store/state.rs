//! The state as persistent maps, and a transaction over it.

use std::sync::Arc;

use imbl::OrdMap;
use jiff::Timestamp;
use serde_json::Value;

use super::index::{self, Index, Indexes};
use super::log::Change;
use super::object::{Collection, EventType, Key, Object};
use crate::allocations::Allocations;
use crate::marks::Marks;

/// The objects of one collection in list order. Cloning is a pointer.
pub type Objects = OrdMap<Key, Arc<Object>>;

/// Every object at one revision. Cloning is a few pointers.
#[derive(Clone, Debug, Default)]
pub struct State {
    revision: u64,
    collections: OrdMap<Collection, Objects>,
    indexes: Indexes,
    allocations: Allocations,
    marks: Marks,
}

impl State {
    /// The same objects at a later revision: what came after may have been removals.
    pub(super) fn advanced_to(mut self, revision: u64) -> Self {
        self.revision = self.revision.max(revision);
        self
    }

    /// The revision of the newest change in it.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// One collection; empty when nothing was ever stored in it.
    pub fn objects(&self, collection: &Collection) -> Objects {
        self.collections.get(collection).cloned().unwrap_or_default()
    }

    /// One object.
    pub fn object(&self, collection: &Collection, key: &Key) -> Option<&Arc<Object>> {
        self.collections.get(collection)?.get(key)
    }

    /// All collections.
    pub fn collections(&self) -> impl Iterator<Item = (&Collection, &Objects)> {
        self.collections.iter()
    }

    /// The objects of one collection that an index has under `value`: what a scan would find, without the scan.
    pub fn objects_by(&self, collection: &Collection, index: Index, value: &str) -> Objects {
        let Some(objects) = self.collections.get(collection) else { return Objects::default() };
        let places = self.indexes.places(index, value).filter(|(of, _)| *of == collection);
        places.filter_map(|(_, key)| Some((key.clone(), Arc::clone(objects.get(key)?)))).collect()
    }

    /// Where the objects are that name `uid` as an owner.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = (&Collection, &Key)> {
        self.indexes.places(Index::Owner, uid)
    }

    /// The events last seen before `time`, and the oldest of those beyond `count_max`; oldest first. Costs as much as it finds.
    pub fn expired_events(&self, time: Timestamp, count_max: usize) -> Vec<Key> {
        let events = self.collections.get(&Collection::new("", "events")).map_or(0, OrdMap::len);
        let excess = events.saturating_sub(count_max);
        let before = index::last_seen_text(time);
        let oldest = self.indexes.all(Index::LastSeen).enumerate();
        let expired = oldest.take_while(|(count, (seen, _))| *count < excess || **seen < *before);
        expired.map(|(_, (_, key))| key.clone()).collect()
    }

    /// Forgets the trees of objects that nobody asked for since the last call; how many.
    pub(super) fn compact(&mut self) -> usize {
        let compact: Vec<(Collection, Key, Object)> = self
            .collections
            .iter()
            .flat_map(|(collection, objects)| {
                objects.iter().map(move |(key, object)| (collection, key, object))
            })
            .filter_map(|(collection, key, object)| {
                Some((collection.clone(), key.clone(), object.compact()?))
            })
            .collect();
        let count = compact.len();
        for (collection, key, object) in compact {
            if let Some(objects) = self.collections.get_mut(&collection) {
                objects.insert(key, Arc::new(object));
            }
        }
        count
    }

    /// Addresses and ports that Services hold.
    pub fn allocations(&self) -> &Allocations {
        &self.allocations
    }

    /// When roles, webhooks and policies last changed.
    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// Puts an object with the revision it carries.
    pub(super) fn load(
        &mut self,
        collection: &Collection,
        key: Key,
        object: Arc<Object>,
    ) -> Option<Arc<Object>> {
        self.revision = self.revision.max(object.revision());
        let old =
            self.collections.entry(collection.clone()).or_default().insert(key.clone(), Arc::clone(&object));
        self.indexes.replace(collection, &key, old.as_deref(), Some(&object));
        self.allocations.replace(collection, old.as_deref(), Some(&object));
        self.marks.note(collection, self.revision);
        old
    }

    /// Removes an object at a revision.
    pub(super) fn unload(
        &mut self,
        collection: &Collection,
        key: &Key,
        revision: u64,
    ) -> Option<Arc<Object>> {
        self.revision = self.revision.max(revision);
        let old = self.collections.get_mut(collection)?.remove(key)?;
        self.indexes.replace(collection, key, Some(&old), None);
        self.allocations.replace(collection, Some(&old), None);
        self.marks.note(collection, self.revision);
        Some(old)
    }
}

/// A transaction under decision: sees the newest state and its own changes.
#[derive(Debug)]
pub struct Txn {
    state: State,
    changes: Vec<Change>,
    now_ms: u64,
}

impl Txn {
    pub(super) fn new(state: State, now_ms: u64) -> Self {
        Self { state, changes: Vec::new(), now_ms }
    }

    /// The state with this transaction's changes in it.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Milliseconds since 1970 when the writer took the transaction.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Stores `value` with the next revision, which is stamped into it.
    pub fn put(&mut self, collection: &Collection, key: &Key, value: Value) -> Arc<Object> {
        let event = match self.state.object(collection, key) {
            Some(_) => EventType::Modified,
            None => EventType::Added,
        };
        let object = Arc::new(Object::stored(collection, event, value, self.state.revision + 1));
        let old = self.state.load(collection, key.clone(), Arc::clone(&object));
        self.record(collection, key, old, Arc::clone(&object), false);
        object
    }

    /// Removes an object; its last content comes back with the revision of the removal. None when there was none.
    pub fn remove(&mut self, collection: &Collection, key: &Key) -> Option<Arc<Object>> {
        let last = self.state.object(collection, key)?.value().clone();
        self.remove_as(collection, key, last)
    }

    /// Removes an object whose last content, never stored, is `last`: what watchers are shown.
    pub fn remove_as(&mut self, collection: &Collection, key: &Key, last: Value) -> Option<Arc<Object>> {
        let revision = self.state.revision + 1;
        let old = self.state.unload(collection, key, revision)?;
        let object = Arc::new(Object::stored(collection, EventType::Deleted, last, revision));
        self.record(collection, key, Some(old), Arc::clone(&object), true);
        Some(object)
    }

    pub(super) fn finish(self) -> (State, Vec<Change>) {
        (self.state, self.changes)
    }

    fn record(
        &mut self,
        collection: &Collection,
        key: &Key,
        old: Option<Arc<Object>>,
        object: Arc<Object>,
        removed: bool,
    ) {
        self.changes.push(Change { collection: collection.clone(), key: key.clone(), old, object, removed });
    }
}
