//! Coming up: the pod's surroundings, its containers, and their probes.

use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::probing::Probing;
use super::super::setup::{self, Up};
use super::recalling::ended_by;
use super::{Event, Worker};
use crate::env::Addresses;
use crate::image::ResolveError;
use crate::lifecycle::{Ended, Sandbox, State, later, pull_delay, setup_delay};
use crate::plan::{PlanError, PlanInput, plan_container};
use crate::probe::{ProbeKind, ProbePlan};
use crate::protocol::{ContainerPlan, ContainerRecord, How, RecordState, Request};
use crate::sandbox;
use crate::volume::versions;

/// Bytes of a termination message.
const TERMINATION_BYTES_MAX: u64 = 4096;
/// Lines of the log that stand in for a termination message.
const TERMINATION_LINES_MAX: usize = 80;
/// So long after a failed look-up the reason is ErrImagePull, then ImagePullBackOff.
const PULL_ERROR_SHOWN: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);

/// A plan and what is shown of its image, or why there is none.
struct Refusal {
    reason: &'static str,
    message: String,
    pull: bool,
}

impl Worker {
    pub(super) fn start_sandbox(&mut self) {
        if self.net.is_some() && self.ip.is_none() {
            match self.context.take_address() {
                Ok(ip) => self.ip = Some(ip),
                Err(error) => {
                    self.warn(None, "FailedCreatePodSandBox", error.to_string());
                    return self.set_up_later();
                }
            }
        }
        self.observed.sandbox = Sandbox::Starting;
        self.versions = versions(&self.pod, &self.context.cluster.sources());
        let (context, pod, id) = (self.context.clone(), self.pod.clone(), self.id.clone());
        let (ip, tokens, events) = (self.ip, self.tokens.clone(), self.events.clone());
        self.tasks.spawn(async move {
            let up = setup::bring_up(context, pod, id, ip, tokens).await;
            let _ = events.send(Event::Up(up.map(Box::new))).await;
        });
    }

    pub(super) fn up(&mut self, up: Up) {
        let Up { mut control, records, volumes, tokens, omitted } = up;
        self.setup_failures = 0;
        omitted.into_iter().for_each(|message| self.warn(None, "DNSConfigForming", message));
        (self.volumes, self.tokens) = (volumes, tokens);
        self.observed.sandbox = Sandbox::Ready;
        self.observed.ip = self.shown_ip();
        for record in records {
            self.take_record(record);
        }
        // What changed while the volumes were written.
        self.follow_objects();
        let events = self.events.clone();
        self.tasks.spawn(async move {
            while let Some(message) = control.next().await {
                if let crate::protocol::Message::Changed(record) = message
                    && events.send(Event::Record(record)).await.is_err()
                {
                    return;
                }
            }
            let _ = events.send(Event::Lost).await;
        });
    }

    /// PID 1 died, and all containers with it.
    pub(super) fn lost(&mut self) {
        if self.observed.sandbox != Sandbox::Ready {
            return;
        }
        self.probes.clear();
        let now = Timestamp::now();
        for seen in self.observed.containers.values_mut() {
            let started_at = match seen.state {
                State::Running { started_at } | State::Stopping { started_at } => started_at,
                State::Starting => now,
                State::Waiting { .. } | State::Ended(_) => continue,
            };
            seen.end(Ended {
                started_at,
                finished_at: now,
                exit_code: 137,
                signal: Some(9),
                reason: "Error".to_owned(),
                message: Some("The first process of the pod was killed".to_owned()),
                attempt: seen.attempt,
            });
        }
        self.observed.sandbox = Sandbox::Absent { retry_at: None };
        self.prepare_again();
        self.note(
            None,
            "SandboxChanged",
            "Pod sandbox changed, it will be killed and re-created.".to_owned(),
        );
    }

    pub(super) fn start_container(&mut self, name: &str, attempt: u32) {
        let Some(container) = self.container(name) else { return };
        let Some(seen) = self.observed.containers.get_mut(name) else { return };
        seen.begin(attempt);
        let (context, pod, paths) = (self.context.clone(), self.pod.clone(), self.paths.clone());
        let (volumes, ip, events) = (self.volumes.clone(), self.ip, self.events.clone());
        let socket = self.paths.socket.clone();
        let name = name.to_owned();
        self.tasks.spawn(async move {
            let planned = tokio::task::spawn_blocking(move || {
                let image = container.image.as_deref().unwrap_or_default();
                let image =
                    context.images.resolve(image).map_err(|error| refuse_image(&error, &container))?;
                let sources = context.cluster.sources();
                let addresses: Addresses = setup::addresses(&context, ip);
                let executable = &context.config.executable;
                let input = PlanInput {
                    pod: &pod,
                    image: &image,
                    sources: &sources,
                    addresses,
                    volumes: &volumes,
                    paths: &paths,
                    executable,
                    cgroups: &context.cgroups,
                };
                let plan = plan_container(&input, &container, attempt).map_err(refuse_plan)?;
                let file = paths.termination(&container.name, attempt);
                let made = std::fs::File::create(&file).and_then(|file| {
                    // Any user of the container may leave a message.
                    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
                });
                made.map_err(|error| {
                    refusal("CreateContainerError", format!("{}: {error}", file.display()))
                })?;
                Ok::<_, Refusal>((plan, image.id, image.config.stop_signal))
            })
            .await;
            let planned =
                planned.unwrap_or_else(|error| Err(refusal("CreateContainerError", error.to_string())));
            let outcome = match planned {
                Err(refused) => Err(refused),
                Ok((plan, image_id, stop_signal)) => {
                    let stop_signal = Some(stop_signal).filter(|signal| !signal.is_empty());
                    let _ =
                        events.send(Event::Prepared { container: name.clone(), image_id, stop_signal }).await;
                    start(&socket, plan).await
                }
            };
            if let Err(Refusal { reason, message, pull }) = outcome {
                let _ = events.send(Event::NotStarted { container: name, reason, message, pull }).await;
            }
        });
    }

    pub(super) fn not_started(&mut self, name: &str, reason: &'static str, message: String, pull: bool) {
        let now = Timestamp::now();
        let image = self.container(name).and_then(|container| container.image).unwrap_or_default();
        let Some(seen) = self.observed.containers.get_mut(name).filter(|seen| seen.state == State::Starting)
        else {
            return;
        };
        if !pull {
            seen.setup_failures = seen.setup_failures.saturating_add(1);
            seen.wait(reason, message.clone(), later(now, setup_delay(seen.setup_failures)));
            return self.warn(Some(name), "Failed", format!("Error: {message}"));
        }
        seen.pull_failures = seen.pull_failures.saturating_add(1);
        let retry_at = later(now, pull_delay(seen.pull_failures));
        seen.wait(reason, message.clone(), retry_at);
        self.warn(Some(name), "Failed", format!("Failed to pull image \"{image}\": {message}"));
        self.warn(Some(name), "Failed", format!("Error: {reason}"));
        let (events, name) = (self.events.clone(), name.to_owned());
        if reason == "ErrImagePull" {
            self.tasks.spawn(async move {
                tokio::time::sleep(Duration::try_from(PULL_ERROR_SHOWN).unwrap_or_default()).await;
                let _ = events.send(Event::PullBackOff { container: name }).await;
            });
        }
    }

    /// Some time after ErrImagePull.
    pub(super) fn pull_back_off(&mut self, name: &str) {
        let image = self.container(name).and_then(|container| container.image).unwrap_or_default();
        let Some(seen) = self.observed.containers.get_mut(name) else { return };
        if let State::Waiting { reason, message, .. } = &mut seen.state
            && *reason == "ErrImagePull"
        {
            *reason = "ImagePullBackOff";
            let why = message.take().unwrap_or_default();
            *message = Some(format!("Back-off pulling image \"{image}\": ErrImagePull: {why}"));
            self.tell(
                Some(name),
                crate::cluster::EventKind::Normal,
                "BackOff",
                format!("Back-off pulling image \"{image}\""),
            );
        }
    }

    pub(super) fn take_record(&mut self, record: ContainerRecord) {
        let Some(container) = self.container(&record.name) else { return };
        let adopted = !matches!(
            self.observed.containers.get(&record.name).map(|seen| &seen.state),
            Some(State::Starting)
        );
        match &record.state {
            RecordState::Running { started_us, mounts } => {
                self.mounts.extend(mounts.map(|inode| (record.name.clone(), inode)));
                let started_at = Timestamp::from_microsecond(*started_us).unwrap_or(Timestamp::UNIX_EPOCH);
                let Some(seen) = self.observed.containers.get_mut(&record.name) else { return };
                if adopted {
                    // Found running: it is as ready as it was said to be until a probe says otherwise.
                    let known = seen.attempt == record.attempt;
                    let (started, ready) = (seen.started && known, seen.ready && known);
                    seen.attempt = record.attempt;
                    seen.run(
                        started_at,
                        started || container.startup_probe.is_none(),
                        ready || container.readiness_probe.is_none(),
                    );
                    // A hook that ran when the agent ended was ended with it.
                    if !started && self.run_post_start(&container, record.attempt) {
                        return;
                    }
                } else {
                    let started = container.startup_probe.is_none();
                    seen.run(started_at, started, started && container.readiness_probe.is_none());
                    let image = container.image.clone().unwrap_or_default();
                    self.note(
                        Some(&record.name),
                        "Pulled",
                        format!("Container image \"{image}\" already present on machine"),
                    );
                    self.note(Some(&record.name), "Created", format!("Container created: {}", record.name));
                    self.note(Some(&record.name), "Started", "Container started".to_owned());
                    if self.run_post_start(&container, record.attempt) {
                        return;
                    }
                }
                self.start_probes(&container, record.attempt, started_at);
            }
            RecordState::Exited(exit) => {
                self.probes.remove(&record.name);
                self.mounts.remove(&record.name);
                if let How::NotStarted { message } = &exit.how
                    && !adopted
                {
                    self.warn(Some(&record.name), "Failed", format!("Error: {message}"));
                }
                let message = self.termination_message(&container, &record);
                let Some(ended) = ended_by(&record, message) else { return };
                let pod = self.pod.clone();
                let Some(seen) = self.observed.containers.get_mut(&record.name) else { return };
                seen.end(ended.clone());
                let delay = seen.restart_at(&ended).duration_since(ended.finished_at).as_secs();
                if delay > 0 && ended.exit_code != 0 && pod.metadata.deletion_timestamp.is_none() {
                    self.warn(
                        Some(&record.name),
                        "BackOff",
                        crate::status::back_off_message(&pod, &record.name, delay),
                    );
                }
            }
        }
    }

    pub(super) fn start_probes(
        &mut self,
        container: &k8s_openapi::api::core::v1::Container,
        attempt: u32,
        started_at: Timestamp,
    ) {
        let Some(ip) = self.observed.ip else { return };
        let wanted = [
            (ProbeKind::Startup, container.startup_probe.as_ref()),
            (ProbeKind::Liveness, container.liveness_probe.as_ref()),
            (ProbeKind::Readiness, container.readiness_probe.as_ref()),
        ];
        let mut plans = Vec::new();
        for (kind, probe) in wanted.into_iter().filter_map(|(kind, probe)| Some((kind, probe?))) {
            match ProbePlan::new(kind, probe, container, ip) {
                Ok(plan) => plans.push(plan),
                Err(error) => self.warn(
                    Some(&container.name),
                    "Unhealthy",
                    format!("{} probe cannot be asked: {error}", kind.title()),
                ),
            }
        }
        if plans.is_empty() {
            return;
        }
        let age = Duration::try_from(Timestamp::now().duration_since(started_at)).unwrap_or_default();
        let now = Instant::now();
        let started = now.checked_sub(age).unwrap_or(now);
        let (name, socket) = (container.name.clone(), self.paths.socket.clone());
        let probing = Probing { container: name.clone(), attempt, socket, plans, started };
        let mut task = JoinSet::new();
        task.spawn(probing.run(self.events.clone()));
        self.probes.insert(name, task);
    }

    fn termination_message(
        &self,
        container: &k8s_openapi::api::core::v1::Container,
        record: &ContainerRecord,
    ) -> Option<String> {
        use std::io::Read;
        let mut text = Vec::new();
        let file = std::fs::File::open(self.paths.termination(&record.name, record.attempt)).ok()?;
        file.take(TERMINATION_BYTES_MAX).read_to_end(&mut text).ok()?;
        let failed = !matches!(&record.state, RecordState::Exited(exit) if exit.how == How::Code(0));
        if text.is_empty()
            && failed
            && container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
        {
            text = crate::logs::last_lines(
                &self.paths.log(&record.name, record.attempt),
                TERMINATION_LINES_MAX,
                2048,
            );
        }
        (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
    }
}

async fn start(socket: &std::path::Path, plan: ContainerPlan) -> Result<(), Refusal> {
    let started = sandbox::command(socket, &Request::Start(Box::new(plan))).await;
    started.map_err(|error| refusal("RunContainerError", error.to_string()))
}

fn refusal(reason: &'static str, message: String) -> Refusal {
    Refusal { reason, message, pull: false }
}

fn refuse_image(error: &ResolveError, container: &k8s_openapi::api::core::v1::Container) -> Refusal {
    let reason = match error {
        ResolveError::Missing { .. } if container.image_pull_policy.as_deref() == Some("Never") => {
            "ErrImageNeverPull"
        }
        ResolveError::Name { .. } => "InvalidImageName",
        ResolveError::Missing { .. } | ResolveError::Store(_) => "ErrImagePull",
    };
    Refusal { reason, message: error.to_string(), pull: true }
}

fn refuse_plan(error: PlanError) -> Refusal {
    let reason = match error {
        PlanError::Config(_) | PlanError::Root => "CreateContainerConfigError",
        PlanError::NoCommand { .. } | PlanError::Volume { .. } => "CreateContainerError",
    };
    refusal(reason, error.to_string())
}
