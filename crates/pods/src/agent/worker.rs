//! One pod: asks [`reconcile`] what to do, does it in tasks of its own, folds what comes of it, publishes the status.

mod following;
mod hooking;
mod measuring;
mod publishing;
mod recalling;
mod starting;
mod stopping;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::setup::{self, Setback, Tokens, Up};
use super::{ContainerView, Context, LivePod, PodRecord};
use crate::cluster::{ClusterError, PodId};
use crate::lifecycle::{
    Action, InitProgress, Observation, Observed, Part, RestartPolicy, Sandbox, State, Unhealthy,
    ephemeral_names, find, init_containers, init_progress, is_complete, later, reconcile, rejection,
    restart_policy, setup_delay,
};
use crate::network::PodNet;
use crate::plan::PodPaths;
use crate::probe::{ProbeKind, Verdict};
use crate::protocol::ContainerRecord;
use crate::volume::{VolumePlan, versions};

/// Things that happened and are not folded yet.
const EVENTS_MAX: usize = 256;
/// While a container waits for an image, the store is looked at this often.
const IMAGE_POLL: Duration = Duration::from_millis(250);
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
    /// A postStart hook is through.
    PostStarted { container: String, attempt: u32, outcome: Result<(), String> },
    /// A preStop hook failed; the container is stopped anyway.
    PreStopFailed { container: String, message: String },
    /// A volume holds more than it may.
    Oversized { volume: String },
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
    /// The last status that the API server has.
    written: watch::Receiver<Option<Arc<PodStatus>>>,
    views: watch::Sender<BTreeMap<String, ContainerView>>,
    objects: watch::Sender<Arc<Pod>>,
    events: mpsc::Sender<Event>,
    inbox: Option<mpsc::Receiver<Event>>,
    volumes: BTreeMap<String, VolumePlan>,
    tokens: Tokens,
    /// Of the objects that are in the volumes' files.
    versions: Vec<Option<String>>,
    refreshing: bool,
    /// When to try again after files of volumes could not be brought up to date.
    refresh_at: Option<Timestamp>,
    /// Something changed while files of volumes were being written.
    refresh_again: bool,
    /// Attempts in a row to make the pod's surroundings.
    setup_failures: u32,
    /// The next look at how much is in volumes that have a limit.
    measure_at: tokio::time::Instant,
    /// The mount namespaces of running containers.
    mounts: BTreeMap<String, u64>,
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
        let (write, written) = watch::channel(pod.status.clone().map(Arc::new));
        let writing = publishing::write_statuses(context.cluster.clone(), id.clone(), receiver, write);
        let writer = tokio::spawn(writing);
        let status = pod.status.clone().unwrap_or_default();
        let observed = recalling::observe(&pod);
        let (views, containers) = watch::channel(BTreeMap::new());
        let (objects, object) = watch::channel(pod.clone());
        context.live.insert(LivePod { id: id.clone(), paths: paths.clone(), object, containers });
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
            written,
            views,
            objects,
            events,
            inbox: Some(inbox),
            volumes: BTreeMap::new(),
            tokens: Tokens::new(),
            versions: Vec::new(),
            refreshing: false,
            refresh_at: None,
            refresh_again: false,
            setup_failures: 0,
            measure_at: tokio::time::Instant::now(),
            mounts: BTreeMap::new(),
            ip: None,
            probes: BTreeMap::new(),
            stop_signals: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Works until the pod is gone.
    pub(super) async fn run(mut self, mut input: watch::Receiver<PodInput>) {
        self.adopt().await;
        self.tell_rejection();
        let Some(mut inbox) = self.inbox.take() else { return };
        let mut sources = self.context.cluster.sources_changed();
        sources.mark_unchanged();
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.note_progress();
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
                () = tokio::time::sleep_until(self.measure_at), if self.has_limited_volumes() => self.measure(),
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
        let adopted = setup::adopt(&self.paths).await;
        if adopted.is_none() {
            self.prepare_again();
        }
        self.versions = versions(&self.pod, &self.context.cluster.sources());
        if let Some((control, records)) = adopted {
            let made =
                setup::make_volumes(&self.context, &self.pod, &self.id, &self.paths, self.ip, Tokens::new())
                    .await;
            let (volumes, tokens) = made.unwrap_or_else(|setback| {
                self.refresh_failed(setback);
                Default::default()
            });
            // Containers that PID 1 does not know were never started, whatever the status says.
            self.fold(Event::Up(Ok(Box::new(Up { control, records, volumes, tokens, omitted: Vec::new() }))));
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
        let before = std::mem::replace(&mut self.pod, input.pod);
        self.observed.gone = input.gone;
        let spec = self.pod.spec.clone().unwrap_or_default();
        for name in ephemeral_names(&spec) {
            let new = || Observation::new("ContainerCreating");
            self.observed.containers.entry(name.to_owned()).or_insert_with(new);
        }
        let shown = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        if shown(&before) != shown(&self.pod) {
            self.refresh();
        }
        self.resize(&before);
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
                self.set_up_later();
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
            Event::PostStarted { container, attempt, outcome } => {
                self.post_started(&container, attempt, outcome)
            }
            Event::PreStopFailed { container, message } => {
                self.warn(Some(&container), "FailedPreStopHook", format!("PreStopHook failed: {message}"));
            }
            Event::Oversized { volume } => self.evict(&volume),
            Event::Refreshed(outcome) => {
                self.refreshing = false;
                if std::mem::take(&mut self.refresh_again) {
                    self.refresh();
                }
                match outcome {
                    Ok((volumes, tokens)) => (self.volumes, self.tokens) = (volumes, tokens),
                    Err(setback) => self.refresh_failed(setback),
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

    fn container(&self, name: &str) -> Option<Container> {
        find(self.pod.spec.as_ref()?, name).map(|(_, container)| container)
    }

    /// The next attempt to make the pod's surroundings, unless something changes before.
    fn set_up_later(&mut self) {
        self.setup_failures = self.setup_failures.saturating_add(1);
        let retry_at = Some(later(Timestamp::now(), setup_delay(self.setup_failures)));
        self.observed.sandbox = Sandbox::Absent { retry_at };
    }

    /// A pod that this node does not run is told why, once.
    fn tell_rejection(&self) {
        let refused = self.pod.spec.as_ref().and_then(rejection);
        if let Some(refused) = refused.filter(|_| self.status.phase.as_deref() != Some("Failed")) {
            self.warn(None, "SysctlForbidden", refused.message);
        }
    }

    /// Remembers that the init containers are through.
    fn note_progress(&mut self) {
        let Some(spec) = &self.pod.spec else { return };
        if self.observed.sandbox == Sandbox::Ready
            && init_progress(spec, &self.observed) == InitProgress::Done
        {
            self.observed.initialized = true;
        }
    }

    /// The pod's namespaces were lost: what its init containers made there is made again, as the kubelet does.
    fn prepare_again(&mut self) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let over = self.pod.metadata.deletion_timestamp.is_some() || is_complete(&spec, &self.observed);
        if over || restart_policy(&spec) == RestartPolicy::Never {
            return;
        }
        self.observed.initialized = false;
        for container in
            init_containers(&spec).iter().filter(|container| Part::of_init(container) == Part::Init)
        {
            if let Some(seen) = self.observed.containers.get_mut(&container.name) {
                let passed = matches!(&seen.state, State::Ended(ended) if ended.exit_code == 0);
                if passed {
                    seen.run_again();
                }
            }
        }
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
}

fn wake_in(plan: Option<Timestamp>, renewal: Option<Timestamp>) -> Duration {
    let at = [plan, renewal].into_iter().flatten().min();
    let wait = at.map(|at| at.duration_since(Timestamp::now()));
    // A millisecond more: waking just before the time would ask the same again.
    wait.map_or(Duration::from_secs(3600), |wait| {
        Duration::try_from(wait).unwrap_or_default() + Duration::from_millis(1)
    })
}
