//! A kind by a stranger's schema, and objects of it: what is decoded, pruned and completed is in its last form, and validation ends.
#![no_main]

use fairway_fuzz::{live, split};
use fairway_objects::custom::{definition, publish, shape};
use fairway_objects::decode::{self, FieldValidation};
use fairway_objects::{Resource, defaults, validate};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

/// The resource of a definition with this schema, if it is a good one.
fn resource(schema: Value) -> Option<Resource> {
    let names = json!({"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"});
    let subresources = json!({"status": {}, "scale": {
        "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
    }});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "conversion": {"strategy": "None"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": subresources,
                "schema": {"openAPIV3Schema": schema}}]},
        "status": {"acceptedNames": names},
    });
    if !definition::check(&definition).is_empty() {
        return None;
    }
    definition::resources(&definition).pop()
}

// A schema, a zero byte, an object, a zero byte, the object that it replaces.
fuzz_target!(|input: &[u8]| {
    let (schema, rest) = split(input);
    let (new, old) = split(rest);
    let Ok(schema) = serde_json::from_slice::<Value>(schema) else { return };
    // Rules on the old value are checked with every update.
    let looks_back = Value::to_string(&schema).contains("oldSelf");
    let Some(resource) = resource(schema) else { return };
    let custom = resource.object.custom.as_ref().expect("a definition makes custom kinds");
    publish::openapi(&custom.tree);

    let object = |body| {
        let decoded =
            decode::decode(&resource.object, "application/json", body, FieldValidation::Warn).ok()?;
        let mut object = decoded.object;
        live(&resource, object.clone());
        defaults::apply(&resource, &mut object);
        let mut again = object.clone();
        shape::complete(&custom.tree, &mut again);
        assert_eq!(again, object, "defaults are there after the first time");
        assert_eq!(shape::prune(&custom.tree, &mut again), Vec::<String>::new(), "defaults are known fields");
        assert_eq!(again, object, "what is pruned stays as it is");
        Some(object)
    };
    let Some(new) = object(new) else { return };
    if !looks_back {
        let errors = custom.validate(&new, Some(&new));
        assert_eq!(errors, [], "what a write leaves as it was is not checked again");
    }
    validate::create(&resource, &new);
    if let Some(old) = object(old) {
        validate::update(&resource, "", &new, &old);
    }
});
