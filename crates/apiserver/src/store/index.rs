//! Secondary indexes: where the objects are that a question names by something else than their key.
//!
//! An object's terms are found once, when it is written or read back; the index is one ordered, persistent set of (term, place), so it
//! costs each change in proportion to the object's terms and is part of every snapshot of the state.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdSet;
use jiff::Timestamp;
use serde_json::Value;

use super::object::{Collection, Key, Object};

/// What objects are found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Index {
    /// Pods by `spec.nodeName`.
    NodeName,
    /// EndpointSlices by the label `kubernetes.io/service-name`, as `namespace/service`.
    ServiceName,
    /// Any object by the uid of an owner.
    Owner,
    /// Events by the time they were last seen: milliseconds since 1970, 20 digits.
    LastSeen,
}

/// One thing that an object is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Term {
    index: Index,
    value: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    term: Term,
    collection: Collection,
    key: Key,
}

/// The label that ties an EndpointSlice to its Service.
const SERVICE_NAME: &str = "/metadata/labels/kubernetes.io~1service-name";

/// All terms of all objects. Cloning is a pointer.
#[derive(Debug, Clone, Default)]
pub(super) struct Indexes(OrdSet<Entry>);

impl Indexes {
    /// Follows a change of an object.
    pub(super) fn replace(
        &mut self,
        collection: &Collection,
        key: &Key,
        old: Option<&Object>,
        new: Option<&Object>,
    ) {
        let terms =
            |object: Option<&Object>| object.map(|object| object.terms().to_vec()).unwrap_or_default();
        let (old, new) = (terms(old), terms(new));
        if old == new {
            return;
        }
        let entry = |term: Term| Entry { term, collection: collection.clone(), key: key.clone() };
        for term in old {
            self.0.remove(&entry(term));
        }
        for term in new {
            self.0.insert(entry(term));
        }
    }

    /// Where the objects of a term are, in order of collection and key.
    pub(super) fn places(&self, index: Index, value: &str) -> impl Iterator<Item = (&Collection, &Key)> {
        let term = Term { index, value: value.into() };
        let first = Entry { term: term.clone(), collection: Collection::new("", ""), key: Key::new("", "") };
        let found = self.0.range((Bound::Included(first), Bound::Unbounded));
        found.take_while(move |entry| entry.term == term).map(|entry| (&entry.collection, &entry.key))
    }

    /// Every place of an index with its value, in order of the values.
    pub(super) fn all(&self, index: Index) -> impl Iterator<Item = (&str, &Key)> {
        let term = Term { index, value: "".into() };
        let first = Entry { term, collection: Collection::new("", ""), key: Key::new("", "") };
        let found = self.0.range((Bound::Included(first), Bound::Unbounded));
        found.take_while(move |entry| entry.term.index == index).map(|entry| (&*entry.term.value, &entry.key))
    }
}

/// False when an object of this text certainly has no terms.
pub(super) fn may_apply(collection: &Collection, json: &[u8]) -> bool {
    const OWNERS: &[u8] = b"\"ownerReferences\"";
    matches!(collection.as_str(), "pods" | "endpointslices.discovery.k8s.io" | "events")
        || json.windows(OWNERS.len()).any(|window| window == OWNERS)
}

/// What an object of a collection is found by.
pub(super) fn terms(collection: &Collection, object: &Value) -> Box<[Term]> {
    let text =
        |pointer: &str| object.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let own = match collection.as_str() {
        "pods" => text("/spec/nodeName").map(|node| (Index::NodeName, node.to_owned())),
        "endpointslices.discovery.k8s.io" => {
            let namespace = text("/metadata/namespace").unwrap_or_default();
            text(SERVICE_NAME).map(|service| (Index::ServiceName, format!("{namespace}/{service}")))
        }
        "events" => Some((Index::LastSeen, last_seen_text(last_seen(object)))),
        _ => None,
    };
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let owners = owners.into_iter().flatten().filter_map(|owner| owner.get("uid")?.as_str());
    let owners = owners.map(|uid| (Index::Owner, uid.to_owned()));
    let mut terms: Vec<Term> =
        own.into_iter().chain(owners).map(|(index, value)| Term { index, value: value.into() }).collect();
    terms.sort_unstable();
    terms.dedup();
    terms.into_boxed_slice()
}

/// A time as the index orders it.
pub(super) fn last_seen_text(seen: Timestamp) -> String {
    format!("{:020}", seen.as_millisecond().max(0))
}

/// When an event happened last, by whichever field its writer uses.
fn last_seen(event: &Value) -> Timestamp {
    let pointers =
        ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
    let times = pointers.iter().filter_map(|pointer| event.pointer(pointer)?.as_str()?.parse().ok());
    times.max().unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_have_the_terms_of_their_collection() {
        struct Case {
            name: &'static str,
            collection: &'static str,
            object: Value,
            want: &'static [(Index, &'static str)],
        }
        let cases = [
            Case {
                name: "a pod on a node",
                collection: "pods",
                object: json!({"spec": {"nodeName": "n1"}}),
                want: &[(Index::NodeName, "n1")],
            },
            Case {
                name: "a pod nowhere",
                collection: "pods",
                object: json!({"spec": {"nodeName": ""}}),
                want: &[],
            },
            Case {
                name: "a slice",
                collection: "endpointslices.discovery.k8s.io",
                object: json!({"metadata": {"namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}}}),
                want: &[(Index::ServiceName, "ns/web")],
            },
            Case {
                name: "owners of anything, each once",
                collection: "configmaps",
                object: json!({"metadata": {"ownerReferences": [{"uid": "u2"}, {"uid": "u1"}, {"uid": "u2"}]}}),
                want: &[(Index::Owner, "u1"), (Index::Owner, "u2")],
            },
            Case {
                name: "an event by its last sighting",
                collection: "events",
                object: json!({
                    "metadata": {"creationTimestamp": "1970-01-01T00:00:01Z"}, "lastTimestamp": "1970-01-01T00:00:02Z",
                    "series": {"lastObservedTime": "1970-01-01T00:00:03.5Z"},
                }),
                want: &[(Index::LastSeen, "00000000000000003500")],
            },
            Case {
                name: "an event of no time",
                collection: "events",
                object: json!({}),
                want: &[(Index::LastSeen, "00000000000000000000")],
            },
        ];
        for case in cases {
            let terms = terms(&Collection::from_qualified(case.collection), &case.object);
            let got: Vec<_> = terms.iter().map(|term| (term.index, &*term.value)).collect();
            assert_eq!(got, case.want, "{}", case.name);
        }
    }
}
