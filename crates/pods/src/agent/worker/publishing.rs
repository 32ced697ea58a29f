//! What others see of a pod: its status, its events, what the kubelet API needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;
use tokio::sync::watch;

use super::super::ContainerView;
use super::{WRITE_RETRY, Worker};
use crate::cluster::{Cluster, ClusterError, Event as ClusterEvent, EventKind, PodId};
use crate::lifecycle::{Part, State, find, init_containers};
use crate::status;

impl Worker {
    pub(super) fn publish(&mut self) {
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
        let shown = self.objects.borrow().clone();
        if shown.metadata.resource_version != self.pod.metadata.resource_version
            || shown.status.as_ref() != Some(&self.status)
        {
            let mut object = (*self.pod).clone();
            object.status = Some(self.status.clone());
            self.objects.send_replace(Arc::new(object));
        }
        self.show_containers();
    }

    /// What the kubelet API needs to know.
    pub(super) fn show_containers(&self) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let view = |name: &str, tty: Option<bool>, stdin_once: bool| {
            let seen = self.observed.containers.get(name)?;
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
                tty: tty == Some(true),
                stdin_once,
                mounts: self.mounts.get(name).copied().filter(|_| seen.is_alive()),
            };
            Some((name.to_owned(), view))
        };
        let once = |stdin: Option<bool>, once: Option<bool>| stdin == Some(true) && once == Some(true);
        let own = spec.containers.iter().chain(init_containers(&spec));
        let own = own.map(|one| (one.name.as_str(), one.tty, once(one.stdin, one.stdin_once)));
        let added = spec.ephemeral_containers.iter().flatten();
        let added = added.map(|one| (one.name.as_str(), one.tty, once(one.stdin, one.stdin_once)));
        let views = own.chain(added).filter_map(|(name, tty, once)| view(name, tty, once));
        let views: BTreeMap<_, _> = views.collect();
        self.views.send_if_modified(|known| {
            *known != views && {
                *known = views;
                true
            }
        });
    }

    pub(super) fn tell(
        &self,
        container: Option<&str>,
        kind: EventKind,
        reason: &'static str,
        message: String,
    ) {
        let field = container.map(|name| {
            let part =
                self.pod.spec.as_ref().and_then(|spec| find(spec, name)).map_or(Part::Main, |(part, _)| part);
            format!("spec.{}{{{name}}}", part.field())
        });
        self.context.cluster.event(ClusterEvent { pod: self.id.clone(), field, kind, reason, message });
    }

    pub(super) fn note(&self, container: Option<&str>, reason: &'static str, message: String) {
        self.tell(container, EventKind::Normal, reason, message);
    }

    pub(super) fn warn(&self, container: Option<&str>, reason: &'static str, message: String) {
        self.tell(container, EventKind::Warning, reason, message);
    }
}

/// Writes the newest status; older ones that were not written yet are skipped. Ends with its sender, after the last one.
pub(super) async fn write_statuses(
    cluster: Arc<dyn Cluster>,
    id: PodId,
    mut statuses: watch::Receiver<Option<Arc<PodStatus>>>,
    written: watch::Sender<Option<Arc<PodStatus>>>,
) {
    while statuses.changed().await.is_ok() {
        let mut wait = WRITE_RETRY.0;
        loop {
            let status = statuses.borrow_and_update().clone();
            let Some(status) = status else { break };
            match cluster.write_status(&id, &status).await {
                Ok(()) | Err(ClusterError::Gone) => {
                    written.send_replace(Some(status));
                    break;
                }
                Err(ClusterError::Failed(error)) => {
                    tracing::debug!(pod = %id, error, "a status could not be written; trying again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(WRITE_RETRY.1);
                }
            }
        }
    }
}

/// Whether a status makes the pod an endpoint of its Services.
pub(super) fn is_ready(status: &PodStatus) -> bool {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
