//! Bodies in protobuf. What is read is written the same.
#![no_main]

use fairway_fuzz::{choose, live};
use fairway_objects::decode::{self, FieldValidation};
use fairway_objects::encode::protobuf::{self, MEDIA_TYPE};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((resource, rest)) = choose(data) else { return };
    // Most inputs begin as they must, so that the rest is looked at.
    let body = if rest.starts_with(b"k8s\0") { rest.to_vec() } else { [b"k8s\0", rest].concat() };
    let Ok(decoded) = decode::decode(&resource.object, MEDIA_TYPE, &body, FieldValidation::Warn) else {
        return;
    };
    let bytes = protobuf::document(resource, &decoded.object).expect("built-in kinds have messages");
    let again = decode::decode(&resource.object, MEDIA_TYPE, &bytes, FieldValidation::Strict)
        .expect("what was written is read");
    assert_eq!(again.object, decoded.object);
    live(resource, decoded.object);
});
