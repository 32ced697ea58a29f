//! The `scale` subresource: a view of anything with replicas as `autoscaling/v1 Scale`.

use serde_json::{Value, json};

use crate::custom::{Custom, Scale};
use crate::document::Document;
use crate::field::{FieldError, Path};
use crate::registry::{BuiltinKind, Resource};
use crate::selector::LabelSelector;

/// The Scale of an object.
pub fn read(resource: &Resource, object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        let value = object.at(&["metadata", field]);
        if !value.is_null() {
            metadata.put(&[field], value.clone());
        }
    }
    let numbers = numbers(resource, object);
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {},
        "status": {"replicas": numbers.status},
    });
    let Numbers { spec: replicas, selector, .. } = numbers;
    if replicas != 0 {
        scale.put(&["spec", "replicas"], replicas);
    }
    if !selector.is_empty() {
        scale.put(&["status", "selector"], selector);
    }
    scale
}

/// What a Scale says, wherever the kind keeps it.
struct Numbers {
    spec: i64,
    status: i64,
    selector: String,
}

fn numbers(resource: &Resource, object: &Value) -> Numbers {
    if let Some(scale) = resource.custom().and_then(|custom| custom.scale.as_ref()) {
        let number = |path: &[String]| Scale::at(object, path).as_i64().unwrap_or(0);
        let selector = scale.label_selector.as_deref().and_then(|path| Scale::at(object, path).as_str());
        return Numbers {
            spec: number(&scale.spec_replicas),
            status: number(&scale.status_replicas),
            selector: selector.unwrap_or_default().to_owned(),
        };
    }
    let selector = object.at(&["spec", "selector"]);
    let selector = match resource.builtin {
        Some(BuiltinKind::ReplicationController) => LabelSelector::from_map(selector),
        _ => LabelSelector::from_object(selector).unwrap_or_default(),
    };
    Numbers {
        spec: object.int(&["spec", "replicas"]).unwrap_or(0),
        status: object.int(&["status", "replicas"]).unwrap_or(0),
        selector: selector.to_string(),
    }
}

/// What is wrong with the numbers of a custom resource that scales.
pub(crate) fn check(custom: &Custom, object: &Value) -> Option<FieldError> {
    let scale = custom.scale.as_ref()?;
    let replicas = Scale::at(object, &scale.spec_replicas).as_i64()?;
    let path = scale.spec_replicas.join(".");
    (replicas < 0)
        .then(|| FieldError::invalid(&Path::new(&path), replicas, "should be a non-negative integer"))
}

/// Writes the replicas of a Scale into the object. The precondition in `scale` (its resource version) is carried over,
/// so that the update that follows checks it.
pub fn write(resource: &Resource, object: &mut Value, scale: &Value) {
    let replicas = scale.int(&["spec", "replicas"]).unwrap_or(0);
    match resource.custom().and_then(|custom| custom.scale.as_ref()) {
        Some(scale) => scale.set_replicas(object, replicas),
        None => object.put(&["spec", "replicas"], replicas),
    }
    let version = scale.at(&["metadata", "resourceVersion"]);
    if version.as_str().is_some_and(|version| !version.is_empty()) {
        object.put(&["metadata", "resourceVersion"], version.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    #[test]
    fn a_deployment_reads_and_writes_as_scale() {
        let resource = Registry::builtin().resource("apps", "v1", "deployments").unwrap();
        let mut object = json!({
            "metadata": {"name": "a", "namespace": "b", "resourceVersion": "7", "labels": {"x": "y"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "a", "tier": "t"}}},
            "status": {"replicas": 2},
        });
        assert_eq!(
            read(resource, &object),
            json!({
                "kind": "Scale", "apiVersion": "autoscaling/v1",
                "metadata": {"name": "a", "namespace": "b", "resourceVersion": "7"},
                "spec": {"replicas": 3},
                "status": {"replicas": 2, "selector": "app=a,tier=t"},
            })
        );
        write(resource, &mut object, &json!({"metadata": {"resourceVersion": "6"}, "spec": {}}));
        assert_eq!(object.int(&["spec", "replicas"]), Some(0));
        assert_eq!(object.text(&["metadata", "resourceVersion"]), "6");
    }
}
