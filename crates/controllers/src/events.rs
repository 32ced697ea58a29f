//! Events: what happened to an object, for people who ask `kubectl describe`.
//!
//! The same event again is counted on the first one. An object that causes very many is cut off for a while, so that a broken
//! object cannot fill the store. Events are told after the fact and may get lost: nothing waits for them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

use fairway_kit::Shutdown;

use crate::metadata::seconds;
use crate::plan::Notice;

/// Notices waiting to be sent; more are dropped.
const QUEUE_MAX: usize = 1024;
/// Events that are remembered for counting.
const REMEMBERED_MAX: usize = 4096;
/// Events that one object may cause at once…
const BURST_MAX: u32 = 25;
/// …and then one more every so often.
const REFILL: Duration = Duration::from_secs(300);
/// Events of objects without a namespace live here.
const DEFAULT_NAMESPACE: &str = "default";

/// Takes notices from anywhere. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder(mpsc::Sender<(&'static str, Notice)>);

impl Recorder {
    /// Starts sending; ends with `shutdown`.
    pub fn start(client: Client, shutdown: Shutdown) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(async move {
            shutdown.unless_requested(send_all(client, receiver)).await;
        });
        Self(sender)
    }

    /// Sends it when there is room.
    pub fn tell(&self, component: &'static str, notice: Notice) {
        if self.0.try_send((component, notice)).is_err() {
            tracing::debug!("too many events at once: one is dropped");
        }
    }
}

async fn send_all(client: Client, mut notices: mpsc::Receiver<(&'static str, Notice)>) {
    let mut correlator = Correlator::default();
    while let Some((component, notice)) = notices.recv().await {
        let delivery = correlator.decide(component, &notice, Timestamp::now());
        let outcome = match delivery {
            Delivery::Drop => Ok(()),
            Delivery::Create(event) => {
                let api: Api<Event> =
                    Api::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or_default());
                api.create(&PostParams::default(), &event).await.map(drop)
            }
            Delivery::Count { name, namespace, count, last } => {
                let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
                let patch = Patch::Merge(json!({"count": count, "lastTimestamp": last}));
                api.patch(&name, &PatchParams::default(), &patch).await.map(drop)
            }
        };
        if let Err(error) = outcome {
            // Also the way of events in a namespace that is ending.
            tracing::debug!(reason = notice.reason, object = ?notice.regarding.name, %error, "an event is lost");
            correlator.forget(component, &notice);
        }
    }
}

/// What becomes of a notice.
#[derive(Debug, PartialEq)]
enum Delivery {
    /// A new event.
    Create(Box<Event>),
    /// The same again.
    Count {
        name: String,
        namespace: String,
        count: i32,
        last: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time,
    },
    /// Too many about this object.
    Drop,
}

/// What makes two notices the same event.
type Identity = (&'static str, Subject, &'static str, String);
/// Kind, namespace, name, uid.
type Subject = (Option<String>, Option<String>, Option<String>, Option<String>);

fn subject(object: &ObjectReference) -> Subject {
    (object.kind.clone(), object.namespace.clone(), object.name.clone(), object.uid.clone())
}

#[derive(Debug)]
struct Told {
    name: String,
    count: i32,
}

#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Timestamp,
}

#[derive(Debug, Default)]
struct Correlator {
    told: BTreeMap<Identity, Told>,
    oldest: VecDeque<Identity>,
    allowances: BTreeMap<Subject, Allowance>,
}

impl Correlator {
    fn decide(&mut self, component: &'static str, notice: &Notice, now: Timestamp) -> Delivery {
        if !self.may_tell(&subject(&notice.regarding), now) {
            return Delivery::Drop;
        }
        let namespace = notice.regarding.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        let identity = (component, subject(&notice.regarding), notice.reason, notice.message.clone());
        if let Some(told) = self.told.get_mut(&identity) {
            told.count = told.count.saturating_add(1);
            return Delivery::Count {
                name: told.name.clone(),
                namespace,
                count: told.count,
                last: seconds(now),
            };
        }
        let name =
            format!("{}.{:x}", notice.regarding.name.as_deref().unwrap_or("unknown"), now.as_nanosecond());
        while self.oldest.len() >= REMEMBERED_MAX {
            let Some(oldest) = self.oldest.pop_front() else { break };
            self.told.remove(&oldest);
        }
        self.oldest.push_back(identity.clone());
        self.told.insert(identity, Told { name: name.clone(), count: 1 });
        Delivery::Create(Box::new(event(component, notice, name, namespace, now)))
    }

    /// The event does not exist: the next one of its kind is made anew.
    fn forget(&mut self, component: &'static str, notice: &Notice) {
        let identity = (component, subject(&notice.regarding), notice.reason, notice.message.clone());
        self.told.remove(&identity);
        self.oldest.retain(|known| *known != identity);
    }

    fn may_tell(&mut self, subject: &Subject, now: Timestamp) -> bool {
        if self.allowances.len() >= REMEMBERED_MAX && !self.allowances.contains_key(subject) {
            self.allowances.clear();
        }
        let allowance =
            self.allowances.entry(subject.clone()).or_insert(Allowance { left: BURST_MAX, since: now });
        let waited = u64::try_from(now.duration_since(allowance.since).as_secs()).unwrap_or(0);
        let refilled = u32::try_from(waited / REFILL.as_secs()).unwrap_or(u32::MAX);
        if refilled > 0 {
            *allowance =
                Allowance { left: allowance.left.saturating_add(refilled).min(BURST_MAX), since: now };
        }
        let may = allowance.left > 0;
        allowance.left = allowance.left.saturating_sub(1);
        may
    }
}

fn event(component: &'static str, notice: &Notice, name: String, namespace: String, now: Timestamp) -> Event {
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
        involved_object: notice.regarding.clone(),
        type_: Some(notice.severity.as_str().to_owned()),
        reason: Some(notice.reason.to_owned()),
        message: Some(notice.message.clone()),
        count: Some(1),
        first_timestamp: Some(seconds(now)),
        last_timestamp: Some(seconds(now)),
        source: Some(EventSource { component: Some(component.to_owned()), host: None }),
        reporting_component: Some(component.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::after_seconds;
    use crate::plan::Severity;

    fn notice(name: &str, message: &str) -> Notice {
        let regarding = ObjectReference {
            name: Some(name.into()),
            namespace: Some("ns".into()),
            ..ObjectReference::default()
        };
        Notice { regarding, severity: Severity::Normal, reason: "Happened", message: message.into() }
    }

    #[test]
    fn the_same_again_is_counted_and_another_message_is_another_event() {
        let (mut correlator, now) = (Correlator::default(), Timestamp::UNIX_EPOCH);
        let Delivery::Create(first) = correlator.decide("c", &notice("a", "m"), now) else {
            panic!("no event")
        };
        let Delivery::Count { name, count, .. } = correlator.decide("c", &notice("a", "m"), now) else {
            panic!("not counted")
        };
        assert_eq!((Some(name), count), (first.metadata.name, 2));
        assert!(matches!(correlator.decide("c", &notice("a", "other"), now), Delivery::Create(_)));
        correlator.forget("c", &notice("a", "m"));
        assert!(matches!(correlator.decide("c", &notice("a", "m"), now), Delivery::Create(_)));
    }

    #[test]
    fn an_object_that_tells_too_much_is_cut_off_and_others_are_not() {
        let (mut correlator, now) = (Correlator::default(), Timestamp::UNIX_EPOCH);
        let told = (0..100)
            .filter(|at| correlator.decide("c", &notice("a", &at.to_string()), now) != Delivery::Drop)
            .count();
        assert_eq!(told, 25);
        assert_ne!(correlator.decide("c", &notice("b", "m"), now), Delivery::Drop);
        assert_ne!(correlator.decide("c", &notice("a", "later"), after_seconds(now, 301)), Delivery::Drop);
        assert_eq!(correlator.decide("c", &notice("a", "too soon"), after_seconds(now, 301)), Delivery::Drop);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut correlator, now) = (Correlator::default(), Timestamp::UNIX_EPOCH);
        for at in 0..REMEMBERED_MAX * 2 {
            correlator.decide("c", &notice(&at.to_string(), "m"), now);
        }
        assert!(correlator.told.len() <= REMEMBERED_MAX && correlator.allowances.len() <= REMEMBERED_MAX);
    }
}
