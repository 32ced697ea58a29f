//! What the server does by itself, beside answering: it keeps its own objects there, and forgets events after an hour, or the oldest when
//! there are too many. Nobody else does either.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fairway_objects::document::Document;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::admit;
use crate::server::Api;
use crate::store::{Collection, Keep, Key, Objects};

/// How long an event is kept.
const EVENT_LIFE: SignedDuration = SignedDuration::from_hours(1);
/// Events kept at most.
const EVENTS_MAX: usize = 10_000;
/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(10);

/// Looks again and again until the server stops. A look that finds nothing to do writes nothing.
pub(crate) async fn run(api: Arc<Api>) {
    loop {
        tokio::select! {
            () = api.stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if api.boot().await.is_err() {
            tracing::warn!("the cluster's first objects could not be kept; trying again soon");
        }
        forget_events(&api).await;
        keep_accounts(&api).await;
    }
}

/// Tokens of Secrets follow their accounts, and what quotas count is counted again.
async fn keep_accounts(api: &Arc<Api>) {
    let own = Arc::clone(api);
    let kept = api.store.commit(Keep::Yes, move |txn| {
        admit::account::settle_secrets(&own, txn);
        let quotas = txn.state().objects(&Collection::new("", "resourcequotas"));
        let namespaces: BTreeSet<&str> = quotas.keys().map(Key::namespace).collect();
        for namespace in namespaces {
            admit::recount(&own, txn, namespace);
        }
        Ok::<_, std::convert::Infallible>(())
    });
    if kept.await.is_err() {
        tracing::warn!("tokens of Secrets and quotas could not be followed up; trying again soon");
    }
}

async fn forget_events(api: &Api) {
    let collection = Collection::new("", "events");
    let expired = expired(&api.store.state().objects(&collection), Timestamp::now(), EVENTS_MAX);
    if expired.is_empty() {
        return;
    }
    let removed = api.store.commit(Keep::Yes, move |txn| {
        for key in &expired {
            txn.remove(&collection, key);
        }
        Ok::<_, std::convert::Infallible>(())
    });
    if removed.await.is_err() {
        tracing::warn!("old events could not be removed; trying again soon");
    }
}

/// The events that are too old, and the oldest of those beyond `count_max`.
fn expired(events: &Objects, now: Timestamp, count_max: usize) -> Vec<Key> {
    let mut by_age: Vec<(Timestamp, &Key)> =
        events.iter().map(|(key, event)| (last_seen(event.value()), key)).collect();
    by_age.sort_unstable();
    let excess = by_age.len().saturating_sub(count_max);
    let old = by_age
        .iter()
        .enumerate()
        .take_while(|(index, (seen, _))| *index < excess || now.duration_since(*seen) > EVENT_LIFE);
    old.map(|(_, (_, key))| (*key).clone()).collect()
}

/// When an event happened last, by whichever field its writer uses.
fn last_seen(event: &Value) -> Timestamp {
    let paths: [&[&str]; 4] = [
        &["series", "lastObservedTime"],
        &["lastTimestamp"],
        &["eventTime"],
        &["metadata", "creationTimestamp"],
    ];
    paths.iter().filter_map(|path| event.text(path).parse().ok()).max().unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::Object;

    #[test]
    fn old_events_go_and_the_oldest_of_too_many() {
        let event = |name: &str, seen: &str| {
            let value = json!({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "lastTimestamp": seen});
            (Key::new("ns", name), Arc::new(Object::stamp(value, 1)))
        };
        let events: Objects = [
            event("a", "2026-01-01T11:59:00Z"),
            event("b", "2026-01-01T10:59:00Z"),
            event("c", "2026-01-01T11:01:00Z"),
            event("d", ""),
        ]
        .into_iter()
        .collect();
        let now = "2026-01-01T12:00:00Z".parse().unwrap();
        let names = |count_max| -> Vec<String> {
            expired(&events, now, count_max).iter().map(|key| key.name().to_owned()).collect()
        };
        assert_eq!(names(10), ["d", "b"]);
        assert_eq!(names(1), ["d", "b", "c"]);
    }
}
