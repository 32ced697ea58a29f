//! What changed between two versions of an object.

use std::collections::BTreeMap;

use serde_json::Value;

use super::domain::Domain;
use super::members::all_of;
use super::path::PathElement;
use super::place::{Place, Shape, field_element, is_empty_object};
use super::set::{Branch, FieldSet};
use crate::document::{Document, Object};
use crate::schema::{List, Schema};

/// The paths that changed. A thing that appears or goes is counted with everything in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// In the new version only.
    pub added: FieldSet,
    /// In both, with another value.
    pub modified: FieldSet,
    /// In the old version only.
    pub removed: FieldSet,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// What has another value than before, or one at all.
    pub fn written(&self) -> FieldSet {
        let mut written = self.added.clone();
        written.unite(&self.modified);
        written
    }

    /// The same, and apart from it what is gone.
    pub(super) fn into_written_and_removed(mut self) -> (FieldSet, FieldSet) {
        self.added.unite(&self.modified);
        (self.added, self.removed)
    }
}

/// Compares the whole of two objects; null is an object that is not there yet. The order of items with an identity is no change.
pub fn compare(schema: &Schema, old: &Value, new: &Value) -> Changes {
    Diff::of(Place::root(schema), old, new).into_changes()
}

/// Compares what writes in `domain` may own.
pub(super) fn compare_within(schema: &Schema, domain: Domain, old: &Value, new: &Value) -> Changes {
    let place = Place::root(schema);
    let mut diff = Diff::default();
    diff.entries(place, old, new, |name| domain.has(name) && name != "metadata");
    if domain.has("metadata") {
        let (inner, field) = place.child("metadata");
        let mut metadata = Diff::default();
        metadata
            .entries(inner, old.at(&["metadata"]), new.at(&["metadata"]), |name| domain.has_metadata(name));
        diff.insert(&field_element(field, "metadata"), metadata);
    }
    diff.into_changes()
}

#[derive(Debug, Default)]
struct Diff {
    added: Branch,
    modified: Branch,
    removed: Branch,
}

impl Diff {
    fn into_changes(self) -> Changes {
        Changes { added: self.added.below, modified: self.modified.below, removed: self.removed.below }
    }

    fn insert(&mut self, element: &PathElement, inner: Diff) {
        self.added.below.insert(element.clone(), inner.added);
        self.modified.below.insert(element.clone(), inner.modified);
        self.removed.below.insert(element.clone(), inner.removed);
    }

    fn of(place: Place<'_>, old: &Value, new: &Value) -> Diff {
        let mut diff = Diff::default();
        if old == new {
            return diff;
        }
        match (place.shape, old, new) {
            (Shape::Struct(_) | Shape::Map(_), ..) | (Shape::Deduced, Value::Object(_), Value::Object(_)) => {
                if is_empty_object(old) && is_empty_object(new) {
                    diff.modified.member = true;
                } else {
                    diff.entries(place, old, new, |_| true);
                }
            }
            (Shape::List(list), ..) => diff.items(place, list, old, new),
            (Shape::Deduced, ..) => {
                diff.modified.member = true;
                diff.removed.below = all_of(place, old).below;
                diff.added.below = all_of(place, new).below;
            }
            (Shape::Leaf, ..) => diff.modified.member = true,
        }
        diff
    }

    /// Compares objects by their fields or entries; anything but an object has none.
    fn entries(&mut self, place: Place<'_>, old: &Value, new: &Value, counts: impl Fn(&str) -> bool) {
        let none = Object::new();
        let (old, new) = (old.as_object().unwrap_or(&none), new.as_object().unwrap_or(&none));
        for (name, new) in new {
            let before = old.get(name);
            if before == Some(new) || !counts(name) {
                continue;
            }
            let (inner, field) = place.child(name);
            let always = field.is_some_and(|field| field.always);
            let element = field_element(field, name);
            match before {
                Some(old) => self.insert(&element, Diff::of(inner, old, new)),
                None if always && is_empty_object(new) => {}
                None if always => self.insert(&element, Diff::of(inner, &Value::Null, new)),
                None => self.added.below.insert(element, all_of(inner, new)),
            }
        }
        for (name, old) in old.iter().filter(|(name, _)| !new.contains_key(*name) && counts(name)) {
            let (inner, field) = place.child(name);
            let always = field.is_some_and(|field| field.always);
            let element = field_element(field, name);
            if !always {
                self.removed.below.insert(element, all_of(inner, old));
            } else if !is_empty_object(old) {
                self.insert(&element, Diff::of(inner, old, &Value::Null));
            }
        }
    }

    /// Compares lists by the identity of their items.
    fn items(&mut self, place: Place<'_>, list: &List, old: &Value, new: &Value) {
        let (old, new) = (indexed(place, list, old), indexed(place, list, new));
        if old.is_empty() && new.is_empty() {
            self.modified.member = true;
            return;
        }
        let inner = place.item(list);
        let whole = |items: &[&Value]| items.first().map(|item| all_of(inner, item)).unwrap_or_default();
        for (identity, items) in &new {
            match (old.get(identity).map(Vec::as_slice), items.as_slice()) {
                (None, items) => self.added.below.insert(identity.clone(), whole(items)),
                (Some([old]), [new]) => self.insert(identity, Diff::of(inner, old, new)),
                (Some(old), new) if old == new => {}
                (Some(_), _) => self.modified.below.insert(identity.clone(), Branch::leaf()),
            }
        }
        for (identity, items) in old.iter().filter(|(identity, _)| !new.contains_key(*identity)) {
            self.removed.below.insert(identity.clone(), whole(items));
        }
    }
}

/// The items of a list by their identity: several when the list breaks its own rule.
fn indexed<'v>(place: Place<'_>, list: &List, value: &'v Value) -> BTreeMap<PathElement, Vec<&'v Value>> {
    let mut index: BTreeMap<PathElement, Vec<&Value>> = BTreeMap::new();
    for item in value.as_array().into_iter().flatten() {
        index.entry(place.identity(list, item)).or_default().push(item);
    }
    index
}
