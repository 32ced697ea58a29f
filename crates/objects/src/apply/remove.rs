//! What an applier no longer states is taken out of the object.

use serde_json::Value;

use super::place::{Place, Shape, is_empty_object};
use super::set::{Branch, FieldSet};
use crate::schema::{List, ListTopology, Schema, Text};

/// Removes from `object` what is in `dropped` and not in `kept`, the fields that anybody owns now. An item or entry goes with everything
/// in it when nobody else owns the item itself; a structure when nobody owns anything in it.
pub fn remove(schema: &Schema, object: &mut Value, dropped: &FieldSet, kept: &FieldSet) {
    if !dropped.is_empty() {
        Removal { keys: &["metadata".into()] }.entries(Place::root(schema), object, dropped, kept);
    }
}

/// What is never taken out of the value at hand: the keys of an item that stays.
#[derive(Clone, Copy)]
struct Removal<'a> {
    keys: &'a [Text],
}

impl Removal<'_> {
    fn inside(place: Place<'_>, value: &mut Value, dropped: &FieldSet, kept: &FieldSet, keys: &[Text]) {
        if dropped.is_empty() {
            return;
        }
        match place.shape {
            Shape::Struct(_) | Shape::Map(_) | Shape::Deduced => {
                Removal { keys }.entries(place, value, dropped, kept)
            }
            Shape::List(list) => items(place, list, value, dropped, kept),
            Shape::Leaf => {}
        }
    }

    fn entries(self, place: Place<'_>, value: &mut Value, dropped: &FieldSet, kept: &FieldSet) {
        static NOTHING: Branch = Branch { member: false, below: FieldSet::EMPTY };
        let Some(entries) = value.as_object_mut() else { return };
        entries.retain(|name, value| {
            let Some(dropped) = dropped.field(name) else { return true };
            let kept = kept.field(name).unwrap_or(&NOTHING);
            let (inner, field) = place.child(name);
            // A structure is owned by whoever owns something in it.
            let owns = |branch: &Branch| branch.member || (field.is_some() && !branch.below.is_empty());
            let is_key = self.keys.iter().any(|key| key == name);
            if owns(dropped) && !owns(kept) && !is_key {
                return false;
            }
            let was_empty = is_empty(value);
            Removal::inside(inner, value, &dropped.below, &kept.below, &[]);
            was_empty || !is_empty(value) || kept.member || is_key
        });
    }
}

fn items(place: Place<'_>, list: &List, value: &mut Value, dropped: &FieldSet, kept: &FieldSet) {
    static NOTHING: Branch = Branch { member: false, below: FieldSet::EMPTY };
    let Some(items) = value.as_array_mut() else { return };
    let keys: &[Text] = match &list.topology {
        ListTopology::Map(keys) => keys,
        ListTopology::Set | ListTopology::Atomic => &[],
    };
    items.retain_mut(|item| {
        let identity = place.identity(list, item);
        let Some(dropped) = dropped.get(&identity) else { return true };
        let kept = kept.get(&identity).unwrap_or(&NOTHING);
        if dropped.member && !kept.member {
            return false;
        }
        Removal::inside(place.item(list), item, &dropped.below, &kept.below, keys);
        true
    });
}

fn is_empty(value: &Value) -> bool {
    is_empty_object(value) || value.as_array().is_some_and(Vec::is_empty)
}
