//! OpenAPI v3 documents from the registry.

use serde_json::{Value, json};

use crate::registry::Registry;

/// The index at `/openapi/v3`: path and content hash of each document.
pub fn index(registry: &Registry) -> Value {
    let _ = registry;
    json!({"paths": {}})
}

/// The document of a group and version at `/openapi/v3/<path>`.
pub fn v3(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let _ = (registry, group, version);
    None
}

/// The path of a group and version below `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
pub fn path(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}
