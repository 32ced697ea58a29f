//! What the parts of a pod may change: ephemeral containers that join, resources that are resized.

use serde_json::Value;

use super::{Errors, SPEC, container, volume};
use crate::document::Document;
use crate::field::{FieldError, Path};

/// What makes no sense in a container that is neither restarted nor waited for.
const NOT_EPHEMERAL: &[&str] = &[
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resources",
    "resizePolicy",
    "restartPolicy",
];
const NOT_FOR_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";

/// The ephemeral containers of a pod, whose other containers and volumes are known.
pub(super) fn containers<'a>(
    spec: &'a Value,
    pod: &mut container::Pod<'a>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let list = path.field("ephemeralContainers");
    let regular: Vec<&str> =
        spec.list(&["containers"]).iter().map(|container| container.text(&["name"])).collect();
    for (index, item) in spec.list(&["ephemeralContainers"]).iter().enumerate() {
        let path = list.index(index);
        container::identity(item, pod, &path, errors);
        container::environment(item, &path, errors);
        volume::mounts(item, &pod.volumes, &path, errors);
        for field in NOT_EPHEMERAL {
            let given = item.at(&[field]);
            let empty = given.as_object().is_some_and(serde_json::Map::is_empty);
            if !given.is_null() && !empty {
                errors.push(FieldError::forbidden(&path.field(field), NOT_FOR_EPHEMERAL));
            }
        }
        let target = item.text(&["targetContainerName"]);
        if !target.is_empty() && !regular.contains(&target) {
            errors.push(FieldError::not_found(&path.field("targetContainerName"), target));
        }
        let mounts = path.field("volumeMounts");
        for (index, mount) in item.list(&["volumeMounts"]).iter().enumerate() {
            let path = mounts.index(index);
            for field in ["subPath", "subPathExpr"] {
                if !mount.text(&[field]).is_empty() {
                    errors.push(FieldError::forbidden(&path.field(field), NOT_FOR_EPHEMERAL));
                }
            }
        }
    }
}

/// Ephemeral containers are only added.
pub(super) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = SPEC.field("ephemeralContainers");
    let now = new.list(&["spec", "ephemeralContainers"]);
    for old in old.list(&["spec", "ephemeralContainers"]) {
        let name = old.text(&["name"]);
        match now.iter().find(|new| new.text(&["name"]) == name) {
            None => {
                let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.push(FieldError::forbidden(&path, &detail));
            }
            Some(new) if new != old => {
                let changed = super::pod::changes("ephemeralContainer", new, old).join("\n");
                let detail = format!("existing ephemeral containers {name:?} may not be changed\n{changed}");
                errors.push(FieldError::forbidden(&path, &detail));
            }
            Some(_) => {}
        }
    }
}

/// A resize changes CPU and memory, and never the class of service.
pub(super) fn resize(new: &Value, old: &Value, errors: &mut Errors) {
    let fixed = |pod: &Value| -> Vec<Value> {
        let lists = ["containers", "initContainers"];
        let containers = lists.iter().flat_map(|list| pod.list(&["spec", list]));
        containers
            .map(|container| {
                let mut resources = container.at(&["resources"]).clone();
                for field in ["limits", "requests"] {
                    for name in ["cpu", "memory"] {
                        resources.take_at(&[field, name]);
                    }
                    if resources.map(&[field]).is_some_and(serde_json::Map::is_empty) {
                        resources.take_at(&[field]);
                    }
                }
                resources
            })
            .collect()
    };
    if fixed(new) != fixed(old) {
        errors.push(FieldError::forbidden(&SPEC, "only cpu and memory resources are mutable"));
    }
    let class = crate::strategy::qos_class(new);
    let had = old.text(&["status", "qosClass"]);
    if !had.is_empty() && class != had {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(&SPEC, class, detail));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{errors, resource};
    use crate::{defaults, strategy, validate};

    fn pod(containers: Value, ephemeral: Value) -> Value {
        json!({"metadata": {"name": "x", "namespace": "ns"},
               "spec": {"containers": containers, "ephemeralContainers": ephemeral}})
    }

    fn update(part: &str, mut new: Value, mut old: Value) -> (Value, Vec<String>) {
        let resource = resource("", "Pod");
        defaults::apply(resource, &mut old);
        old["status"] = json!({"qosClass": strategy::qos_class(&old)});
        strategy::prepare_for_update(resource, part, &mut new, &old);
        defaults::apply(resource, &mut new);
        let errors = validate::update(resource, part, &new, &old);
        (new, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn ephemeral_containers_only_join() {
        let app = json!([{"name": "c", "image": "i"}]);
        let debugger = json!({"name": "d", "image": "busybox"});
        let cases: [(Value, Value, &[&str]); 5] = [
            (json!([]), json!([debugger]), &[]),
            (
                json!([debugger]),
                json!([]),
                &[
                    "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be removed\n",
                ],
            ),
            (
                json!([debugger]),
                json!([{"name": "d", "image": "other:1"}]),
                &[
                    "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be changed\n  \
                     ephemeralContainer.image: \"busybox\" -> \"other:1\"\n  ephemeralContainer.imagePullPolicy: \"Always\" -> \
                     \"IfNotPresent\"",
                ],
            ),
            (
                json!([]),
                json!([{"name": "c", "image": "i", "targetContainerName": "z"}]),
                &[
                    "spec.ephemeralContainers[0].name: Duplicate value: \"c\"",
                    "spec.ephemeralContainers[0].targetContainerName: Not found: \"z\"",
                ],
            ),
            (
                json!([]),
                json!([{"name": "d", "image": "i", "ports": [{"containerPort": 1}]}]),
                &["spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container"],
            ),
        ];
        for (old, new, want) in cases {
            let (_, said) =
                update("ephemeralcontainers", pod(app.clone(), new.clone()), pod(app.clone(), old));
            assert_eq!(said, want, "{new}");
        }
        let (changed, said) =
            update("ephemeralcontainers", pod(json!([]), json!([debugger])), pod(app.clone(), json!([])));
        assert_eq!(
            (said, &changed["spec"]["containers"][0]["name"]),
            (vec![], &json!("c")),
            "the rest is kept"
        );
        let refused = errors("", "Pod", pod(app, json!([debugger])));
        assert_eq!(refused, ["spec.ephemeralContainers: Forbidden: cannot be set on create"]);
    }

    #[test]
    fn a_resize_keeps_the_class_of_service() {
        let with =
            |resources: Value| pod(json!([{"name": "c", "image": "i", "resources": resources}]), json!([]));
        let old = with(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}));
        let (grown, said) =
            update("resize", with(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "4"}})), old.clone());
        assert_eq!(
            (said, &grown["spec"]["containers"][0]["resources"]["limits"]["cpu"]),
            (vec![], &json!("4"))
        );
        let (_, said) =
            update("resize", with(json!({"requests": {"cpu": "1", "ephemeral-storage": "1"}})), old.clone());
        assert_eq!(said, ["spec: Forbidden: only cpu and memory resources are mutable"]);
        let limits = json!({"cpu": "2", "memory": "1Gi"});
        let (_, said) = update("resize", with(json!({"requests": limits, "limits": limits})), old);
        let want =
            "spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of resizing";
        assert_eq!(said, [want]);
    }
}
