//! The recent changes of one collection, and what a watcher reads.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;

use super::object::{Collection, Key, Object};

/// Changes kept however old they are.
const EVENTS_MIN: usize = 1024;
/// Changes kept however young they are.
const EVENTS_MAX: usize = 16_384;
/// Text of changes kept however young they are.
const BYTES_MAX: usize = 8 << 20;
/// Between the limits, how long a change is kept: longer than a client needs to come back.
const AGE_MS_MIN: u64 = 5 * 60 * 1000;

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

/// A change as watchers see it, with the text of its event line, made at most once for all of them.
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
    line: OnceLock<Bytes>,
}

impl Event {
    /// The revision of the change.
    pub fn revision(&self) -> u64 {
        self.object.revision()
    }

    /// `{"type":…,"object":…}` and a line feed, for a watcher that saw the object before exactly if it existed.
    pub fn line(&self) -> Bytes {
        let kind = match (self.removed, &self.old) {
            (true, _) => "DELETED",
            (false, Some(_)) => "MODIFIED",
            (false, None) => "ADDED",
        };
        self.line.get_or_init(|| event_line(kind, self.object.json())).clone()
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

    pub(super) fn append(&self, time_ms: u64, changes: Vec<Change>) {
        let Some(newest) = changes.last().map(|change| change.object.revision()) else { return };
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            kept.bytes += change.object.json().len();
            kept.events.push_back(Arc::new(Event {
                key: change.key,
                old: change.old,
                object: change.object,
                removed: change.removed,
                time_ms,
                line: OnceLock::new(),
            }));
        }
        kept.trim(time_ms);
        drop(kept);
        self.newest.send_replace(newest);
    }
}

impl Kept {
    fn trim(&mut self, now_ms: u64) {
        while let Some(oldest) = self.events.front() {
            let count = self.events.len();
            let aged = count > EVENTS_MIN && oldest.time_ms + AGE_MS_MIN < now_ms;
            if !(aged || count > EVENTS_MAX || (self.bytes > BYTES_MAX && count > 1)) {
                return;
            }
            self.bytes -= oldest.object.json().len();
            self.compacted = oldest.revision();
            self.events.pop_front();
        }
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
        log.append(0, vec![change(7)]);
        let event = log.after(0, 1).unwrap().remove(0);
        let line = event.line();
        let want = r#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"7"}}}"#;
        assert_eq!(line, format!("{want}\n"));
        assert_eq!(line.as_ptr(), event.line().as_ptr());
    }
}
