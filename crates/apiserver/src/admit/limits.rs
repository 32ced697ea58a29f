//! LimitRange: what containers get that say nothing about resources, and the bounds of what they may say. Pure.

use fairway_objects::document::{self, Document};
use fairway_objects::quantity::Quantity;
use fairway_objects::registry::{BuiltinKind, Resource};
use fairway_objects::status::Status;
use serde_json::Value;

/// Both kinds of containers of a pod.
const CONTAINERS: [&str; 2] = ["initContainers", "containers"];
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// The entries for `Container`, `Pod` or `PersistentVolumeClaim`.
fn entries<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    range.list(&["spec", "limits"]).iter().filter(move |entry| entry.text(&["type"]) == kind)
}

/// Gives the containers of a new pod the defaults of the ranges of its namespace, and says so in an annotation.
pub(super) fn complete(pod: &mut Value, ranges: &[Value]) {
    let mut told = Vec::new();
    for range in ranges {
        for entry in entries(range, "Container") {
            for list in CONTAINERS {
                let kind = if list == "containers" { "container" } else { "init container" };
                for container in pod.list_mut(&["spec", list]) {
                    told.extend(complete_one(container, kind, entry));
                }
            }
        }
    }
    if !told.is_empty() {
        pod.put(
            &["metadata", "annotations", ANNOTATION],
            format!("LimitRanger plugin set: {}", told.join("; ")),
        );
    }
}

fn complete_one(container: &mut Value, kind: &str, entry: &Value) -> Vec<String> {
    let mut told = Vec::new();
    // A limit of the container's own is its request too; that is for the defaults of pods.
    let own_limits = container.at(&["resources", "limits"]).clone();
    for (field, source, word) in [("requests", "defaultRequest", "request"), ("limits", "default", "limit")] {
        let mut set = Vec::new();
        for (name, amount) in entry.map(&[source]).into_iter().flatten() {
            let said =
                container.has(&["resources", field, name]) || field == "requests" && own_limits.has(&[name]);
            if !said {
                container.put(&["resources", field, name], amount.clone());
                set.push(name.as_str());
            }
        }
        if !set.is_empty() {
            told.push(format!("{} {word} for {kind} {}", set.join(", "), container.text(&["name"])));
        }
    }
    told
}

/// Refuses a new pod or claim that is out of the bounds of a range.
pub(super) fn check(resource: &Resource, object: &Value, ranges: &[Value]) -> Result<(), Status> {
    let mut errors = Vec::new();
    for range in ranges {
        match resource.builtin {
            Some(BuiltinKind::Pod) => {
                for entry in entries(range, "Container") {
                    for container in CONTAINERS.iter().flat_map(|list| object.list(&["spec", list])) {
                        check_entry(
                            entry,
                            "Container",
                            &|field, name| amount(container, field, name),
                            &mut errors,
                        );
                    }
                }
                for entry in entries(range, "Pod") {
                    check_entry(entry, "Pod", &|field, name| sum(object, field, name), &mut errors);
                }
            }
            Some(BuiltinKind::PersistentVolumeClaim) => {
                let of = |_: &str, name: &str| {
                    Quantity::parse(object.text(&["spec", "resources", "requests", name])).ok()
                };
                for entry in entries(range, "PersistentVolumeClaim") {
                    check_entry(entry, "PersistentVolumeClaim", &of, &mut errors);
                }
            }
            _ => {}
        }
    }
    let why = match errors.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    Err(Status::forbidden(resource.qualified(), document::name(object), &why))
}

fn amount(container: &Value, field: &str, name: &str) -> Option<Quantity> {
    Quantity::parse(container.text(&["resources", field, name])).ok()
}

/// What all containers of a pod say together; none when none says anything.
fn sum(pod: &Value, field: &str, name: &str) -> Option<Quantity> {
    let said =
        pod.list(&["spec", "containers"]).iter().filter_map(|container| amount(container, field, name));
    said.reduce(Quantity::plus)
}

fn check_entry(
    entry: &Value,
    kind: &str,
    said: &dyn Fn(&str, &str) -> Option<Quantity>,
    errors: &mut Vec<String>,
) {
    let bounds = |field: &str| -> Vec<(String, Quantity)> {
        let members = entry.map(&[field]).into_iter().flatten();
        members
            .filter_map(|(name, text)| Some((name.clone(), Quantity::parse(text.as_str()?).ok()?)))
            .collect()
    };
    for (name, bound) in bounds("min") {
        let least = format!("minimum {name} usage per {kind} is {bound}");
        match (said("requests", &name), said("limits", &name)) {
            (None, _) => errors.push(format!("{least}.  No request is specified")),
            (Some(request), _) if request < bound => {
                errors.push(format!("{least}, but request is {request}"))
            }
            (_, Some(limit)) if limit < bound => errors.push(format!("{least}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, bound) in bounds("max") {
        let most = format!("maximum {name} usage per {kind} is {bound}");
        let limit =
            if kind == "PersistentVolumeClaim" { said("requests", &name) } else { said("limits", &name) };
        match (limit, said("requests", &name)) {
            (None, _) => errors.push(format!("{most}.  No limit is specified")),
            (Some(limit), _) if limit > bound => errors.push(format!("{most}, but limit is {limit}")),
            (_, Some(request)) if request > bound => errors.push(format!("{most}, but request is {request}")),
            _ => {}
        }
    }
    for (name, bound) in bounds("maxLimitRequestRatio") {
        let (request, limit) = (said("requests", &name), said("limits", &name));
        let (Some(request), Some(limit)) = (request.filter(|request| !request.is_zero()), limit) else {
            let what = if request.is_none_or(|request| request.is_zero()) { "request" } else { "limit" };
            errors.push(format!("{name} max limit to request ratio per {kind} is {bound}, but no {what} is specified or {what} is 0"));
            continue;
        };
        let ratio = limit.millis() as f64 / request.millis() as f64;
        if ratio > bound.millis() as f64 / 1000.0 {
            errors.push(format!(
                "{name} max limit to request ratio per {kind} is {bound}, but provided ratio is {ratio:.6}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use fairway_objects::registry::Registry;
    use serde_json::json;

    use super::*;

    fn pod(resources: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn containers_that_say_nothing_get_the_defaults() {
        struct Case {
            name: &'static str,
            said: Value,
            want: Value,
            told: &'static str,
        }
        let range = json!({"spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m"}}]}});
        let cases = [
            Case {
                name: "nothing",
                said: json!({}),
                want: json!({"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}}),
                told: "LimitRanger plugin set: cpu request for container c; cpu limit for container c",
            },
            Case {
                name: "a limit is the request too",
                said: json!({"limits": {"cpu": "500m"}}),
                want: json!({"limits": {"cpu": "500m"}}),
                told: "",
            },
            Case {
                name: "another resource",
                said: json!({"requests": {"cpu": "1"}}),
                want: json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}),
                told: "LimitRanger plugin set: cpu limit for container c",
            },
        ];
        for case in cases {
            let mut pod = pod(case.said);
            complete(&mut pod, std::slice::from_ref(&range));
            assert_eq!(pod["spec"]["containers"][0]["resources"], case.want, "{}", case.name);
            assert_eq!(
                document::annotation(&pod, ANNOTATION).unwrap_or_default(),
                case.told,
                "{}",
                case.name
            );
        }
    }

    #[test]
    fn bounds_are_told_as_kubernetes_tells_them() {
        struct Case {
            entry: Value,
            said: Value,
            want: &'static str,
        }
        let cases = [
            Case {
                entry: json!({"min": {"cpu": "100m"}}),
                said: json!({"requests": {"cpu": "100m"}}),
                want: "",
            },
            Case {
                entry: json!({"min": {"cpu": "100m"}}),
                said: json!({"requests": {"cpu": "50m"}}),
                want: "minimum cpu usage per Container is 100m, but request is 50m",
            },
            Case {
                entry: json!({"max": {"memory": "1Gi"}}),
                said: json!({"limits": {"memory": "2Gi"}}),
                want: "maximum memory usage per Container is 1Gi, but limit is 2Gi",
            },
            Case {
                entry: json!({"max": {"memory": "1Gi"}, "min": {"cpu": "1"}}),
                said: json!({}),
                want: "[minimum cpu usage per Container is 1.  No request is specified, maximum memory usage per Container is 1Gi.  No limit is specified]",
            },
            Case {
                entry: json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                said: json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}),
                want: "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            },
        ];
        let pods = Registry::builtin().resource("", "v1", "pods").unwrap();
        for case in cases {
            let mut entry = case.entry;
            entry["type"] = json!("Container");
            let range = json!({"spec": {"limits": [entry]}});
            let got = check(pods, &pod(case.said), &[range]).map_err(|status| status.message);
            let want = if case.want.is_empty() {
                Ok(())
            } else {
                Err(format!("pods \"p\" is forbidden: {}", case.want))
            };
            assert_eq!(got, want);
        }
    }
}
