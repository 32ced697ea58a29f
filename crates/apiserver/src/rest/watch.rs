//! watch: what exists, then what changes, in order and without a gap, until the time is over.
//!
//! A watch is a position in a log. It has no queue and no task: hyper asks the stream for the next piece when the client has taken the
//! last, so a slow client only falls behind, and when its position is no longer kept it is told so and ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fairway_objects::convert;
use fairway_objects::registry::{Resource, Verb};
use fairway_objects::status::Status;
use fairway_objects::table::IncludeObject;
use futures::stream;
use http::Response;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, MissedTickBehavior};

use super::selection::Selection;
use super::{Call, answer};
use crate::http::body::{self, Body};
use crate::http::negotiate::Shape;
use crate::http::query::{ListOptions, WatchFrom};
use crate::metrics::Watching;
use crate::server::Api;
use crate::store::{Event, Log, Object, Objects, Store};

/// Between bookmarks.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// A last bookmark is sent this long before the end.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// A watch that asks for no end lasts this long at least, and up to twice.
const TIMEOUT_SECONDS_MIN: u64 = 1800;
/// Events read from the log at once.
const BATCH_LEN_MAX: usize = 256;
/// A piece of the answer is not made longer than this.
const PIECE_BYTES_MAX: usize = 64 << 10;

impl Call<'_> {
    pub(super) async fn watch(&self, name: Option<&str>) -> Result<Response<Body>, Status> {
        self.allowed(Verb::Watch)?;
        let form = self.form()?;
        let options = ListOptions::parse(self.query, true)?;
        let selection = Selection::parse(&self.resource, &self.target.namespace, &options)?.named(name);
        let watching = self.api.metrics.watch()?;
        let seconds = options
            .timeout_seconds
            .unwrap_or_else(|| rand::random_range(TIMEOUT_SECONDS_MIN..TIMEOUT_SECONDS_MIN * 2));
        let ends_at = Instant::now() + Duration::from_secs(seconds.min(86_400));
        let mut bookmark = tokio::time::interval(BOOKMARK_INTERVAL);
        bookmark.set_missed_tick_behavior(MissedTickBehavior::Delay);
        bookmark.reset();
        let log = self.api.store.log(&self.collection);
        let mut stream = Stream {
            api: Arc::clone(self.api),
            encoder: Encoder {
                resource: Arc::clone(&self.resource),
                shape: form.shape,
                include: answer::include(self.query)?,
                columns_sent: false,
            },
            newest: log.subscribe(),
            log,
            selection,
            at: 0,
            existing: None,
            mark_end: false,
            pending: VecDeque::new(),
            bookmarks: options.bookmarks,
            bookmark,
            last_bookmark_at: ends_at - BOOKMARK_BEFORE_END.min(Duration::from_secs(seconds) / 2),
            last_bookmark_sent: false,
            ends_at,
            ended: false,
            _watching: watching,
        };
        stream.start(self, options.watch_from).await;
        let pieces = stream::unfold(stream, |mut stream| async move {
            let piece = stream.next().await?;
            Some((piece, stream))
        });
        Ok(body::respond(200, form.content_type(), body::stream(pieces)))
    }
}

/// One watch.
struct Stream {
    api: Arc<Api>,
    encoder: Encoder,
    log: Arc<Log>,
    newest: Receiver<u64>,
    selection: Selection,
    /// Everything up to this revision has been seen.
    at: u64,
    /// What existed at the start and has not been sent yet.
    existing: Option<<Objects as IntoIterator>::IntoIter>,
    /// A bookmark marks the end of it.
    mark_end: bool,
    pending: VecDeque<Bytes>,
    bookmarks: bool,
    bookmark: tokio::time::Interval,
    last_bookmark_at: Instant,
    last_bookmark_sent: bool,
    ends_at: Instant,
    ended: bool,
    _watching: Watching,
}

impl Stream {
    /// Finds the first position and queues what exists. After this point every failure is an event in the stream.
    async fn start(&mut self, call: &Call<'_>, from: WatchFrom) {
        let store: &Store = &self.api.store;
        match from {
            WatchFrom::Now => self.at = store.state().revision(),
            WatchFrom::Revision(revision) => self.at = revision,
            WatchFrom::State { at_least, marked } => {
                if let Err(status) = call.wait_for(at_least).await {
                    return self.fail(&status);
                }
                let state = self.api.store.state();
                self.existing = Some(state.objects(&call.collection).into_iter());
                self.at = state.revision();
                self.mark_end = marked && self.bookmarks;
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
            let stop = self.api.stop.clone();
            tokio::select! {
                changed = self.newest.changed() => self.ended = changed.is_err(),
                _ = self.bookmark.tick(), if self.bookmarks => self.progress(),
                () = tokio::time::sleep_until(self.last_bookmark_at), if self.bookmarks && !self.last_bookmark_sent => {
                    self.last_bookmark_sent = true;
                    self.progress();
                }
                () = tokio::time::sleep_until(self.ends_at) => self.ended = true,
                () = stop.cancelled() => self.ended = true,
            }
        }
    }

    /// Queued lines as one piece of bounded length.
    fn piece(&mut self) -> Bytes {
        let Some(first) = self.pending.pop_front() else { return Bytes::new() };
        if self.pending.is_empty() || first.len() > PIECE_BYTES_MAX {
            return first;
        }
        let mut piece = BytesMut::from(first);
        while let Some(line) = self.pending.pop_front_if(|line| piece.len() + line.len() <= PIECE_BYTES_MAX) {
            piece.extend_from_slice(&line);
        }
        piece.freeze()
    }

    /// Queues some of what existed at the start, and the mark after the last.
    fn read_existing(&mut self) {
        let Some(existing) = &mut self.existing else { return };
        while self.pending.len() < BATCH_LEN_MAX {
            let Some((key, object)) = existing.next() else {
                self.existing = None;
                if self.mark_end {
                    self.pending.push_back(self.encoder.bookmark(self.at, true));
                }
                return;
            };
            if self.selection.matches(&key, object.value()) {
                self.pending.push_back(self.encoder.line("ADDED", &object));
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
            self.at = event.revision();
            if let Some(line) = self.encoder.event(event, &self.selection) {
                self.pending.push_back(line);
            }
        }
        !events.is_empty()
    }

    /// Says how far the stream is: as far as the store, when all events up to there are in the log and have been read.
    fn progress(&mut self) {
        let published = *self.api.store.revision().borrow();
        while self.read() && !self.ended {}
        if !self.ended {
            self.at = self.at.max(published);
            let line = self.encoder.bookmark(self.at, false);
            self.pending.push_back(line);
        }
    }

    fn fail(&mut self, status: &Status) {
        self.pending
            .push_back(Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": status.to_value()}))));
        self.ended = true;
    }
}

/// Events as lines.
struct Encoder {
    resource: Arc<Resource>,
    shape: Shape,
    include: IncludeObject,
    columns_sent: bool,
}

impl Encoder {
    /// A change as the selection sees it: an object that begins to match is ADDED, one that ends is DELETED with its old content.
    fn event(&mut self, event: &Event, selection: &Selection) -> Option<Bytes> {
        let matched = event.old.as_ref().is_some_and(|old| selection.matches(&event.key, old.value()));
        let matches = !event.removed && selection.matches(&event.key, event.object.value());
        match (matched, matches) {
            (false, false) => None,
            (false, true) if self.shape == Shape::Whole && event.old.is_none() => Some(event.line()),
            (false, true) => Some(self.line("ADDED", &event.object)),
            (true, true) if self.shape == Shape::Whole => Some(event.line()),
            (true, true) => Some(self.line("MODIFIED", &event.object)),
            (true, false) if event.removed && self.shape == Shape::Whole => Some(event.line()),
            (true, false) if event.removed => Some(self.line("DELETED", &event.object)),
            (true, false) => {
                let old = event.old.as_ref()?;
                Some(self.line("DELETED", &Object::stamp(old.value().clone(), event.revision())))
            }
        }
    }

    fn line(&mut self, kind: &str, object: &Object) -> Bytes {
        let value = object.value();
        let shaped = match self.shape {
            Shape::Whole => return crate::store::event_line(kind, object.json()),
            Shape::Metadata => convert::partial_metadata(value),
            Shape::Table(version) => self.table(version, value),
        };
        crate::store::event_line(kind, shaped.to_string().as_bytes())
    }

    /// One row; the columns come with the first.
    fn table(&mut self, version: &str, value: &Value) -> Value {
        let columns = !std::mem::replace(&mut self.columns_sent, true);
        let metadata = json!({"resourceVersion": value.pointer("/metadata/resourceVersion")});
        answer::rows(&self.resource, [value], version, &metadata, self.include, columns)
    }

    fn bookmark(&mut self, revision: u64, end_of_initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if end_of_initial && let Some(members) = metadata.as_object_mut() {
            members.insert("annotations".to_owned(), json!({"k8s.io/initial-events-end": "true"}));
        }
        let object = match self.shape {
            Shape::Whole => {
                json!({"kind": self.resource.kind(), "apiVersion": self.resource.api_version(), "metadata": metadata})
            }
            Shape::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Shape::Table(version) => {
                let partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
                json!({
                    "kind": "Table",
                    "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": {"resourceVersion": revision.to_string()},
                    "columnDefinitions": null,
                    "rows": [{"cells": [], "object": partial}],
                })
            }
        };
        crate::store::event_line("BOOKMARK", object.to_string().as_bytes())
    }
}
