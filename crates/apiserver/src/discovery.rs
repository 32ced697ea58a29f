//! What the server says of itself: its version and its paths.

use fairway_objects::registry::Registry;
use serde_json::{Value, json};

/// The version of Kubernetes whose API this is, and ours.
const GIT_VERSION: &str = concat!("v1.36.0+fairway.", env!("CARGO_PKG_VERSION"));

/// `/version`
pub(crate) fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none (Rust)",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    })
}

/// The architecture by the name that Kubernetes uses.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `/`: the paths there are.
pub(crate) fn root(registry: &Registry) -> Value {
    let versions = registry.group_versions();
    let versions = versions.iter().map(|(group, version)| match *group {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    });
    let fixed = [
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ];
    let mut paths: Vec<String> = fixed.into_iter().map(str::to_owned).chain(versions).collect();
    paths.sort();
    json!({"paths": paths})
}
