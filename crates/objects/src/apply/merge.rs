//! A configuration laid over an object.

use std::collections::HashMap;

use serde_json::Value;

use super::path::PathElement;
use super::place::{Place, Shape};
use crate::schema::{List, Schema};

/// Lays `config` over `live`: its scalars and atomic parts replace, its maps and lists with identity are united with those there.
pub fn merge(schema: &Schema, live: Value, config: &Value) -> Value {
    merged(Place::root(schema), live, config)
}

fn merged(place: Place<'_>, live: Value, config: &Value) -> Value {
    match (place.shape, live, config) {
        (
            Shape::Struct(_) | Shape::Map(_) | Shape::Deduced,
            Value::Object(mut live),
            Value::Object(config),
        ) => {
            for (name, value) in config {
                let value = match live.remove(name) {
                    Some(current) => merged(place.child(name).0, current, value),
                    None => value.clone(),
                };
                live.insert(name.clone(), value);
            }
            Value::Object(live)
        }
        (Shape::List(list), Value::Array(live), Value::Array(config)) => {
            Value::Array(merged_items(place, list, live, config))
        }
        (_, _, config) => config.clone(),
    }
}

/// Items of both lists. Those of the configuration are in its order; those that it does not mention keep their place among the others:
/// before the next item that both lists have in the same order.
fn merged_items(place: Place<'_>, list: &List, live: Vec<Value>, config: &[Value]) -> Vec<Value> {
    let wanted: Vec<PathElement> = config.iter().map(|item| place.identity(list, item)).collect();
    let mut current: HashMap<&PathElement, Option<Value>> =
        wanted.iter().map(|identity| (identity, None)).collect();
    let mut order = Vec::with_capacity(live.len());
    for item in live {
        let identity = place.identity(list, &item);
        match current.get_mut(&identity) {
            None => order.push(Live::Alone(item)),
            Some(slot @ None) => {
                *slot = Some(item);
                order.push(Live::Shared(identity));
            }
            // Of items that share an identity the first is the one that is changed; the others give way.
            Some(Some(_)) => {}
        }
    }
    let is_shared = |identity: &&PathElement| matches!(current.get(*identity), Some(Some(_)));
    let shared: Vec<&PathElement> = wanted.iter().filter(is_shared).collect();
    let mut shared = shared.into_iter().peekable();
    let mut pending = config.iter().zip(&wanted);
    let mut out = Vec::with_capacity(order.len() + config.len());
    let mut merged_item =
        |item: &Value, identity: &PathElement| match current.get_mut(identity).and_then(Option::take) {
            Some(live) => merged(place.item(list), live, item),
            None => item.clone(),
        };
    for item in order {
        match item {
            Live::Alone(item) => out.push(item),
            Live::Shared(identity) => {
                if shared.next_if(|next| **next == identity).is_none() {
                    continue;
                }
                for (item, wanted) in pending.by_ref() {
                    out.push(merged_item(item, wanted));
                    if *wanted == identity {
                        break;
                    }
                }
            }
        }
    }
    for (item, wanted) in pending {
        out.push(merged_item(item, wanted));
    }
    out
}

/// An item of the list as it is.
enum Live {
    /// The configuration does not have it.
    Alone(Value),
    /// The configuration has it, too.
    Shared(PathElement),
}
