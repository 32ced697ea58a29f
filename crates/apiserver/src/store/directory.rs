//! The state directory: its lock, its files, and how a state is read back from them.
//!
//! ```text
//! lock                 held while a server runs; holds its process id
//! snapshot-<revision>  every object as of a revision
//! log-<revision>       frames with the changes after that revision
//! ```
//!
//! Recovery starts from the *oldest* snapshot and replays every log since: the changes between it and the newest are the history that
//! watchers come back for, and an older one stands in when a newer is damaged. Which are kept is [`retained`]'s decision.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{self, Tag};
use super::log::{AGE_MS_MIN, Change, Log};
use super::object::{Collection, EventType, Key, Object};
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
        let log = self.logs.entry(change.collection.clone()).or_insert_with(new);
        let _ = log.append(time_ms, vec![change]);
    }
}

/// Locks, reads and repairs the torn end of the newest log.
pub(super) fn open(path: &Path) -> Result<Opened, OpenError> {
    std::fs::create_dir_all(path).map_err(at("create", path))?;
    let lock = lock(path)?;
    let directory = Directory { path: path.to_owned(), _lock: lock };
    directory.remove_unfinished()?;
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
    /// Removes files that were not finished under their name.
    fn remove_unfinished(&self) -> Result<(), OpenError> {
        let entries = std::fs::read_dir(&self.path).map_err(at("read", &self.path))?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == "new")) {
            std::fs::remove_file(&path).map_err(at("remove", &path))?;
        }
        Ok(())
    }

    /// Bytes of all its files.
    pub(super) fn len(&self) -> u64 {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
    }

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

    /// Removes what neither recovery nor history needs any more.
    pub(super) fn forget(&self, now_ms: u64, logs_bytes_max: u64) -> Result<(), OpenError> {
        let logs = self.revisions("log-")?;
        let mut kept = Vec::new();
        for revision in self.revisions("snapshot-")? {
            let path = self.snapshot_path(revision);
            let time_ms = snapshot::time_ms(&path).map_err(at("read", &path))?;
            let after = logs.iter().filter(|log| **log >= revision).map(|log| self.log_path(*log));
            let logs_bytes = after.filter_map(|path| Some(std::fs::metadata(path).ok()?.len())).sum();
            kept.push(Kept { revision, time_ms, logs_bytes });
        }
        let Some((base, retained)) = retained(&kept, now_ms, logs_bytes_max) else { return Ok(()) };
        let snapshots = kept.iter().map(|kept| kept.revision).filter(|revision| !retained.contains(revision));
        let snapshots = snapshots.map(|revision| self.snapshot_path(revision));
        let logs = logs.iter().filter(|revision| **revision < base).map(|revision| self.log_path(*revision));
        for path in snapshots.chain(logs) {
            std::fs::remove_file(&path).map_err(at("remove", &path))?;
        }
        Ok(())
    }
}

/// A snapshot on disk.
#[derive(Debug, Clone, Copy)]
struct Kept {
    revision: u64,
    time_ms: u64,
    /// Bytes of the logs since.
    logs_bytes: u64,
}

/// Which of the snapshots (ascending) stay, and from which on the logs stay too: the base. None while everything is needed.
///
/// The base is the newest snapshot that is old enough for the history, but never the newest of all, for that has no stand-in. One
/// between becomes the next base in its time: the first after the base. So the logs hold between one and about two times the history, and never
/// more than `logs_bytes_max` beside the newest.
fn retained(kept: &[Kept], now_ms: u64, logs_bytes_max: u64) -> Option<(u64, Vec<u64>)> {
    let (newest, older) = kept.split_last()?;
    let aged = |kept: &&Kept| kept.time_ms.saturating_add(AGE_MS_MIN) <= now_ms;
    let fits = |kept: &&Kept| kept.logs_bytes <= logs_bytes_max;
    let by_age = older.iter().rev().find(aged).map(|kept| kept.revision);
    let by_bytes = match older.first() {
        Some(first) if !fits(&first) => older.iter().find(fits).or(older.last()).map(|kept| kept.revision),
        _ => None,
    };
    let base = by_age.max(by_bytes).or(older.first().map(|kept| kept.revision))?;
    let next = older.iter().find(|kept| kept.revision > base);
    let all_needed = by_age.is_none() && by_bytes.is_none() && !older.is_empty();
    let retained = [Some(base), next.map(|kept| kept.revision), Some(newest.revision)];
    // Before the first snapshot is old enough, the logs since revision 0 are the history.
    let logs_from = if all_needed { 0 } else { base };
    Some((logs_from, retained.into_iter().flatten().collect()))
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
            let object = Object::parse(&collection, record.value, record.revision)
                .map_err(|error| error.to_string())?;
            let object = Arc::new(object);
            let old = state.load(&collection, key.clone(), Arc::clone(&object));
            Ok(Change { collection, key, old, object, removed: false })
        }
        Tag::Remove => {
            let old = state.unload(&collection, &key, record.revision);
            let old = old.ok_or_else(|| {
                format!("{} {} is removed but was not there", collection.as_str(), key.as_str())
            })?;
            // The last content is written too: it may be another than what was stored before.
            let last = serde_json::from_slice(record.value).map_err(|error| error.to_string())?;
            let object = Arc::new(Object::stored(&collection, EventType::Deleted, last, record.revision));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_kept_for_its_time_and_bounded_in_bytes() {
        struct Case {
            name: &'static str,
            /// Revision, minute, megabytes of logs since.
            snapshots: &'static [(u64, u64, u64)],
            now_min: u64,
            want: Option<(u64, &'static [u64])>,
        }
        let cases = [
            Case { name: "nothing", snapshots: &[], now_min: 0, want: None },
            Case { name: "the first: logs since 0", snapshots: &[(5, 1, 0)], now_min: 99, want: None },
            Case {
                name: "two young ones: all history",
                snapshots: &[(5, 1, 1), (9, 2, 0)],
                now_min: 2,
                want: Some((0, &[5, 9])),
            },
            Case {
                name: "the older is old enough",
                snapshots: &[(5, 1, 1), (9, 6, 0)],
                now_min: 6,
                want: Some((5, &[5, 9])),
            },
            Case {
                name: "often: a next base is kept between",
                snapshots: &[(5, 1, 3), (6, 2, 2), (7, 3, 1), (9, 6, 0)],
                now_min: 6,
                want: Some((5, &[5, 6, 9])),
            },
            Case {
                name: "the next base's time comes",
                snapshots: &[(5, 1, 3), (6, 2, 2), (9, 6, 1), (10, 7, 0)],
                now_min: 7,
                want: Some((6, &[6, 9, 10])),
            },
            Case {
                name: "too many bytes before the time",
                snapshots: &[(5, 1, 300), (6, 2, 90), (9, 3, 50), (10, 3, 0)],
                now_min: 3,
                want: Some((6, &[6, 9, 10])),
            },
            Case {
                name: "too many bytes since every one",
                snapshots: &[(5, 1, 500), (6, 2, 400), (9, 3, 0)],
                now_min: 3,
                want: Some((6, &[6, 9])),
            },
        ];
        for case in cases {
            let kept = case.snapshots.iter().map(|(revision, minute, megabytes)| Kept {
                revision: *revision,
                time_ms: minute * 60_000,
                logs_bytes: megabytes << 20,
            });
            let kept: Vec<Kept> = kept.collect();
            let got = retained(&kept, case.now_min * 60_000, 100 << 20);
            assert_eq!(got, case.want.map(|(base, kept)| (base, kept.to_vec())), "{}", case.name);
        }
    }
}
