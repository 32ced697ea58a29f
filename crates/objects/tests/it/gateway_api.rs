//! Our tables of the Gateway API say what the upstream files say, but for descriptions.

use std::collections::BTreeMap;

use fairway_objects::gateway_api::{Channel, definitions};
use serde_json::Value;

/// The value without its descriptions; `is_map` when the keys are names of fields.
fn undescribed(value: &Value, is_map: bool) -> Value {
    match value {
        Value::Object(object) => {
            let kept =
                object.iter().filter(|(key, value)| is_map || *key != "description" || !value.is_string());
            kept.map(|(key, value)| (key.clone(), undescribed(value, !is_map && key == "properties")))
                .collect()
        }
        Value::Array(items) => items.iter().map(|item| undescribed(item, false)).collect(),
        scalar => scalar.clone(),
    }
}

/// The first places where two documents differ.
fn differences(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                differences(&format!("{path}.{key}"), &ours[key], &theirs[key], found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (ours, theirs)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{index}]"), ours, theirs, found);
            }
        }
        _ if ours != theirs => found.push(format!("{path}: ours {ours}, theirs {theirs}")),
        _ => {}
    }
}

#[test]
fn the_tables_agree_with_the_upstream_files() {
    for channel in [Channel::Standard, Channel::Experimental] {
        let Some(folder) = crate::shared_data(&format!("gateway-api-v1.6.1/{channel}")) else { return };
        let mut theirs = BTreeMap::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for document in serde_saphyr::from_multiple::<Value>(&text).unwrap() {
                if document["kind"] == "CustomResourceDefinition" {
                    theirs.insert(document["metadata"]["name"].to_string(), undescribed(&document, false));
                }
            }
        }
        let ours = definitions(channel);
        let named = ours.iter().map(|ours| (ours["metadata"]["name"].to_string(), undescribed(ours, false)));
        let ours: BTreeMap<String, Value> = named.collect();
        let names = |of: &BTreeMap<String, Value>| of.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&ours), names(&theirs), "{channel}");
        for (name, ours) in ours {
            let mut found = Vec::new();
            differences(&name, &ours, &theirs[&name], &mut found);
            assert!(found.is_empty(), "{channel}: {}", found.join("\n"));
        }
    }
}
