//! What the targets share: a kind chosen by the input, and the way of an object through the server.

use fairway_objects::decode::{self, FieldValidation};
use fairway_objects::strategy::{self, Creation};
use fairway_objects::table::{self, IncludeObject};
use fairway_objects::{Registry, Resource, defaults, validate};
use serde_json::Value;

/// The resource that the first byte chooses, and the other bytes.
pub fn choose(data: &[u8]) -> Option<(&'static Resource, &[u8])> {
    let (first, rest) = data.split_first()?;
    let registry = Registry::builtin();
    let count = registry.resources().count();
    let resource = registry.resources().nth(usize::from(*first) % count)?;
    Some((resource, rest))
}

/// What stands before the first zero byte, and after it.
pub fn split(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == 0) {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[]),
    }
}

/// A decoded object goes where a created one goes, then is updated by itself. What is decoded is in its last form.
pub fn live(resource: &Resource, object: Value) {
    let again = decode::normalize(&resource.object, object.clone(), FieldValidation::Strict)
        .expect("what was decoded decodes");
    assert_eq!(again.object, object, "decoding is idempotent");
    let metadata = Value::Null;
    let creation = Creation { namespace: "ns", uid: "u", now: Default::default(), random: 7 };
    let mut created = object.clone();
    strategy::prepare_for_create(resource, &mut created, &creation);
    defaults::apply(resource, &mut created);
    validate::create(resource, &created);
    for part in ["", "status", "ephemeralcontainers", "resize"] {
        let mut updated = object.clone();
        strategy::prepare_for_update(resource, part, &mut updated, &created);
        validate::update(resource, part, &updated, &created);
    }
    let options = table::Options {
        now: Default::default(),
        include: IncludeObject::Metadata,
        columns: true,
        metadata: &metadata,
    };
    table::render(resource, [&object], &options);
}
