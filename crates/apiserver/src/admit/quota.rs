//! ResourceQuota: how much of a namespace's limits its objects use, and whether one more fits. Decided in the transaction of the write, so
//! that no two writes can share the last bit.

use std::collections::BTreeMap;

use fairway_objects::document::{self, Document};
use fairway_objects::quantity::Quantity;
use fairway_objects::registry::{BuiltinKind, Resource};
use fairway_objects::status::Status;
use serde_json::{Map, Value};

use crate::store::{Collection, Key, State, Txn};

/// Amounts by the names that quotas give them.
type Amounts = BTreeMap<String, Quantity>;

/// What pods are asked for in full when a quota is about it: each container must say how much.
const COMPUTE: &[&str] = &["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

/// What one object uses of the quotas of its namespace.
fn usage(resource: &Resource, object: &Value) -> Amounts {
    let mut amounts = Amounts::new();
    let one = Quantity::whole(1);
    let suffix = if resource.group().is_empty() { String::new() } else { format!(".{}", resource.group()) };
    amounts.insert(format!("count/{}{suffix}", resource.plural), one);
    match resource.builtin {
        Some(BuiltinKind::Pod) if !matches!(object.text(&["status", "phase"]), "Succeeded" | "Failed") => {
            amounts.insert("pods".to_owned(), one);
            amounts.extend(compute(object));
        }
        Some(BuiltinKind::Service) => {
            amounts.insert("services".to_owned(), one);
            let ports = object.list(&["spec", "ports"]).iter();
            let node_ports = ports.filter(|port| port.int(&["nodePort"]).unwrap_or(0) != 0).count();
            let kind = object.text(&["spec", "type"]);
            if matches!(kind, "NodePort" | "LoadBalancer") {
                let count = i64::try_from(node_ports).unwrap_or(i64::MAX);
                amounts.insert("services.nodeports".to_owned(), Quantity::whole(count));
            }
            if kind == "LoadBalancer" {
                amounts.insert("services.loadbalancers".to_owned(), one);
            }
        }
        Some(BuiltinKind::PersistentVolumeClaim) => {
            amounts.insert("persistentvolumeclaims".to_owned(), one);
            let storage = Quantity::parse(object.text(&["spec", "resources", "requests", "storage"]));
            amounts.extend(storage.ok().map(|storage| ("requests.storage".to_owned(), storage)));
        }
        Some(
            BuiltinKind::ConfigMap
            | BuiltinKind::ReplicationController
            | BuiltinKind::ResourceQuota
            | BuiltinKind::Secret,
        ) => {
            amounts.insert(resource.plural.to_string(), one);
        }
        _ => {}
    }
    amounts
}

/// Requests and limits of a pod: of all that run together, or of the greatest step of its start.
fn compute(pod: &Value) -> Amounts {
    let mut amounts = Amounts::new();
    for (field, prefix) in [("requests", "requests."), ("limits", "limits.")] {
        for (name, quantity) in together(pod, field) {
            if field == "requests" && matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                amounts.insert(name.clone(), quantity);
            }
            amounts.insert(format!("{prefix}{name}"), quantity);
        }
    }
    amounts
}

fn together(pod: &Value, field: &str) -> Amounts {
    let of = |container: &Value| -> Amounts { amounts(container.at(&["resources", field])) };
    let mut running = Amounts::new();
    let mut most = Amounts::new();
    for container in pod.list(&["spec", "initContainers"]) {
        if container.text(&["restartPolicy"]) == "Always" {
            add(&mut running, &of(container));
            greatest(&mut most, &running);
        } else {
            let mut step = running.clone();
            add(&mut step, &of(container));
            greatest(&mut most, &step);
        }
    }
    pod.list(&["spec", "containers"]).iter().for_each(|container| add(&mut running, &of(container)));
    greatest(&mut most, &running);
    add(&mut most, &amounts(pod.at(&["spec", "overhead"])));
    most
}

fn amounts(value: &Value) -> Amounts {
    let members = value.as_object().into_iter().flatten();
    members.filter_map(|(name, text)| Some((name.clone(), Quantity::parse(text.as_str()?).ok()?))).collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, quantity) in more {
        let old = sum.get(name).copied().unwrap_or_else(|| Quantity::whole(0));
        sum.insert(name.clone(), old.plus(*quantity));
    }
}

fn greatest(most: &mut Amounts, other: &Amounts) {
    for (name, quantity) in other {
        let known = most.entry(name.clone()).or_insert(*quantity);
        *known = (*known).max(*quantity);
    }
}

/// Whether a quota counts an object: its scopes are about pods.
fn counts(quota: &Value, resource: &Resource, object: &Value) -> bool {
    let scopes = quota.list(&["spec", "scopes"]).iter().filter_map(Value::as_str);
    let expressions = quota.list(&["spec", "scopeSelector", "matchExpressions"]);
    let mut wanted = scopes.map(|scope| in_scope(object, scope, &Value::Null)).chain(
        expressions.iter().map(|expression| in_scope(object, expression.text(&["scopeName"]), expression)),
    );
    let is_pod = resource.builtin == Some(BuiltinKind::Pod);
    wanted.all(|in_scope| is_pod && in_scope)
}

fn in_scope(pod: &Value, scope: &str, expression: &Value) -> bool {
    let ends = pod.has(&["spec", "activeDeadlineSeconds"]);
    let best_effort = pod.text(&["status", "qosClass"]) == "BestEffort";
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => {
            let class = pod.text(&["spec", "priorityClassName"]);
            let named = expression.list(&["values"]).iter().any(|value| value == class);
            match expression.text(&["operator"]) {
                "In" => named,
                "NotIn" => !named,
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        _ => false,
    }
}

fn quotas() -> Collection {
    Collection::new("", "resourcequotas")
}

/// The quotas of a namespace.
fn of_namespace(state: &State, namespace: &str) -> Vec<(Key, Value)> {
    if namespace.is_empty() {
        return Vec::new();
    }
    let quotas = state.objects(&quotas());
    let of = quotas.iter().filter(|(key, _)| key.namespace() == namespace);
    of.map(|(key, quota)| (key.clone(), quota.value().clone())).collect()
}

/// Charges what a write changes to the quotas of its namespace, or refuses it. `old`: none for a new object; `new`: none for one that
/// goes. A change of less or nothing always fits.
pub(super) fn charge(
    txn: &mut Txn,
    resource: &Resource,
    namespace: &str,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), Status> {
    let quotas = of_namespace(txn.state(), namespace);
    for (key, quota) in &quotas {
        let used_by = |object: Option<&Value>| {
            let object = object.filter(|object| counts(quota, resource, object));
            object.map(|object| usage(resource, object)).unwrap_or_default()
        };
        let (after, before) = (used_by(new), used_by(old));
        let hard = amounts(quota.at(&["spec", "hard"]));
        let status = amounts(quota.at(&["status", "used"]));
        let mut exceeded = Vec::new();
        let mut used = Amounts::new();
        for (name, limit) in &hard {
            let zero = Quantity::whole(0);
            let known = status.get(name).copied().unwrap_or(zero);
            let of = |amounts: &Amounts| amounts.get(name).copied().unwrap_or(zero);
            let change = of(&after).minus(of(&before));
            let sum = known.plus(change);
            if !change.is_negative() && !change.is_zero() && sum > *limit {
                exceeded.push((name.clone(), change, known, *limit));
            }
            used.insert(name.clone(), if sum.is_negative() { zero } else { sum });
        }
        if let Some(new) = new.filter(|_| old.is_none()) {
            demand_compute(resource, new, &hard, document::name(quota))?;
            refuse(resource, new, document::name(quota), &exceeded)?;
        } else if let Some(new) = new {
            refuse(resource, new, document::name(quota), &exceeded)?;
        }
        store(txn, key, quota, &used);
    }
    Ok(())
}

type Excess = (String, Quantity, Quantity, Quantity);

fn refuse(resource: &Resource, object: &Value, quota: &str, exceeded: &[Excess]) -> Result<(), Status> {
    if exceeded.is_empty() {
        return Ok(());
    }
    let list = |amount: fn(&Excess) -> Quantity| {
        let parts: Vec<String> =
            exceeded.iter().map(|excess| format!("{}={}", excess.0, amount(excess))).collect();
        parts.join(",")
    };
    let why = format!(
        "exceeded quota: {quota}, requested: {}, used: {}, limited: {}",
        list(|excess| excess.1),
        list(|excess| excess.2),
        list(|excess| excess.3)
    );
    Err(Status::forbidden(resource.qualified(), document::name(object), &why))
}

/// Every container must say how much it wants of what a quota limits.
fn demand_compute(resource: &Resource, pod: &Value, hard: &Amounts, quota: &str) -> Result<(), Status> {
    if resource.builtin != Some(BuiltinKind::Pod) {
        return Ok(());
    }
    let mut missing = Vec::new();
    for name in COMPUTE.iter().filter(|name| hard.contains_key(**name)) {
        let (field, amount) = match name.split_once('.') {
            Some((field, amount)) => (field, amount),
            None => ("requests", *name),
        };
        let lists = ["initContainers", "containers"];
        let containers = lists.iter().flat_map(|list| pod.list(&["spec", list]));
        let silent = containers.filter(|container| !container.has(&["resources", field, amount]));
        let silent: Vec<&str> = silent.map(|container| container.text(&["name"])).collect();
        if !silent.is_empty() {
            missing.push(format!("{name} for: {}", silent.join(",")));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!("failed quota: {quota}: must specify {}", missing.join("; "));
    Err(Status::forbidden(resource.qualified(), document::name(pod), &why))
}

/// Writes what is used, and the limits that it was compared with, when they changed.
fn store(txn: &mut Txn, key: &Key, quota: &Value, used: &Amounts) {
    let mut new = quota.clone();
    let texts: Map<String, Value> =
        used.iter().map(|(name, quantity)| (name.clone(), quantity.to_string().into())).collect();
    new.put(&["status", "used"], texts);
    new.put(&["status", "hard"], quota.at(&["spec", "hard"]).clone());
    if new != *quota {
        txn.put(&quotas(), key, new);
    }
}

/// Counts a namespace's objects anew: for a quota that is new or changed, and now and then for all.
pub(super) fn recount(txn: &mut Txn, resources: &[&Resource], namespace: &str) {
    for (key, quota) in of_namespace(txn.state(), namespace) {
        let hard = amounts(quota.at(&["spec", "hard"]));
        let mut used: Amounts = hard.keys().map(|name| (name.clone(), Quantity::whole(0))).collect();
        for resource in resources {
            let objects = txn.state().objects(&Collection::new(resource.group(), &resource.plural));
            let objects = objects.iter().filter(|(key, _)| key.namespace() == namespace);
            for (_, object) in objects.filter(|(_, object)| counts(&quota, resource, object.value())) {
                for (name, quantity) in usage(resource, object.value()) {
                    if let Some(sum) = used.get_mut(&name) {
                        *sum = sum.plus(quantity);
                    }
                }
            }
        }
        store(txn, &key, &quota, &used);
    }
}

#[cfg(test)]
mod tests {
    use fairway_objects::registry::Registry;
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_use_what_quotas_count() {
        struct Case {
            name: &'static str,
            resource: (&'static str, &'static str),
            object: Value,
            want: &'static [(&'static str, &'static str)],
        }
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let sidecar =
            json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}});
        let cases = [
            Case {
                name: "the greater of start and run",
                resource: ("", "pods"),
                object: json!({"spec": {"initContainers": [sidecar, container("2")], "containers": [container("500m"), container("1")]}}),
                want: &[("count/pods", "1"), ("cpu", "2100m"), ("pods", "1"), ("requests.cpu", "2100m")],
            },
            Case {
                name: "a pod that has ended uses nothing but its place",
                resource: ("", "pods"),
                object: json!({"spec": {"containers": [container("1")]}, "status": {"phase": "Succeeded"}}),
                want: &[("count/pods", "1")],
            },
            Case {
                name: "ports of a load balancer",
                resource: ("", "services"),
                object: json!({"spec": {"type": "LoadBalancer", "ports": [{"nodePort": 30000}, {"nodePort": 30001}]}}),
                want: &[
                    ("count/services", "1"),
                    ("services", "1"),
                    ("services.loadbalancers", "1"),
                    ("services.nodeports", "2"),
                ],
            },
            Case {
                name: "anything by its name",
                resource: ("apps", "deployments"),
                object: json!({}),
                want: &[("count/deployments.apps", "1")],
            },
        ];
        for case in cases {
            let resource = Registry::builtin().resource(case.resource.0, "v1", case.resource.1).unwrap();
            let got = usage(resource, &case.object);
            let got: Vec<(String, String)> =
                got.into_iter().map(|(name, quantity)| (name, quantity.to_string())).collect();
            let want: Vec<(String, String)> = case
                .want
                .iter()
                .map(|(name, quantity)| ((*name).to_owned(), (*quantity).to_owned()))
                .collect();
            assert_eq!(got, want, "{}", case.name);
        }
    }

    #[test]
    fn scopes_are_about_pods() {
        let pods = Registry::builtin().resource("", "v1", "pods").unwrap();
        let quota = |scope: &str| json!({"spec": {"scopes": [scope]}});
        let pod = json!({"spec": {"activeDeadlineSeconds": 5}, "status": {"qosClass": "BestEffort"}});
        for (scope, want) in
            [("Terminating", true), ("NotTerminating", false), ("BestEffort", true), ("NotBestEffort", false)]
        {
            assert_eq!(counts(&quota(scope), pods, &pod), want, "{scope}");
        }
        let services = Registry::builtin().resource("", "v1", "services").unwrap();
        assert!(!counts(&quota("NotTerminating"), services, &json!({})));
        assert!(counts(&json!({"spec": {}}), services, &json!({})));
    }
}
