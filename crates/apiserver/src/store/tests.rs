//! The store as its users see it, across restarts, torn writes, damage and full disks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::*;

mod damage;
mod disk;
mod history;

/// Segments of a length, and history that gives way to a few of them whatever the time.
fn segments(bytes_min: u64) -> Options {
    Options { segment_bytes_min: bytes_min, logs_bytes_max: 2 * bytes_min, ..Options::default() }
}

fn pods() -> Collection {
    Collection::new("", "pods")
}

fn document(name: &str, data: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "ns", "name": name}, "data": data})
}

async fn put(store: &Store, name: &str, data: u64) -> u64 {
    let (key, value) = (Key::new("ns", name), document(name, data));
    store.commit(Keep::Yes, move |txn| Ok::<_, ()>(txn.put(&pods(), &key, value).revision())).await.unwrap()
}

async fn remove(store: &Store, name: &str) -> Option<u64> {
    let key = Key::new("ns", name);
    store
        .commit(Keep::Yes, move |txn| Ok::<_, ()>(txn.remove(&pods(), &key).map(|o| o.revision())))
        .await
        .unwrap()
}

/// Names, contents and revisions: all that must survive.
fn contents(objects: &Objects) -> BTreeMap<String, (u64, u64)> {
    let entry = |(key, object): (&Key, &Arc<Object>)| {
        (key.as_str().to_owned(), (object.value()["data"].as_u64().unwrap(), object.revision()))
    };
    objects.iter().map(entry).collect()
}

fn newest_log(path: &Path) -> PathBuf {
    let files = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("log-")).max().unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(put(&store, "a", 1).await, 1);
    assert_eq!(put(&store, "b", 2).await, 2);
    assert_eq!(put(&store, "a", 3).await, 3);
    assert_eq!(remove(&store, "b").await, Some(4));
    assert_eq!(remove(&store, "b").await, None);
    store.close().await;

    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.state().revision(), 4);
    assert_eq!(contents(&store.state().objects(&pods())), BTreeMap::from([("ns/a".to_owned(), (3, 3))]));
    let events = store.log(&pods()).after(1, 10).unwrap();
    let seen: Vec<_> =
        events.iter().map(|e| (e.revision(), e.key.name().to_owned(), e.removed, e.old.is_some())).collect();
    let want = [(2, "b", false, false), (3, "a", false, true), (4, "b", true, true)];
    assert_eq!(seen, want.map(|(revision, name, removed, old)| (revision, name.to_owned(), removed, old)));
    assert_eq!(put(&store, "c", 5).await, 5);
}

#[tokio::test]
async fn a_refused_or_dry_transaction_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let refused = store.commit(Keep::Yes, |txn| {
        txn.put(&pods(), &Key::new("ns", "a"), document("a", 1));
        Err::<(), _>("no")
    });
    assert!(matches!(refused.await, Err(CommitError::Refused("no"))));
    let dry = store.commit(Keep::DryRun, |txn| {
        let object = txn.put(&pods(), &Key::new("ns", "a"), document("a", 1));
        Ok::<_, ()>(object.value()["data"].clone())
    });
    assert_eq!(dry.await.unwrap(), 1);
    assert_eq!(store.state().revision(), 0);
    assert!(store.log(&pods()).after(0, 10).unwrap().is_empty());
}

#[tokio::test]
async fn a_transaction_is_whole_and_sees_itself() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let twice = store.commit(Keep::Yes, |txn| {
        let key = Key::new("ns", "a");
        txn.put(&pods(), &key, document("a", 1));
        assert!(txn.state().object(&pods(), &key).is_some());
        Ok::<_, ()>(txn.put(&pods(), &key, document("a", 2)).revision())
    });
    assert_eq!(twice.await.unwrap(), 2);
    assert_eq!(store.log(&pods()).after(0, 10).unwrap().len(), 2);
}

#[tokio::test]
async fn the_past_is_seen_by_taking_changes_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut past = vec![BTreeMap::new()];
    for step in 0..20 {
        match step % 5 {
            4 => drop(remove(&store, "n0").await),
            n => drop(put(&store, &format!("n{}", n % 3), step).await),
        }
        past.push(contents(&store.state().objects(&pods())));
    }
    for (revision, want) in past.into_iter().enumerate() {
        assert_eq!(
            contents(&store.objects_at(&pods(), revision as u64).await.unwrap()),
            want,
            "revision {revision}"
        );
    }
}

#[tokio::test]
async fn one_server_per_directory() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(
        matches!(&error, OpenError::Locked { pid, .. } if *pid == std::process::id().to_string()),
        "{error}"
    );
    store.close().await;
    Store::open(directory.path()).unwrap();
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_says_so() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Store::open(&file.path().join("store")).unwrap_err();
    assert!(matches!(error, OpenError::Io { action: "create", .. }), "{error}");
}

/// Random changes with restarts and many rotations: contents, history and revisions are those of a plain map.
#[tokio::test]
async fn agrees_with_a_map_across_rotations_and_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let mut model: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut revision = 0;
    let open = || Store::open_with(directory.path(), segments(2000)).unwrap();
    let mut store = open();
    for step in 0..600 {
        let name = format!("n{}", random.random_range(0..20));
        if random.random_bool(0.3) {
            let removed = remove(&store, &name).await;
            assert_eq!(removed.is_some(), model.remove(&format!("ns/{name}")).is_some());
            revision = removed.unwrap_or(revision);
        } else {
            revision = put(&store, &name, step).await;
            model.insert(format!("ns/{name}"), (step, revision));
        }
        if random.random_bool(0.03) {
            store.close().await;
            store = open();
            assert_eq!(store.state().revision(), revision);
            let oldest = store.log(&pods()).after(0, 1).map_or_else(|compacted| compacted.oldest, |_| 0);
            let events = store.log(&pods()).after(oldest, usize::MAX).unwrap();
            let revisions: Vec<u64> = events.iter().map(|event| event.revision()).collect();
            assert_eq!(revisions, (oldest + 1..=revision).collect::<Vec<_>>());
        }
        assert_eq!(contents(&store.state().objects(&pods())), model, "step {step}");
    }
    store.close().await;
    let files: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    let count = |prefix: &str| files.iter().filter(|name| name.to_str().unwrap().starts_with(prefix)).count();
    assert!((1..=3).contains(&count("snapshot-")), "{files:?}");
    assert!(count("log-") <= 6, "{files:?}");
}

#[tokio::test]
async fn a_damaged_old_snapshot_is_replaced_by_the_newer_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open_with(directory.path(), segments(1000)).unwrap();
    let snapshots = || {
        let paths = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths.filter(|path| path.to_str().unwrap().contains("snapshot-0")).collect();
        paths.sort();
        paths
    };
    for step in 0..1000 {
        put(&store, &format!("n{}", step % 3), step).await;
        if step % 50 == 49 {
            store.close().await;
            if snapshots().len() == 2 {
                break;
            }
            store = Store::open_with(directory.path(), segments(1000)).unwrap();
        }
    }
    let want = contents(&store.state().objects(&pods()));
    std::fs::write(&snapshots()[0], b"damaged").unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(contents(&store.state().objects(&pods())), want);
}

#[tokio::test]
async fn watchers_are_woken_in_order_and_told_when_they_are_late() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let log = store.log(&pods());
    let mut newest = log.subscribe();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for step in 0..100 {
                put(&store, "a", step).await;
            }
        }
    });
    let mut at = 0;
    while at < 100 {
        newest.changed().await.unwrap();
        for event in log.after(at, 7).unwrap() {
            assert_eq!(event.revision(), at + 1);
            at = event.revision();
            newest.mark_changed();
        }
    }
    writer.await.unwrap();
}
