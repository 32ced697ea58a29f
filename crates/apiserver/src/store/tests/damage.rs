//! Torn writes and damaged files.

use super::*;

/// Cuts the log at every byte of its last two frames: what was acknowledged before is there, the rest is gone, writing goes on.
#[tokio::test]
async fn a_crash_at_any_byte_loses_only_what_was_not_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    put(&store, "a", 1).await;
    let log = newest_log(directory.path());
    let mut ends = vec![std::fs::metadata(&log).unwrap().len()];
    let mut wants = vec![contents(&store.state().objects(&pods()))];
    for step in 2..4 {
        put(&store, "a", step).await;
        ends.push(std::fs::metadata(&log).unwrap().len());
        wants.push(contents(&store.state().objects(&pods())));
    }
    store.close().await;
    let whole = std::fs::read(&log).unwrap();
    for cut in ends[0]..=ends[2] {
        std::fs::write(&log, &whole[..cut as usize]).unwrap();
        let store = Store::open(directory.path()).unwrap();
        let last = ends.iter().rposition(|end| *end <= cut).unwrap();
        assert_eq!(contents(&store.state().objects(&pods())), wants[last], "cut at {cut}");
        let revision = store.state().revision();
        assert_eq!(put(&store, "b", 9).await, revision + 1, "cut at {cut}");
        store.close().await;
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.state().revision(), revision + 1, "cut at {cut}");
        store.close().await;
    }
}

/// Flips every bit of the last two of three frames. In the last it looks like a write that was never finished; before it, it is damage to
/// something that was acknowledged, and then nothing may be changed.
#[tokio::test]
async fn a_flipped_bit_is_cut_off_at_the_end_and_an_error_before() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let log = newest_log(directory.path());
    let mut ends = Vec::new();
    for step in 1..4 {
        put(&store, "a", step).await;
        ends.push(std::fs::metadata(&log).unwrap().len() as usize);
    }
    store.close().await;
    let whole = std::fs::read(&log).unwrap();
    for at in ends[0]..ends[2] {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            std::fs::write(&log, &damaged).unwrap();
            let opened = Store::open(directory.path());
            if at < ends[1] {
                let error = opened.unwrap_err();
                let is_damage =
                    matches!(&error, OpenError::Corrupt { offset, .. } if *offset as usize == ends[0]);
                assert!(is_damage, "byte {at} bit {bit}: {error}");
                assert_eq!(std::fs::read(&log).unwrap(), damaged, "byte {at} bit {bit}: nothing is changed");
            } else {
                let store = opened.unwrap();
                assert_eq!(store.state().revision(), 2, "byte {at} bit {bit}");
                store.close().await;
            }
        }
    }
}

/// What a crash leaves between the steps of a rotation: a new log without its snapshot, and files under unfinished names.
#[tokio::test]
async fn a_crash_during_a_rotation_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open_with(directory.path(), segments(600)).unwrap();
    for step in 0..20 {
        put(&store, "a", step).await;
    }
    let want = contents(&store.state().objects(&pods()));
    store.close().await;
    let named = |prefix: &str| {
        let paths = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix)).max().unwrap()
    };
    std::fs::remove_file(named("snapshot-")).unwrap();
    let unfinished = named("log-").with_extension("new");
    std::fs::write(&unfinished, b"FWLOG").unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(contents(&store.state().objects(&pods())), want);
    assert!(!unfinished.exists());
}

#[tokio::test]
async fn damage_before_the_end_is_an_error_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for step in 0..3 {
        put(&store, "a", step).await;
    }
    store.close().await;
    let log = newest_log(directory.path());
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(&error, OpenError::Corrupt { offset: 8, .. }), "{error}");
    assert!(error.to_string().contains("the checksum does not match"), "{error}");
    assert_eq!(std::fs::read(&log).unwrap(), bytes);
}
