//! Who belongs to whom: adoption of orphans and release of objects that no longer match, by selector and managing owner.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;

use crate::metadata::{controller_of, is_deleting};
use crate::plan::Write;
use crate::selector::matches;
use crate::world::Object;

/// What an owner has, and what must be written so that it is so.
#[derive(Debug, PartialEq)]
pub struct Claim<K> {
    /// Owned objects, in the order of the candidates; those being adopted included.
    pub owned: Vec<Arc<K>>,
    /// Adoptions and releases.
    pub writes: Vec<Write>,
}

/// Decides for each candidate. An owner that is being deleted adopts and releases nothing; an object that is being deleted is not
/// adopted; what another owner manages is left alone.
pub fn claim<'a, K>(
    candidates: impl Iterator<Item = &'a Arc<K>>,
    owner: &ObjectMeta,
    reference: &OwnerReference,
    selector: &LabelSelector,
) -> Claim<K>
where
    K: Resource + Clone + Into<Object> + 'a,
{
    let mut claim = Claim { owned: Vec::new(), writes: Vec::new() };
    for candidate in candidates {
        let meta = candidate.meta();
        let selected = matches(selector, meta.labels.as_ref());
        match controller_of(meta) {
            Some(controller) if controller.uid != reference.uid => {}
            Some(_) if selected || is_deleting(owner) => claim.owned.push(candidate.clone()),
            Some(_) => claim.writes.push(release(&**candidate, &reference.uid)),
            None if !selected || is_deleting(owner) || is_deleting(meta) => {}
            None => {
                claim.writes.push(adopt(&**candidate, reference));
                claim.owned.push(candidate.clone());
            }
        }
    }
    claim
}

fn adopt<K: Resource + Clone + Into<Object>>(object: &K, reference: &OwnerReference) -> Write {
    let mut object = object.clone();
    object.meta_mut().owner_references.get_or_insert_default().push(reference.clone());
    Write::Adopt { object: object.into(), owner: reference.clone() }
}

fn release<K: Resource + Clone + Into<Object>>(object: &K, uid: &str) -> Write {
    let mut object = object.clone();
    let references = object.meta_mut().owner_references.take().unwrap_or_default();
    let others: Vec<_> = references.into_iter().filter(|reference| reference.uid != uid).collect();
    object.meta_mut().owner_references = Some(others).filter(|others| !others.is_empty());
    Write::Replace(object.into())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn candidates() {
        struct Case {
            name: &'static str,
            given: Value,
            owned: bool,
            write: bool,
        }
        let owned_by = |uid: &str| json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": uid, "controller": true}]);
        let (ours, other) = (json!({"app": "web"}), json!({"app": "db"}));
        let cases = [
            Case {
                name: "ours",
                given: json!({"labels": ours, "ownerReferences": owned_by("u")}),
                owned: true,
                write: false,
            },
            Case {
                name: "another's",
                given: json!({"labels": ours, "ownerReferences": owned_by("v")}),
                owned: false,
                write: false,
            },
            Case {
                name: "released",
                given: json!({"labels": other, "ownerReferences": owned_by("u")}),
                owned: false,
                write: true,
            },
            Case { name: "adopted", given: json!({"labels": ours}), owned: true, write: true },
            Case { name: "stranger", given: json!({"labels": other}), owned: false, write: false },
            Case {
                name: "orphan being deleted",
                given: json!({"labels": ours, "deletionTimestamp": "2026-01-01T00:00:00Z"}),
                owned: false,
                write: false,
            },
        ];
        let selector: LabelSelector = serde_json::from_value(json!({"matchLabels": {"app": "web"}})).unwrap();
        let reference =
            OwnerReference { uid: "u".into(), controller: Some(true), ..OwnerReference::default() };
        for case in cases {
            let pod: Pod = serde_json::from_value(json!({"metadata": case.given})).unwrap();
            let claim = claim([Arc::new(pod)].iter(), &ObjectMeta::default(), &reference, &selector);
            assert_eq!(
                (claim.owned.len() == 1, claim.writes.len() == 1),
                (case.owned, case.write),
                "{}",
                case.name
            );
        }
    }
}
