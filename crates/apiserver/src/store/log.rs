//! The recent changes of one collection, and what a watcher reads.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;

use super::object::{Collection, EventType, Key, Object};

/// Changes kept however old they are.
const EVENTS_MIN: usize = 1024;
/// Changes kept however young they are: five minutes of 430 writes a second.
const EVENTS_MAX: usize = 128 << 10;
/// Text of superseded versions kept however young they are. What is still in the state costs the log nothing.
const BYTES_MAX: usize = 32 << 20;
/// Between the limits, how long a change is kept: what a client has to come back. The disk keeps as much for a restart.
pub(super) const AGE_MS_MIN: u64 = 5 * 60 * 1000;

/// The position asked for is older than what is kept; the client has to list again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub struct Compacted {
    /// The position asked for.
    pub asked: u64,
    /// The oldest that works.
    pub oldest: u64,
}

/// A change as the writer decided it.
#[derive(Debug, Clone)]
pub struct Change {
    /// Where.
    pub collection: Collection,
    /// Which object.
    pub key: Key,
    /// What was there.
    pub old: Option<Arc<Object>>,
    /// What is there now; for a removal the last content, stamped with the removal's revision.
    pub object: Arc<Object>,
    /// The object is gone.
    pub removed: bool,
}

/// A change as watchers see it. Its text is made once for all of them.
#[derive(Debug)]
pub struct Event {
    /// Which object.
    pub key: Key,
    /// What was there.
    pub old: Option<Arc<Object>>,
    /// What is there now, or was there last.
    pub object: Arc<Object>,
    /// The object is gone.
    pub removed: bool,
    time_ms: u64,
    metadata_line: OnceLock<Bytes>,
}

impl Event {
    fn new(time_ms: u64, change: Change) -> Self {
        Self {
            key: change.key,
            old: change.old,
            object: change.object,
            removed: change.removed,
            time_ms,
            metadata_line: OnceLock::new(),
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> u64 {
        self.object.revision()
    }

    /// What happened, for a watcher that saw the object before exactly if it existed.
    pub fn kind(&self) -> EventType {
        match (self.removed, &self.old) {
            (true, _) => EventType::Deleted,
            (false, Some(_)) => EventType::Modified,
            (false, None) => EventType::Added,
        }
    }

    /// `{"type":…,"object":…}` and a line feed, for such a watcher.
    pub fn line(&self) -> Bytes {
        self.object.line(self.kind())
    }

    /// The same with the metadata alone, made by the first who asks.
    pub fn metadata_line(&self, make: impl FnOnce(&Event) -> Bytes) -> Bytes {
        self.metadata_line.get_or_init(|| make(self)).clone()
    }

    /// Text that only the log holds.
    fn held_bytes(&self) -> usize {
        let old = self.old.as_ref().map_or(0, |old| old.json().len());
        if self.removed { old + self.object.json().len() } else { old }
    }

    /// The same event without the trees and texts that nobody asked for since the last call.
    fn compact(&self) -> Option<Self> {
        let old = self.old.as_ref().and_then(|old| old.compact());
        let object = self.object.compact();
        if old.is_none() && object.is_none() {
            return None;
        }
        Some(Self {
            key: self.key.clone(),
            old: old.map(Arc::new).or_else(|| self.old.clone()),
            object: object.map_or_else(|| Arc::clone(&self.object), Arc::new),
            removed: self.removed,
            time_ms: self.time_ms,
            metadata_line: OnceLock::new(),
        })
    }
}

/// One line of a watch stream.
pub(crate) fn event_line(kind: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 32);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    Bytes::from(line)
}

/// The recent changes of one collection, oldest first.
#[derive(Debug)]
pub struct Log {
    kept: RwLock<Kept>,
    newest: tokio::sync::watch::Sender<u64>,
}

#[derive(Debug)]
struct Kept {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Changes up to this revision are not in `events`.
    compacted: u64,
}

impl Log {
    pub(super) fn new(compacted: u64) -> Self {
        let kept = Kept { events: VecDeque::new(), bytes: 0, compacted };
        Self { kept: RwLock::new(kept), newest: tokio::sync::watch::Sender::new(compacted) }
    }

    /// The changes after `revision`, at most `count_max`.
    pub fn after(&self, revision: u64, count_max: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        if revision < kept.compacted {
            return Err(Compacted { asked: revision, oldest: kept.compacted });
        }
        let start = kept.events.partition_point(|event| event.revision() <= revision);
        Ok(kept.events.iter().skip(start).take(count_max).cloned().collect())
    }

    /// Tells of new changes; its value is the revision of the newest.
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Watchers that are subscribed now.
    pub fn watcher_count(&self) -> usize {
        self.newest.receiver_count()
    }

    /// Events kept, and the bytes of text that only they hold.
    pub fn size(&self) -> (usize, usize) {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        (kept.events.len(), kept.bytes)
    }

    /// Appends changes in order; how many old ones were let go for them.
    pub(super) fn append(&self, time_ms: u64, changes: Vec<Change>) -> u64 {
        let Some(newest) = changes.last().map(|change| change.object.revision()) else { return 0 };
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            let event = Event::new(time_ms, change);
            kept.bytes += event.held_bytes();
            kept.events.push_back(Arc::new(event));
        }
        let dropped = kept.trim(time_ms);
        drop(kept);
        self.newest.send_replace(newest);
        dropped
    }

    /// Lets go what is old enough at `now_ms`, and trees that nobody uses; how many events went.
    pub(super) fn compact(&self, now_ms: u64) -> u64 {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let dropped = kept.trim(now_ms);
        for event in &mut kept.events {
            if let Some(compact) = event.compact() {
                *event = Arc::new(compact);
            }
        }
        dropped
    }
}

impl Kept {
    fn trim(&mut self, now_ms: u64) -> u64 {
        let mut dropped = 0;
        while let Some(oldest) = self.events.front() {
            let count = self.events.len();
            let aged = count > EVENTS_MIN && oldest.time_ms.saturating_add(AGE_MS_MIN) < now_ms;
            if !(aged || count > EVENTS_MAX || (self.bytes > BYTES_MAX && count > 1)) {
                break;
            }
            self.bytes = self.bytes.saturating_sub(oldest.held_bytes());
            self.compacted = oldest.revision();
            self.events.pop_front();
            dropped += 1;
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(revision: u64) -> Change {
        let object = Object::stamp(json!({"metadata": {"name": "a"}}), revision);
        Change {
            collection: Collection::new("", "pods"),
            key: Key::new("ns", "a"),
            old: None,
            object: Arc::new(object),
            removed: false,
        }
    }

    #[test]
    fn keeps_what_a_client_may_come_back_for() {
        struct Case {
            name: &'static str,
            count: usize,
            spacing_ms: u64,
            want_kept: usize,
        }
        let cases = [
            Case { name: "few, old", count: 100, spacing_ms: 3_600_000, want_kept: 100 },
            Case { name: "many, old", count: 2000, spacing_ms: 3_600_000, want_kept: EVENTS_MIN },
            Case { name: "many, young", count: 2000, spacing_ms: 1, want_kept: 2000 },
            Case { name: "too many", count: EVENTS_MAX + 5, spacing_ms: 0, want_kept: EVENTS_MAX },
        ];
        for case in cases {
            let log = Log::new(0);
            for n in 0..case.count as u64 {
                log.append(n * case.spacing_ms, vec![change(n + 1)]);
            }
            let dropped = (case.count - case.want_kept) as u64;
            assert_eq!(log.after(dropped, usize::MAX).unwrap().len(), case.want_kept, "{}", case.name);
            if dropped > 0 {
                let error = log.after(dropped - 1, 1).unwrap_err();
                assert_eq!(error, Compacted { asked: dropped - 1, oldest: dropped }, "{}", case.name);
            }
        }
    }

    #[test]
    fn an_event_line_is_made_once() {
        let log = Log::new(0);
        let maps = Collection::new("", "configmaps");
        let object = Object::stored(&maps, EventType::Added, json!({"metadata": {"name": "a"}}), 7);
        log.append(0, vec![Change { object: Arc::new(object), ..change(7) }]);
        let event = log.after(0, 1).unwrap().remove(0);
        let line = event.line();
        let want = r#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"7"}}}"#;
        assert_eq!(line, format!("{want}\n"));
        assert_eq!(line.as_ptr(), event.line().as_ptr());
        let metadata = event.metadata_line(|_| Bytes::from_static(b"m"));
        assert_eq!(event.metadata_line(|_| panic!("made once")), metadata);
    }

    #[test]
    fn only_superseded_text_counts_and_age_comes_with_the_clock() {
        let log = Log::new(0);
        let first = change(1);
        let second = Change { old: Some(Arc::clone(&first.object)), ..change(2) };
        let superseded = first.object.json().len();
        log.append(0, vec![first]);
        assert_eq!(log.size(), (1, 0));
        log.append(0, vec![second]);
        assert_eq!(log.size(), (2, superseded));
        for n in 0..2000 {
            log.append(0, vec![change(3 + n)]);
        }
        assert_eq!(log.compact(AGE_MS_MIN), 0, "young enough");
        assert_eq!(log.compact(AGE_MS_MIN + 1), 2002 - EVENTS_MIN as u64);
        assert_eq!(log.size(), (EVENTS_MIN, 0));
    }
}
