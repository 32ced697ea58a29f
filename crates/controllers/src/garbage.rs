//! The garbage collector: what has only owners that are gone, goes too. It knows no kind: it follows every resource that the API
//! server lets it delete, by metadata alone.
//!
//! Kinds that the controllers watch anyway are told by them; the others are watched here. `graph` decides, this module asks the
//! API server where the graph cannot know, and carries out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt, pin_mut};
use kube::Client;
use kube::api::{
    Api, DeleteParams, DynamicObject, PartialObjectMeta, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::json;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

use fairway_kit::Shutdown;

use crate::discovered::{Resource, discover};
use crate::queue::{Outcome, Queue};
use crate::world::{Change, with_kinds};

mod graph;

use graph::{FOREGROUND, Graph, Item, ORPHAN, Owner, Policy, Uid, Verdict};

/// Objects examined at the same time.
const CONCURRENT_MAX: usize = 16;
/// An owner that exists but is not watched is asked for again after this.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// Wait after a failed discovery.
const DISCOVERY_RETRY: Duration = Duration::from_millis(500);
/// Watches that list at the same time: collecting can wait, the pods that a cluster starts with cannot.
const LISTING_MAX: usize = 2;
const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// See the module. Shared by the watches that tell it and the loop that acts.
pub(crate) struct Collector {
    client: Client,
    state: Mutex<State>,
    work: Notify,
    resources: watch::Sender<Arc<[Resource]>>,
    listing: Semaphore,
    /// Told of the namespaces in which something disappeared.
    removed: tokio::sync::mpsc::Sender<Arc<str>>,
}

#[derive(Debug, Default)]
struct State {
    graph: Graph,
    queue: Queue<Uid>,
}

/// Why an examination did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("owner kind {kind} of {api_version} is not served: its dependents are kept")]
    UnknownKind { api_version: Arc<str>, kind: Arc<str> },
    #[error("{}", fairway_kit::reason(.0))]
    Request(#[from] kube::Error),
}

impl Collector {
    pub(crate) fn new(client: Client, removed: tokio::sync::mpsc::Sender<Arc<str>>) -> Arc<Self> {
        let (resources, _) = watch::channel(Arc::from([]));
        Arc::new(Self {
            client,
            state: Mutex::default(),
            work: Notify::new(),
            resources,
            listing: Semaphore::new(LISTING_MAX),
            removed,
        })
    }

    /// What the API server serves, as last discovered; empty before the first time.
    pub(crate) fn resources(&self) -> Arc<[Resource]> {
        self.resources.borrow().clone()
    }

    /// Told of a change of a kind that is watched elsewhere.
    pub(crate) fn tell(&self, change: &Change) {
        macro_rules! dispatch {
            ($($kind:ident $field:ident $scope:ident $group:literal $plural:literal,)*) => {
                match change {
                    $(Change::$kind(delta) => self.observe(
                        &crate::discovered::name($group, $plural), delta.old.as_deref(), delta.new.as_deref(),
                    ),)*
                }
            };
        }
        with_kinds!(dispatch);
    }

    fn observe<K: kube::Resource>(&self, resource: &Arc<str>, old: Option<&K>, new: Option<&K>) {
        let mut state = self.lock();
        let new_item = new.and_then(|object| Item::of(resource, object));
        let gone = old.and_then(|old| old.meta().uid.clone());
        let gone = gone.filter(|uid| new_item.as_ref().is_none_or(|new| &*new.uid != uid.as_str()));
        let mut examine = gone.map(|uid| state.graph.forget(&uid)).unwrap_or_default();
        if new.is_none()
            && let Some(namespace) = old.and_then(|old| old.meta().namespace.as_deref())
        {
            // When there is no room, the namespace is looked at again anyway.
            let _ = self.removed.try_send(namespace.into());
        }
        examine.extend(new_item.map(|item| state.graph.observe(item)).unwrap_or_default());
        state.enqueue(examine);
        drop(state);
        self.work.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Examines until shutdown. Call it when the watches of the controllers are complete.
    pub(crate) async fn run(self: Arc<Self>, shutdown: Shutdown) {
        shutdown
            .unless_requested(futures::future::join(
                self.clone().follow_resources(),
                self.clone().examine_all(),
            ))
            .await;
    }

    async fn examine_all(self: Arc<Self>) {
        let mut active: JoinSet<(Uid, Outcome)> = JoinSet::new();
        loop {
            let due = {
                let mut state = self.lock();
                while active.len() < CONCURRENT_MAX {
                    let Some(uid) = state.queue.take(Instant::now()) else { break };
                    let collector = self.clone();
                    active.spawn(async move {
                        let outcome = collector.examine(&uid).await;
                        (uid, outcome)
                    });
                }
                if active.len() < CONCURRENT_MAX { state.queue.next_due() } else { None }
            };
            let wait =
                due.map_or(Duration::from_secs(3600), |due| due.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = self.work.notified() => {}
                () = tokio::time::sleep(wait) => {}
                Some(done) = active.join_next() => if let Ok((uid, outcome)) = done {
                    self.lock().queue.finish(uid, outcome, Instant::now());
                }
            }
        }
    }

    async fn examine(&self, uid: &Uid) -> Outcome {
        let (verdict, item) = {
            let state = self.lock();
            (state.graph.examine(uid), state.graph.find(uid).cloned())
        };
        let Some(item) = item else { return Outcome::Done };
        match self.carry_out(&item, verdict).await {
            Ok(outcome) => outcome,
            Err(Failure::Request(kube::Error::Api(status))) if status.code == 404 => Outcome::Done,
            Err(failure) => {
                tracing::debug!(object = %item.key, resource = %item.resource, %failure, "garbage collection is tried again");
                Outcome::Failed
            }
        }
    }

    async fn carry_out(&self, item: &Item, verdict: Verdict) -> Result<Outcome, Failure> {
        let Some(api) = self.api_of(item) else { return Ok(Outcome::Failed) };
        match verdict {
            Verdict::Keep => {}
            Verdict::Ask(owners) => return self.ask(item, owners).await,
            Verdict::Delete(policy) => return self.delete(&api, item, policy).await,
            Verdict::Detach(gone) => detach(&api, item, &gone).await?,
            Verdict::Orphan(dependents) => {
                let own = BTreeSet::from([item.uid.clone()]);
                for dependent in dependents {
                    let found = self.lock().graph.find(&dependent).cloned();
                    let Some(dependent) = found else { continue };
                    let Some(api) = self.api_of(&dependent) else { continue };
                    detach(&api, &dependent, &own).await?;
                }
                finish(&api, item, ORPHAN).await?;
            }
            Verdict::Finish => finish(&api, item, FOREGROUND).await?,
        }
        Ok(Outcome::Done)
    }

    /// Deletes what has no owner, unless it was given another one or was let go meanwhile: the watches of owners and dependents
    /// are not in step, so an owner may be seen to go before the reference to it is seen to be dropped.
    async fn delete(
        &self,
        api: &Api<DynamicObject>,
        item: &Item,
        policy: Policy,
    ) -> Result<Outcome, Failure> {
        let Some(present) = api.get_metadata_opt(&item.key.name).await? else { return Ok(Outcome::Done) };
        let Some(now) = Item::of(&item.resource, &present).filter(|now| now.uid == item.uid) else {
            return Ok(Outcome::Done);
        };
        if now.owners != item.owners || now.deleting {
            let mut state = self.lock();
            let examine = state.graph.observe(now);
            state.enqueue(examine);
            return Ok(Outcome::Done);
        }
        let params = DeleteParams {
            propagation_policy: Some(match policy {
                Policy::Background => PropagationPolicy::Background,
                Policy::Foreground => PropagationPolicy::Foreground,
                Policy::Orphan => PropagationPolicy::Orphan,
            }),
            preconditions: Some(Preconditions {
                uid: Some(item.uid.to_string()),
                resource_version: present.metadata.resource_version,
            }),
            ..DeleteParams::default()
        };
        api.delete(&item.key.name, &params).await?;
        tracing::info!(object = %item.key, resource = %item.resource, "deleted: no owner is left");
        Ok(Outcome::Done)
    }

    /// Asks whether owners that no watch has shown exist: a watch may be behind, or there may be none.
    async fn ask(&self, item: &Item, owners: Vec<Owner>) -> Result<Outcome, Failure> {
        let mut wait = None;
        for owner in owners {
            let resources = self.resources();
            let same = |resource: &&Resource| {
                resource.api.kind == *owner.kind && same_group(&resource.api.api_version, &owner.api_version)
            };
            let Some(resource) = resources.iter().find(same) else {
                return Err(Failure::UnknownKind { api_version: owner.api_version, kind: owner.kind });
            };
            if resource.namespaced && item.key.namespace.is_empty() {
                self.lock().graph.confirm_absent(owner.uid);
                continue;
            }
            let found = resource.api(&self.client, &item.key.namespace).get_metadata_opt(&owner.name).await?;
            if found.and_then(|found| found.metadata.uid).as_deref() == Some(&*owner.uid) {
                wait = Some(ASK_AGAIN);
            } else {
                self.lock().graph.confirm_absent(owner.uid);
            }
        }
        if wait.is_none() {
            self.lock().queue.add(item.uid.clone());
        }
        Ok(wait.map_or(Outcome::Done, Outcome::DoneUntil))
    }

    fn api_of(&self, item: &Item) -> Option<Api<DynamicObject>> {
        let resources = self.resources();
        let resource = resources.iter().find(|resource| resource.name == item.resource)?;
        Some(resource.api(&self.client, &item.key.namespace))
    }

    /// Keeps one watch for each resource that nobody else watches, and discovers again when definitions change.
    async fn follow_resources(self: Arc<Self>) {
        let mut watches: BTreeMap<Arc<str>, Watch> = BTreeMap::new();
        let again = Arc::new(Notify::new());
        loop {
            match discover(&self.client).await {
                Ok(resources) => self.adjust(&mut watches, resources, &again),
                Err(error) => {
                    tracing::warn!(%error, "resources cannot be discovered: nothing is collected until they can");
                    tokio::time::sleep(DISCOVERY_RETRY).await;
                    continue;
                }
            }
            again.notified().await;
        }
    }

    fn adjust(
        self: &Arc<Self>,
        watches: &mut BTreeMap<Arc<str>, Watch>,
        resources: Arc<[Resource]>,
        again: &Arc<Notify>,
    ) {
        let told = told_resources();
        watches.retain(|name, _| resources.iter().any(|resource| resource.name == *name));
        for resource in
            resources.iter().filter(|resource| resource.watchable && !told.contains(&resource.name))
        {
            watches.entry(resource.name.clone()).or_insert_with(|| {
                let (collector, resource, again) = (self.clone(), resource.clone(), again.clone());
                Watch(tokio::spawn(async move { collector.follow(&resource, &again).await }).abort_handle())
            });
        }
        self.resources.send_replace(resources);
        self.work.notify_one();
    }

    async fn follow(&self, resource: &Resource, again: &Notify) {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.client.clone(), &resource.api);
        let events = watcher(api, watcher::Config::default()).default_backoff();
        pin_mut!(events);
        let mut missing = BTreeSet::new();
        let mut turn = self.listing.acquire().await.ok();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => missing = self.lock().graph.of_resource(&resource.name),
                Ok(Event::InitApply(object)) => {
                    missing.remove(object.metadata.uid.as_deref().unwrap_or(""));
                    self.seen(resource, &object, again);
                }
                Ok(Event::InitDone) => {
                    turn.take();
                    let gone: Vec<Uid> = std::mem::take(&mut missing).into_iter().collect();
                    let mut state = self.lock();
                    for uid in gone {
                        let examine = state.graph.forget(&uid);
                        state.enqueue(examine);
                    }
                }
                Ok(Event::Apply(object)) => self.seen(resource, &object, again),
                Ok(Event::Delete(object)) => {
                    self.observe(&resource.name, Some(&object), None);
                    if &*resource.name == DEFINITIONS {
                        again.notify_one();
                    }
                }
                Err(error) => {
                    // One resource that cannot be listed does not keep the others waiting.
                    turn.take();
                    tracing::debug!(resource = %resource.name, %error, "watch is retried");
                }
            }
        }
    }

    fn seen(&self, resource: &Resource, object: &PartialObjectMeta<DynamicObject>, again: &Notify) {
        self.observe(&resource.name, None, Some(object));
        if &*resource.name == DEFINITIONS {
            again.notify_one();
        }
    }
}

impl State {
    fn enqueue(&mut self, uids: Vec<Uid>) {
        for uid in uids {
            self.queue.add(uid);
        }
    }
}

/// A running watch; it ends with this.
struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Resources of which [`Collector::tell`] hears everything. Leases are watched in one namespace only and ConfigMaps of one name only,
/// so not they.
fn told_resources() -> BTreeSet<Arc<str>> {
    macro_rules! names {
        ($($kind:ident $field:ident $scope:ident $group:literal $plural:literal,)*) => {
            [$(crate::discovered::name($group, $plural)),*].into_iter().collect()
        };
    }
    let mut names: BTreeSet<Arc<str>> = with_kinds!(names);
    names.remove("leases.coordination.k8s.io");
    names.remove("configmaps");
    names
}

/// References name a version of their time; the object is the same in every version.
fn same_group(left: &str, right: &str) -> bool {
    let group =
        |api_version: &str| api_version.rsplit_once('/').map_or(String::new(), |(group, _)| group.to_owned());
    group(left) == group(right)
}

/// Removes owner references from the object as it is now.
async fn detach(api: &Api<DynamicObject>, item: &Item, owners: &BTreeSet<Uid>) -> Result<(), Failure> {
    let Some(present) = api.get_metadata_opt(&item.key.name).await? else { return Ok(()) };
    if present.metadata.uid.as_deref() != Some(&*item.uid) {
        return Ok(());
    }
    let references = present.metadata.owner_references.unwrap_or_default();
    let left: Vec<_> =
        references.iter().filter(|reference| !owners.contains(reference.uid.as_str())).collect();
    if left.len() == references.len() {
        return Ok(());
    }
    let patch = json!({"metadata": {"uid": &*item.uid, "resourceVersion": present.metadata.resource_version, "ownerReferences": left}});
    api.patch_metadata(&item.key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// Removes one finalizer from the object as it is now.
async fn finish(api: &Api<DynamicObject>, item: &Item, finalizer: &str) -> Result<(), Failure> {
    let Some(present) = api.get_metadata_opt(&item.key.name).await? else { return Ok(()) };
    let finalizers = present.metadata.finalizers.unwrap_or_default();
    if present.metadata.uid.as_deref() != Some(&*item.uid)
        || !finalizers.iter().any(|present| present == finalizer)
    {
        return Ok(());
    }
    let left: Vec<_> = finalizers.iter().filter(|present| *present != finalizer).collect();
    let patch = json!({"metadata": {"uid": &*item.uid, "resourceVersion": present.metadata.resource_version, "finalizers": left}});
    api.patch_metadata(&item.key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}
