//! pods/ephemeralcontainers and pods/resize.

use serde_json::Value;

use super::super::{Errors, SPEC, container};
use crate::document::Document;
use crate::field::FieldError;

/// What a container that is added for a look may not have: it has no place in the pod's life.
const FORBIDDEN: &[&str] =
    &["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources", "resizePolicy"];

/// Ephemeral containers are added; those that are there stay as they are.
pub(in super::super) fn update_ephemeral(new: &Value, old: &Value, errors: &mut Errors) {
    let path = SPEC.field("ephemeralContainers");
    let spec = new.at(&["spec"]);
    let mut pod = container::Pod {
        volumes: spec.list(&["volumes"]).iter().map(|volume| volume.text(&["name"])).collect(),
        host_network: spec.is_true(&["hostNetwork"]),
        ..container::Pod::default()
    };
    let lists = ["containers", "initContainers"];
    let names: Vec<&str> =
        lists.iter().flat_map(|list| spec.list(&[list])).map(|container| container.text(&["name"])).collect();
    pod.names.clone_from(&names);
    for (index, item) in spec.list(&["ephemeralContainers"]).iter().enumerate() {
        let path = path.index(index);
        container::container(item, false, &mut pod, &path, errors);
        for field in FORBIDDEN {
            let value = item.at(&[field]);
            let says_nothing = value.is_null()
                || value.as_object().is_some_and(serde_json::Map::is_empty)
                || value.as_array().is_some_and(Vec::is_empty);
            if !says_nothing {
                let detail = "cannot be set for an Ephemeral Container";
                errors.push(FieldError::forbidden(&path.field(field), detail));
            }
        }
        let target = item.text(&["targetContainerName"]);
        if !target.is_empty() && !names.contains(&target) {
            errors.push(FieldError::not_found(&path.field("targetContainerName"), target));
        }
    }
    for known in old.list(&["spec", "ephemeralContainers"]) {
        let name = known.text(&["name"]);
        let mut containers = spec.list(&["ephemeralContainers"]).iter();
        let detail = match containers.find(|container| container.text(&["name"]) == name) {
            None => format!("existing ephemeral containers {name:?} may not be removed\n"),
            Some(same) if same != known => {
                format!("existing ephemeral containers {name:?} may not be changed\n")
            }
            Some(_) => continue,
        };
        errors.push(FieldError::forbidden(&path, &detail));
    }
}

/// Requests and limits of containers that run; the class of service that follows from them stays.
pub(in super::super) fn update_resources(new: &Value, old: &Value, errors: &mut Errors) {
    for list in ["containers", "initContainers"] {
        let path = SPEC.field(list);
        for (index, container) in new.list(&["spec", list]).iter().enumerate() {
            super::container::resources(container, &path.index(index), errors);
        }
    }
    let class = old.text(&["status", "qosClass"]);
    if !class.is_empty() && class != crate::strategy::qos_class(new) {
        errors.push(FieldError::invalid(
            &SPEC,
            class,
            "Pod QOS Class may not change as a result of resizing",
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ephemeral_containers_are_added_and_nothing_else() {
        struct Case {
            name: &'static str,
            given: Value,
            want: &'static [&'static str],
        }
        let pod = |containers: Value| json!({"spec": {"containers": [{"name": "main", "image": "i"}], "ephemeralContainers": containers}});
        let known = json!({"name": "first", "image": "i", "imagePullPolicy": "Always"});
        let with = |more: Value| {
            let mut one = json!({"name": "x", "image": "i", "imagePullPolicy": "Always"});
            one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!([known, one])
        };
        let cases = [
            Case {
                name: "one more",
                given: with(json!({"targetContainerName": "main", "resources": {}})),
                want: &[],
            },
            Case {
                name: "a name that is taken",
                given: with(json!({"name": "main"})),
                want: &[r#"spec.ephemeralContainers[1].name: Duplicate value: "main""#],
            },
            Case {
                name: "ports",
                given: with(json!({"ports": [{"containerPort": 80, "protocol": "TCP"}]})),
                want: &[
                    "spec.ephemeralContainers[1].ports: Forbidden: cannot be set for an Ephemeral Container",
                ],
            },
            Case {
                name: "no such target",
                given: with(json!({"targetContainerName": "none"})),
                want: &[r#"spec.ephemeralContainers[1].targetContainerName: Not found: "none""#],
            },
            Case {
                name: "one is gone",
                given: json!([]),
                want: &[
                    "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"first\" may not be removed\n",
                ],
            },
            Case {
                name: "one is another",
                given: json!([{"name": "first", "image": "j", "imagePullPolicy": "Always"}]),
                want: &[
                    "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"first\" may not be changed\n",
                ],
            },
        ];
        for case in cases {
            let mut errors = Errors::new();
            update_ephemeral(&pod(case.given), &pod(json!([known])), &mut errors);
            let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(got, case.want, "{}", case.name);
        }
    }

    #[test]
    fn a_resize_keeps_the_class() {
        let pod = |resources: Value| json!({"status": {"qosClass": "Burstable"}, "spec": {"containers": [{"name": "c", "resources": resources}]}});
        let old = pod(json!({"requests": {"cpu": "1"}}));
        let mut errors = Errors::new();
        update_resources(&pod(json!({"requests": {"cpu": "2"}})), &old, &mut errors);
        assert!(errors.is_empty(), "{errors:?}");
        update_resources(&pod(json!({})), &old, &mut errors);
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [r#"spec: Invalid value: "Burstable": Pod QOS Class may not change as a result of resizing"#]
        );
    }
}
