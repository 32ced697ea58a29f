//! watch: what exists, then what changes, in order and without a gap, until the time is over.
//!
//! A watch is a position in a log. It has no queue and no task: hyper asks the stream for the next piece when the client has taken the
//! last, so a slow client only falls behind, and when its position is no longer kept it is told so and ends. One that does not read at all
//! is hung up on ([`pulse`]).

mod encode;
pub(crate) mod pulse;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fairway_objects::registry::Verb;
use fairway_objects::status::Status;
use futures::stream;
use http::Response;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use self::encode::Encoder;
use self::pulse::Pulse;
use super::selection::Selection;
use super::{Call, answer};
use crate::http::body::{self, Body};
use crate::http::query::{ListOptions, WatchFrom};
use crate::metrics::Watching;
use crate::server::Api;
use crate::store::{EventType, Log, Objects};

/// Between bookmarks.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// A last bookmark is sent this long before the end.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// A watch that asks for no end lasts this long at least, and up to twice.
const TIMEOUT_SECONDS_MIN: u64 = 1800;
/// Events read from the log at once.
const BATCH_LEN_MAX: usize = 256;
/// No more is encoded ahead than one piece of the answer, and one event that does not fit.
const PIECE_BYTES_MAX: usize = 64 << 10;

impl Call<'_> {
    pub(super) async fn watch(&self, name: Option<&str>) -> Result<Response<Body>, Status> {
        self.allowed(Verb::Watch)?;
        let form = self.form()?;
        let options = ListOptions::parse(self.query, true)?;
        let selection = Selection::parse(&self.served, &self.target.namespace, &options)?.named(name);
        let watching = self.api.metrics.watch()?;
        let seconds = options
            .timeout_seconds
            .unwrap_or_else(|| rand::random_range(TIMEOUT_SECONDS_MIN..TIMEOUT_SECONDS_MIN * 2));
        let now = Instant::now();
        let ends_at = now + Duration::from_secs(seconds.min(86_400));
        let last_bookmark_at = ends_at - BOOKMARK_BEFORE_END.min(Duration::from_secs(seconds) / 2);
        let log = self.api.store.log(&self.collection);
        let mut stream = Stream {
            api: Arc::clone(self.api),
            encoder: Encoder::new(Arc::clone(&self.served), form, answer::include(self.query)?),
            newest: log.subscribe(),
            catalogs: self.api.catalogs.subscribe(),
            pulse: self.api.pulses.begin(Arc::clone(&log), self.hang_up.clone()),
            log,
            selection,
            at: 0,
            existing: None,
            mark_end: false,
            pending: VecDeque::new(),
            pending_bytes: 0,
            bookmark_at: options.bookmarks.then(|| (now + BOOKMARK_INTERVAL).min(last_bookmark_at)),
            last_bookmark_at,
            ends_at,
            due: Box::pin(tokio::time::sleep_until(ends_at)),
            stopped: Box::pin(self.api.stop.clone().cancelled_owned()),
            ended: false,
            _watching: watching,
        };
        stream.start(self, options.watch_from).await;
        let pieces = stream::unfold(stream, |mut stream| async move {
            stream.pulse.asked();
            let piece = stream.next().await?;
            stream.pulse.handed_over(stream.at);
            Some((piece, stream))
        });
        Ok(body::respond(200, form.stream_content_type(), body::stream(pieces)))
    }
}

/// One watch.
struct Stream {
    api: Arc<Api>,
    encoder: Encoder,
    log: Arc<Log>,
    newest: Receiver<u64>,
    /// Told when there is a new catalog.
    catalogs: Receiver<u64>,
    pulse: Arc<Pulse>,
    selection: Selection,
    /// Everything up to this revision has been seen.
    at: u64,
    /// What existed at the start and has not been sent yet.
    existing: Option<<Objects as IntoIterator>::IntoIter>,
    /// A bookmark marks the end of it.
    mark_end: bool,
    pending: VecDeque<Bytes>,
    pending_bytes: usize,
    /// When the next bookmark is due, if the client wants any and there is one before the end.
    bookmark_at: Option<Instant>,
    last_bookmark_at: Instant,
    ends_at: Instant,
    due: Pin<Box<Sleep>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
    _watching: Watching,
}

impl Stream {
    /// Finds the first position and queues what exists. After this point every failure is an event in the stream.
    async fn start(&mut self, call: &Call<'_>, from: WatchFrom) {
        match from {
            WatchFrom::Now => self.at = self.api.store.state().revision(),
            WatchFrom::Revision(revision) => self.at = revision,
            WatchFrom::State { at_least, marked } => {
                if let Err(status) = call.wait_for(at_least).await {
                    return self.fail(&status);
                }
                let state = self.api.store.state();
                self.existing = Some(self.selection.narrow(&state, &call.collection).into_iter());
                self.at = state.revision();
                self.mark_end = marked && self.bookmark_at.is_some();
            }
        }
    }

    /// The next piece; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            self.read_existing();
            if !self.pending.is_empty() {
                return Some(self.piece());
            }
            if self.ended {
                return None;
            }
            if self.read() {
                continue;
            }
            self.wait().await;
        }
    }

    /// Until something happened or is due.
    async fn wait(&mut self) {
        let due = self.bookmark_at.unwrap_or(self.ends_at).min(self.ends_at);
        if self.due.deadline() != due {
            self.due.as_mut().reset(due);
        }
        tokio::select! {
            changed = self.newest.changed() => self.ended = changed.is_err(),
            changed = self.catalogs.changed(), if self.encoder.resource().custom().is_some() => {
                self.ended = changed.is_err() || !self.follow_definition();
            }
            () = self.due.as_mut() => self.on_time(due),
            () = self.stopped.as_mut() => self.ended = true,
        }
    }

    /// A custom resource may change its definition, or lose it: then the watch ends.
    fn follow_definition(&mut self) -> bool {
        let catalog = self.api.catalog.load();
        let old = self.encoder.resource();
        let now = catalog.registry.resource(old.group(), old.version(), &old.plural).cloned();
        now.inspect(|resource| self.encoder.follow(resource)).is_some()
    }

    fn on_time(&mut self, due: Instant) {
        if due >= self.ends_at {
            self.ended = true;
            return;
        }
        self.progress();
        let next = (due + BOOKMARK_INTERVAL).min(self.last_bookmark_at);
        self.bookmark_at = Some(if due < self.last_bookmark_at { next } else { self.ends_at });
    }

    /// Queued lines as one piece of bounded length.
    fn piece(&mut self) -> Bytes {
        self.pending_bytes = 0;
        let Some(first) = self.pending.pop_front() else { return Bytes::new() };
        if self.pending.is_empty() {
            return first;
        }
        let mut piece =
            BytesMut::with_capacity(first.len() + self.pending.iter().map(Bytes::len).sum::<usize>());
        piece.extend_from_slice(&first);
        self.pending.drain(..).for_each(|line| piece.extend_from_slice(&line));
        piece.freeze()
    }

    fn queue(&mut self, line: Bytes) {
        self.pending_bytes += line.len();
        self.pending.push_back(line);
    }

    /// Queues some of what existed at the start, and the mark after the last.
    fn read_existing(&mut self) {
        while self.pending_bytes < PIECE_BYTES_MAX {
            let Some(existing) = &mut self.existing else { return };
            let Some((key, object)) = existing.next() else {
                self.existing = None;
                if self.mark_end {
                    let line = self.encoder.bookmark(self.at, true);
                    self.queue(line);
                }
                return;
            };
            if self.selection.matches(&key, &object) {
                let line = self.encoder.line(EventType::Added, &object);
                self.queue(line);
            }
        }
    }

    /// Queues what the log has for us; true if there was anything to look at.
    fn read(&mut self) -> bool {
        self.newest.mark_unchanged();
        let events = match self.log.after(self.at, BATCH_LEN_MAX) {
            Ok(events) => events,
            Err(compacted) => {
                self.fail(&Status::too_old(compacted.asked, compacted.oldest));
                return true;
            }
        };
        for event in &events {
            if self.pending_bytes >= PIECE_BYTES_MAX {
                break;
            }
            self.at = event.revision();
            if let Some(line) = self.encoder.event(event, &self.selection) {
                self.queue(line);
            }
        }
        !events.is_empty()
    }

    /// Says how far the stream is: as far as the store, when all events up to there are in the log and have been read. A stream that began
    /// in the future, or has more to send than a piece, is not there yet.
    fn progress(&mut self) {
        let published = *self.api.store.revision().borrow();
        while self.pending_bytes < PIECE_BYTES_MAX && self.read() && !self.ended {}
        if !self.ended && self.at <= published && self.pending_bytes < PIECE_BYTES_MAX {
            self.at = published;
            let line = self.encoder.bookmark(self.at, false);
            self.queue(line);
        }
    }

    fn fail(&mut self, status: &Status) {
        let line = self.encoder.error(status);
        self.queue(line);
        self.ended = true;
    }
}
