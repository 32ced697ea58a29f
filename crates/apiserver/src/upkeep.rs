//! What the server does by itself, beside answering: it keeps its own objects there, and forgets events after an hour, or the oldest when
//! there are too many. Nobody else does either.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::rest::watch::pulse;
use crate::server::Api;
use crate::store::{Collection, Keep};

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
        api.store.compact().await;
    }
}

/// Hangs up on watches whose clients do not read, until the server stops.
pub(crate) async fn look_at_watches(api: Arc<Api>) {
    loop {
        tokio::select! {
            () = api.stop.cancelled() => return,
            () = tokio::time::sleep(pulse::INTERVAL) => api.pulses.look(),
        }
    }
}

async fn forget_events(api: &Api) {
    let collection = Collection::new("", "events");
    let expired = api.store.state().expired_events(Timestamp::now() - EVENT_LIFE, EVENTS_MAX);
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
