//! Limits that are looked after while a pod runs: the size of emptyDir volumes, and resource limits that were changed.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::super::setup::usage_bytes;
use super::{Event, Worker};
use crate::lifecycle::{PodFailure, Sandbox};
use crate::volume::VolumePlan;

/// Between two looks at how much is in a pod's volumes.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

impl Worker {
    pub(super) fn has_limited_volumes(&self) -> bool {
        self.observed.sandbox == Sandbox::Ready
            && self.observed.failure.is_none()
            && self.limited_volumes().next().is_some()
    }

    fn limited_volumes(&self) -> impl Iterator<Item = (&String, u64)> {
        self.volumes.iter().filter_map(|(name, plan)| match plan {
            VolumePlan::Directory { bytes_max } => Some((name, (*bytes_max)?)),
            VolumePlan::Memory { .. } | VolumePlan::HostPath { .. } | VolumePlan::Files(_) => None,
        })
    }

    /// Looks at the volumes that have a limit.
    pub(super) fn measure(&mut self) {
        self.measure_at = tokio::time::Instant::now() + MEASURE_EVERY;
        let limited: Vec<_> = self
            .limited_volumes()
            .map(|(name, limit)| (name.clone(), self.paths.volume(name), limit))
            .collect();
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let over = move || limited.into_iter().find(|(_, path, limit)| usage_bytes(path) > *limit);
            if let Ok(Some((volume, ..))) = tokio::task::spawn_blocking(over).await {
                let _ = events.send(Event::Oversized { volume }).await;
            }
        });
    }

    /// The pod put more into a volume than it may: it ends here.
    pub(super) fn evict(&mut self, volume: &str) {
        if self.observed.failure.is_some() {
            return;
        }
        let volumes = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let of = volumes.into_iter().find(|known| known.name == volume);
        let limit = of
            .and_then(|it| it.empty_dir.as_ref()?.size_limit.as_ref())
            .map(|limit| limit.0.as_str())
            .unwrap_or_default();
        let message = format!("Usage of EmptyDir volume {volume:?} exceeds the limit {limit:?}. ");
        self.warn(None, "Evicted", message.clone());
        self.observed.failure = Some(PodFailure { reason: "Evicted".to_owned(), message });
    }

    /// Sets the limits of running containers anew where the object asks for others (KEP-1287).
    pub(super) fn resize(&self, before: &Pod) {
        let (Some(old), Some(new)) = (&before.spec, &self.pod.spec) else { return };
        let uid = &self.id.uid;
        let changed = |container: &&Container| {
            old.containers
                .iter()
                .any(|known| known.name == container.name && known.resources != container.resources)
        };
        for container in new.containers.iter().filter(changed) {
            let runs = self.observed.containers.get(&container.name).is_some_and(|seen| seen.is_alive());
            let Some(plan) = self.context.cgroups.plan(uid, container).filter(|_| runs) else { continue };
            match plan.set_limits() {
                Ok(()) => self.note(Some(&container.name), "ResizeCompleted", "Resource limits changed in place".to_owned()),
                Err(error) => self.warn(
                    Some(&container.name),
                    "ResizeFailed",
                    format!("Resource limits could not be changed in place: {error}; they hold from the next start"),
                ),
            }
        }
    }
}
