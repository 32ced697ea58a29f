//! Disks that are full or cannot be written.

use super::*;

/// A small file system of its own, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(options: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), directory.path(), Some("tmpfs"), flags, Some(options)).unwrap();
        Self(directory)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_keeps_what_it_has() {
    let disk = SmallDisk::mount("size=64k");
    let store = Store::open(disk.0.path()).unwrap();
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![0; 8 << 10]).unwrap();
    let big = "x".repeat(10_000);
    let write = |name: String| {
        let (store, value) = (store.clone(), json!({"metadata": {"name": name}, "data": 0, "big": big}));
        let key = Key::new("ns", &name);
        async move {
            store.commit(Keep::Yes, move |txn| Ok::<_, ()>(txn.put(&pods(), &key, value).revision())).await
        }
    };
    let mut written = 0;
    let error = loop {
        match write(format!("n{written}")).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CommitError::NotStored(WriteError::Full(_))), "{error:?}");
    assert!((1..7).contains(&written), "{written}");
    assert_eq!(store.state().objects(&pods()).len(), written);
    // A smaller change still fits, and follows the last good one.
    assert_eq!(put(&store, "small", 1).await, written as u64 + 1);
    // The same one fits when there is space again: nobody has to start the server anew.
    assert!(write("again".to_owned()).await.is_err());
    std::fs::remove_file(&ballast).unwrap();
    assert!(write("again".to_owned()).await.is_ok());
    assert!(store.metrics().failures.load(std::sync::atomic::Ordering::Relaxed) >= 2);
    store.close().await;
    let store = Store::open(disk.0.path()).unwrap();
    assert_eq!(store.state().objects(&pods()).len(), written + 2);
}

/// A full disk in the middle of a rotation: the log goes on being the long one, and the next rotation succeeds.
#[tokio::test]
async fn a_snapshot_that_does_not_fit_is_left_out() {
    let disk = SmallDisk::mount("size=160k");
    let store = Store::open_with(disk.0.path(), segments(60_000)).unwrap();
    let big = "x".repeat(10_000);
    for n in 0..9 {
        let (key, value) = (Key::new("ns", &format!("n{n}")), json!({"metadata": {}, "data": n, "big": big}));
        store
            .commit(Keep::Yes, move |txn| Ok::<_, ()>(txn.put(&pods(), &key, value).revision()))
            .await
            .unwrap();
    }
    let want = contents(&store.state().objects(&pods()));
    store.close().await;
    let store = Store::open(disk.0.path()).unwrap();
    assert_eq!(contents(&store.state().objects(&pods())), want);
    let unfinished = std::fs::read_dir(disk.0.path()).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(unfinished.filter(|path| path.extension().is_some()).count(), 0);
}

/// In a mount namespace of its own, so that no other test sees the change of the file system.
#[test]
fn a_read_only_file_system_is_refused_by_name_and_left_alone() {
    let disk = SmallDisk::mount("size=1m");
    let path = disk.0.path().to_owned();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let want = runtime().block_on(async {
        let store = Store::open(&path).unwrap();
        put(&store, "a", 1).await;
        let want = contents(&store.state().objects(&pods()));
        store.close().await;
        want
    });
    let readonly = path.clone();
    let outcome = std::thread::spawn(move || {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_FS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, &readonly, None::<&str>, flags, None::<&str>).unwrap();
        let before = std::fs::read(newest_log(&readonly)).unwrap();
        let error = Store::open(&readonly).unwrap_err();
        assert_eq!(std::fs::read(newest_log(&readonly)).unwrap(), before);
        error.to_string()
    });
    let message = outcome.join().unwrap();
    assert!(message.contains("lock") && message.contains("Read-only file system"), "{message}");
    assert!(message.ends_with("the server cannot keep its objects there"), "{message}");
    runtime().block_on(async {
        let store = Store::open(&path).unwrap();
        assert_eq!(contents(&store.state().objects(&pods())), want);
        put(&store, "b", 1).await;
        store.close().await;
    });
}
