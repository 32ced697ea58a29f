//! Who owns whom, by uid, and what follows from it. Pure: the caller observes, asks, and does as told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_kit::watch::{ObjectKey, key_of};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// `metadata.uid`.
pub(super) type Uid = Arc<str>;

/// Finalizer of an object that waits for its dependents to be deleted.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object whose dependents are to be kept.
pub(super) const ORPHAN: &str = "orphan";
/// Owners that were asked for and are gone, remembered; uids never come back, so forgetting one costs a request only.
const ABSENT_MAX: usize = 10_000;

/// What matters of an object. Group and plural name its resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) uid: Uid,
    pub(super) resource: Arc<str>,
    pub(super) key: ObjectKey,
    pub(super) owners: Vec<Owner>,
    pub(super) deleting: bool,
    pub(super) waits: Waits,
}

/// What an object's deletion waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) foreground: bool,
    pub(super) orphan: bool,
}

/// One owner reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: Uid,
    pub(super) api_version: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) blocks: bool,
}

impl From<&OwnerReference> for Owner {
    fn from(reference: &OwnerReference) -> Self {
        Self {
            uid: reference.uid.as_str().into(),
            api_version: reference.api_version.as_str().into(),
            kind: reference.kind.as_str().into(),
            name: reference.name.as_str().into(),
            blocks: reference.block_owner_deletion == Some(true),
        }
    }
}

impl Item {
    /// `None` for an object without a uid, which the API server does not deliver.
    pub(super) fn of<K: kube::Resource>(resource: &Arc<str>, object: &K) -> Option<Self> {
        let meta: &ObjectMeta = object.meta();
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|present| present == finalizer);
        Some(Self {
            uid: meta.uid.as_deref()?.into(),
            resource: resource.clone(),
            key: key_of(object),
            owners: meta.owner_references.iter().flatten().map(Owner::from).collect(),
            deleting: meta.deletion_timestamp.is_some(),
            waits: Waits { foreground: has(FOREGROUND), orphan: has(ORPHAN) },
        })
    }
}

/// How the dependents of a deleted object are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Background,
    Foreground,
    Orphan,
}

/// What is to be done about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Keep,
    /// These owners are not known here: ask whether they exist.
    Ask(Vec<Owner>),
    /// No owner is left.
    Delete(Policy),
    /// Some owners are gone, others are not: drop the references to these.
    Detach(BTreeSet<Uid>),
    /// Drop the references to this object from these, then its finalizer.
    Orphan(Vec<Uid>),
    /// Nothing blocks the end of this object: drop its finalizer.
    Finish,
}

/// All objects that can own or be owned.
#[derive(Debug, Default)]
pub(super) struct Graph {
    items: BTreeMap<Uid, Item>,
    dependents: BTreeMap<Uid, BTreeSet<Uid>>,
    absent: BTreeSet<Uid>,
}

impl Graph {
    /// Notes an object as it is now; returns whom to examine.
    pub(super) fn observe(&mut self, item: Item) -> Vec<Uid> {
        let uid = item.uid.clone();
        if self.items.get(&uid) == Some(&item) {
            return Vec::new();
        }
        let mut examine = vec![uid.clone()];
        if let Some(old) = self.items.remove(&uid) {
            for owner in &old.owners {
                self.unlink(&owner.uid, &uid);
                // An owner that waits for its dependents may have lost the last one.
                examine.push(owner.uid.clone());
            }
        }
        for owner in &item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        if item.deleting {
            examine.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
            examine.extend(item.owners.iter().map(|owner| owner.uid.clone()));
        }
        self.items.insert(uid, item);
        examine
    }

    /// Notes that an object is gone; returns whom to examine.
    pub(super) fn forget(&mut self, uid: &str) -> Vec<Uid> {
        let Some((uid, item)) = self.items.remove_entry(uid) else { return Vec::new() };
        self.confirm_absent(uid.clone());
        for owner in &item.owners {
            self.unlink(&owner.uid, &uid);
        }
        let dependents = self.dependents.get(&uid).into_iter().flatten().cloned();
        dependents.chain(item.owners.into_iter().map(|owner| owner.uid)).collect()
    }

    /// Notes the answer to [`Verdict::Ask`].
    pub(super) fn confirm_absent(&mut self, uid: Uid) {
        if self.absent.len() >= ABSENT_MAX {
            self.absent.clear();
        }
        self.absent.insert(uid);
    }

    /// The object of that uid.
    pub(super) fn find(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    /// The uids of one resource.
    pub(super) fn of_resource(&self, resource: &str) -> BTreeSet<Uid> {
        self.items.values().filter(|item| &*item.resource == resource).map(|item| item.uid.clone()).collect()
    }

    fn unlink(&mut self, owner: &Uid, dependent: &Uid) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    fn dependents(&self, uid: &str) -> impl Iterator<Item = &Item> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|dependent| self.items.get(dependent))
    }

    /// What is to be done about this object now.
    pub(super) fn examine(&self, uid: &str) -> Verdict {
        let Some(item) = self.items.get(uid) else { return Verdict::Keep };
        if item.deleting {
            return self.examine_deleting(item);
        }
        let (mut solid, mut waiting, mut unknown) = (false, BTreeSet::new(), Vec::new());
        let mut gone = BTreeSet::new();
        for owner in &item.owners {
            match self.items.get(&owner.uid) {
                // A reference across namespaces means nothing.
                Some(found) if !is_reachable(found, item) => _ = gone.insert(owner.uid.clone()),
                Some(found) if found.deleting && found.waits.foreground => {
                    _ = waiting.insert(owner.uid.clone())
                }
                Some(_) => solid = true,
                None if self.absent.contains(&owner.uid) => _ = gone.insert(owner.uid.clone()),
                None => unknown.push(owner.clone()),
            }
        }
        if gone.is_empty() && waiting.is_empty() && unknown.is_empty() {
            return Verdict::Keep;
        }
        if !unknown.is_empty() {
            return Verdict::Ask(unknown);
        }
        if solid {
            gone.extend(waiting);
            return Verdict::Detach(gone);
        }
        let has_dependents = self.dependents(uid).next().is_some();
        Verdict::Delete(match item.waits {
            Waits { orphan: true, .. } => Policy::Orphan,
            Waits { foreground: true, .. } => Policy::Foreground,
            Waits { .. } if !waiting.is_empty() && has_dependents => Policy::Foreground,
            Waits { .. } => Policy::Background,
        })
    }

    fn examine_deleting(&self, item: &Item) -> Verdict {
        if item.waits.orphan {
            return Verdict::Orphan(
                self.dependents(&item.uid).map(|dependent| dependent.uid.clone()).collect(),
            );
        }
        let blocks =
            |dependent: &Item| dependent.owners.iter().any(|owner| owner.uid == item.uid && owner.blocks);
        if item.waits.foreground && !self.dependents(&item.uid).any(blocks) {
            return Verdict::Finish;
        }
        Verdict::Keep
    }
}

/// Owners are in the same namespace or in none.
fn is_reachable(owner: &Item, dependent: &Item) -> bool {
    owner.key.namespace.is_empty() || owner.key.namespace == dependent.key.namespace
}

#[cfg(test)]
mod tests;
