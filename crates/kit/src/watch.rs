//! One kind watched and kept as an immutable snapshot.
//!
//! kube-rs lists, watches, relists on 410 and backs off; this module turns its event stream into "here is everything, and here is a
//! newer everything". A relist replaces the snapshot in one step, so a reader never sees the half-filled state in between.
//! Snapshots are persistent maps: taking one and changing one entry both cost O(log n), whatever the number of objects.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::{StreamExt, pin_mut};
use imbl::OrdMap;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, reflector::Lookup};
use serde::de::DeserializeOwned;
use tokio::sync::watch as notify;

use crate::Shutdown;

/// The name of an object within its kind. Cluster-wide objects have an empty namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace, or "".
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key from its two parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Everything of one kind at one moment.
#[derive(Debug)]
pub struct Snapshot<K> {
    /// The objects by name.
    pub objects: OrdMap<ObjectKey, Arc<K>>,
    /// False until the first complete list was delivered.
    pub synced: bool,
    /// The highest resourceVersion that an event of this watch carried, deletions included; 0 before the first. Whoever wrote
    /// an object at revision r knows that its write is in here when this is at least r.
    pub revision: u64,
}

impl<K> Clone for Snapshot<K> {
    fn clone(&self) -> Self {
        Self { objects: self.objects.clone(), synced: self.synced, revision: self.revision }
    }
}

impl<K> Snapshot<K> {
    fn empty() -> Self {
        Self { objects: OrdMap::new(), synced: false, revision: 0 }
    }

    /// The object of that name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<&Arc<K>> {
        self.objects.get(&ObjectKey::new(namespace, name))
    }
}

/// A watched kind. Clones share the watch; it ends when the [`Shutdown`] given to [`watch`] is requested.
#[derive(Debug)]
pub struct Watched<K> {
    snapshot: Arc<ArcSwap<Snapshot<K>>>,
    version: notify::Receiver<u64>,
}

impl<K> Clone for Watched<K> {
    fn clone(&self) -> Self {
        Self { snapshot: self.snapshot.clone(), version: self.version.clone() }
    }
}

impl<K> Watched<K> {
    /// The newest snapshot; also marks it as seen for [`Watched::changed`].
    pub fn snapshot(&mut self) -> Arc<Snapshot<K>> {
        self.version.mark_unchanged();
        self.snapshot.load_full()
    }

    /// The newest snapshot, without marking it as seen.
    pub fn peek(&self) -> Arc<Snapshot<K>> {
        self.snapshot.load_full()
    }

    /// Ready when there is a snapshot that this clone has not taken yet. Never ready again after the watch ended.
    pub async fn changed(&mut self) {
        if self.version.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ready when the first complete list is there.
    pub async fn synced(&mut self) {
        while !self.snapshot.load().synced {
            self.changed().await;
        }
        // The caller has not taken that snapshot yet: changed() must fire once more.
        self.version.mark_changed();
    }
}

/// Starts watching what `api` and `config` select. The task ends with `shutdown`.
pub fn watch<K>(api: Api<K>, config: watcher::Config, shutdown: Shutdown) -> Watched<K>
where
    K: kube::Resource + Lookup + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    <K as Lookup>::DynamicType: Default + Eq + Hash + Clone,
    <K as kube::Resource>::DynamicType: Default,
{
    let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::empty()));
    let (changed, version) = notify::channel(0);
    let watched = Watched { snapshot: snapshot.clone(), version };
    tokio::spawn(async move {
        shutdown.unless_requested(follow(api, config, &snapshot, &changed)).await;
    });
    watched
}

async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    snapshot: &ArcSwap<Snapshot<K>>,
    changed: &notify::Sender<u64>,
) where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    <K as kube::Resource>::DynamicType: Default,
{
    let kind = std::any::type_name::<K>().rsplit("::").next().unwrap_or_default();
    let events = watcher::watcher(api, config).backoff(Backoff::default());
    pin_mut!(events);
    let mut fold = Fold { current: Snapshot::empty(), incoming: OrdMap::new(), revision: 0 };
    let mut outage = Outage::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                outage.ends_with(&event);
                if fold.apply(event) {
                    snapshot.store(Arc::new(fold.current.clone()));
                    changed.send_modify(|version| *version += 1);
                }
            }
            // The state goes on being served, kube-rs retries with back-off.
            Err(error) if outage.begins() => {
                let error = crate::reason(&error);
                match snapshot.load().synced {
                    true => tracing::warn!(
                        kind,
                        error,
                        "watch interrupted; the last state stays in force while it is retried"
                    ),
                    false => tracing::info!(kind, error, "not listed yet; it is retried"),
                }
            }
            Err(_) => {}
        }
    }
}

/// Whether the server is out of reach, so that it is said once and not with every try.
#[derive(Debug, Default)]
struct Outage {
    under_way: bool,
}

impl Outage {
    /// True for the first error since the server was last heard.
    fn begins(&mut self) -> bool {
        !std::mem::replace(&mut self.under_way, true)
    }

    /// `Init` is ours: every try begins with it, before anything was asked of the server.
    fn ends_with<K>(&mut self, event: &Event<K>) {
        if !matches!(event, Event::Init) {
            self.under_way = false;
        }
    }
}

/// The pure part: events to snapshots.
struct Fold<K> {
    current: Snapshot<K>,
    incoming: OrdMap<ObjectKey, Arc<K>>,
    revision: u64,
}

impl<K: kube::Resource> Fold<K> {
    /// True when `current` is a new state worth telling.
    fn apply(&mut self, event: Event<K>) -> bool {
        if let Event::InitApply(object) | Event::Apply(object) | Event::Delete(object) = &event {
            self.revision = self.revision.max(revision_of(object));
        }
        let changed = self.fold(event);
        if changed {
            self.current.revision = self.revision;
        }
        changed
    }

    fn fold(&mut self, event: Event<K>) -> bool {
        match event {
            Event::Init => {
                self.incoming = OrdMap::new();
                false
            }
            Event::InitApply(object) => {
                self.incoming.insert(key_of(&object), Arc::new(object));
                false
            }
            Event::InitDone => {
                let objects = std::mem::take(&mut self.incoming);
                self.current = Snapshot { objects, synced: true, revision: self.revision };
                true
            }
            Event::Apply(object) => {
                self.current.objects.insert(key_of(&object), Arc::new(object));
                true
            }
            Event::Delete(object) => self.current.objects.remove(&key_of(&object)).is_some(),
        }
    }
}

/// The key of an object as delivered by the API server.
pub fn key_of<K: kube::Resource>(object: &K) -> ObjectKey {
    let meta = object.meta();
    ObjectKey::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
}

/// `metadata.resourceVersion` as the number that it is (comparable since KEP-5504); 0 when it is missing.
pub fn revision_of<K: kube::Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// 20 ms doubling to 5 s, with up to a quarter of jitter: an API server that was restarted is found at once, one that is gone is
/// not flooded.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Iterator for Backoff {
    type Item = std::time::Duration;

    fn next(&mut self) -> Option<Self::Item> {
        let base_ms = 20u64.saturating_mul(1 << self.failures.min(8)).min(5_000);
        self.failures = self.failures.saturating_add(1);
        let jitter_ms =
            u64::from(std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.subsec_nanos()))
                % (base_ms / 4 + 1);
        Some(std::time::Duration::from_millis(base_ms + jitter_ms))
    }
}

impl kube::runtime::utils::Backoff for Backoff {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Collects a page of objects without watching: for callers that need a state once.
pub async fn list_once<K>(api: &Api<K>) -> kube::Result<Vec<K>>
where
    K: Clone + DeserializeOwned + Debug,
{
    Ok(api.list(&kube::api::ListParams::default()).await?.items)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn map(name: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("ns".into());
        object.metadata.name = Some(name.into());
        object
    }

    fn names(fold: &Fold<ConfigMap>) -> Vec<String> {
        fold.current.objects.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn a_relist_replaces_in_one_step_and_never_shows_the_half_filled_state() {
        let mut fold = Fold { current: Snapshot::empty(), incoming: OrdMap::new(), revision: 0 };
        assert!(!fold.apply(Event::Init));
        assert!(!fold.apply(Event::InitApply(map("a"))));
        assert!(fold.apply(Event::InitDone));
        assert!(fold.apply(Event::Apply(map("b"))));
        assert_eq!(names(&fold), ["ns/a", "ns/b"]);
        fold.apply(Event::Init);
        fold.apply(Event::InitApply(map("c")));
        assert_eq!(names(&fold), ["ns/a", "ns/b"]);
        fold.apply(Event::InitDone);
        assert_eq!(names(&fold), ["ns/c"]);
    }

    #[test]
    fn an_outage_lasts_until_the_server_is_heard() {
        struct Case {
            name: &'static str,
            event: Event<ConfigMap>,
            over: bool,
        }
        let cases = [
            Case { name: "another try begins", event: Event::Init, over: false },
            Case { name: "an object of a list", event: Event::InitApply(map("a")), over: true },
            Case { name: "a list, empty", event: Event::InitDone, over: true },
            Case { name: "a change", event: Event::Apply(map("a")), over: true },
            Case { name: "a deletion", event: Event::Delete(map("a")), over: true },
        ];
        for Case { name, event, over } in cases {
            let mut outage = Outage::default();
            assert!(outage.begins(), "{name}");
            outage.ends_with(&event);
            assert_eq!(outage.begins(), over, "{name}");
        }
    }

    #[test]
    fn the_revision_counts_deletions_and_never_goes_back() {
        let at = |name: &str, revision: &str| {
            let mut object = map(name);
            object.metadata.resource_version = Some(revision.into());
            object
        };
        let mut fold = Fold { current: Snapshot::empty(), incoming: OrdMap::new(), revision: 0 };
        fold.apply(Event::Init);
        fold.apply(Event::InitApply(at("a", "7")));
        fold.apply(Event::InitDone);
        assert_eq!(fold.current.revision, 7);
        fold.apply(Event::Delete(at("a", "9")));
        assert_eq!(fold.current.revision, 9);
        fold.apply(Event::Init);
        fold.apply(Event::InitDone);
        assert_eq!(fold.current.revision, 9);
    }

    #[test]
    fn deleting_what_is_not_there_is_no_change() {
        let mut fold = Fold { current: Snapshot::<ConfigMap>::empty(), incoming: OrdMap::new(), revision: 0 };
        assert!(!fold.apply(Event::Delete(map("a"))));
    }

    #[test]
    fn back_off_grows_to_a_limit_and_resets() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = backoff.by_ref().take(12).map(|wait| wait.as_millis() as u64).collect();
        assert!((20..=25).contains(&waits[0]), "{waits:?}");
        assert!(waits.iter().all(|&ms| ms <= 6_250), "{waits:?}");
        kube::runtime::utils::Backoff::reset(&mut backoff);
        assert!(backoff.next().is_some_and(|wait| wait.as_millis() <= 25));
    }
}
