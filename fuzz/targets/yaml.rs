//! Bodies in YAML, and all that happens to an object between decoding and the store.
#![no_main]

use fairway_fuzz::{choose, live};
use fairway_objects::decode::{self, FieldValidation};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((resource, body)) = choose(data) else { return };
    let Ok(decoded) = decode::decode(&resource.object, "application/yaml", body, FieldValidation::Warn)
    else {
        return;
    };
    live(resource, decoded.object);
});
