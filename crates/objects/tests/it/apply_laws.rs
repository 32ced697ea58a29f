//! Laws of server-side apply over random configurations of every kind.

use fairway_objects::apply::{self, ApplyError, Author, FieldSet, ManagedFields, Operation};
use fairway_objects::decode::{self, FieldValidation};
use fairway_objects::schema::{ListTopology, Scalar, Type, Types};
use fairway_objects::{Document as _, Registry, Resource, strategy};
use serde_json::{Value, json};

use crate::laws::{Random, document};

/// Pairs of configurations a kind.
const ROUNDS: u64 = 60;

fn author(name: &str) -> Author<'_> {
    Author { name, subresource: "", now: jiff::Timestamp::UNIX_EPOCH }
}

/// Gives every item of a list its keys, so that no two are the same; items of two documents are, often.
fn identify(types: &Types, ty: &Type, value: &mut Value) {
    match (ty, value) {
        (Type::Struct(id), Value::Object(fields)) => {
            // Nobody owns an empty list, so nothing is to be said about when it goes.
            fields.retain(|_, value| value.as_array().is_none_or(|items| !items.is_empty()));
            for (name, value) in fields {
                if let Some(field) = types.get(*id).field(name) {
                    identify(types, &field.ty, value);
                }
            }
        }
        (Type::Map(map), Value::Object(entries)) => {
            entries.values_mut().for_each(|value| identify(types, &map.value, value));
        }
        (Type::List(list), Value::Array(items)) => {
            for (index, item) in items.iter_mut().enumerate() {
                identify(types, &list.item, item);
                let ListTopology::Map(keys) = &list.topology else { continue };
                let Type::Struct(id) = list.item else { continue };
                for key in keys {
                    let is_number = types.get(id).field(key).unwrap().ty == Type::Scalar(Scalar::Int32);
                    item.put(&[key], if is_number { json!(80 + index) } else { json!(format!("k{index}")) });
                }
            }
            if list.topology == ListTopology::Set {
                items.sort_by_key(Value::to_string);
                items.dedup();
            }
        }
        _ => {}
    }
}

/// A random configuration as a client could send it; `None` when it cannot be decoded.
fn configuration(resource: &Resource, random: &mut Random) -> Option<Value> {
    let schema = &resource.object.schema;
    let root = Type::Struct(schema.root);
    let mut given = document(schema, &root, random, 0);
    identify(&schema.types, &root, &mut given);
    given.put(&["apiVersion"], resource.api_version());
    given.put(&["kind"], resource.kind());
    let metadata = given.map_mut(&["metadata"]).unwrap();
    metadata.retain(|name, _| matches!(name.as_str(), "labels" | "annotations" | "ownerReferences"));
    metadata.insert("name".to_owned(), "x".into());
    apply::decode(&resource.object, given.to_string().as_bytes(), FieldValidation::Strict).ok()
}

/// A configuration that owns nothing leaves an object without owners, which the next apply takes for one from before.
fn states_something(resource: &Resource, config: &Value) -> bool {
    applied(resource, None, "m", config, false).unwrap().has(&["metadata", "managedFields"])
}

fn each_pair(check: impl Fn(&Resource, Value, Value)) {
    for resource in Registry::builtin().resources() {
        let mut checked = 0;
        for round in 1..=ROUNDS {
            let mut random = Random::seeded(round);
            let pair = (configuration(resource, &mut random), configuration(resource, &mut random));
            if let (Some(one), Some(other)) = pair
                && states_something(resource, &one)
            {
                check(resource, one, other);
                checked += 1;
            }
        }
        assert!(checked > ROUNDS / 4, "{}: only {checked} pairs were fit", resource.kind());
    }
}

fn applied(
    resource: &Resource,
    live: Option<&Value>,
    name: &str,
    config: &Value,
    force: bool,
) -> Result<Value, ApplyError> {
    apply::apply(resource, live, config, &author(name), force)
}

fn normal(resource: &Resource, object: Value) -> Value {
    decode::normalize(&resource.object, object, FieldValidation::Strict).unwrap().object
}

fn owned(object: &Value, name: &str) -> FieldSet {
    let managed = ManagedFields::read(object).unwrap();
    managed
        .iter()
        .find(|entry| entry.manager.name == name)
        .map(|entry| entry.fields.clone())
        .unwrap_or_default()
}

#[test]
fn applying_again_changes_nothing() {
    each_pair(|resource, one, other| {
        let object = applied(resource, None, "m", &one, false).unwrap();
        let again = applied(resource, Some(&object), "m", &one, false).unwrap();
        assert_eq!(again, object);
        let object = applied(resource, Some(&object), "n", &other, true).unwrap();
        let again = applied(resource, Some(&object), "n", &other, false).unwrap();
        assert!(strategy::is_no_op(&again, &object), "{again}\n{object}");
    });
}

#[test]
fn who_applies_owns_what_it_stated() {
    each_pair(|resource, one, other| {
        let object = applied(resource, None, "m", &one, false).unwrap();
        let object = applied(resource, Some(&object), "n", &other, true).unwrap();
        let mut stated = apply::set_of(&resource.object.schema, &other);
        stated.subtract(&owned(&object, "n"));
        let unowned = stated.paths();
        let servers = |path: &String| {
            matches!(path.as_str(), ".apiVersion" | ".kind" | ".metadata.name") || path.starts_with(".status")
        };
        assert!(unowned.iter().all(servers), "{unowned:?}");
    });
}

#[test]
fn force_meets_no_conflict() {
    each_pair(|resource, one, other| {
        let object = applied(resource, None, "m", &one, false).unwrap();
        if applied(resource, Some(&object), "n", &other, false).is_err() {
            assert!(applied(resource, Some(&object), "n", &other, true).is_ok());
        }
    });
}

#[test]
fn a_sole_applier_gets_exactly_what_it_states() {
    each_pair(|resource, one, other| {
        let before = applied(resource, None, "m", &one, false).unwrap();
        let after = applied(resource, Some(&before), "m", &other, false).unwrap();
        let mut fresh = applied(resource, None, "m", &other, false).unwrap();
        // What another subresource owns is left as it is.
        if resource.has_status() {
            let live = after.at(&["status"]).clone();
            fresh.put(&["status"], live);
        }
        let (after, fresh) = (normal(resource, after), normal(resource, fresh));
        let changes = apply::compare(&resource.object.schema, &fresh, &after);
        assert_eq!(after, fresh, "{changes:?}\n{one}\n{other}");
    });
}

#[test]
fn merging_twice_is_merging_once() {
    each_pair(|resource, one, other| {
        let schema = &resource.object.schema;
        let once = apply::merge(schema, one, &other);
        let twice = apply::merge(schema, once.clone(), &other);
        assert_eq!(twice, once);
    });
}

#[test]
fn sets_read_what_they_write() {
    each_pair(|resource, one, other| {
        let changes = apply::compare(&resource.object.schema, &one, &other);
        for set in
            [apply::set_of(&resource.object.schema, &one), changes.added, changes.modified, changes.removed]
        {
            assert_eq!(FieldSet::from_fields_v1(&set.to_fields_v1()), Ok(set));
        }
        assert!(apply::compare(&resource.object.schema, &one, &one).is_empty());
    });
}

#[test]
fn an_update_takes_what_it_changes_from_all_others() {
    each_pair(|resource, one, other| {
        let object = applied(resource, None, "m", &one, false).unwrap();
        let mut changed = normal(resource, other);
        apply::track(resource, Some(&object), &mut changed, &author("editor"));
        let managed = ManagedFields::read(&changed).unwrap();
        let both = owned(&changed, "m").intersection(&owned(&changed, "editor"));
        assert!(both.is_empty(), "{:?}", both.paths());
        assert!(managed.iter().all(|entry| !entry.fields.is_empty()));
        assert!(managed.iter().filter(|entry| entry.manager.operation == Operation::Update).count() <= 1);
        let mut again = changed.clone();
        apply::track(resource, Some(&changed), &mut again, &author("reader"));
        assert_eq!(again, changed);
        assert_ne!(changed, json!({}));
    });
}
