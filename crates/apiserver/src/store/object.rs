//! What is stored, and under which name.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

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

/// One version of one object: the document, and its text made once for the log, every answer and every watcher.
pub struct Object {
    value: Value,
    json: Bytes,
    /// Where in `json` the members after `apiVersion` and `kind` begin.
    members_at: usize,
    revision: u64,
}

impl Object {
    /// Stamps `metadata.resourceVersion` and writes the text.
    pub(crate) fn stamp(mut value: Value, revision: u64) -> Self {
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), Value::String(revision.to_string()));
        }
        let prefix = prefix(&value);
        let mut json = prefix.clone();
        let members = value.as_object().into_iter().flatten();
        for (name, member) in members.filter(|(name, _)| *name != "apiVersion" && *name != "kind") {
            json.push_str(&format!("{}:{member},", Value::from(name.as_str())));
        }
        json.pop();
        json.push('}');
        Self { members_at: prefix.len(), value, json: Bytes::from(json), revision }
    }

    /// From the text of a log record.
    pub(crate) fn parse(json: &[u8], revision: u64) -> Result<Self, serde_json::Error> {
        let value: Value = serde_json::from_slice(json)?;
        let prefix = prefix(&value);
        let members_at = if json.starts_with(prefix.as_bytes()) { prefix.len() } else { 1 };
        Ok(Self { value, json: Bytes::copy_from_slice(json), members_at, revision })
    }

    /// The document, with its resourceVersion.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The document as compact JSON.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The members after `apiVersion` and `kind`, up to and with the closing brace: `{` before it makes a list item.
    pub fn members(&self) -> &[u8] {
        self.json.get(self.members_at..).unwrap_or_default()
    }

    /// The revision that wrote it.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// `metadata.<field>` when it is text, else "".
    pub fn metadata(&self, field: &str) -> &str {
        self.value.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
    }
}

/// The text of a document up to its members other than `apiVersion` and `kind`, which every stored document has.
fn prefix(value: &Value) -> String {
    let member =
        |name: &str| value.get(name).map(|member| format!("\"{name}\":{member},")).unwrap_or_default();
    format!("{{{}{}", member("apiVersion"), member("kind"))
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
        let read = Object::parse(object.json(), 7).unwrap();
        assert_eq!((read.value(), read.members()), (object.value(), object.members()));
    }

    #[test]
    fn keys_name_their_parts() {
        let key = Key::new("ns", "a.b");
        assert_eq!((key.as_str(), key.namespace(), key.name()), ("ns/a.b", "ns", "a.b"));
        let key = Key::new("", "node-1");
        assert_eq!((key.as_str(), key.namespace(), key.name()), ("node-1", "", "node-1"));
    }
}
