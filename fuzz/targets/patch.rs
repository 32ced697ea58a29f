//! JSON patches, merge patches and strategic merge patches over any document.
#![no_main]

use fairway_fuzz::{choose, live};
use fairway_objects::decode::{self, FieldValidation};
use fairway_objects::patch::{self, PatchType};
use libfuzzer_sys::fuzz_target;

// A kind, the document, a zero byte, the patch.
fuzz_target!(|data: &[u8]| {
    let Some((resource, rest)) = choose(data) else { return };
    let Some(end) = rest.iter().position(|byte| *byte == 0) else { return };
    let (document, patch) = (&rest[..end], &rest[end + 1..]);
    let Ok(base) = decode::decode(&resource.object, "", document, FieldValidation::Ignore) else { return };
    let Ok(patch) = patch::parse(patch) else { return };
    for patch_type in [PatchType::Json, PatchType::Merge, PatchType::Strategic] {
        let Ok(patched) = patch::apply(patch_type, &resource.object.schema, &base.object, &patch) else {
            continue;
        };
        if let Ok(decoded) = decode::normalize(&resource.object, patched, FieldValidation::Ignore) {
            live(resource, decoded.object);
        }
    }
});
