//! Findings as Warning events on their Ingress. An event's name is made from what it says, so several gateways and restarts write it once.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use fairway_kit::Shutdown;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;

use crate::control::Finding;

/// A finding is told when it stands for this long: while manifests are applied one by one, half of them refer to what comes next.
const SETTLE: Duration = Duration::from_secs(2);

/// Events written at a time; what is left is told later.
const BURST_MAX: usize = 25;

/// Findings remembered as told; beyond that some may be written again.
const TOLD_MAX: usize = 4096;

/// Writes events in the background.
pub(crate) struct Recorder(watch::Sender<Vec<Finding>>);

impl Recorder {
    pub(crate) fn start(client: Client, shutdown: &Shutdown) -> Self {
        let (findings, newest) = watch::channel(Vec::new());
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            shutdown.unless_requested(record(client, newest)).await;
        });
        Self(findings)
    }

    /// Replaces what is wrong.
    pub(crate) fn report(&self, findings: Vec<Finding>) {
        self.0.send_if_modified(|current| {
            let changed = *current != findings;
            *current = findings;
            changed
        });
    }
}

async fn record(client: Client, mut newest: watch::Receiver<Vec<Finding>>) {
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
            match write(&client, finding).await {
                Ok(()) if told.len() < TOLD_MAX => {
                    told.insert((*finding).clone());
                }
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(%error, ingress = %finding.ingress, "event not written, it is retried");
                    failed = true;
                    break;
                }
            }
        }
        pending = failed || settled.len() > BURST_MAX || current.difference(&before).next().is_some();
        before = current;
    }
}

async fn write(client: &Client, finding: &Finding) -> kube::Result<()> {
    tracing::warn!(ingress = %finding.ingress, reason = finding.reason, "{}", finding.message);
    let api: Api<Event> = Api::namespaced(client.clone(), &finding.ingress.namespace);
    match api.create(&PostParams::default(), &event(finding)).await {
        // Another gateway, or this one before it was restarted, said the same.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        // An object that is gone, or a rule against events: saying it again will not help.
        Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
            tracing::debug!(%status, "event refused");
            Ok(())
        }
        done => done.map(|_| ()),
    }
}

fn event(finding: &Finding) -> Event {
    let mut hasher = DefaultHasher::new();
    finding.hash(&mut hasher);
    let now = Time(Timestamp::now());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:016x}", finding.ingress.name, hasher.finish())),
            namespace: Some(finding.ingress.namespace.to_string()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("networking.k8s.io/v1".into()),
            kind: Some("Ingress".into()),
            namespace: Some(finding.ingress.namespace.to_string()),
            name: Some(finding.ingress.name.to_string()),
            ..ObjectReference::default()
        },
        reason: Some(finding.reason.into()),
        message: Some(finding.message.clone()),
        type_: Some("Warning".into()),
        source: Some(EventSource { component: Some("fairway-gateway".into()), host: None }),
        reporting_component: Some("fairway-gateway".into()),
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
            ingress: fairway_model::IngressKey::new("ns", "shop"),
            reason: "InvalidSpec",
            message: message.into(),
        };
        let name = |message| event(&finding(message)).metadata.name.unwrap();
        assert_eq!(name("a"), name("a"));
        assert_ne!(name("a"), name("b"));
        assert!(name("a").starts_with("shop."));
    }
}
