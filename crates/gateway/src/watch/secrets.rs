//! The Secrets that Ingresses refer to, each watched by its name: the gateway never asks for others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_kit::shutdown::{Trigger, channel};
use fairway_kit::watch::{Watched, watch};
use fairway_model::SecretKey;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Secrets watched at the same time; hosts of further ones get the default certificate.
const WATCHES_MAX: usize = 1024;

struct Watch {
    watched: Watched<Secret>,
    trigger: Option<Trigger>,
    forward: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.forward.abort();
        if let Some(trigger) = self.trigger.take() {
            tokio::spawn(trigger.stop(std::time::Duration::ZERO));
        }
    }
}

/// The watches in force.
pub(super) struct Secrets {
    client: Client,
    watches: BTreeMap<SecretKey, Watch>,
    changed: Arc<Notify>,
}

impl Secrets {
    pub(super) fn new(client: Client) -> Self {
        Self { client, watches: BTreeMap::new(), changed: Arc::new(Notify::new()) }
    }

    /// Starts and ends watches so that exactly these are watched.
    pub(super) fn want(&mut self, wanted: &BTreeSet<SecretKey>) {
        self.watches.retain(|key, _| wanted.contains(key));
        for key in wanted {
            if self.watches.contains_key(key) {
                continue;
            }
            if self.watches.len() >= WATCHES_MAX {
                tracing::warn!(secret = %key, max = WATCHES_MAX, "too many Secrets; its hosts get the default certificate");
                break;
            }
            self.watches.insert(key.clone(), self.start(key));
        }
    }

    fn start(&self, key: &SecretKey) -> Watch {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={}", key.name));
        let (trigger, shutdown) = channel();
        let watched = watch(api, config, shutdown);
        let (mut follow, changed) = (watched.clone(), self.changed.clone());
        let forward = tokio::spawn(async move {
            loop {
                follow.changed().await;
                changed.notify_one();
            }
        });
        Watch { watched, trigger: Some(trigger), forward }
    }

    /// Ready when some Secret is newer than at the last call.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether it is known of each whether it exists.
    pub(super) fn all_synced(&self) -> bool {
        self.watches.values().all(|watch| watch.watched.peek().synced)
    }

    /// Whether it is known of this one.
    pub(super) fn is_synced(&self, key: &SecretKey) -> bool {
        self.watches.get(key).is_some_and(|watch| watch.watched.peek().synced)
    }

    /// Those that exist.
    pub(super) fn objects(&self) -> BTreeMap<SecretKey, Arc<Secret>> {
        let found = self.watches.iter().filter_map(|(key, watch)| {
            let secret = watch.watched.peek().find(&key.namespace, &key.name)?.clone();
            Some((key.clone(), secret))
        });
        found.collect()
    }
}
