//! One pod: asks [`reconcile`] what to do, does it in tasks of its own, folds what comes of it, publishes the status.

mod recalling;
mod starting;
mod stopping;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::setup::{self, Setback, Tokens, Up};
use super::{ContainerView, Context, LivePod, PodRecord};
use crate::cluster::{Cluster, ClusterError, Event as ClusterEvent, EventKind, PodId};
use crate::lifecycle::{Action, Observed, Sandbox, State, Unhealthy, init_containers, later, reconcile};
use crate::network::PodNet;
use crate::plan::{PodPaths, follows_objects};
use crate::probe::{ProbeKind, Verdict};
use crate::protocol::ContainerRecord;
use crate::status;
use crate::volume::VolumePlan;

/// Things that happened and are not folded yet.
const EVENTS_MAX: usize = 256;
/// While a container waits for an image, the store is looked at this often.
const IMAGE_POLL: Duration = Duration::from_millis(250);
/// Between two attempts to make a pod's surroundings.
const SETUP_RETRY: SignedDuration = SignedDuration::from_secs(1);
/// Between two attempts to write to the API server: first and longest.
const WRITE_RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The object of a pod as last seen.
#[derive(Clone, Debug)]
pub(crate) struct PodInput {
    pub pod: Arc<Pod>,
    /// It is not in the API server any more.
    pub gone: bool,
}

/// Something that happened.
pub(super) enum Event {
    /// Making the pod's surroundings ended.
    Up(Result<Box<Up>, Setback>),
    /// PID 1 tells a container's new state.
    Record(ContainerRecord),
    /// PID 1 is gone.
    Lost,
    /// The plan of an attempt is made, its start asked for.
    Prepared { container: String, image_id: String, stop_signal: Option<String> },
    /// An attempt did not come to a start.
    NotStarted { container: String, reason: &'static str, message: String, pull: bool },
    /// It is a while since an image was not found.
    PullBackOff { container: String },
    /// A probe's verdict changed.
    Probe { container: String, attempt: u32, kind: ProbeKind, verdict: Verdict, grace_secs: Option<i64> },
    /// A probe failed once.
    ProbeFailed { container: String, attempt: u32, message: String },
    /// A postStart hook failed.
    HookFailed { container: String, attempt: u32, message: String },
    /// Files of volumes were brought up to date.
    Refreshed(Result<(BTreeMap<String, VolumePlan>, Tokens), Setback>),
    /// Nothing of the pod is left but its directory.
    Down,
}

/// One pod's worker.
pub(super) struct Worker {
    context: Arc<Context>,
    pod: Arc<Pod>,
    id: PodId,
    paths: PodPaths,
    net: Option<PodNet>,
    observed: Observed,
    status: PodStatus,
    statuses: watch::Sender<Option<Arc<PodStatus>>>,
    writer: tokio::task::JoinHandle<()>,
    views: watch::Sender<BTreeMap<String, ContainerView>>,
    events: mpsc::Sender<Event>,
    inbox: Option<mpsc::Receiver<Event>>,
    volumes: BTreeMap<String, VolumePlan>,
    tokens: Tokens,
    refreshing: bool,
    ip: Option<Ipv4Addr>,
    probes: BTreeMap<String, JoinSet<()>>,
    stop_signals: BTreeMap<String, String>,
    images_seen: [Option<std::time::SystemTime>; 2],
    /// Tasks that end with the worker.
    tasks: JoinSet<()>,
}

impl Worker {
    /// A worker for a pod that may be new or known from an earlier run.
    pub(super) fn new(context: Arc<Context>, pod: Arc<Pod>) -> Self {
        let id = PodId::of(&pod);
        let paths = context.paths(&id);
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let (statuses, receiver) = watch::channel(None);
        let writer = tokio::spawn(write_statuses(context.cluster.clone(), id.clone(), receiver));
        let status = pod.status.clone().unwrap_or_default();
        let observed = recalling::observe(&pod);
        let (views, containers) = watch::channel(BTreeMap::new());
        context.live.insert(LivePod { id: id.clone(), paths: paths.clone(), containers });
        Self {
            net: context.net(&pod, &id),
            images_seen: context.images.changed_at(),
            context,
            pod,
            id,
            paths,
            observed,
            status,
            statuses,
            writer,
            views,
            events,
            inbox: Some(inbox),
            volumes: BTreeMap::new(),
            tokens: Tokens::new(),
            refreshing: false,
            ip: None,
            probes: BTreeMap::new(),
            stop_signals: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Works until the pod is gone.
    pub(super) async fn run(mut self, mut input: watch::Receiver<PodInput>) {
        self.adopt().await;
        let Some(mut inbox) = self.inbox.take() else { return };
        let mut sources = self.context.cluster.sources_changed();
        sources.mark_unchanged();
        loop {
            while self.tasks.try_join_next().is_some() {}
            let plan = reconcile(&self.pod, &self.observed, Timestamp::now());
            let mut finished = false;
            for action in plan.actions {
                finished |= self.carry_out(action);
            }
            self.publish();
            if finished {
                break;
            }
            let wake = wake_in(plan.wake_at, self.renewal());
            let waits_for_image =
                self.observed.containers.values().any(|seen| seen.pull_failures > 0 && !seen.is_alive());
            tokio::select! {
                changed = input.changed() => {
                    // The agent is gone: the pod stays as it is.
                    if changed.is_err() { return }
                    let now = input.borrow_and_update().clone();
                    self.take_input(now);
                }
                Some(event) = inbox.recv() => {
                    self.fold(event);
                    while let Ok(event) = inbox.try_recv() {
                        self.fold(event);
                    }
                }
                Ok(()) = sources.changed() => self.sources_changed(),
                () = tokio::time::sleep(wake) => self.refresh_if_due(),
                () = tokio::time::sleep(IMAGE_POLL), if waits_for_image => self.look_for_images(),
            }
        }
        self.finish().await;
    }

    /// Takes over what an earlier agent left running.
    async fn adopt(&mut self) {
        let record = std::fs::read(self.paths.record())
            .ok()
            .and_then(|text| serde_json::from_slice::<PodRecord>(&text).ok());
        let Some(record) = record else { return };
        self.ip = record.ip;
        self.observed.ip = self.shown_ip();
        if let Some((control, records)) = setup::adopt(&self.paths).await {
            let made =
                setup::make_volumes(&self.context, &self.pod, &self.id, &self.paths, self.ip, Tokens::new())
                    .await;
            let (volumes, tokens) = made.unwrap_or_default();
            // Containers that PID 1 does not know were never started, whatever the status says.
            self.fold(Event::Up(Ok(Box::new(Up { control, records, volumes, tokens }))));
        }
    }

    fn shown_ip(&self) -> Option<IpAddr> {
        match (&self.net, self.ip) {
            (Some(_), ip) => ip.map(IpAddr::V4),
            (None, _) => Some(self.context.config.node_ip),
        }
    }

    fn take_input(&mut self, input: PodInput) {
        let shortened = (input.gone && !self.observed.gone)
            || input.pod.metadata.deletion_grace_period_seconds
                < self.pod.metadata.deletion_grace_period_seconds;
        self.pod = input.pod;
        self.observed.gone = input.gone;
        if shortened {
            self.hurry();
        }
    }

    /// True when nothing is left to do here.
    fn carry_out(&mut self, action: Action) -> bool {
        match action {
            Action::StartSandbox => self.start_sandbox(),
            Action::StartContainer { name, attempt } => self.start_container(&name, attempt),
            Action::StopContainer { name, grace, reason } => self.stop_container(&name, grace, &reason),
            Action::RemoveSandbox => self.remove_sandbox(),
            Action::Finish => return true,
        }
        false
    }

    fn fold(&mut self, event: Event) {
        match event {
            Event::Up(Ok(up)) => self.up(*up),
            Event::Up(Err(setback)) => {
                self.warn(None, setback.reason, setback.message);
                self.observed.sandbox =
                    Sandbox::Absent { retry_at: Some(later(Timestamp::now(), SETUP_RETRY)) };
            }
            Event::Record(record) => self.take_record(record),
            Event::Lost => self.lost(),
            Event::Prepared { container, image_id, stop_signal } => {
                if let Some(signal) = stop_signal {
                    self.stop_signals.insert(container.clone(), signal);
                }
                if let Some(seen) = self.observed.containers.get_mut(&container) {
                    seen.image_id = image_id;
                    seen.pull_failures = 0;
                }
            }
            Event::NotStarted { container, reason, message, pull } => {
                self.not_started(&container, reason, message, pull)
            }
            Event::PullBackOff { container } => self.pull_back_off(&container),
            Event::Probe { container, attempt, kind, verdict, grace_secs } => {
                self.take_verdict(&container, attempt, kind, verdict, grace_secs);
            }
            Event::ProbeFailed { container, attempt, message } => {
                if self.runs(&container, attempt) {
                    self.warn(Some(&container), "Unhealthy", message);
                }
            }
            Event::HookFailed { container, attempt, message } => {
                if self.runs(&container, attempt) {
                    self.warn(Some(&container), "FailedPostStartHook", message.clone());
                    self.mark_unhealthy(&container, format!("its postStart hook failed: {message}"), None);
                }
            }
            Event::Refreshed(outcome) => {
                self.refreshing = false;
                match outcome {
                    Ok((volumes, tokens)) => (self.volumes, self.tokens) = (volumes, tokens),
                    Err(setback) => self.warn(None, setback.reason, setback.message),
                }
            }
            Event::Down => {
                self.observed.sandbox = Sandbox::Removed;
                if let Some(ip) = self.ip.take() {
                    self.context.release_address(ip);
                }
            }
        }
    }

    fn runs(&self, container: &str, attempt: u32) -> bool {
        self.observed
            .containers
            .get(container)
            .is_some_and(|seen| seen.attempt == attempt && matches!(seen.state, State::Running { .. }))
    }

    fn take_verdict(
        &mut self,
        container: &str,
        attempt: u32,
        kind: ProbeKind,
        verdict: Verdict,
        grace_secs: Option<i64>,
    ) {
        // Readiness counts until the end; the others must not restart what is being stopped.
        let alive = self
            .observed
            .containers
            .get(container)
            .is_some_and(|seen| seen.attempt == attempt && seen.is_alive());
        if !alive || (kind != ProbeKind::Readiness && !self.runs(container, attempt)) {
            return;
        }
        let has_readiness = self.container(container).is_some_and(|it| it.readiness_probe.is_some());
        let Some(seen) = self.observed.containers.get_mut(container) else { return };
        match (kind, verdict) {
            (ProbeKind::Startup, Verdict::Passed) => {
                seen.started = true;
                seen.ready = !has_readiness;
            }
            (ProbeKind::Readiness, verdict) => seen.ready = verdict == Verdict::Passed,
            (ProbeKind::Liveness, Verdict::Passed) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, Verdict::Failed) => {
                let message = format!(
                    "Container {container} failed {} probe, will be restarted",
                    kind.title().to_lowercase()
                );
                self.mark_unhealthy(container, message, grace_secs);
            }
        }
    }

    fn mark_unhealthy(&mut self, container: &str, message: String, grace_secs: Option<i64>) {
        if let Some(seen) = self.observed.containers.get_mut(container) {
            seen.unhealthy = Some(Unhealthy { message, grace_secs });
        }
    }

    fn container(&self, name: &str) -> Option<&Container> {
        let spec = self.pod.spec.as_ref()?;
        spec.containers.iter().chain(init_containers(spec)).find(|container| container.name == name)
    }

    /// ConfigMaps or Secrets changed: what waits for them tries again, volumes follow.
    fn sources_changed(&mut self) {
        let retry = |retry_at: &mut Option<Timestamp>| *retry_at = None;
        if let Sandbox::Absent { retry_at } = &mut self.observed.sandbox {
            retry(retry_at);
        }
        for seen in self.observed.containers.values_mut() {
            if let State::Waiting { reason: "CreateContainerConfigError", retry_at, .. } = &mut seen.state {
                retry(retry_at);
            }
        }
        self.refresh();
    }

    /// When a token must be renewed.
    fn renewal(&self) -> Option<Timestamp> {
        self.tokens.values().map(|held| held.renew_at).min()
    }

    fn refresh_if_due(&mut self) {
        if self.renewal().is_some_and(|at| at <= Timestamp::now()) {
            self.refresh();
        }
    }

    fn refresh(&mut self) {
        if self.observed.sandbox != Sandbox::Ready || self.refreshing || !follows_objects(&self.pod) {
            return;
        }
        self.refreshing = true;
        let (context, pod, id, paths) =
            (self.context.clone(), self.pod.clone(), self.id.clone(), self.paths.clone());
        let (ip, tokens, events) = (self.ip, self.tokens.clone(), self.events.clone());
        self.tasks.spawn(async move {
            let made = setup::make_volumes(&context, &pod, &id, &paths, ip, tokens).await;
            let _ = events.send(Event::Refreshed(made)).await;
        });
    }

    /// An image may have been loaded: waiting containers try at once.
    fn look_for_images(&mut self) {
        let now = self.context.images.changed_at();
        if now == self.images_seen {
            return;
        }
        self.images_seen = now;
        for seen in self.observed.containers.values_mut().filter(|seen| seen.pull_failures > 0) {
            if let State::Waiting { retry_at, .. } = &mut seen.state {
                *retry_at = None;
            }
        }
    }

    fn publish(&mut self) {
        let status = status::compute(
            &self.pod,
            &self.observed,
            &self.status,
            self.context.config.node_ip,
            Timestamp::now(),
        );
        if status != self.status {
            self.status = status;
            self.statuses.send_replace(Some(Arc::new(self.status.clone())));
        }
        let spec = self.pod.spec.clone().unwrap_or_default();
        let view = |container: &Container| {
            let seen = self.observed.containers.get(&container.name)?;
            let waiting = match &seen.state {
                State::Waiting { reason, .. } => (*reason).to_owned(),
                _ => "ContainerCreating".to_owned(),
            };
            let started =
                !matches!(seen.state, State::Waiting { .. } | State::Starting) || seen.last.is_some();
            let view = ContainerView {
                attempt: seen.attempt,
                running: seen.is_alive(),
                started,
                waiting,
                tty: container.tty == Some(true),
                stdin_once: container.stdin == Some(true) && container.stdin_once == Some(true),
            };
            Some((container.name.clone(), view))
        };
        let views: BTreeMap<_, _> =
            spec.containers.iter().chain(init_containers(&spec)).filter_map(view).collect();
        self.views.send_if_modified(|known| {
            *known != views && {
                *known = views;
                true
            }
        });
    }

    /// The last status, then the object's end, then the directory's.
    async fn finish(self) {
        let Self { context, id, paths, statuses, writer, mut tasks, observed, ip, .. } = self;
        tasks.abort_all();
        drop(statuses);
        if observed.gone {
            writer.abort();
        } else {
            let _ = writer.await;
            let mut wait = WRITE_RETRY.0;
            while let Err(ClusterError::Failed(error)) = context.cluster.delete(&id).await {
                tracing::warn!(pod = %id, error, "the object of a pod that ended could not be removed; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WRITE_RETRY.1);
            }
        }
        if let Some(ip) = ip {
            context.release_address(ip);
        }
        setup::forget(&paths).await;
        context.live.remove(&id);
    }

    fn tell(&self, container: Option<&str>, kind: EventKind, reason: &'static str, message: String) {
        let field = container.map(|name| {
            let spec = self.pod.spec.as_ref();
            let is_init = spec.is_some_and(|spec| init_containers(spec).iter().any(|init| init.name == name));
            format!("spec.{}{{{name}}}", if is_init { "initContainers" } else { "containers" })
        });
        self.context.cluster.event(ClusterEvent { pod: self.id.clone(), field, kind, reason, message });
    }

    fn note(&self, container: Option<&str>, reason: &'static str, message: String) {
        self.tell(container, EventKind::Normal, reason, message);
    }

    fn warn(&self, container: Option<&str>, reason: &'static str, message: String) {
        self.tell(container, EventKind::Warning, reason, message);
    }
}

fn wake_in(plan: Option<Timestamp>, renewal: Option<Timestamp>) -> Duration {
    let at = [plan, renewal].into_iter().flatten().min();
    let wait = at.map(|at| at.duration_since(Timestamp::now()));
    // A millisecond more: waking just before the time would ask the same again.
    wait.map_or(Duration::from_secs(3600), |wait| {
        Duration::try_from(wait).unwrap_or_default() + Duration::from_millis(1)
    })
}

/// Writes the newest status; older ones that were not written yet are skipped. Ends with its sender, after the last one.
async fn write_statuses(
    cluster: Arc<dyn Cluster>,
    id: PodId,
    mut statuses: watch::Receiver<Option<Arc<PodStatus>>>,
) {
    while statuses.changed().await.is_ok() {
        let mut wait = WRITE_RETRY.0;
        loop {
            let status = statuses.borrow_and_update().clone();
            let Some(status) = status else { break };
            match cluster.write_status(&id, &status).await {
                Ok(()) | Err(ClusterError::Gone) => break,
                Err(ClusterError::Failed(error)) => {
                    tracing::debug!(pod = %id, error, "a status could not be written; trying again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(WRITE_RETRY.1);
                }
            }
        }
    }
}
