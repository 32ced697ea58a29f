//! What one write of a Service costs before it reaches the store, and what start-up costs.
//!
//! `cargo bench -p fairway-objects`

#![expect(clippy::unwrap_used, reason = "a benchmark that fails stops")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use fairway_objects::apply::{self, Author};
use fairway_objects::decode::{self, FieldValidation};
use fairway_objects::{Document as _, Registry, Resource, defaults, openapi, patch, strategy, validate};
use serde_json::json;

const SERVICE: &[u8] = br#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"shop",
    "labels":{"app":"web","tier":"front"},"annotations":{"a.b/c":"d"}},"spec":{"selector":{"app":"web"},
    "ports":[{"name":"http","port":80,"targetPort":8080},{"name":"https","port":443,"targetPort":"tls"}]}}"#;

fn main() {
    let start = Instant::now();
    let registry = Registry::builtin();
    println!("parse type tables and registry, once: {:?}", start.elapsed());
    let start = Instant::now();
    let index = openapi::index(registry);
    println!(
        "all OpenAPI documents, once: {:?} ({} groups)",
        start.elapsed(),
        index.get("paths").and_then(serde_json::Value::as_object).unwrap().len()
    );

    let service = registry.kind("", "v1", "Service").unwrap();
    let now = jiff::Timestamp::UNIX_EPOCH;
    let creation = strategy::Creation { namespace: "shop", uid: "u", now, random: 7 };
    let decode =
        || decode::decode(&service.object, "application/json", SERVICE, FieldValidation::Strict).unwrap();
    report("decode a Service", || {
        black_box(decode());
    });
    report("decode, prepare, default, validate a Service", || {
        let mut object = decode().object;
        strategy::prepare_for_create(service, &mut object, &creation);
        defaults::apply(service, &mut object);
        assert!(validate::create(service, black_box(&object)).is_empty());
    });
    owners(service, &decode().object);
    let object = decode().object;
    let change = json!({"spec": {"ports": [{"port": 80, "targetPort": 9090}]}});
    report("strategic merge patch of a Service", || {
        black_box(patch::strategic(&service.object.schema, &object, &change).unwrap());
    });
}

/// What it costs to know who owns which field.
fn owners(service: &Resource, decoded: &serde_json::Value) {
    let now = jiff::Timestamp::UNIX_EPOCH;
    let by = |name| Author { name, subresource: "", now };
    let mut fresh = decoded.clone();
    defaults::apply(service, &mut fresh);
    report("(a clone of that Service)", || {
        black_box(fresh.clone());
    });
    report("note the owner of a new Service", || {
        let mut object = fresh.clone();
        apply::track(service, None, &mut object, &by("creator"));
        black_box(object);
    });
    let mut stored = fresh.clone();
    apply::track(service, None, &mut stored, &by("creator"));
    let mut changed = stored.clone();
    changed.put(&["spec", "type"], "NodePort");
    changed.put(&["metadata", "labels", "tier"], "back");
    report("note the owner of a changed Service", || {
        let mut object = changed.clone();
        apply::track(service, Some(&stored), &mut object, &by("editor"));
        black_box(object);
    });
    report("note that nothing of a Service changed", || {
        let mut object = stored.clone();
        apply::track(service, Some(&stored), &mut object, &by("editor"));
        black_box(object);
    });
    let config = apply::decode(&service.object, SERVICE, FieldValidation::Strict).unwrap();
    report("apply a Service again", || {
        black_box(apply::apply(service, Some(&stored), &config, &by("creator"), true).unwrap());
    });
}

/// Prints the median time of one run, of samples over about a quarter of a second.
fn report(name: &str, run: impl Fn()) {
    const BATCH: u32 = 200;
    let begin = Instant::now();
    let mut samples = Vec::new();
    while begin.elapsed() < Duration::from_millis(250) {
        let start = Instant::now();
        (0..BATCH).for_each(|_| run());
        samples.push(start.elapsed() / BATCH);
    }
    samples.sort();
    println!("{name}: {:?}", samples.get(samples.len() / 2).unwrap());
}
