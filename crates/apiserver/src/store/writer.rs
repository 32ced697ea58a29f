//! The writer: one thread that takes what is queued, decides it in order, makes it durable with one sync, and publishes it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::directory::{Directory, Segment};
use super::frame::{Builder, Record, Tag};
use super::log::Change;
use super::metrics::Metrics;
use super::state::{State, Txn};
use super::{CommitError, Keep, Log, Options, Shared, WriteError, snapshot};

/// Transactions in one frame at most.
const BATCH_LEN_MAX: usize = 512;
/// A batch is closed when its frame is longer than this.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// What the writer is asked.
pub(super) enum Message {
    Job(Box<dyn Decide>),
    /// Let go what is old: histories, trees of documents, files.
    Compact,
    Close(oneshot::Sender<()>),
}

/// A transaction with its types erased.
pub(super) trait Decide: Send {
    /// Runs the decision; true when its changes are to be kept.
    fn decide(&mut self, txn: &mut Txn) -> bool;
    /// Answers, after the fate of the batch is known.
    fn answer(self: Box<Self>, stored: Result<(), WriteError>);
}

/// A transaction and who waits for it.
pub(super) struct Job<F, R, E> {
    keep: Keep,
    decide: Option<F>,
    decided: Option<Result<R, E>>,
    reply: oneshot::Sender<Result<R, CommitError<E>>>,
}

impl<F, R, E> Job<F, R, E> {
    pub(super) fn new(keep: Keep, decide: F, reply: oneshot::Sender<Result<R, CommitError<E>>>) -> Self {
        Self { keep, decide: Some(decide), decided: None, reply }
    }
}

impl<F, R, E> Decide for Job<F, R, E>
where
    F: FnOnce(&mut Txn) -> Result<R, E> + Send,
    R: Send,
    E: Send,
{
    fn decide(&mut self, txn: &mut Txn) -> bool {
        self.decided = self.decide.take().map(|decide| decide(txn));
        self.keep == Keep::Yes && matches!(self.decided, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, stored: Result<(), WriteError>) {
        let answer = match (stored, self.decided) {
            (Ok(()), Some(Ok(result))) => Ok(result),
            (Ok(()), Some(Err(refusal))) => Err(CommitError::Refused(refusal)),
            (Ok(()), None) => Err(CommitError::NotStored(WriteError::Closed)),
            (Err(error), _) => Err(CommitError::NotStored(error)),
        };
        let _ = self.reply.send(answer);
    }
}

struct Writer {
    shared: Arc<Shared>,
    directory: Arc<Directory>,
    segment: Segment,
    /// The end of the segment may hold part of a frame that failed.
    torn: bool,
    /// The snapshot being written; gives its length.
    snapshot: Option<JoinHandle<Option<u64>>>,
    segment_bytes_max: u64,
    options: Options,
}

/// Starts the thread; it ends with a [`Message::Close`] or with the last sender.
pub(super) fn start(
    shared: Arc<Shared>,
    directory: Directory,
    segment: Segment,
    queue_len_max: usize,
    options: Options,
) -> std::io::Result<mpsc::Sender<Message>> {
    let (sender, mut queue) = mpsc::channel(queue_len_max);
    let mut writer = Writer {
        shared,
        directory: Arc::new(directory),
        segment,
        torn: false,
        snapshot: None,
        segment_bytes_max: options.segment_bytes_min,
        options,
    };
    writer.count_disk();
    std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
        if let Some(closed) = writer.run(&mut queue) {
            queue.close();
            writer.finish_snapshot();
            drop(writer);
            let _ = closed.send(());
        }
    })?;
    Ok(sender)
}

impl Writer {
    fn run(&mut self, queue: &mut mpsc::Receiver<Message>) -> Option<oneshot::Sender<()>> {
        while let Some(first) = queue.blocking_recv() {
            let mut next = Some(first);
            let mut batch = Batch::new(State::clone(&self.shared.state.load()), (self.options.clock)());
            let (mut close, mut compact) = (None, false);
            while let Some(message) = next {
                match message {
                    Message::Job(job) => batch.decide(job),
                    Message::Compact => compact = true,
                    Message::Close(reply) => close = Some(reply),
                }
                next = if batch.is_full() || close.is_some() { None } else { queue.try_recv().ok() };
            }
            self.commit(batch);
            if compact {
                self.compact();
            }
            if close.is_some() {
                return close;
            }
        }
        None
    }

    fn commit(&mut self, batch: Batch) {
        let metrics = &self.shared.metrics;
        Metrics::add(&metrics.transactions, batch.jobs.len() as u64);
        if batch.changes.is_empty() {
            return batch.answer(&Ok(()));
        }
        let stored = self.store(&batch);
        match &stored {
            Ok(()) => self.publish(batch.time_ms, batch.state, batch.changes),
            Err(error) => {
                Metrics::add(&self.shared.metrics.failures, 1);
                tracing::error!(%error, "writes are refused until the state directory can be written again; reads go on");
            }
        }
        batch.jobs.into_iter().for_each(|job| job.answer(stored.clone()));
        if self.segment.len > self.segment_bytes_max {
            self.rotate();
        }
    }

    /// Lets go of old history, of trees that nobody uses, and of files that only they needed.
    fn compact(&mut self) {
        let now_ms = (self.options.clock)();
        let mut state = State::clone(&self.shared.state.load());
        let trees = state.compact();
        if trees > 0 {
            self.shared.state.store(Arc::new(state));
        }
        let logs: Vec<Arc<Log>> = self
            .shared
            .logs
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .map(Arc::clone)
            .collect();
        let events = logs.iter().map(|log| log.compact(now_ms)).sum();
        Metrics::add(&self.shared.metrics.compacted_trees, trees as u64);
        Metrics::add(&self.shared.metrics.compacted_events, events);
        let idle = self.snapshot.as_ref().is_none_or(JoinHandle::is_finished);
        if idle && let Err(error) = self.directory.forget(now_ms, self.options.logs_bytes_max) {
            tracing::warn!(%error, "old files could not be removed; trying again later");
        }
        self.count_disk();
    }

    fn count_disk(&self) {
        let metrics = &self.shared.metrics;
        metrics.disk_bytes.store(self.directory.len(), Ordering::Relaxed);
        metrics.segment_bytes.store(self.segment.len, Ordering::Relaxed);
    }

    fn store(&mut self, batch: &Batch) -> Result<(), WriteError> {
        let started = Instant::now();
        if self.torn {
            self.segment.cut().map_err(|error| write_error(&error))?;
            self.torn = false;
        }
        let frame = batch.frame();
        self.segment.append(&frame).map_err(|error| {
            self.torn = self.segment.cut().is_err();
            write_error(&error)
        })?;
        let metrics = &self.shared.metrics;
        Metrics::add(&metrics.frames, 1);
        Metrics::add(&metrics.log_bytes, frame.len() as u64);
        metrics.segment_bytes.store(self.segment.len, Ordering::Relaxed);
        Metrics::add(&metrics.sync_us, u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// State first, then the logs, then the revision that promises both.
    fn publish(&self, time_ms: u64, state: State, changes: Vec<Change>) {
        let revision = state.revision();
        self.shared.state.store(Arc::new(state));
        let mut by_collection: Vec<(Arc<Log>, Vec<Change>)> = Vec::new();
        for change in changes {
            let log = self.shared.log(&change.collection);
            match by_collection.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &log)) {
                Some((_, changes)) => changes.push(change),
                None => by_collection.push((log, vec![change])),
            }
        }
        for (log, changes) in by_collection {
            Metrics::add(&self.shared.metrics.compacted_events, log.append(time_ms, changes));
        }
        self.shared.revision.send_replace(revision);
    }

    /// Goes on in a new log file and writes a snapshot beside the traffic. A failure is harmless: recovery replays more.
    fn rotate(&mut self) {
        if self.snapshot.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        self.finish_snapshot();
        let state = self.shared.state.load_full();
        match self.directory.new_segment(state.revision()) {
            Ok(segment) => self.segment = segment,
            Err(error) => {
                tracing::warn!(%error, "could not start a new log file; going on with the long one");
                self.segment_bytes_max = self.segment.len + self.options.segment_bytes_min;
                return;
            }
        }
        let directory = Arc::clone(&self.directory);
        let shared = Arc::clone(&self.shared);
        let (now_ms, logs_bytes_max) = ((self.options.clock)(), self.options.logs_bytes_max);
        let write = move || {
            let written = snapshot::write(&directory, &state, now_ms);
            match written.and_then(|len| directory.forget(now_ms, logs_bytes_max).map(|()| len)) {
                Ok(len) => {
                    Metrics::add(&shared.metrics.snapshots, 1);
                    Some(len)
                }
                Err(error) => {
                    tracing::warn!(%error, "could not write a snapshot; the logs are kept");
                    None
                }
            }
        };
        self.snapshot = std::thread::Builder::new().name("store-snapshot".to_owned()).spawn(write).ok();
    }

    /// Waits for a running snapshot; the next log may be twice as long as it.
    fn finish_snapshot(&mut self) {
        if let Some(len) = self.snapshot.take().and_then(|running| running.join().ok().flatten()) {
            self.segment_bytes_max = self.options.segment_bytes_min.max(2 * len);
        }
    }
}

/// Transactions decided together.
struct Batch {
    time_ms: u64,
    state: State,
    changes: Vec<Change>,
    bytes: usize,
    jobs: Vec<Box<dyn Decide>>,
}

impl Batch {
    fn new(state: State, time_ms: u64) -> Self {
        Self { time_ms, state, changes: Vec::new(), bytes: 0, jobs: Vec::new() }
    }

    fn decide(&mut self, mut job: Box<dyn Decide>) {
        let mut txn = Txn::new(self.state.clone(), self.time_ms);
        if job.decide(&mut txn) {
            let (state, changes) = txn.finish();
            self.state = state;
            self.bytes += changes.iter().map(|change| change.object.json().len()).sum::<usize>();
            self.changes.extend(changes);
        }
        self.jobs.push(job);
    }

    fn is_full(&self) -> bool {
        self.jobs.len() >= BATCH_LEN_MAX || self.bytes > BATCH_BYTES_MAX
    }

    fn frame(&self) -> Vec<u8> {
        let mut builder = Builder::new(self.time_ms);
        for change in &self.changes {
            builder.push(&Record {
                tag: if change.removed { Tag::Remove } else { Tag::Put },
                revision: change.object.revision(),
                collection: change.collection.as_str(),
                key: change.key.as_str(),
                value: change.object.json(),
            });
        }
        builder.finish()
    }

    fn answer(self, stored: &Result<(), WriteError>) {
        self.jobs.into_iter().for_each(|job| job.answer(stored.clone()));
    }
}

fn write_error(error: &std::io::Error) -> WriteError {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => WriteError::Full(error.to_string()),
        _ => WriteError::Io(error.to_string()),
    }
}
