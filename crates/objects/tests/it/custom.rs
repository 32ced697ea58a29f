//! Real definitions and real objects: the Gateway API as its project publishes it.

use std::path::{Path, PathBuf};

use fairway_objects::custom::definition;
use fairway_objects::decode::{self, FieldValidation};
use fairway_objects::field::FieldError;
use fairway_objects::gateway_api::{self, Channel};
use fairway_objects::registry::{Registry, Resource};
use fairway_objects::strategy::{self, Creation};
use fairway_objects::{Document as _, defaults, validate};
use serde_json::Value;

/// All documents of all files below a folder, with the file.
fn documents(folder: &Path) -> Vec<(PathBuf, Value)> {
    let mut out = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let documents = serde_saphyr::from_multiple::<Value>(&text).unwrap();
            out.extend(documents.into_iter().filter(Value::is_object).map(|value| (path.clone(), value)));
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

/// What a server says to a new object, empty when it takes it.
fn created(resource: &Resource, mut object: Value) -> Result<Value, String> {
    if object.text(&["metadata", "name"]).is_empty() {
        object.put(&["metadata", "name"], "x");
    }
    let decoded = decode::normalize(&resource.object, object, FieldValidation::Strict);
    let mut object = decoded.map_err(|status| status.message)?.object;
    let creation =
        Creation { namespace: "ns", uid: "u", now: "2026-01-02T03:04:05Z".parse().unwrap(), random: 1 };
    strategy::prepare_for_create(resource, &mut object, &creation);
    defaults::apply(resource, &mut object);
    let errors: Vec<String> = validate::create(resource, &object).iter().map(FieldError::to_string).collect();
    if errors.is_empty() { Ok(object) } else { Err(errors.join("\n")) }
}

/// The built-in kinds and those of these definitions.
fn registry(definitions: impl IntoIterator<Item = Value>) -> Registry {
    let kind = Registry::builtin().kind(definition::GROUP, "v1", "CustomResourceDefinition").unwrap();
    let mut resources = Vec::new();
    for definition in definitions {
        let name = definition["metadata"]["name"].clone();
        let mut definition = created(kind, definition).unwrap_or_else(|error| panic!("{name}: {error}"));
        definition::settle(&mut definition, std::iter::empty(), jiff::Timestamp::UNIX_EPOCH);
        assert!(definition::is_established(&definition));
        resources.extend(definition::resources(&definition));
    }
    Registry::builtin().with(resources)
}

fn resource<'r>(registry: &'r Registry, object: &Value) -> Option<&'r Resource> {
    let api_version = object.text(&["apiVersion"]);
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    registry.kind(group, version, object.text(&["kind"])).map(AsRef::as_ref)
}

fn check(registry: &Registry, channel: Channel) {
    let Some(examples) = crate::shared_data(&format!("gateway-api-v1.6.1/examples/{channel}")) else {
        return;
    };
    let mut checked = 0;
    for (path, object) in documents(&examples) {
        let Some(resource) = resource(registry, &object).filter(|resource| resource.custom().is_some())
        else {
            continue;
        };
        checked += 1;
        if let Err(error) = created(resource, object) {
            panic!("{} is refused: {error}", path.display());
        }
    }
    assert!(checked > 5, "{checked} examples");
    let Some(invalid) = crate::shared_data(&format!("gateway-api-v1.6.1/invalid-examples/{channel}")) else {
        return;
    };
    let mut files: Vec<(PathBuf, bool)> = Vec::new();
    for (path, object) in documents(&invalid) {
        let Some(resource) = resource(registry, &object) else {
            panic!("{}: {}", path.display(), object["kind"])
        };
        let refused = created(resource, object).is_err();
        match files.last_mut() {
            Some((last, any)) if *last == path => *any |= refused,
            _ => files.push((path, refused)),
        }
    }
    assert!(files.len() > 3);
    for (path, refused) in files {
        assert!(refused, "{} is taken", path.display());
    }
}

#[test]
fn our_definitions_take_every_example_and_no_invalid_one() {
    for channel in [Channel::Standard, Channel::Experimental] {
        check(&registry(gateway_api::definitions(channel)), channel);
    }
}

#[test]
fn upstream_definitions_do_too() {
    for channel in [Channel::Standard, Channel::Experimental] {
        let Some(folder) = crate::shared_data(&format!("gateway-api-v1.6.1/{channel}")) else { return };
        let all = documents(&folder).into_iter().map(|(_, document)| document);
        let definitions = all.filter(|document| document["kind"] == "CustomResourceDefinition");
        check(&registry(definitions), channel);
    }
}

#[test]
fn gateways_are_refused_in_the_words_of_the_wire() {
    struct Case {
        name: &'static str,
        listeners: Value,
        want: &'static [&'static str],
    }
    let listener = |name: &str, port: i64, protocol: &str| serde_json::json!({"name": name, "port": port, "protocol": protocol});
    let cases = [
        Case {
            name: "a port that is too large is an error by itself, and rules are looked at all the same",
            listeners: serde_json::json!([listener("a", 80, "HTTP"), listener("b", 99999, "HTTP")]),
            want: &[
                "spec.listeners[1].port: Invalid value: 99999: spec.listeners[1].port in body should be less than or equal to 65535",
            ],
        },
        Case {
            name: "two listeners of one name",
            listeners: serde_json::json!([listener("a", 80, "HTTP"), listener("a", 81, "HTTP")]),
            want: &[
                r#"spec.listeners[1]: Duplicate value: {"name":"a"}"#,
                "spec.listeners: Invalid value: Listener name must be unique within the Gateway",
            ],
        },
        Case {
            name: "TLS where there is none",
            listeners: serde_json::json!([{"name": "a", "port": 80, "protocol": "HTTP", "tls": {"mode": "Terminate", "certificateRefs": [{"name": "c"}]}}]),
            want: &[
                "spec.listeners: Invalid value: tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']",
            ],
        },
        Case {
            name: "what is missing keeps rules from being looked at",
            listeners: serde_json::json!([{"name": "a", "protocol": "HTTP"}]),
            want: &[
                "spec.listeners[0].port: Required value",
                "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
            ],
        },
        Case {
            name: "a number for a text",
            listeners: serde_json::json!([{"name": "a", "port": "80", "protocol": "HTTP"}]),
            want: &[
                r#"spec.listeners[0].port: Invalid value: "string": spec.listeners[0].port in body must be of type integer: "string""#,
                "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
            ],
        },
    ];
    let registry = registry(gateway_api::definitions(Channel::Standard));
    let kind = registry.kind("gateway.networking.k8s.io", "v1", "Gateway").unwrap();
    for case in cases {
        let gateway = serde_json::json!({
            "metadata": {"name": "g"}, "spec": {"gatewayClassName": "c", "listeners": case.listeners},
        });
        let errors = created(kind, gateway).unwrap_err();
        assert_eq!(errors.lines().collect::<Vec<_>>(), case.want, "{}", case.name);
    }
}
