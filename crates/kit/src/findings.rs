//! What is wrong with objects, told on them as Warning events, once for as long as it stays wrong.
//!
//! Whoever follows objects reports all that is wrong at the moment; the recorder writes what is new, after it has settled. An event's name is
//! made from what it says, so several processes that see the same problem, and a process that was restarted, write one event.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;

use crate::Shutdown;

/// A finding is told when it stands for this long: while manifests are applied one by one, half of them refer to what comes next.
const SETTLE: Duration = Duration::from_secs(2);

/// Events written at a time; what is left is told after the next [`SETTLE`].
const BURST_MAX: usize = 25;

/// Findings remembered as told; beyond that some may be written again.
const TOLD_MAX: usize = 4096;

/// The longest message of an event that an API server takes.
const MESSAGE_LEN_MAX: usize = 1024;

/// Something wrong with a namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Finding {
    /// The object that the user has to look at.
    pub about: Subject,
    /// One word in the manner of Kubernetes.
    pub reason: &'static str,
    /// What failed, what it means for traffic, what to do next.
    pub message: String,
}

/// An object as events refer to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// `v1`, `networking.k8s.io/v1`.
    pub api_version: &'static str,
    /// `Service`.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `metadata.uid`: `kubectl describe` shows only events that carry it.
    pub uid: Option<String>,
}

/// Writes events in the background. Dropping it ends that.
#[derive(Debug)]
pub struct Recorder(watch::Sender<Vec<Finding>>);

impl Recorder {
    /// Starts writing as `component`.
    pub fn start(client: Client, component: &'static str, shutdown: &Shutdown) -> Self {
        let (findings, newest) = watch::channel(Vec::new());
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            shutdown.unless_requested(record(client, component, newest)).await;
        });
        Self(findings)
    }

    /// Replaces what is wrong.
    pub fn report(&self, findings: Vec<Finding>) {
        self.0.send_if_modified(|current| {
            let changed = *current != findings;
            *current = findings;
            changed
        });
    }
}

async fn record(client: Client, component: &'static str, mut newest: watch::Receiver<Vec<Finding>>) {
    let mut told: HashSet<Finding> = HashSet::new();
    let mut before: HashSet<Finding> = HashSet::new();
    let mut pending = false;
    loop {
        if !pending && newest.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(SETTLE).await;
        let current: HashSet<Finding> = newest.borrow_and_update().iter().cloned().collect();
        // What was put right and breaks again is told again.
        told.retain(|finding| current.contains(finding));
        let settled: Vec<&Finding> =
            current.iter().filter(|finding| before.contains(*finding) && !told.contains(*finding)).collect();
        let mut failed = false;
        for finding in settled.iter().take(BURST_MAX) {
            match write(&client, component, finding).await {
                Ok(()) if told.len() < TOLD_MAX => {
                    told.insert((*finding).clone());
                }
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(%error, about = ?finding.about, "event not written, it is retried");
                    failed = true;
                    break;
                }
            }
        }
        pending = failed || settled.len() > BURST_MAX || current.difference(&before).next().is_some();
        before = current;
    }
}

async fn write(client: &Client, component: &'static str, finding: &Finding) -> kube::Result<()> {
    let Finding { about, reason, message } = finding;
    tracing::warn!(kind = about.kind, namespace = about.namespace, name = about.name, reason, "{message}");
    let api: Api<Event> = Api::namespaced(client.clone(), &about.namespace);
    match api.create(&PostParams::default(), &event(component, finding)).await {
        // Another process, or this one before it was restarted, said the same.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        // An object that is gone, or a rule against events: saying it again will not help.
        Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
            tracing::debug!(%status, "event refused");
            Ok(())
        }
        done => done.map(|_| ()),
    }
}

fn event(component: &'static str, finding: &Finding) -> Event {
    let Finding { about, reason, message } = finding;
    let mut hasher = DefaultHasher::new();
    finding.hash(&mut hasher);
    let now = Time(Timestamp::now());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:016x}", about.name, hasher.finish())),
            namespace: Some(about.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(about.api_version.into()),
            kind: Some(about.kind.into()),
            namespace: Some(about.namespace.clone()),
            name: Some(about.name.clone()),
            uid: about.uid.clone(),
            ..ObjectReference::default()
        },
        reason: Some((*reason).into()),
        message: Some(message.chars().take(MESSAGE_LEN_MAX).collect()),
        type_: Some("Warning".into()),
        source: Some(EventSource { component: Some(component.into()), host: None }),
        reporting_component: Some(component.into()),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_finding_has_the_same_name_everywhere() {
        let finding = |message: &str| Finding {
            about: Subject {
                api_version: "v1",
                kind: "Service",
                namespace: "ns".into(),
                name: "shop".into(),
                uid: Some("7".into()),
            },
            reason: "InvalidSpec",
            message: message.into(),
        };
        let name = |message| event("c", &finding(message)).metadata.name.unwrap();
        assert_eq!(name("a"), name("a"));
        assert_ne!(name("a"), name("b"));
        assert!(name("a").starts_with("shop."));
        let long = event("c", &finding(&"ä".repeat(2000))).message.unwrap();
        assert_eq!(long.chars().count(), MESSAGE_LEN_MAX);
    }
}
