//! Secondary indexes: where the objects are that a question names by something else than their key.
//!
//! An object's terms are found once, when it is written or read back; the index is one ordered, persistent set of (term, place), so it
//! costs each change in proportion to the object's terms and is part of every snapshot of the state.

use std::borrow::Cow;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdSet;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

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
    has_own(collection) || json.windows(OWNERS.len()).any(|window| window == OWNERS)
}

/// What every kind has; the rest of a document is skipped.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Owned<'a> {
    #[serde(borrow)]
    metadata: Option<Metadata<'a>>,
}

/// The members of the kinds with indexes of their own.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Named<'a> {
    #[serde(borrow)]
    metadata: Option<Metadata<'a>>,
    #[serde(borrow)]
    spec: Option<Spec<'a>>,
    #[serde(borrow)]
    series: Option<Series<'a>>,
    #[serde(borrow, rename = "lastTimestamp")]
    last_timestamp: Text<'a>,
    #[serde(borrow, rename = "eventTime")]
    event_time: Text<'a>,
}

/// Text, or null.
type Text<'a> = Option<Cow<'a, str>>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata<'a> {
    #[serde(borrow)]
    namespace: Text<'a>,
    #[serde(borrow)]
    labels: Option<Labels<'a>>,
    #[serde(borrow, rename = "ownerReferences")]
    owners: Option<Vec<OwnerReference<'a>>>,
    #[serde(borrow, rename = "creationTimestamp")]
    created: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Labels<'a> {
    #[serde(borrow, rename = "kubernetes.io/service-name")]
    service: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OwnerReference<'a> {
    #[serde(borrow)]
    uid: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec<'a> {
    #[serde(borrow, rename = "nodeName")]
    node: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Series<'a> {
    #[serde(borrow, rename = "lastObservedTime")]
    last_observed: Text<'a>,
}

/// What an object of a collection is found by. A document that is not shaped as its kind is has no terms.
pub(super) fn terms<'a>(collection: &Collection, document: impl Deserializer<'a>) -> Box<[Term]> {
    let (metadata, own) = if has_own(collection) {
        let Ok(named) = Named::deserialize(document) else { return Box::default() };
        let own = own_term(collection, &named);
        (named.metadata, own)
    } else {
        let Ok(owned) = Owned::deserialize(document) else { return Box::default() };
        (owned.metadata, None)
    };
    let owners = metadata.and_then(|metadata| metadata.owners).into_iter().flatten();
    let owners = owners.filter_map(|owner| Some((Index::Owner, filled(&owner.uid)?)));
    let mut terms: Vec<Term> =
        own.into_iter().chain(owners).map(|(index, value)| Term { index, value: value.into() }).collect();
    terms.sort_unstable();
    terms.dedup();
    terms.into_boxed_slice()
}

fn has_own(collection: &Collection) -> bool {
    matches!(collection.as_str(), "pods" | "endpointslices.discovery.k8s.io" | "events")
}

fn own_term(collection: &Collection, named: &Named<'_>) -> Option<(Index, String)> {
    match collection.as_str() {
        "pods" => Some((Index::NodeName, filled(&named.spec.as_ref()?.node)?)),
        "events" => Some((Index::LastSeen, last_seen_text(last_seen(named)))),
        _ => {
            let metadata = named.metadata.as_ref()?;
            let service = filled(&metadata.labels.as_ref()?.service)?;
            Some((
                Index::ServiceName,
                format!("{}/{service}", metadata.namespace.as_deref().unwrap_or_default()),
            ))
        }
    }
}

fn filled(text: &Text<'_>) -> Option<String> {
    text.as_deref().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// A time as the index orders it.
pub(super) fn last_seen_text(seen: Timestamp) -> String {
    format!("{:020}", seen.as_millisecond().max(0))
}

/// When an event happened last, by whichever field its writer uses.
fn last_seen(event: &Named<'_>) -> Timestamp {
    let observed = event.series.as_ref().and_then(|series| series.last_observed.as_deref());
    let created = event.metadata.as_ref().and_then(|metadata| metadata.created.as_deref());
    let times = [observed, event.last_timestamp.as_deref(), event.event_time.as_deref(), created];
    let times = times.into_iter().filter_map(|time| time?.parse().ok());
    times.max().unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
                name: "members that are null, and a kind with members of its own",
                collection: "widgets.example.org",
                object: json!({"metadata": {"labels": null, "ownerReferences": [{"uid": "u"}]}, "spec": "text", "series": [1]}),
                want: &[(Index::Owner, "u")],
            },
            Case {
                name: "an event of no time",
                collection: "events",
                object: json!({}),
                want: &[(Index::LastSeen, "00000000000000000000")],
            },
        ];
        for case in cases {
            let collection = Collection::from_qualified(case.collection);
            let terms = terms(&collection, &case.object);
            let got: Vec<_> = terms.iter().map(|term| (term.index, &*term.value)).collect();
            assert_eq!(got, case.want, "{}", case.name);
            let text = case.object.to_string();
            let of_text = super::terms(&collection, &mut serde_json::Deserializer::from_str(&text));
            assert_eq!(of_text, terms, "{}", case.name);
        }
    }
}
