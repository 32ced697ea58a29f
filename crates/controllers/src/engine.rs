//! The loops: watches into caches, changes into tasks, tasks into plans, plans into requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;

use fairway_kit::watch::ObjectKey;
use fairway_kit::{Shutdown, Watched};

use crate::apply::{Applier, Caches, Stored, WriteError};
use crate::cache::Cache;
use crate::events::Recorder;
use crate::garbage::Collector;
use crate::node_lifecycle::LEASE_NAMESPACE;
use crate::queue::{Outcome, Queue};
use crate::task::{Duties, Settings, Task, affected, is_ending};
use crate::world::*;
use crate::{namespace, namespace_defaults};

/// Tasks carried out at the same time.
const CONCURRENT_TASKS_MAX: usize = 32;
/// A namespace that is waited for is looked at again after this even if nothing was seen to disappear (events and the like are
/// not watched).
const NAMESPACE_AGAIN: Duration = Duration::from_secs(2);

/// Disappearances that wait to be looked at; more are left to [`NAMESPACE_AGAIN`].
const REMOVALS_MAX: usize = 1024;

/// Shared by all loops of one process.
pub(crate) struct Engine {
    client: Client,
    settings: Settings,
    caches: Caches,
    recorder: Recorder,
    collector: Arc<Collector>,
    queue: Mutex<Queue<Task>>,
    work: Notify,
}

/// Runs everything until shutdown; `ready` is called when every watch has delivered its first list.
pub(crate) async fn run(client: Client, settings: Settings, shutdown: Shutdown, ready: impl FnOnce()) {
    let (removed, removals) = mpsc::channel(REMOVALS_MAX);
    let engine = Arc::new(Engine {
        recorder: Recorder::start(client.clone(), shutdown.clone()),
        collector: Collector::new(client.clone(), removed),
        caches: Caches::default(),
        queue: Mutex::default(),
        work: Notify::new(),
        client,
        settings,
    });
    if shutdown.unless_requested(engine.clone().start_watches(&shutdown)).await.is_none() {
        return;
    }
    ready();
    let mut others = JoinSet::new();
    if engine.settings.duties == Duties::WholeCluster {
        others.spawn(engine.collector.clone().run(shutdown.clone()));
        others.spawn(engine.clone().follow_removals(removals, shutdown.clone()));
    }
    shutdown.unless_requested(engine.work_off()).await;
    others.join_all().await;
}

impl Engine {
    /// Starts one watch a kind and waits until all are complete: deciding on half a state would create what is there already.
    async fn start_watches(self: Arc<Self>, shutdown: &Shutdown) {
        let complete = Arc::new(Semaphore::new(0));
        let mut kinds = 0;
        macro_rules! start {
            ($($kind:ident $field:ident $scope:ident $group:literal $plural:literal,)*) => {
                $(
                    if is_watched(Kind::$kind, self.settings.duties) {
                        kinds += 1;
                        let api: Api<$kind> = Api::all(self.client.clone());
                        let watched = fairway_kit::watch::watch(api, selection(Kind::$kind), shutdown.clone());
                        tokio::spawn(self.clone().follow(watched, |caches| &caches.$field, complete.clone(), shutdown.clone()));
                    }
                )*
            };
        }
        with_kinds!(start);
        let _ = complete.acquire_many(kinds).await;
    }

    async fn follow<K>(
        self: Arc<Self>,
        mut watched: Watched<K>,
        cache: fn(&Caches) -> &Cache<K>,
        complete: Arc<Semaphore>,
        shutdown: Shutdown,
    ) where
        K: Stored + Send + Sync + 'static,
        Change: From<Delta<K>>,
    {
        let mut announced = false;
        while shutdown.unless_requested(watched.changed()).await.is_some() {
            let snapshot = watched.snapshot();
            if !snapshot.synced {
                continue;
            }
            let deltas = cache(&self.caches).observe(&snapshot, Instant::now());
            self.tell(deltas.into_iter().map(Change::from).collect());
            if !announced {
                announced = true;
                complete.add_permits(1);
            }
        }
    }

    /// Turns changes into work.
    fn tell(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let world = self.caches.world();
        for change in &changes {
            self.collector.tell(change);
            let tasks = affected(&world, &self.settings, change);
            let tasks = tasks.into_iter().filter(|task| task.is_part_of(self.settings.duties));
            let mut queue = self.queue();
            for task in tasks {
                queue.add(task);
            }
        }
        self.work.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Task>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work_off(self: &Arc<Self>) {
        let mut active: JoinSet<(Task, Outcome)> = JoinSet::new();
        loop {
            while active.len() < CONCURRENT_TASKS_MAX {
                let Some(task) = self.queue().take(Instant::now()) else { break };
                let engine = self.clone();
                active.spawn(async move {
                    let outcome = engine.perform(&task).await;
                    (task, outcome)
                });
            }
            let due = if active.len() < CONCURRENT_TASKS_MAX { self.queue().next_due() } else { None };
            let due = [due, self.caches.expires_at()].into_iter().flatten().min();
            let wait =
                due.map_or(Duration::from_secs(3600), |due| due.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = self.work.notified() => {}
                () = tokio::time::sleep(wait) => {
                    let forgotten = self.caches.expire(Instant::now());
                    self.tell(forgotten);
                }
                Some(done) = active.join_next() => match done {
                    Ok((task, outcome)) => self.queue().finish(task, outcome, Instant::now()),
                    Err(error) => tracing::error!(%error, "a controller task was lost: its object is looked at again on its next change"),
                },
            }
        }
    }

    async fn perform(&self, task: &Task) -> Outcome {
        if let Task::Namespace(name) = task {
            return self.end_namespace(name).await;
        }
        let plan = task.reconcile(&self.caches.world(), &self.settings, Timestamp::now());
        for notice in plan.notices {
            self.recorder.tell(task.component(), notice);
        }
        match self.applier(task).carry_out(plan.writes).await {
            Ok(()) => plan.look_again_after.map_or(Outcome::Done, Outcome::DoneUntil),
            Err(error) => report(task, &error),
        }
    }

    fn applier(&self, task: &Task) -> Applier<'_> {
        let component = task.component();
        Applier {
            client: &self.client,
            caches: &self.caches,
            recorder: &self.recorder,
            component,
            tell: self,
        }
    }

    async fn end_namespace(&self, name: &str) -> Outcome {
        let task = Task::Namespace(name.to_owned());
        let world = self.caches.world();
        let Some(namespace) = world.namespaces.get(&ObjectKey::new("", name)) else { return Outcome::Done };
        let resources = self.collector.resources();
        match namespace::reconcile(&self.client, &resources, namespace, Timestamp::now()).await {
            Err(error) => {
                tracing::warn!(namespace = name, %error, "the namespace cannot be emptied yet; retried with back-off");
                Outcome::Failed
            }
            Ok(writes) => match self.applier(&task).carry_out(writes).await {
                Ok(()) => Outcome::DoneUntil(NAMESPACE_AGAIN),
                Err(error) => report(&task, &error),
            },
        }
    }

    /// Something disappeared from a namespace: the last thing that it waited for, perhaps.
    async fn follow_removals(self: Arc<Self>, mut removals: mpsc::Receiver<Arc<str>>, shutdown: Shutdown) {
        while let Some(Some(namespace)) = shutdown.unless_requested(removals.recv()).await {
            if is_ending(&self.caches.world(), &namespace) {
                self.queue().add(Task::Namespace(namespace.to_string()));
                self.work.notify_one();
            }
        }
    }
}

impl crate::apply::Listener for Engine {
    fn changed(&self, changes: Vec<Change>) {
        self.tell(changes);
    }
}

/// What of a kind is watched: all of it, except for kinds of which others have very many.
fn selection(kind: Kind) -> watcher::Config {
    match kind {
        Kind::Lease => watcher::Config::default().fields(&format!("metadata.namespace={LEASE_NAMESPACE}")),
        Kind::ConfigMap => {
            watcher::Config::default().fields(&format!("metadata.name={}", namespace_defaults::AUTHORITY))
        }
        _ => watcher::Config::default(),
    }
}

/// Whether a kind has to be watched at all: beside the controllers of another only what our own part needs.
fn is_watched(kind: Kind, duties: Duties) -> bool {
    match duties {
        Duties::WholeCluster => true,
        Duties::AddOns => matches!(kind, Kind::Service | Kind::Ingress | Kind::IngressClass),
    }
}

fn report(task: &Task, error: &WriteError) -> Outcome {
    match error {
        // Ordinary: the newer state is on its way.
        WriteError::Conflict { .. } | WriteError::Refused { ending: true, .. } => {
            tracing::debug!(?task, %error)
        }
        WriteError::Refused { .. } | WriteError::Unreachable { .. } => tracing::warn!(?task, "{error}"),
    }
    Outcome::Failed
}
