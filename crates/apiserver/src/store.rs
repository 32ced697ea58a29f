//! The revision store: every object, the order of every change, and the recent past.
//!
//! One writer thread decides and orders all transactions. It takes what is queued, runs each decision against the newest
//! state, writes all of them as one frame of the write-ahead log, syncs once, and only then publishes and answers. So
//! there is one total order, an answer means "on disk", and a busy server pays one sync for many writes.
//!
//! State is a persistent map per collection ([`State`]): a list, a page or a snapshot file is a clone of a root, and never waits for
//! the writer. The recent changes of a collection are its [`Log`]; a watch is a position in it and has no queue of its own, so a slow
//! watcher costs nothing, loses no event, and is told [`Compacted`] when its position is no longer kept.

mod directory;
mod frame;
mod index;
mod log;
mod metrics;
mod object;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};

pub use index::Index;
pub(crate) use log::event_line;
pub use log::{Change, Compacted, Event, Log};
pub use metrics::Metrics;
pub use object::{Collection, EventType, Key, Object};
pub use state::{Objects, State, Txn};

/// Transactions that may wait for the writer; a full queue makes senders wait.
const QUEUE_LEN_MAX: usize = 1024;

/// Milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What may vary between stores.
#[derive(Clone)]
pub struct Options {
    /// A log is rotated and a snapshot written when its segment is longer than this (or twice the last snapshot).
    pub segment_bytes_min: u64,
    /// History on disk gives way when its logs are longer than this together.
    pub logs_bytes_max: u64,
    /// What the time is.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        let clock = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        };
        Self { segment_bytes_min: 4 << 20, logs_bytes_max: 128 << 20, clock: Arc::new(clock) }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Options({} {})", self.segment_bytes_min, self.logs_bytes_max)
    }
}

/// Why the state directory cannot be used. Nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be made, read or written.
    #[error("cannot {action} {path}: {source}; the server cannot keep its objects there")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another server has the directory open.
    #[error(
        "{path} is in use by another API server (process {pid}); stop that one or choose another state directory"
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote into it.
        pid: String,
    },
    /// Acknowledged data is damaged. A torn end of the last write is not this: that is cut off in silence.
    #[error(
        "{path} is damaged at byte {offset}: {reason}; restore the directory from a copy, or move the file away to lose what it holds"
    )]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where reading stopped.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
}

/// Why a decided transaction was not kept. The state is as if it had never been asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// No space, or over a quota.
    #[error("the disk of the state directory is full: {0}")]
    Full(String),
    /// Any other failure to write or sync.
    #[error("the state directory cannot be written: {0}")]
    Io(String),
    /// The store is closed.
    #[error("the server is stopping")]
    Closed,
}

/// The answer to a transaction that was not committed.
#[derive(Debug)]
pub enum CommitError<E> {
    /// The decision itself said no.
    Refused(E),
    /// The decision said yes, the disk did not.
    NotStored(WriteError),
}

/// Whether a transaction that succeeds is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Written, synced, published.
    Yes,
    /// Decided in full, then forgotten (`dryRun=All`).
    DryRun,
}

/// A handle to the open store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
    queue: mpsc::Sender<writer::Message>,
}

/// What readers and the writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: ArcSwap<State>,
    logs: RwLock<HashMap<Collection, Arc<Log>>>,
    /// Events up to this revision were not kept across the last start.
    base: u64,
    revision: watch::Sender<u64>,
    metrics: Metrics,
}

impl Store {
    /// Opens (or makes) the state directory: takes its lock, loads the oldest kept snapshot, replays what
    /// follows.
    pub fn open(path: &Path) -> Result<Store, OpenError> {
        Self::open_with(path, Options::default())
    }

    /// Opens a directory with other limits, or another clock.
    pub fn open_with(path: &Path, options: Options) -> Result<Store, OpenError> {
        let opened = directory::open(path)?;
        let shared = Arc::new(Shared {
            revision: watch::Sender::new(opened.state.revision()),
            state: ArcSwap::from_pointee(opened.state),
            logs: RwLock::new(opened.history),
            base: opened.base,
            metrics: Metrics::default(),
        });
        let writer =
            writer::start(Arc::clone(&shared), opened.directory, opened.segment, QUEUE_LEN_MAX, options);
        let queue = writer.map_err(|source| OpenError::Io {
            action: "start the writer for",
            path: path.to_owned(),
            source,
        })?;
        Ok(Store { shared, queue })
    }

    /// Everything as of the last commit.
    pub fn state(&self) -> Arc<State> {
        self.shared.state.load_full()
    }

    /// One collection as it was after `revision`: the present one with the changes since taken back.
    pub async fn objects_at(&self, collection: &Collection, revision: u64) -> Result<Objects, Compacted> {
        let log = self.log(collection);
        let state = self.state();
        // A state is visible a moment before its events are; the revision says that both are.
        let _ = self.revision().wait_for(|published| *published >= state.revision()).await;
        let newer = log.after(revision, usize::MAX)?;
        let mut objects = state.objects(collection);
        for event in newer.iter().rev().filter(|event| event.revision() <= state.revision()) {
            objects = match &event.old {
                Some(old) => objects.update(event.key.clone(), Arc::clone(old)),
                None => objects.without(&event.key),
            };
        }
        Ok(objects)
    }

    /// The recent changes of one collection.
    pub fn log(&self, collection: &Collection) -> Arc<Log> {
        self.shared.log(collection)
    }

    /// The newest published revision. When it shows N, every log has its events up to N.
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.shared.revision.subscribe()
    }

    /// Counters of the writer.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Runs `decide` in the writer's order and keeps its changes when it returns `Ok`. The future ends after the sync.
    /// `decide` must be short: everyone waits for it. Dropping the future does not undo the transaction.
    pub async fn commit<R, E, F>(&self, keep: Keep, decide: F) -> Result<R, CommitError<E>>
    where
        F: FnOnce(&mut Txn) -> Result<R, E> + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = writer::Job::new(keep, decide, reply);
        let closed = || CommitError::NotStored(WriteError::Closed);
        self.queue.send(writer::Message::Job(Box::new(job))).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Lets go of what is old: events beyond their age, trees of documents that nobody uses, files that only they needed. Called from time to
    /// time, so that an idle server becomes small again.
    pub async fn compact(&self) {
        let _ = self.queue.send(writer::Message::Compact).await;
    }

    /// Transactions that wait for the writer.
    pub fn queue_len(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Every log that there is, with its collection.
    pub fn logs(&self) -> Vec<(Collection, Arc<Log>)> {
        let logs = self.shared.logs.read().unwrap_or_else(PoisonError::into_inner);
        logs.iter().map(|(collection, log)| (collection.clone(), Arc::clone(log))).collect()
    }

    /// Finishes what is queued, then releases the directory.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.queue.send(writer::Message::Close(reply)).await.is_ok() {
            let _ = answer.await;
        }
    }
}

impl Shared {
    fn log(&self, collection: &Collection) -> Arc<Log> {
        if let Some(log) = self.logs.read().unwrap_or_else(PoisonError::into_inner).get(collection) {
            return Arc::clone(log);
        }
        let mut logs = self.logs.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(logs.entry(collection.clone()).or_insert_with(|| Arc::new(Log::new(self.base))))
    }
}
