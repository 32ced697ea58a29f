//! What a pod has of other objects: files of volumes, tokens, images that may come.

use jiff::{SignedDuration, Timestamp};

use super::super::setup::{self, Setback};
use super::{Event, Worker};
use crate::lifecycle::{Sandbox, State, later};
use crate::plan::follows_objects;
use crate::volume::versions;

/// Between two attempts to bring files of volumes up to date; a change of what they show makes another one at once.
const REFRESH_RETRY: SignedDuration = SignedDuration::from_secs(10);

impl Worker {
    /// ConfigMaps or Secrets changed: what waits for them tries again, volumes follow.
    pub(super) fn sources_changed(&mut self) {
        let retry = |retry_at: &mut Option<Timestamp>| *retry_at = None;
        if let Sandbox::Absent { retry_at } = &mut self.observed.sandbox {
            retry(retry_at);
        }
        for seen in self.observed.containers.values_mut() {
            if let State::Waiting { reason: "CreateContainerConfigError", retry_at, .. } = &mut seen.state {
                retry(retry_at);
            }
        }
        self.follow_objects();
    }

    /// Volumes follow their objects, if any of them is another one now.
    pub(super) fn follow_objects(&mut self) {
        let versions = versions(&self.pod, &self.context.cluster.sources());
        if versions != self.versions && self.observed.sandbox == Sandbox::Ready {
            self.versions = versions;
            self.refresh();
        }
    }

    /// When files of volumes must be written again: a token grows old, or the last attempt failed. Never while an attempt is under way.
    pub(super) fn renewal(&self) -> Option<Timestamp> {
        let due = self.tokens.values().map(|held| held.renew_at).chain(self.refresh_at);
        due.min().filter(|_| !self.refreshing)
    }

    /// The files stay as they were.
    pub(super) fn refresh_failed(&mut self, setback: Setback) {
        self.warn(None, setback.reason, setback.message);
        self.refresh_at = Some(later(Timestamp::now(), REFRESH_RETRY));
    }

    pub(super) fn refresh_if_due(&mut self) {
        if self.renewal().is_some_and(|at| at <= Timestamp::now()) {
            self.refresh();
        }
    }

    pub(super) fn refresh(&mut self) {
        if self.observed.sandbox != Sandbox::Ready || !follows_objects(&self.pod) {
            return;
        }
        if self.refreshing {
            self.refresh_again = true;
            return;
        }
        self.refreshing = true;
        self.refresh_at = None;
        let (context, pod, id, paths) =
            (self.context.clone(), self.pod.clone(), self.id.clone(), self.paths.clone());
        let (ip, tokens, events) = (self.ip, self.tokens.clone(), self.events.clone());
        self.tasks.spawn(async move {
            let made = setup::make_volumes(&context, &pod, &id, &paths, ip, tokens).await;
            let _ = events.send(Event::Refreshed(made)).await;
        });
    }

    /// An image may have been loaded: waiting containers try at once.
    pub(super) fn look_for_images(&mut self) {
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
}
