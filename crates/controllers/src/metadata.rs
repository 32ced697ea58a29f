//! Metadata that every controller reads the same way: keys, owners, hashes, timestamps.

use std::collections::BTreeMap;
use std::time::Duration;

use fairway_kit::watch::{ObjectKey, key_of};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Letters and digits that cannot form a word, as in names that the API server generates.
const SAFE_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Length of a hash in names and labels.
const HASH_LENGTH: usize = 10;

/// Labels or annotations.
pub type StringMap = BTreeMap<String, String>;

/// The owner that manages the object: at most one reference has `controller: true`.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether the object with this uid manages the one with this metadata.
pub fn is_controlled_by(meta: &ObjectMeta, uid: Option<&str>) -> bool {
    uid.is_some() && controller_of(meta).map(|owner| owner.uid.as_str()) == uid
}

/// The key of the managing owner when it is of this kind.
pub fn controller_key(meta: &ObjectMeta, kind: &str) -> Option<ObjectKey> {
    let owner = controller_of(meta).filter(|owner| owner.kind == kind)?;
    Some(ObjectKey::new(namespace_of(meta), &owner.name))
}

/// A managing, blocking reference to `owner`.
pub fn owner_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: name_of(owner.meta()).to_owned(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What an event is about.
pub fn object_reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// The key of any object.
pub fn key<K: Resource>(object: &K) -> ObjectKey {
    key_of(object)
}

/// `metadata.name`, or "" in an object that is not created yet.
pub fn name_of(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or("")
}

/// `metadata.namespace`, or "" for cluster-wide objects.
pub fn namespace_of(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or("")
}

/// Whether deletion was asked for.
pub fn is_deleting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// One annotation.
pub fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// One label.
pub fn label<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(name).map(String::as_str)
}

/// Oldest first; objects of the same second by name, so that the order never depends on chance.
pub fn age(meta: &ObjectMeta) -> (Option<Timestamp>, &str) {
    (meta.creation_timestamp.as_ref().map(|time| time.0), name_of(meta))
}

/// `metav1.Time` has whole seconds.
pub fn seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// How long until `moment`; `None` when it has passed.
pub fn until(moment: Timestamp, now: Timestamp) -> Option<Duration> {
    Duration::try_from(moment.duration_since(now)).ok().filter(|wait| !wait.is_zero())
}

/// `moment` plus whole seconds, clamped to what a timestamp can hold.
pub fn after_seconds(moment: Timestamp, wait_seconds: i64) -> Timestamp {
    moment.checked_add(jiff::SignedDuration::from_secs(wait_seconds)).unwrap_or(Timestamp::MAX)
}

/// A short name-safe hash of what `value` means: absent, null and empty fields do not count, so that a default written out by
/// one API server version and left out by another hash alike. `salt` distinguishes values that collided before.
pub fn content_hash(value: &impl Serialize, salt: i32) -> String {
    let canonical = canonical(serde_json::to_value(value).unwrap_or_default());
    let digest =
        Sha256::new().chain_update(salt.to_be_bytes()).chain_update(canonical.to_string()).finalize();
    digest
        .iter()
        .take(HASH_LENGTH)
        .filter_map(|byte| SAFE_ALPHABET.get(usize::from(*byte) % SAFE_ALPHABET.len()))
        .map(|letter| char::from(*letter))
        .collect()
}

/// The value without fields that say nothing.
pub fn canonical(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, field)| (name, canonical(field)));
            Value::Object(fields.filter(|(_, field)| !says_nothing(field)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(canonical).collect()),
        scalar @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => scalar,
    }
}

fn says_nothing(value: &serde_json::Value) -> bool {
    use serde_json::Value;
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn empty_fields_do_not_change_a_hash_and_values_and_salts_do() {
        let plain = content_hash(&json!({"a": 1, "list": [{"b": 2}]}), 0);
        assert_eq!(plain.len(), HASH_LENGTH);
        assert_eq!(plain, content_hash(&json!({"list": [{"b": 2, "c": {}}], "a": 1, "d": null, "e": []}), 0));
        assert_ne!(plain, content_hash(&json!({"a": 2, "list": [{"b": 2}]}), 0));
        assert_ne!(plain, content_hash(&json!({"a": 1, "list": [{"b": 2}]}), 1));
    }

    #[test]
    fn a_moment_that_has_passed_is_not_waited_for() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(until(after_seconds(now, 3), now), Some(Duration::from_secs(3)));
        assert_eq!(until(now, now), None);
        assert_eq!(until(now, after_seconds(now, 3)), None);
    }
}
