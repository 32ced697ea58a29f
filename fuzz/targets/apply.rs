//! Configurations of two managers, one over the other: no panic, owners that read as they are written, and nothing happens when a manager
//! applies again what it has just applied.
#![no_main]

use fairway_fuzz::split;
use fairway_objects::apply::{self, Author, FieldSet, ManagedFields};
use fairway_objects::decode::FieldValidation;
use fairway_objects::document::Document;
use fairway_objects::{Registry, Resource, defaults};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const KINDS: [(&str, &str); 5] =
    [("", "Service"), ("", "ConfigMap"), ("", "Pod"), ("apps", "Deployment"), ("apps", "ControllerRevision")];

fn author(name: &str, second: i64) -> Author<'_> {
    let now = jiff::Timestamp::new(second, 0).expect("a small number of seconds");
    Author { name, subresource: "", now }
}

/// What is stored after `name` has applied `config`; none when it may not.
fn applied(
    resource: &Resource,
    live: Option<&Value>,
    config: &Value,
    name: &str,
    force: bool,
) -> Option<Value> {
    let mut object = apply::apply(resource, live, config, &author(name, 1), force).ok()?;
    defaults::apply(resource, &mut object);
    owners_read_as_written(&object);
    if object.list(&["metadata", "managedFields"]).is_empty() {
        // Nobody owns anything: the next apply gives what is there to whoever was before it.
        return Some(object);
    }
    let mut again = apply::apply(resource, Some(&object), config, &author(name, 2), false)
        .expect("who has just applied has no conflicts with it");
    defaults::apply(resource, &mut again);
    assert_eq!(again, object, "the same configuration again changes nothing");
    Some(object)
}

fn owners_read_as_written(object: &Value) {
    for entry in object.list(&["metadata", "managedFields"]) {
        let fields = entry.at(&["fieldsV1"]);
        let set = FieldSet::from_fields_v1(fields).expect("what was written is read");
        assert_eq!(set.to_fields_v1(), *fields);
    }
    let mut again = object.clone();
    ManagedFields::read(object).expect("what was written is read").write(&mut again);
    assert_eq!(again, *object);
}

// A kind and the force of each step, then configurations with zero bytes between them: of a, of b, of a again; then an update by c.
fuzz_target!(|input: &[u8]| {
    let [kind, force, rest @ ..] = input else { return };
    let (group, kind) = KINDS[usize::from(*kind) % KINDS.len()];
    let resource = Registry::builtin().kind(group, "v1", kind).expect("a built-in kind");
    let (first, rest) = split(rest);
    let (second, rest) = split(rest);
    let (third, update) = split(rest);
    let config = |body| apply::decode(&resource.object, body, FieldValidation::Ignore).ok();

    let mut live = None;
    for (step, (name, body)) in [("a", first), ("b", second), ("a", third)].into_iter().enumerate() {
        let Some(config) = config(body) else { continue };
        let force = force >> step & 1 == 1;
        live = applied(resource, live.as_ref(), &config, name, force).or(live);
    }
    let Some(mut new) = config(update) else { return };
    apply::track(resource, live.as_ref(), &mut new, &author("c", 3));
    owners_read_as_written(&new);
});
