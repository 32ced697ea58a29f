//! States to wait for, as functions of objects: met, or why not yet. Pure.

use serde_json::Value;

use super::objects::{condition, name_of};
use crate::expect::{Matcher, at_path};

/// `Ok` when it is met, else what is still missing.
pub(super) type Met = Result<(), String>;

/// All pods of a workload are of its newest template and available; nothing of an older one is left.
pub(super) fn rolled_out(object: Option<&Value>) -> Met {
    let Some(object) = object else { return Err("it does not exist".into()) };
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64);
    let count = |path: &str| number(path).unwrap_or(0);
    let (generation, observed) = (count("/metadata/generation"), count("/status/observedGeneration"));
    if observed < generation {
        return Err(format!("its controller has seen generation {observed} of {generation}"));
    }
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let (wanted, updated, available) = match kind {
        "DaemonSet" => (
            count("/status/desiredNumberScheduled"),
            count("/status/updatedNumberScheduled"),
            count("/status/numberAvailable"),
        ),
        "ReplicaSet" => (
            number("/spec/replicas").unwrap_or(1),
            count("/status/replicas"),
            count("/status/availableReplicas"),
        ),
        "StatefulSet" => {
            let same = object.pointer("/status/currentRevision") == object.pointer("/status/updateRevision");
            let updated = if same { count("/status/replicas") } else { count("/status/updatedReplicas") };
            (number("/spec/replicas").unwrap_or(1), updated, count("/status/readyReplicas"))
        }
        _ => {
            let updated = count("/status/updatedReplicas");
            (number("/spec/replicas").unwrap_or(1), updated, count("/status/availableReplicas"))
        }
    };
    let all = if kind == "DaemonSet" { updated } else { count("/status/replicas") };
    if updated == wanted && available == wanted && all == wanted {
        return Ok(());
    }
    Err(format!("{wanted} wanted, {updated} of the newest template, {available} available, {all} in all"))
}

/// The object is gone.
pub(super) fn deleted(object: Option<&Value>) -> Met {
    match object {
        None => Ok(()),
        Some(object) => match object.pointer("/metadata/finalizers").and_then(Value::as_array) {
            Some(finalizers) if !finalizers.is_empty() => Err(format!("finalizers keep it: {finalizers:?}")),
            _ if object.pointer("/metadata/deletionTimestamp").is_some() => Err("it is being deleted".into()),
            _ => Err("nobody has deleted it".into()),
        },
    }
}

/// A condition has a status.
pub(super) fn has_condition(object: Option<&Value>, name: &str, status: &str) -> Met {
    let Some(object) = object else { return Err("it does not exist".into()) };
    let Some(condition) = condition(object, name) else { return Err(format!("it has no condition {name}")) };
    let text = |field: &str| condition.get(field).and_then(Value::as_str).unwrap_or_default();
    if text("status") == status {
        return Ok(());
    }
    Err(format!("{name} is {}: {} {}", text("status"), text("reason"), text("message")).trim_end().to_owned())
}

/// A field is as expected.
pub(super) fn has_field(object: Option<&Value>, path: &str, is: &Matcher) -> Met {
    let Some(object) = object else { return Err("it does not exist".into()) };
    let value = at_path(object, path);
    if is.accepts(value) {
        return Ok(());
    }
    Err(match value {
        None => format!("it has no {path}"),
        Some(value) => format!("{path} is {value}"),
    })
}

/// Ready endpoints over all slices of a Service; an address in several slices counts once.
pub(super) fn has_endpoints(slices: &[Value], wanted: Option<u32>) -> Met {
    let ready = ready_addresses(slices);
    let fine = match wanted {
        Some(wanted) => u32::try_from(ready.len()) == Ok(wanted),
        None => !ready.is_empty(),
    };
    if fine {
        return Ok(());
    }
    let list = if ready.is_empty() { "none".to_owned() } else { ready.join(", ") };
    let slices: Vec<_> = slices.iter().map(name_of).collect();
    Err(format!(
        "ready endpoints: {list} (slices: {})",
        if slices.is_empty() { "none".into() } else { slices.join(", ") }
    ))
}

/// The ready addresses of slices, each once. A slice without `ready` means ready (discovery.k8s.io/v1 EndpointConditions).
pub(super) fn ready_addresses(slices: &[Value]) -> Vec<String> {
    let endpoints = slices.iter().filter_map(|slice| slice.get("endpoints")?.as_array()).flatten();
    let ready = endpoints
        .filter(|endpoint| endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true));
    let mut addresses: Vec<String> =
        ready.filter_map(|endpoint| endpoint.pointer("/addresses/0")?.as_str().map(str::to_owned)).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rollout_is_over_when_nothing_old_is_left() {
        let deployment = |replicas: i64, all: i64, updated: i64, available: i64, observed: i64| {
            json!({
                "kind": "Deployment",
                "metadata": {"generation": 2},
                "spec": {"replicas": replicas},
                "status": {"observedGeneration": observed, "replicas": all, "updatedReplicas": updated, "availableReplicas": available},
            })
        };
        let cases = [
            ("done", deployment(3, 3, 3, 3, 2), true),
            ("not seen yet", deployment(3, 3, 3, 3, 1), false),
            ("old ones left", deployment(3, 4, 3, 3, 2), false),
            ("not available", deployment(3, 3, 3, 2, 2), false),
            ("none wanted", deployment(0, 0, 0, 0, 2), true),
            ("none wanted, one left", deployment(0, 1, 0, 0, 2), false),
        ];
        for (name, object, want) in cases {
            let met = rolled_out(Some(&object));
            assert_eq!(met.is_ok(), want, "{name}: {met:?}");
        }
        assert!(rolled_out(None).is_err());
    }

    #[test]
    fn a_stateful_set_is_new_when_its_revisions_agree() {
        let set = |current: &str, updated: i64| {
            json!({
                "kind": "StatefulSet",
                "spec": {"replicas": 2},
                "status": {"currentRevision": current, "updateRevision": "b", "replicas": 2, "readyReplicas": 2, "updatedReplicas": updated},
            })
        };
        assert!(rolled_out(Some(&set("b", 0))).is_ok());
        assert!(rolled_out(Some(&set("a", 1))).is_err());
        assert!(rolled_out(Some(&set("a", 2))).is_ok());
    }

    #[test]
    fn what_keeps_an_object_is_said() {
        assert_eq!(deleted(None), Ok(()));
        let kept = json!({"metadata": {"deletionTimestamp": "x", "finalizers": ["a"]}});
        assert!(deleted(Some(&kept)).unwrap_err().contains("finalizers"));
    }

    #[test]
    fn endpoints_count_once_and_only_when_ready() {
        let slice = |addresses: &[(&str, Option<bool>)]| {
            let endpoints: Vec<_> = addresses
                .iter()
                .map(|(address, ready)| json!({"addresses": [address], "conditions": {"ready": ready}}))
                .collect();
            json!({"metadata": {"name": "s"}, "endpoints": endpoints})
        };
        let slices =
            [slice(&[("10.0.0.1", Some(true)), ("10.0.0.2", Some(false))]), slice(&[("10.0.0.1", None)])];
        assert_eq!(ready_addresses(&slices), ["10.0.0.1"]);
        assert!(has_endpoints(&slices, Some(1)).is_ok() && has_endpoints(&slices, None).is_ok());
        assert!(has_endpoints(&slices, Some(2)).unwrap_err().contains("10.0.0.1"));
        assert!(has_endpoints(&[], Some(0)).is_ok() && has_endpoints(&[], None).is_err());
    }

    #[test]
    fn conditions_and_fields() {
        let pod = json!({"status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False", "reason": "Why"}]}});
        assert_eq!(has_condition(Some(&pod), "Ready", "False"), Ok(()));
        assert_eq!(has_condition(Some(&pod), "Ready", "True").unwrap_err(), "Ready is False: Why");
        let is = Matcher::parse("is", &json!("Running")).unwrap();
        assert_eq!(has_field(Some(&pod), "status.phase", &is).unwrap_err(), "status.phase is \"Pending\"");
    }
}
