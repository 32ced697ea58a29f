//! One kind as the watch delivered it, with our own writes laid over it until the watch has delivered those too.
//!
//! A controller that looks at a watch cache right after it wrote sees the past: it would create the same pod twice. Kubernetes
//! counts "expectations" against that, one protocol per controller. Here every successful write is visible to every reconcile
//! function at once, because the answer of the API server is laid over the snapshot. It is taken off again when the watch is
//! known to have passed that revision, so nothing is ever hidden for good.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fairway_kit::Snapshot;
use fairway_kit::watch::{ObjectKey, revision_of};
use imbl::ordmap::DiffItem;
use kube::Resource;

use crate::index::Indexed;
use crate::world::{Delta, Objects};

/// A write that no watch event confirmed for so long is forgotten: the object came and went while the watch was relisting.
pub const UNCONFIRMED_MAX: Duration = Duration::from_secs(5);

/// When the watch has caught up with a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// At this revision, or by a newer version of the object.
    AtRevision(u64),
    /// By any other version of the object than this one (the answer carried no revision).
    ByOtherThan(u64),
}

#[derive(Debug)]
struct Unconfirmed<K> {
    object: Option<Arc<K>>,
    confirmed: Confirmed,
    since: Instant,
}

#[derive(Debug)]
struct State<K: Indexed> {
    observed: Objects<K>,
    revision: u64,
    unconfirmed: BTreeMap<ObjectKey, Unconfirmed<K>>,
    view: Objects<K>,
    index: K::Index,
}

/// See the module.
#[derive(Debug)]
pub struct Cache<K: Indexed>(Mutex<State<K>>);

impl<K: Indexed> Default for Cache<K> {
    fn default() -> Self {
        let (observed, view) = (Objects::new(), Objects::new());
        let (unconfirmed, index) = (BTreeMap::new(), K::Index::default());
        Self(Mutex::new(State { observed, revision: 0, unconfirmed, view, index }))
    }
}

impl<K: Resource + Clone + PartialEq + Indexed> Cache<K> {
    /// What a reconcile function may see now.
    pub fn view(&self) -> Objects<K> {
        self.lock().view.clone()
    }

    /// The same with its index, of one moment.
    pub fn indexed_view(&self) -> (Objects<K>, K::Index) {
        let state = self.lock();
        (state.view.clone(), state.index.clone())
    }

    /// Takes a newer snapshot of the watch; what changed for readers is returned.
    pub fn observe(&self, snapshot: &Snapshot<K>, now: Instant) -> Vec<Delta<K>> {
        let mut state = self.lock();
        state.observed = snapshot.objects.clone();
        state.revision = state.revision.max(snapshot.revision);
        state.settle(now)
    }

    /// Notes an own write: what the object is now (`None`: gone), and how its confirmation will be recognised.
    pub fn wrote(
        &self,
        key: ObjectKey,
        object: Option<K>,
        confirmed: Confirmed,
        now: Instant,
    ) -> Vec<Delta<K>> {
        let mut state = self.lock();
        let object = object.map(Arc::new);
        state.unconfirmed.insert(key, Unconfirmed { object, confirmed, since: now });
        state.settle(now)
    }

    /// Forgets writes that were never confirmed.
    pub fn expire(&self, now: Instant) -> Vec<Delta<K>> {
        self.lock().settle(now)
    }

    /// When [`Cache::expire`] is due.
    pub fn expires_at(&self) -> Option<Instant> {
        self.lock().unconfirmed.values().map(|write| write.since + UNCONFIRMED_MAX).min()
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        // Every change of the state is one assignment: a panic elsewhere cannot leave it half-made.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Resource + Clone + PartialEq + Indexed> State<K> {
    fn settle(&mut self, now: Instant) -> Vec<Delta<K>> {
        let (observed, revision) = (&self.observed, self.revision);
        self.unconfirmed.retain(|key, write| {
            let seen = observed.get(key).map(|object| revision_of(&**object));
            let confirmed = match write.confirmed {
                Confirmed::AtRevision(written) => {
                    revision >= written || seen.is_some_and(|seen| seen >= written)
                }
                Confirmed::ByOtherThan(before) => seen != Some(before),
            };
            !confirmed && now.saturating_duration_since(write.since) < UNCONFIRMED_MAX
        });
        let mut view = self.observed.clone();
        for (key, write) in &self.unconfirmed {
            match &write.object {
                Some(object) => view.insert(key.clone(), object.clone()),
                None => view.remove(key),
            };
        }
        let before = std::mem::replace(&mut self.view, view);
        let mut told = Vec::new();
        for item in before.diff(&self.view) {
            let (key, delta) = delta(item);
            K::follow(&mut self.index, key, &delta);
            if !is_confirmation(&delta) {
                told.push(delta);
            }
        }
        told
    }
}

fn delta<'a, K>(item: DiffItem<'a, 'a, ObjectKey, Arc<K>>) -> (&'a ObjectKey, Delta<K>) {
    match item {
        DiffItem::Add(key, new) => (key, Delta { old: None, new: Some(new.clone()) }),
        DiffItem::Remove(key, old) => (key, Delta { old: Some(old.clone()), new: None }),
        DiffItem::Update { old, new } => {
            (new.0, Delta { old: Some(old.1.clone()), new: Some(new.1.clone()) })
        }
    }
}

/// The watch confirms what we wrote ourselves: readers saw it already.
fn is_confirmation<K: Resource>(delta: &Delta<K>) -> bool {
    match (&delta.old, &delta.new) {
        (Some(old), Some(new)) => old.meta() == new.meta(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn map(name: &str, revision: u64) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.resource_version = Some(revision.to_string());
        object
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("", name)
    }

    fn snapshot(revision: u64, objects: &[ConfigMap]) -> Snapshot<ConfigMap> {
        let objects = objects
            .iter()
            .map(|object| (fairway_kit::watch::key_of(object), Arc::new(object.clone())))
            .collect();
        Snapshot { objects, synced: true, revision }
    }

    fn names(cache: &Cache<ConfigMap>) -> Vec<String> {
        cache.view().iter().map(|(key, map)| format!("{key}@{}", revision_of(&**map))).collect()
    }

    #[test]
    fn an_own_creation_is_visible_at_once_and_confirmed_without_a_second_change() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.observe(&snapshot(5, &[]), now);
        assert_eq!(cache.wrote(key("a"), Some(map("a", 6)), Confirmed::AtRevision(6), now).len(), 1);
        assert_eq!(names(&cache), ["a@6"]);
        // The watch is still behind.
        assert!(
            cache.observe(&snapshot(5, &[map("other", 5)]), now).iter().all(|change| change.old.is_none())
        );
        assert_eq!(names(&cache), ["a@6", "other@5"]);
        assert_eq!(cache.observe(&snapshot(6, &[map("other", 5), map("a", 6)]), now), []);
        assert_eq!(cache.expires_at(), None);
    }

    #[test]
    fn created_and_deleted_by_someone_before_the_watch_told_leaves_nothing() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.wrote(key("a"), Some(map("a", 6)), Confirmed::AtRevision(6), now);
        cache.observe(&snapshot(7, &[]), now);
        assert_eq!(names(&cache), [""; 0]);
    }

    #[test]
    fn a_write_without_a_revision_lasts_until_the_object_is_another() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.observe(&snapshot(5, &[map("a", 5)]), now);
        let mut bound = map("a", 5);
        bound.data = Some([("node".to_owned(), "n1".to_owned())].into());
        cache.wrote(key("a"), Some(bound), Confirmed::ByOtherThan(5), now);
        cache.observe(&snapshot(9, &[map("a", 5)]), now);
        assert!(cache.view().get(&key("a")).unwrap().data.is_some());
        cache.observe(&snapshot(9, &[map("a", 8)]), now);
        assert_eq!(names(&cache), ["a@8"]);
        assert!(cache.view().get(&key("a")).unwrap().data.is_none());
    }

    #[test]
    fn what_is_never_confirmed_is_forgotten() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.wrote(key("a"), Some(map("a", 6)), Confirmed::AtRevision(6), now);
        assert_eq!(cache.expire(now + UNCONFIRMED_MAX / 2), []);
        assert_eq!(cache.expire(now + UNCONFIRMED_MAX).len(), 1);
        assert_eq!(names(&cache), [""; 0]);
    }
}
