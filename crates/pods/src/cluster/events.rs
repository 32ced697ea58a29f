//! Events about pods. One that repeats is counted on the object it has already.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event as EventObject, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

use fairway_kit::Shutdown;

use super::PodId;

/// Events that wait to be written; more are dropped, they only inform.
const QUEUE_MAX: usize = 512;
/// Events remembered for counting.
const REMEMBERED_MAX: usize = 4096;

/// Whether something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EventKind {
    Normal,
    Warning,
}

/// Something worth telling the user of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub pod: PodId,
    /// The field of the object it is about, like `spec.containers{web}`.
    pub field: Option<String>,
    pub kind: EventKind,
    pub reason: &'static str,
    pub message: String,
}

/// Writes events one after the other, apart from what causes them.
#[derive(Debug)]
pub(crate) struct Recorder(mpsc::Sender<Event>);

impl Recorder {
    pub(crate) fn start(client: kube::Client, node_name: &str, shutdown: Shutdown) -> Self {
        let (queue, events) = mpsc::channel(QUEUE_MAX);
        let writer = Writer { client, node_name: node_name.to_owned(), known: HashMap::new() };
        tokio::spawn(async move { shutdown.unless_requested(writer.run(events)).await });
        Self(queue)
    }

    pub(crate) fn record(&self, event: Event) {
        if let Err(error) = self.0.try_send(event) {
            tracing::debug!(%error, "an event was dropped");
        }
    }
}

struct Writer {
    client: kube::Client,
    node_name: String,
    known: HashMap<(String, &'static str, String), (String, i32)>,
}

impl Writer {
    async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        while let Some(event) = events.recv().await {
            if let Err(error) = self.write(&event).await {
                tracing::debug!(%error, pod = %event.pod, reason = event.reason, "an event could not be written");
            }
        }
    }

    async fn write(&mut self, event: &Event) -> kube::Result<()> {
        let api: Api<EventObject> = Api::namespaced(self.client.clone(), &event.pod.namespace);
        let now = Timestamp::now();
        let key = (event.pod.uid.clone(), event.reason, event.message.clone());
        if let Some((name, count)) = self.known.get_mut(&key) {
            *count = count.saturating_add(1);
            let patch = serde_json::json!({"count": *count, "lastTimestamp": Time(now)});
            if api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.is_ok() {
                return Ok(());
            }
            // It expired: made anew below.
        }
        let object = object(event, &self.node_name, now);
        let name = object.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &object).await?;
        if self.known.len() >= REMEMBERED_MAX {
            self.known.clear();
        }
        self.known.insert(key, (name, 1));
        Ok(())
    }
}

fn object(event: &Event, node_name: &str, now: Timestamp) -> EventObject {
    let (namespace, name) = (event.pod.namespace.clone(), event.pod.name.clone());
    let kind = match event.kind {
        EventKind::Normal => "Normal",
        EventKind::Warning => "Warning",
    };
    // The name must be unique; the time does it, as for the events of client-go.
    let event_name = format!("{name}.{:x}", now.as_nanosecond());
    EventObject {
        metadata: ObjectMeta {
            name: Some(event_name),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(namespace),
            name: Some(name),
            uid: Some(event.pod.uid.clone()),
            field_path: event.field.clone(),
            resource_version: None,
        },
        reason: Some(event.reason.to_owned()),
        message: Some(event.message.clone()),
        type_: Some(kind.to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(node_name.to_owned()) }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(node_name.to_owned()),
        ..EventObject::default()
    }
}
