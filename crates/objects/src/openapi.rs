//! OpenAPI documents from the registry: version 3, one a group and version, and version 2, one for all.
//!
//! Command lines read from them whether a kind accepts field validation, how lists merge (`x-kubernetes-patch-*`,
//! `x-kubernetes-list-*`) and what fields there are; so paths and extensions are complete, texts are not there.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::document::Object;
use crate::registry::{Registry, Resource};

mod paths;
mod schemas;
mod swagger;

pub use swagger::{v2, v2_protobuf};

/// The index at `/openapi/v3`: path and content hash of each document, which `hash` gives for a group and version.
pub fn index(registry: &Registry, hash: impl Fn(&str, &str) -> Option<String>) -> Value {
    let mut entries = Map::new();
    for (group, version) in registry.group_versions() {
        let Some(hash) = hash(group, version) else { continue };
        let path = path(group, version);
        let url = format!("/openapi/v3/{path}?hash={hash}");
        entries.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": entries})
}

/// The hash that the index gives for a document of these bytes; also good as its ETag.
pub fn hash(document: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(document) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02X}");
    }
    text
}

/// The path of a group and version below `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
pub fn path(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}

/// The document of a group and version at `/openapi/v3/<path>`.
pub fn v3(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let resources: Vec<&Resource> = registry.of_version(group, version).map(AsRef::as_ref).collect();
    if resources.is_empty() {
        return None;
    }
    let mut all_paths = Object::new();
    let mut components = schemas::Components::default();
    for resource in resources {
        paths::resource(resource, &mut all_paths);
        components.add_resource(resource);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": all_paths,
        "components": {"schemas": components.into_schemas()},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps() -> Value {
        v3(Registry::builtin(), "apps", "v1").unwrap()
    }

    #[test]
    fn a_patch_says_its_kind_and_that_fields_are_validated() {
        let patch = &apps()["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "apps", "version": "v1", "kind": "Deployment"})
        );
        assert_eq!(patch["x-kubernetes-action"], "patch");
        let names: Vec<&str> = patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        for name in ["dryRun", "fieldManager", "fieldValidation", "force"] {
            assert!(names.contains(&name), "{name}");
        }
    }

    #[test]
    fn schemas_carry_merge_keys() {
        let document = apps();
        let schemas = &document["components"]["schemas"];
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(
            *containers,
            json!({
                "description": "The containers.",
                "type": "array",
                "items": {"$ref": "#/components/schemas/io.k8s.api.core.v1.Container"},
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name",
            })
        );
        let kinds = &schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"];
        assert_eq!(*kinds, json!([{"group": "apps", "version": "v1", "kind": "Deployment"}]));
        let strategy = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
        assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
        assert_eq!(
            strategy["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy"
        );
    }

    #[test]
    fn every_reference_resolves() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(object) => {
                    found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    object.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        for (group, version) in Registry::builtin().group_versions() {
            let document = v3(Registry::builtin(), group, version).unwrap();
            let mut found = Vec::new();
            references(&document, &mut found);
            for reference in found {
                let name = reference.strip_prefix("#/components/schemas/").unwrap();
                assert!(document["components"]["schemas"].get(name).is_some(), "{group}/{version}: {name}");
            }
        }
    }

    #[test]
    fn the_index_names_every_group_and_version() {
        let registry = Registry::builtin();
        let hash_of = |group: &str, version: &str| {
            v3(registry, group, version).map(|document| hash(document.to_string().as_bytes()))
        };
        let index = index(registry, hash_of);
        let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
        assert_eq!(url, format!("/openapi/v3/apis/apps/v1?hash={}", hash(apps().to_string().as_bytes())));
        assert!(index["paths"].get("api/v1").is_some());
    }
}
