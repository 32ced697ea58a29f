//! Label and field selectors. A selector that parses prints as one that means the same.
#![no_main]

use fairway_fuzz::choose;
use fairway_objects::selector::{FieldSelector, LabelSelector};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|data: &[u8]| {
    let Some((resource, text)) = choose(data) else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let labels = json!({"a": "b", "app.kubernetes.io/name": "5"});
    if let Ok(selector) = LabelSelector::parse(text) {
        let printed = LabelSelector::parse(&selector.to_string()).expect("what is printed parses");
        assert_eq!(printed.matches(&labels), selector.matches(&labels), "{text}");
    }
    if let Ok(selector) = FieldSelector::parse(resource, text) {
        selector.matches(&json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n"}}));
    }
});
