//! What is stored, and under which name.

use std::borrow::{Borrow, Cow};
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::index::{self, Term};

/// All objects of one resource, named as users name it: `pods`, `deployments.apps`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Collection(Arc<str>);

impl Collection {
    /// From a group ("" for core) and a plural.
    pub fn new(group: &str, plural: &str) -> Self {
        if group.is_empty() { Self(plural.into()) } else { Self(format!("{plural}.{group}").into()) }
    }

    pub(crate) fn from_qualified(name: &str) -> Self {
        Self(name.into())
    }

    /// `plural` or `plural.group`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The place of an object in its collection: `namespace/name`, or `name` for cluster-wide kinds. Ordered as text, which is the order
/// of lists.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    /// `namespace` is empty for cluster-wide kinds.
    pub fn new(namespace: &str, name: &str) -> Self {
        if namespace.is_empty() { Self(name.into()) } else { Self(format!("{namespace}/{name}").into()) }
    }

    pub(crate) fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Empty for cluster-wide kinds.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, name)| name)
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What happened to an object, as watch streams name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// It began to be there.
    Added,
    /// It has a new version.
    Modified,
    /// It is gone.
    Deleted,
}

impl EventType {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One version of one object: its text, made once for the log, every answer and every watcher, and its document, read from the text when
/// somebody asks for it. Ten thousand documents as trees would be five times the memory of their text, so [`Object::compact`] forgets them.
pub struct Object {
    /// The line of the watch event that made this version, or the document alone.
    line: Bytes,
    /// The document as compact JSON, a part of `line`.
    json: Bytes,
    /// Where in `json` the members after `apiVersion` and `kind` begin.
    members_at: u32,
    revision: u64,
    terms: Box<[Term]>,
    value: OnceLock<Value>,
    /// Somebody asked for the document since the last look.
    used: AtomicBool,
}

const LINE_END: &[u8] = b"}\n";

impl Object {
    /// Stamps `metadata.resourceVersion` and writes the text. In no collection, so under no index.
    pub(crate) fn stamp(value: Value, revision: u64) -> Self {
        Self::write(value, revision, None)
    }

    /// The version that a change leaves in a collection, with the text of the event that tells of it.
    pub(super) fn stored(collection: &Collection, event: EventType, value: Value, revision: u64) -> Self {
        let terms = index::terms(collection, &value);
        Self { terms, ..Self::write(value, revision, Some(event)) }
    }

    fn write(mut value: Value, revision: u64, event: Option<EventType>) -> Self {
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), Value::String(revision.to_string()));
        }
        let (line, json, members_at) = SCRATCH.with_borrow_mut(|line| write_line(line, &value, event));
        Self {
            json: line.slice(json),
            line,
            members_at: u32::try_from(members_at).unwrap_or(1),
            revision,
            terms: Box::default(),
            value: OnceLock::new(),
            used: AtomicBool::new(false),
        }
    }

    /// From the text of a record on disk, which this server wrote and a checksum guards.
    pub(super) fn parse(
        collection: &Collection,
        json: &[u8],
        revision: u64,
    ) -> Result<Self, serde_json::Error> {
        let members_at = match written_prefix(json) {
            Some(members_at) => members_at,
            None => {
                let value: Value = serde_json::from_slice(json)?;
                let prefix = prefix(&value);
                if json.starts_with(prefix.as_bytes()) { prefix.len() } else { 1 }
            }
        };
        let terms = match index::may_apply(collection, json) {
            true => index::terms(collection, &mut serde_json::Deserializer::from_slice(json)),
            false => Box::default(),
        };
        let json = Bytes::copy_from_slice(json);
        Ok(Self {
            line: json.clone(),
            json,
            members_at: u32::try_from(members_at).unwrap_or(1),
            revision,
            terms,
            value: OnceLock::new(),
            used: AtomicBool::new(false),
        })
    }

    /// The document, with its resourceVersion. It is kept until nobody has asked for it for a while; [`Object::document`] keeps nothing.
    pub fn value(&self) -> &Value {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        self.value.get_or_init(|| self.read())
    }

    /// The document for one look: who looks at many objects once must not leave a tree behind in each.
    pub fn document(&self) -> Cow<'_, Value> {
        self.value.get().map_or_else(|| Cow::Owned(self.read()), Cow::Borrowed)
    }

    fn read(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or_default()
    }

    /// `metadata.labels`, without reading the rest into a tree.
    pub fn labels(&self) -> Cow<'_, Value> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Labelled {
            metadata: Labels,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Labels {
            labels: Value,
        }
        if let Some(value) = self.value.get() {
            return value.pointer("/metadata/labels").map_or(Cow::Owned(Value::Null), Cow::Borrowed);
        }
        let read: Labelled = serde_json::from_slice(&self.json).unwrap_or_default();
        Cow::Owned(read.metadata.labels)
    }

    /// The same version without its tree, when it has one that nobody asked for since the last call.
    pub(super) fn compact(&self) -> Option<Self> {
        if self.used.swap(false, Ordering::Relaxed) { None } else { self.without_tree() }
    }

    /// The same version without its tree, if it has one.
    pub(super) fn without_tree(&self) -> Option<Self> {
        self.value.get()?;
        Some(Self {
            line: self.line.clone(),
            json: self.json.clone(),
            members_at: self.members_at,
            revision: self.revision,
            terms: self.terms.clone(),
            value: OnceLock::new(),
            used: AtomicBool::new(false),
        })
    }

    /// The document as compact JSON.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// `{"type":…,"object":…}` and a line feed, for a watcher that saw this object before exactly if it existed.
    pub(super) fn line(&self, event: EventType) -> Bytes {
        if self.line.len() > self.json.len() && self.line.starts_with(line_start(event.as_str()).as_bytes()) {
            return self.line.clone();
        }
        super::log::event_line(event.as_str(), &self.json)
    }

    /// Under which index terms it is found.
    pub(super) fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The members after `apiVersion` and `kind`, up to and with the closing brace: `{` before it makes a list item.
    pub fn members(&self) -> &[u8] {
        self.json.get(self.members_at as usize..).unwrap_or_default()
    }

    /// The revision that wrote it.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// `metadata.<field>` when it is text, else "".
    pub fn metadata(&self, field: &str) -> &str {
        self.value().get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
    }
}

thread_local! {
    /// Where texts are written before their length is known.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}
/// No longer text leaves its room behind.
const SCRATCH_BYTES_MAX: usize = 1 << 20;

/// The line of an event, or the document alone, in exactly the memory it takes; where in it the document is, and where in that the members
/// after `apiVersion` and `kind` begin.
fn write_line(
    scratch: &mut Vec<u8>,
    value: &Value,
    event: Option<EventType>,
) -> (Bytes, Range<usize>, usize) {
    scratch.clear();
    if let Some(event) = event {
        scratch.extend_from_slice(line_start(event.as_str()).as_bytes());
    }
    let json_at = scratch.len();
    scratch.extend_from_slice(prefix(value).as_bytes());
    let members_at = scratch.len() - json_at;
    let members = value.as_object().into_iter().flatten();
    for (name, member) in members.filter(|(name, _)| *name != "apiVersion" && *name != "kind") {
        // Writing a document to memory does not fail.
        let _ = serde_json::to_writer(&mut *scratch, name);
        scratch.push(b':');
        let _ = serde_json::to_writer(&mut *scratch, member);
        scratch.push(b',');
    }
    scratch.pop();
    scratch.push(b'}');
    let json = json_at..scratch.len();
    if event.is_some() {
        scratch.extend_from_slice(LINE_END);
    }
    let line = Bytes::copy_from_slice(scratch);
    if scratch.capacity() > SCRATCH_BYTES_MAX {
        *scratch = Vec::new();
    }
    (line, json, members_at)
}

/// What stands before the document in the line of an event.
fn line_start(event: &str) -> String {
    format!("{{\"type\":\"{event}\",\"object\":")
}

/// The text of a document up to its members other than `apiVersion` and `kind`, which every stored document has.
fn prefix(value: &Value) -> String {
    let member =
        |name: &str| value.get(name).map(|member| format!("\"{name}\":{member},")).unwrap_or_default();
    format!("{{{}{}", member("apiVersion"), member("kind"))
}

/// The length of [`prefix`] in a text that this server wrote; none for any other order of members.
fn written_prefix(json: &[u8]) -> Option<usize> {
    let mut rest = json.strip_prefix(b"{")?;
    for name in ["\"apiVersion\":\"", "\"kind\":\""] {
        let value = rest.strip_prefix(name.as_bytes())?;
        let end = value.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        rest = value.get(end..)?.strip_prefix(b"\",")?;
    }
    Some(json.len() - rest.len())
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({} @{})", self.metadata("name"), self.revision)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_text_starts_with_the_type_and_reads_back() {
        let value = json!({"data": {"a": "\"x\""}, "kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "n"}});
        let object = Object::stamp(value, 7);
        let members = r#""data":{"a":"\"x\""},"metadata":{"name":"n","resourceVersion":"7"}}"#;
        assert_eq!(object.json(), &format!(r#"{{"apiVersion":"v1","kind":"ConfigMap",{members}"#));
        assert_eq!(object.members(), members.as_bytes());
        let maps = Collection::new("", "configmaps");
        let read = Object::parse(&maps, object.json(), 7).unwrap();
        assert_eq!((read.value(), read.members()), (object.value(), object.members()));
    }

    #[test]
    fn the_line_of_its_event_is_made_with_the_text() {
        let maps = Collection::new("", "configmaps");
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "n"}});
        let object = Object::stored(&maps, EventType::Added, value, 7);
        let document =
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"n","resourceVersion":"7"}}"#;
        assert_eq!(object.json(), document);
        assert_eq!(object.line(EventType::Added), format!("{{\"type\":\"ADDED\",\"object\":{document}}}\n"));
        assert_eq!(object.line(EventType::Added).as_ptr(), object.line(EventType::Added).as_ptr());
        assert_eq!(
            object.line(EventType::Modified),
            format!("{{\"type\":\"MODIFIED\",\"object\":{document}}}\n")
        );
    }

    #[test]
    fn a_tree_is_forgotten_when_nobody_asks() {
        let object = Object::stamp(json!({"metadata": {"name": "n", "labels": {"a": "b"}}}), 7);
        assert!(object.compact().is_none(), "there is no tree yet");
        assert_eq!(object.labels().get("a"), Some(&json!("b")));
        assert!(object.document().is_object() && object.compact().is_none(), "one look leaves none");
        assert_eq!(object.metadata("name"), "n");
        assert!(object.compact().is_none(), "it was asked for");
        let compact = object.compact().unwrap();
        assert!(compact.compact().is_none());
        assert_eq!(compact.value(), object.value());
    }

    #[test]
    fn keys_name_their_parts() {
        let key = Key::new("ns", "a.b");
        assert_eq!((key.as_str(), key.namespace(), key.name()), ("ns/a.b", "ns", "a.b"));
        let key = Key::new("", "node-1");
        assert_eq!((key.as_str(), key.namespace(), key.name()), ("node-1", "", "node-1"));
    }
}
