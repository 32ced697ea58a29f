//! How much of the past is kept, in memory and across restarts, and what is found without a scan. The clock is an input.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

const MINUTE_MS: u64 = 60_000;

/// A clock that stands still until it is told.
#[derive(Clone, Default)]
struct Hand(Arc<AtomicU64>);

impl Hand {
    fn advance(&self, by_ms: u64) {
        self.0.fetch_add(by_ms, Ordering::Relaxed);
    }

    fn options(&self, segment_bytes_min: u64, logs_bytes_max: u64) -> Options {
        let now = Arc::clone(&self.0);
        let clock: Clock = Arc::new(move || now.load(Ordering::Relaxed));
        Options { segment_bytes_min, logs_bytes_max, clock }
    }
}

fn disk_bytes(path: &Path) -> u64 {
    // A file may go between the listing and the look.
    let files = std::fs::read_dir(path).unwrap().filter_map(|entry| entry.ok()?.metadata().ok());
    files.map(|metadata| metadata.len()).sum()
}

/// Writes for half an hour with a restart now and then: what happened in the last five minutes is always there, and the disk does not grow.
#[tokio::test]
async fn five_minutes_of_history_survive_restarts_and_the_disk_stays_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let hand = Hand::default();
    hand.advance(100 * MINUTE_MS);
    let open = || Store::open_with(directory.path(), hand.options(2000, 1 << 30)).unwrap();
    let mut store = open();
    let mut revision_at: Vec<(u64, u64)> = Vec::new();
    let mut largest_early = 0;
    for step in 0..600 {
        let revision = put(&store, &format!("n{}", step % 5), step).await;
        let now = hand.0.load(Ordering::Relaxed);
        revision_at.push((now, revision));
        hand.advance(MINUTE_MS / 20);
        if step % 37 == 36 {
            store.compact().await;
            store.close().await;
            store = open();
            let wanted = now.saturating_sub(5 * MINUTE_MS);
            let (_, oldest) = revision_at.iter().find(|(time, _)| *time >= wanted).unwrap();
            let events = store.log(&pods()).after(*oldest, usize::MAX).unwrap();
            assert_eq!(events.len() as u64, revision - oldest, "step {step}");
        }
        let bytes = disk_bytes(directory.path());
        if step < 300 {
            largest_early = largest_early.max(bytes);
        } else {
            assert!(bytes <= largest_early * 3 / 2, "step {step}: {bytes} after {largest_early}");
        }
    }
    store.close().await;
}

#[tokio::test]
async fn the_log_on_disk_gives_way_to_its_limit() {
    let directory = tempfile::tempdir().unwrap();
    let hand = Hand::default();
    let open = || Store::open_with(directory.path(), hand.options(2000, 20_000)).unwrap();
    let mut store = open();
    for step in 0..2000 {
        put(&store, &format!("n{}", step % 5), step).await;
        if step % 50 == 0 {
            store.compact().await;
            store.close().await;
            store = open();
            let bytes = disk_bytes(directory.path());
            assert!(bytes < 60_000, "step {step}: {bytes}");
        }
    }
    assert_eq!(store.state().revision(), 2000);
}

#[tokio::test]
async fn a_position_that_is_too_old_is_told_so_after_a_compaction() {
    let directory = tempfile::tempdir().unwrap();
    let hand = Hand::default();
    let store = Store::open_with(directory.path(), hand.options(1 << 20, 1 << 30)).unwrap();
    for step in 0..1500 {
        put(&store, "a", step).await;
    }
    hand.advance(5 * MINUTE_MS);
    store.compact().await;
    assert_eq!(put(&store, "b", 1).await, 1501);
    assert!(store.log(&pods()).after(1, 1).is_ok(), "five minutes are kept");
    hand.advance(1);
    store.compact().await;
    put(&store, "b", 2).await;
    let error = store.log(&pods()).after(1, 1).unwrap_err();
    assert_eq!(error.to_string(), format!("too old resource version: 1 ({})", error.oldest));
    assert!(store.log(&pods()).after(error.oldest, 1).is_ok());
    assert!(store.objects_at(&pods(), 1).await.is_err());
    assert!(store.metrics().compacted_events.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn removals_are_replayed_with_their_last_content() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    put(&store, "a", 1).await;
    let last = document("a", 2);
    store
        .commit(Keep::Yes, move |txn| Ok::<_, ()>(txn.remove_as(&pods(), &Key::new("ns", "a"), last)))
        .await
        .unwrap();
    let lines = |store: &Store| -> Vec<bytes::Bytes> {
        store.log(&pods()).after(0, 9).unwrap().iter().map(|event| event.line()).collect()
    };
    let before = lines(&store);
    store.close().await;
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(lines(&store), before);
}

async fn store_one(store: &Store, collection: Collection, name: &str, value: Value) {
    let key = Key::new("ns", name);
    store.commit(Keep::Yes, move |txn| Ok::<_, ()>(txn.put(&collection, &key, value))).await.unwrap();
}

#[tokio::test]
async fn indexes_follow_every_change_and_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    let pod = |node: &str, owner: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"ownerReferences": [{"uid": owner}]}, "spec": {"nodeName": node}});
    let event =
        |seen: &str| json!({"apiVersion": "v1", "kind": "Event", "metadata": {}, "lastTimestamp": seen});
    let events = Collection::new("", "events");
    store_one(&store, pods(), "a", pod("n1", "u1")).await;
    store_one(&store, pods(), "b", pod("n1", "u2")).await;
    store_one(&store, pods(), "c", pod("n1", "u1")).await;
    store_one(&store, pods(), "b", pod("n2", "u2")).await;
    store_one(&store, Collection::new("", "secrets"), "s", pod("n1", "u1")).await;
    for (name, seen) in
        [("e1", "2026-01-01T00:00:03Z"), ("e2", "2026-01-01T00:00:01Z"), ("e3", "2026-01-01T00:00:02Z")]
    {
        store_one(&store, events.clone(), name, event(seen)).await;
    }
    remove(&store, "c").await;
    for round in ["written", "read back"] {
        let state = store.state();
        let on = |node: &str| -> Vec<String> {
            state.objects_by(&pods(), Index::NodeName, node).keys().map(|key| key.name().to_owned()).collect()
        };
        assert_eq!((on("n1"), on("n2"), on("n3")), (vec!["a".into()], vec!["b".into()], vec![]), "{round}");
        let of = |uid: &str| -> Vec<String> {
            state
                .dependents(uid)
                .map(|(collection, key)| format!("{} {}", collection.as_str(), key.name()))
                .collect()
        };
        assert_eq!(
            (of("u1"), of("u2")),
            (vec!["pods a".into(), "secrets s".into()], vec!["pods b".into()]),
            "{round}"
        );
        let expired = |at: &str, count_max| -> Vec<String> {
            let expired = state.expired_events(at.parse().unwrap(), count_max);
            expired.iter().map(|key| key.name().to_owned()).collect()
        };
        assert_eq!(expired("2026-01-01T00:00:03Z", 10), ["e2", "e3"], "{round}");
        assert_eq!(expired("2026-01-01T00:00:00Z", 2), ["e2"], "{round}: too many");
        store.close().await;
        store = Store::open(directory.path()).unwrap();
    }
}

#[tokio::test]
async fn trees_of_documents_are_let_go() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    put(&store, "a", 1).await;
    let trees = || store.metrics().compacted_trees.load(Ordering::Relaxed);
    let key = Key::new("ns", "a");
    assert_eq!(store.state().object(&pods(), &key).unwrap().value()["data"], 1);
    for want in [0, 1, 1] {
        store.compact().await;
        // The writer has taken the message when a later transaction is answered.
        store.commit(Keep::DryRun, |_| Ok::<_, ()>(())).await.unwrap();
        store.commit(Keep::DryRun, |_| Ok::<_, ()>(())).await.unwrap();
        assert_eq!(trees(), want);
    }
    assert_eq!(store.state().object(&pods(), &key).unwrap().value()["data"], 1);
}
