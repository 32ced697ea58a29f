//! postStart: a container counts as running when its hook is through.

use k8s_openapi::api::core::v1::Container;

use super::super::hooks::run_hook;
use super::{Event, Worker};
use crate::lifecycle::State;

impl Worker {
    /// Starts the hook of an attempt that runs; false when there is none.
    pub(super) fn run_post_start(&mut self, container: &Container, attempt: u32) -> bool {
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone());
        let (Some(hook), Some(ip)) = (hook, self.observed.ip) else { return false };
        let Some(seen) = self.observed.containers.get_mut(&container.name) else { return false };
        seen.hook_pending = true;
        (seen.started, seen.ready) = (false, false);
        let (container, socket, events) = (container.clone(), self.paths.socket.clone(), self.events.clone());
        self.tasks.spawn(async move {
            let outcome = run_hook(&hook, &container, ip, &socket).await;
            let _ = events.send(Event::PostStarted { container: container.name, attempt, outcome }).await;
        });
        true
    }

    /// The hook of an attempt ended: probes begin, or the container ends.
    pub(super) fn post_started(&mut self, name: &str, attempt: u32, outcome: Result<(), String>) {
        if !self.runs(name, attempt) {
            return;
        }
        if let Err(message) = outcome {
            self.warn(Some(name), "FailedPostStartHook", format!("PostStartHook failed: {message}"));
            self.mark_unhealthy(name, format!("FailedPostStartHook: {message}"), None);
            return;
        }
        let Some(container) = self.container(name) else { return };
        let Some(seen) = self.observed.containers.get_mut(name) else { return };
        let State::Running { started_at } = seen.state else { return };
        seen.hook_pending = false;
        seen.started = container.startup_probe.is_none();
        seen.ready = seen.started && container.readiness_probe.is_none();
        self.start_probes(&container, attempt, started_at);
    }
}
