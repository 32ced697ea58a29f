//! Going down: hooks, signals, and the pod's surroundings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodStatus;
use nix::sys::signal::Signal;

use super::super::hooks::run_hook;
use super::super::setup;
use super::publishing::is_ready;
use super::{Event, Worker};
use crate::lifecycle::{Sandbox, State, StopReason};
use crate::protocol::Request;
use crate::sandbox;

/// What SIGKILL waits for at least after a preStop hook took all of the grace, as kubelet grants it.
const GRACE_AFTER_HOOK: Duration = Duration::from_secs(2);

/// A pod whose containers have ended keeps its network for so long after the API server was told: until every node has taken its
/// address out of the rules, the kernel answers there for it with a reset, at once, where a missing route would leave clients waiting.
const NETWORK_LINGER: Duration = Duration::from_millis(500);

/// The network does not wait longer than this for an API server that does not answer.
const TOLD_WAIT: Duration = Duration::from_secs(2);

impl Worker {
    pub(super) fn stop_container(&mut self, name: &str, grace: SignedDuration, reason: &StopReason) {
        let Some(seen) = self.observed.containers.get_mut(name) else { return };
        let State::Running { started_at } = seen.state else { return };
        seen.state = State::Stopping { started_at };
        let message = match reason {
            StopReason::Deleted | StopReason::Failed | StopReason::Finished => {
                format!("Stopping container {name}")
            }
            StopReason::Unhealthy(message) => message.clone(),
        };
        self.note(Some(name), "Killing", message);
        let container = self.container(name).unwrap_or_default();
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone());
        let wanted = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
        let signal =
            wanted.or_else(|| self.stop_signals.get(name).cloned()).and_then(|signal| parse_signal(&signal));
        let signal = signal.unwrap_or(Signal::SIGTERM);
        let (ip, socket, name, pod) =
            (self.observed.ip, self.paths.socket.clone(), name.to_owned(), self.id.clone());
        let grace = Duration::try_from(grace).unwrap_or_default();
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let began = Instant::now();
            let mut left = grace;
            if let (Some(hook), Some(ip), false) = (hook, ip, grace.is_zero()) {
                let ran = tokio::time::timeout(grace, run_hook(&hook, &container, ip, &socket)).await;
                if let Ok(Err(message)) = ran {
                    let _ = events.send(Event::PreStopFailed { container: name.clone(), message }).await;
                }
                left = grace.saturating_sub(began.elapsed()).max(GRACE_AFTER_HOOK);
            }
            let signal = if left.is_zero() { Signal::SIGKILL } else { signal };
            let kill_after_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            let request = Request::Stop { container: name.clone(), signal: signal as i32, kill_after_ms };
            if let Err(error) = sandbox::command(&socket, &request).await {
                tracing::debug!(%pod, container = name, %error, "a container could not be told to stop: its pod has ended");
            }
        });
    }

    /// The grace became shorter while containers stop.
    pub(super) fn hurry(&mut self) {
        let left = crate::lifecycle::grace_left(&self.pod, &self.observed, Timestamp::now());
        let kill_after_ms = u64::try_from(left.as_millis()).unwrap_or(0);
        let stopping =
            self.observed.containers.iter().filter(|(_, seen)| matches!(seen.state, State::Stopping { .. }));
        let requests: Vec<Request> = stopping
            .map(|(name, _)| Request::Stop {
                container: name.clone(),
                signal: Signal::SIGTERM as i32,
                kill_after_ms,
            })
            .collect();
        let socket = self.paths.socket.clone();
        self.tasks.spawn(async move {
            for request in requests {
                let _ = sandbox::command(&socket, &request).await;
            }
        });
    }

    pub(super) fn remove_sandbox(&mut self) {
        self.observed.sandbox = Sandbox::Removing;
        self.probes.clear();
        let (context, id, net, ip, events) =
            (self.context.clone(), self.id.clone(), self.net.clone(), self.ip, self.events.clone());
        let (mut written, gone) = (self.written.clone(), self.observed.gone);
        self.tasks.spawn(async move {
            if !gone {
                let unready = |status: &Option<Arc<PodStatus>>| !status.as_deref().is_some_and(is_ready);
                let _ = tokio::time::timeout(TOLD_WAIT, written.wait_for(unready)).await;
            }
            tokio::time::sleep(NETWORK_LINGER).await;
            setup::tear_down(&context, &id, net, ip).await;
            let _ = events.send(Event::Down).await;
        });
    }
}

/// `SIGTERM` or a number, as images write it.
fn parse_signal(text: &str) -> Option<Signal> {
    match text.parse::<i32>() {
        Ok(number) => Signal::try_from(number).ok(),
        Err(_) if text.starts_with("SIG") => text.parse().ok(),
        Err(_) => format!("SIG{text}").parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_of_images() {
        assert_eq!(parse_signal("SIGQUIT"), Some(Signal::SIGQUIT));
        assert_eq!(parse_signal("QUIT"), Some(Signal::SIGQUIT));
        assert_eq!(parse_signal("3"), Some(Signal::SIGQUIT));
        assert_eq!(parse_signal("NOPE"), None);
    }
}
