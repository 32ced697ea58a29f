//! The state directory: its lock, its files, and how a state is read back from them.
//!
//! ```text
//! lock                 held while a server runs; holds its process id
//! snapshot-<revision>  every object as of a revision; the two newest are kept
//! log-<revision>       frames with the changes after that revision
//! ```
//!
//! Recovery starts from the *older* snapshot and replays every log since: the changes between the two are the history that watchers
//! come back for, and the older one stands in when the newer is damaged.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{self, Tag};
use super::log::{Change, Log};
use super::object::{Collection, Key, Object};
use super::state::State;
use super::{OpenError, snapshot};

/// First bytes of every log file.
pub(super) const LOG_MAGIC: &[u8; 8] = b"FWLOG\0\0\x01";

/// An open directory; the lock goes when it is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

/// The log file that is appended to.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    /// Bytes that are whole frames and on disk.
    pub(super) len: u64,
}

/// What [`open`] found.
pub(super) struct Opened {
    pub(super) directory: Directory,
    pub(super) segment: Segment,
    pub(super) state: State,
    /// The revision the replay started from.
    pub(super) base: u64,
    /// The newest of the replayed changes.
    pub(super) history: HashMap<Collection, Arc<Log>>,
}

/// Replayed changes, trimmed as they come: a long log must not be in memory twice.
struct History {
    base: u64,
    logs: HashMap<Collection, Arc<Log>>,
}

impl History {
    fn push(&mut self, time_ms: u64, change: Change) {
        let new = || Arc::new(Log::new(self.base));
        self.logs.entry(change.collection.clone()).or_insert_with(new).append(time_ms, vec![change]);
    }
}

/// Locks, reads and repairs the torn end of the newest log.
pub(super) fn open(path: &Path) -> Result<Opened, OpenError> {
    std::fs::create_dir_all(path).map_err(at("create", path))?;
    let lock = lock(path)?;
    let directory = Directory { path: path.to_owned(), _lock: lock };
    let snapshots = directory.revisions("snapshot-")?;
    let logs = directory.revisions("log-")?;
    let mut state = directory.start_state(&snapshots, &logs)?;
    let base = state.revision();
    let mut history = History { base, logs: HashMap::new() };
    let replayed: Vec<u64> = logs.into_iter().filter(|revision| *revision >= base).collect();
    let mut segment = None;
    for (index, revision) in replayed.iter().enumerate() {
        let newest = index + 1 == replayed.len();
        if *revision != state.revision() {
            let reason =
                format!("it starts at revision {revision}, but the one before ends at {}", state.revision());
            return Err(OpenError::Corrupt { path: directory.log_path(*revision), offset: 0, reason });
        }
        segment = Some(directory.replay(*revision, newest, &mut state, &mut history)?);
    }
    let segment = match segment {
        Some(segment) => segment,
        None => directory.new_segment(base)?,
    };
    Ok(Opened { directory, segment, state, base, history: history.logs })
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let path = path.join("lock");
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = options.map_err(at("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(OpenError::Locked { path, pid: pid.trim().to_owned() });
        }
        Err(std::fs::TryLockError::Error(source)) => return Err(at("lock", &path)(source)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(at("write", &path))?;
    Ok(file)
}

impl Directory {
    /// The revisions in the names of files with a prefix, ascending.
    fn revisions(&self, prefix: &str) -> Result<Vec<u64>, OpenError> {
        let entries = std::fs::read_dir(&self.path).map_err(at("read", &self.path))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut found: Vec<u64> = names.filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// The oldest snapshot that is whole and has its log, or nothing at revision 0 when the first log is still there.
    fn start_state(&self, snapshots: &[u64], logs: &[u64]) -> Result<State, OpenError> {
        if logs.first() == Some(&0) || (snapshots.is_empty() && logs.is_empty()) {
            return Ok(State::default());
        }
        let mut failure = None;
        for revision in snapshots {
            let path = self.snapshot_path(*revision);
            match snapshot::read(&path) {
                Ok(state) => return Ok(state),
                Err(error) => {
                    tracing::warn!(%error, "a snapshot is unusable; trying the next");
                    failure.get_or_insert(error);
                }
            }
        }
        let missing = || OpenError::Corrupt {
            path: self.path.clone(),
            offset: 0,
            reason: "there are logs, but the snapshot they build on is missing".to_owned(),
        };
        Err(failure.unwrap_or_else(missing))
    }

    fn replay(
        &self,
        revision: u64,
        newest: bool,
        state: &mut State,
        history: &mut History,
    ) -> Result<Segment, OpenError> {
        let path = self.log_path(revision);
        let bytes = std::fs::read(&path).map_err(at("read", &path))?;
        let corrupt = |offset: usize, reason: String| OpenError::Corrupt {
            path: path.clone(),
            offset: offset as u64,
            reason,
        };
        let Some(mut rest) = bytes.strip_prefix(LOG_MAGIC) else {
            return Err(corrupt(0, "it is not a log of this server".to_owned()));
        };
        while !rest.is_empty() {
            let offset = bytes.len() - rest.len();
            let frame = match frame::parse(rest) {
                Ok(frame) => frame,
                Err(error) if newest && !frame::any_within(rest) => {
                    tracing::info!(path = %path.display(), offset, %error, "cut the end of a write that was never acknowledged");
                    break;
                }
                Err(error) => return Err(corrupt(offset, error.to_string())),
            };
            for record in &frame.records {
                let change = replay_record(record, state).map_err(|reason| corrupt(offset, reason))?;
                history.push(frame.time_ms, change);
            }
            rest = rest.get(frame.len..).unwrap_or_default();
        }
        let good = (bytes.len() - rest.len()) as u64;
        let file = OpenOptions::new().write(true).open(&path).map_err(at("open", &path))?;
        let mut segment = Segment { file, len: good };
        if !rest.is_empty() {
            segment.cut().map_err(at("cut", &path))?;
        }
        segment.file.seek(SeekFrom::Start(good)).map_err(at("seek in", &path))?;
        Ok(segment)
    }

    /// Makes the log that follows `revision`: whole under its name, or not there.
    pub(super) fn new_segment(&self, revision: u64) -> Result<Segment, OpenError> {
        let path = self.log_path(revision);
        let aside = path.with_extension("new");
        let write = || {
            let mut file = File::create(&aside)?;
            file.write_all(LOG_MAGIC)?;
            file.sync_all()?;
            std::fs::rename(&aside, &path)?;
            self.sync()?;
            Ok(file)
        };
        let file = write().map_err(at("create", &path))?;
        Ok(Segment { file, len: LOG_MAGIC.len() as u64 })
    }

    /// Makes names in the directory durable.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    pub(super) fn snapshot_path(&self, revision: u64) -> PathBuf {
        self.path.join(format!("snapshot-{revision:020}"))
    }

    fn log_path(&self, revision: u64) -> PathBuf {
        self.path.join(format!("log-{revision:020}"))
    }

    /// Removes what recovery needs no more, now that the snapshot of `newest` is durable: all but the snapshot before it and the logs
    /// since that one.
    pub(super) fn forget_before(&self, newest: u64) -> Result<(), OpenError> {
        let snapshots = self.revisions("snapshot-")?;
        let Some(kept) = snapshots.iter().rev().find(|revision| **revision < newest).copied() else {
            return Ok(());
        };
        let old_snapshots = snapshots.into_iter().filter(|r| *r < kept).map(|r| self.snapshot_path(r));
        let old_logs = self.revisions("log-")?.into_iter().filter(|r| *r < kept).map(|r| self.log_path(r));
        for path in old_snapshots.chain(old_logs) {
            std::fs::remove_file(&path).map_err(at("remove", &path))?;
        }
        Ok(())
    }
}

/// Applies one record; revisions must follow each other without a gap.
fn replay_record(record: &frame::Record<'_>, state: &mut State) -> Result<Change, String> {
    if record.revision != state.revision() + 1 {
        return Err(format!("revision {} follows {}", record.revision, state.revision()));
    }
    let collection = Collection::from_qualified(record.collection);
    let key = Key::from_text(record.key);
    match record.tag {
        Tag::Put => {
            let object = Object::parse(record.value, record.revision).map_err(|error| error.to_string())?;
            let object = Arc::new(object);
            let old = state.load(&collection, key.clone(), Arc::clone(&object));
            Ok(Change { collection, key, old, object, removed: false })
        }
        Tag::Remove => {
            let old = state.unload(&collection, &key, record.revision);
            let old = old.ok_or_else(|| {
                format!("{} {} is removed but was not there", collection.as_str(), key.as_str())
            })?;
            let object = Arc::new(Object::stamp(old.value().clone(), record.revision));
            Ok(Change { collection, key, old: Some(old), object, removed: true })
        }
        Tag::End => Err("a snapshot's end stands in a log".to_owned()),
    }
}

impl Segment {
    /// Appends one frame and syncs it. On an error nothing counts as written; call [`Segment::cut`] before the next append.
    pub(super) fn append(&mut self, frame: &[u8]) -> std::io::Result<()> {
        self.file.write_all(frame)?;
        self.file.sync_data()?;
        self.len += frame.len() as u64;
        Ok(())
    }

    /// Removes what follows the last good frame.
    pub(super) fn cut(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.len)?;
        self.file.seek(SeekFrom::Start(self.len))?;
        self.file.sync_all()
    }
}

/// Names the file and the action of a failure.
pub(super) fn at(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { action, path, source }
}
