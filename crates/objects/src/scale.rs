//! The `scale` subresource: a view of anything with replicas as `autoscaling/v1 Scale`.

use serde_json::{Value, json};

use crate::document::Document;
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
    let selector = object.at(&["spec", "selector"]);
    let selector = match resource.builtin {
        Some(BuiltinKind::ReplicationController) => LabelSelector::from_map(selector),
        _ => LabelSelector::from_object(selector).unwrap_or_default(),
    };
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {},
        "status": {"replicas": object.int(&["status", "replicas"]).unwrap_or(0)},
    });
    let replicas = object.int(&["spec", "replicas"]).unwrap_or(0);
    if replicas != 0 {
        scale.put(&["spec", "replicas"], replicas);
    }
    if !selector.is_empty() {
        scale.put(&["status", "selector"], selector.to_string());
    }
    scale
}

/// Writes the replicas of a Scale into the object. The precondition in `scale` (its resource version) is carried over,
/// so that the update that follows checks it.
pub fn write(object: &mut Value, scale: &Value) {
    object.put(&["spec", "replicas"], scale.int(&["spec", "replicas"]).unwrap_or(0));
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
        write(&mut object, &json!({"metadata": {"resourceVersion": "6"}, "spec": {}}));
        assert_eq!(object.int(&["spec", "replicas"]), Some(0));
        assert_eq!(object.text(&["metadata", "resourceVersion"]), "6");
    }
}
