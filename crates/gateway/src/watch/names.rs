//! External names: resolved through the resolver of the pod, again and again, for as long as a backend stands for one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use fairway_model::http::Backend;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::control::ExternalTarget;

/// Between two resolutions of a name; sooner while it does not resolve.
const INTERVAL: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Names resolved at the same time; further ones are answered 503.
const NAMES_MAX: usize = 1024;

/// Answers that may wait to be put in force.
const ANSWERS_MAX: usize = 64;

/// An answer.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) backend: Backend,
    pub(super) target: ExternalTarget,
    pub(super) addresses: Vec<IpAddr>,
}

/// The names in force, each with its task.
pub(super) struct Names {
    tasks: BTreeMap<Backend, (ExternalTarget, JoinHandle<()>)>,
    answers: mpsc::Receiver<Resolved>,
    sender: mpsc::Sender<Resolved>,
}

impl Names {
    pub(super) fn new() -> Self {
        let (sender, answers) = mpsc::channel(ANSWERS_MAX);
        Self { tasks: BTreeMap::new(), answers, sender }
    }

    /// Resolves exactly these from now on.
    pub(super) fn want(&mut self, wanted: &BTreeMap<Backend, ExternalTarget>) {
        self.tasks.retain(|backend, (target, task)| {
            let kept = wanted.get(backend) == Some(target);
            if !kept {
                task.abort();
            }
            kept
        });
        for (backend, target) in wanted {
            if self.tasks.contains_key(backend) {
                continue;
            }
            if self.tasks.len() >= NAMES_MAX {
                tracing::warn!(%backend, max = NAMES_MAX, "too many external names; this one is answered 503");
                break;
            }
            let task = tokio::spawn(resolve(backend.clone(), target.clone(), self.sender.clone()));
            self.tasks.insert(backend.clone(), (target.clone(), task));
        }
    }

    /// The next answer.
    pub(super) async fn resolved(&mut self) -> Resolved {
        match self.answers.recv().await {
            Some(resolved) => resolved,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        for (_, task) in self.tasks.values() {
            task.abort();
        }
    }
}

/// A name that stops resolving keeps its last addresses: they are better than none.
async fn resolve(backend: Backend, target: ExternalTarget, answers: mpsc::Sender<Resolved>) {
    let mut failing = false;
    loop {
        let found = tokio::net::lookup_host((target.name.as_ref(), target.port)).await;
        let interval = match found {
            Ok(found) => {
                failing = false;
                let addresses = found.map(|address| address.ip()).collect();
                let resolved = Resolved { backend: backend.clone(), target: target.clone(), addresses };
                if answers.send(resolved).await.is_err() {
                    return;
                }
                INTERVAL
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%backend, name = %target.name, %error, "an external name does not resolve");
                }
                failing = true;
                RETRY_INTERVAL
            }
        };
        tokio::time::sleep(interval).await;
    }
}
