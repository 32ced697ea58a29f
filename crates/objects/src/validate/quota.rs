//! Limits of namespaces, disruption budgets, priorities.

use serde_json::Value;

use super::{Errors, IMMUTABLE, SPEC, at_least, document, invalid_all, label_selector, one_of, workload};
use crate::document::Document;
use crate::field::{FieldError, Path};
use crate::names;
use crate::quantity::Quantity;

/// User priorities stay below those of the system.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;
const SYSTEM_PRIORITIES: &[(&str, i64)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
/// Resources that quotas count without a prefix.
const QUOTA_RESOURCES: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "storage",
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

fn quantity(map: &Value, name: &str) -> Option<Quantity> {
    Quantity::parse(map.text(&[name])).ok()
}

pub(super) fn limit_range(range: &Value, errors: &mut Errors) {
    let list = SPEC.field("limits");
    let limits = range.list(&["spec", "limits"]);
    for (index, limit) in limits.iter().enumerate() {
        let path = list.index(index);
        let kind = limit.text(&["type"]);
        invalid_all(&path.field("type"), kind, names::qualified_name(kind), errors);
        if limits.iter().take(index).any(|other| other.text(&["type"]) == kind) {
            errors.push(FieldError::duplicate(&path.field("type"), kind));
        }
        if kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if limit.map(&[field]).is_some_and(|map| !map.is_empty()) {
                    let detail = "may not be specified when `type` is 'Pod'";
                    errors.push(FieldError::forbidden(&path.field(field), detail));
                }
            }
        }
        if kind == "PersistentVolumeClaim"
            && !limit.has(&["min", "storage"])
            && !limit.has(&["max", "storage"])
        {
            let detail = "either minimum or maximum storage value is required, but neither was provided";
            errors.push(FieldError::required(&path, detail));
        }
        limit_item(limit, &path, errors);
    }
}

/// A field that must not be above another, and what is said when it is.
struct Order {
    low: &'static str,
    high: &'static str,
    /// The field that is blamed.
    field: &'static str,
    /// From the low and the high value.
    words: fn(&Quantity, &Quantity) -> String,
}

/// min ≤ defaultRequest ≤ default ≤ max.
const ORDERS: &[Order] = &[
    Order {
        low: "min",
        high: "max",
        field: "min",
        words: |low, high| format!("min value {low} is greater than max value {high}"),
    },
    Order {
        low: "min",
        high: "defaultRequest",
        field: "defaultRequest",
        words: |low, high| format!("default request value {high} is less than min value {low}"),
    },
    Order {
        low: "defaultRequest",
        high: "max",
        field: "defaultRequest",
        words: |low, high| format!("default request value {low} is greater than max value {high}"),
    },
    Order {
        low: "defaultRequest",
        high: "default",
        field: "defaultRequest",
        words: |low, high| format!("default request value {low} is greater than default limit value {high}"),
    },
    Order {
        low: "min",
        high: "default",
        field: "default",
        words: |low, high| format!("default value {high} is less than min value {low}"),
    },
    Order {
        low: "default",
        high: "max",
        field: "default",
        words: |low, high| format!("default value {low} is greater than max value {high}"),
    },
];

fn limit_item(limit: &Value, path: &Path<'_>, errors: &mut Errors) {
    let fields = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
    let mut resources: Vec<&String> =
        fields.iter().filter_map(|field| limit.map(&[field])).flat_map(|map| map.keys()).collect();
    resources.sort_unstable();
    resources.dedup();
    for name in resources {
        for order in ORDERS {
            let low = quantity(limit.at(&[order.low]), name);
            let high = quantity(limit.at(&[order.high]), name);
            if let (Some(low), Some(high)) = (low, high)
                && low > high
            {
                let list = path.field(order.field);
                let value = limit.text(&[order.field, name]);
                errors.push(FieldError::invalid(&list.key(name), value, &(order.words)(&low, &high)));
            }
        }
        let ratio = limit.text(&["maxLimitRequestRatio", name]);
        if Quantity::parse(ratio).is_ok_and(|ratio| ratio.millis() < 1000) {
            let list = path.field("maxLimitRequestRatio");
            let detail = format!("ratio {ratio} is less than 1");
            errors.push(FieldError::invalid(&list.key(name), ratio, &detail));
        }
    }
}

pub(super) fn resource_quota(quota: &Value, errors: &mut Errors) {
    amounts(quota.at(&["spec", "hard"]), &SPEC.field("hard"), errors);
    let path = SPEC.field("scopes");
    for (index, scope) in quota.list(&["spec", "scopes"]).iter().enumerate() {
        one_of(scope.as_str().unwrap_or_default(), SCOPES, &path.index(index), errors);
    }
    let selector = SPEC.field("scopeSelector");
    let path = selector.field("matchExpressions");
    for (index, expression) in quota.list(&["spec", "scopeSelector", "matchExpressions"]).iter().enumerate() {
        let path = path.index(index);
        one_of(expression.text(&["scopeName"]), SCOPES, &path.field("scopeName"), errors);
        let values = !expression.list(&["values"]).is_empty();
        match expression.text(&["operator"]) {
            "In" | "NotIn" if !values => {
                let detail =
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(FieldError::required(&path.field("values"), detail));
            }
            "Exists" | "DoesNotExist" if values => {
                let detail =
                    "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector";
                errors.push(FieldError::invalid(
                    &path.field("values"),
                    expression.list(&["values"]).to_vec(),
                    detail,
                ));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let detail = "not a valid selector operator";
                errors.push(FieldError::invalid(&path.field("operator"), other, detail));
            }
        }
    }
}

/// What a status says is counted as the spec limits it.
pub(super) fn quota_status(quota: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    for field in ["hard", "used"] {
        amounts(quota.at(&["status", field]), &status.field(field), errors);
    }
}

fn amounts(map: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (name, value) in map.as_object().into_iter().flatten() {
        let path = path.key(name);
        let plain = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits."));
        invalid_all(&path, name, names::qualified_name(name), errors);
        if !name.contains('/') && !QUOTA_RESOURCES.contains(&plain.unwrap_or(name)) {
            let hugepages = plain.unwrap_or(name).starts_with("hugepages-");
            if !hugepages {
                errors.push(FieldError::invalid(
                    &path,
                    name.as_str(),
                    "must be a standard resource for quota",
                ));
            }
        }
        let text = value.as_str().unwrap_or_default();
        let Ok(amount) = Quantity::parse(text) else { continue };
        if amount.is_negative() {
            errors.push(FieldError::invalid(&path, text, "must be greater than or equal to 0"));
        }
        let counted = name.starts_with("count/")
            || matches!(name.as_str(), "pods" | "secrets" | "services" | "configmaps" | "resourcequotas");
        if counted && amount.millis() % 1000 != 0 {
            errors.push(FieldError::invalid(&path, text, "must be an integer"));
        }
    }
}

/// What a quota counts never changes.
pub(super) fn update_quota(new: &Value, old: &Value, errors: &mut Errors) {
    let scopes = new.at(&["spec", "scopes"]);
    if scopes != old.at(&["spec", "scopes"]) {
        errors.push(FieldError::invalid(&SPEC.field("scopes"), scopes.clone(), IMMUTABLE));
    }
}

pub(super) fn disruption_budget(budget: &Value, errors: &mut Errors) {
    let spec = budget.at(&["spec"]);
    if spec.has(&["minAvailable"]) && spec.has(&["maxUnavailable"]) {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(&SPEC, spec.clone(), detail));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        let path = SPEC.field(field);
        let share = workload::share(spec.at(&[field]), &path, errors);
        if spec.text(&[field]).ends_with('%') && share.is_some_and(|percent| percent > 100) {
            errors.push(FieldError::invalid(&path, spec.text(&[field]), "must not be greater than 100%"));
        }
    }
    label_selector(spec.at(&["selector"]), &SPEC.field("selector"), errors);
    let policy = spec.text(&["unhealthyPodEvictionPolicy"]);
    if !policy.is_empty() {
        let supported = ["AlwaysAllow", "IfHealthyBudget"];
        one_of(policy, &supported, &SPEC.field("unhealthyPodEvictionPolicy"), errors);
    }
}

/// What the controller reports.
pub(super) fn budget_status(budget: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        at_least(budget, &["status", field], &status.field(field), 0, errors);
    }
}

pub(super) fn priority_class(class: &Value, errors: &mut Errors) {
    let name = document::name(class);
    let value = class.int(&["value"]).unwrap_or(0);
    if name.starts_with("system-") {
        let known = SYSTEM_PRIORITIES.contains(&(name, value));
        if !known {
            let metadata = Path::new("metadata");
            let detail = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a \
                 known system priority class"
            );
            errors.push(FieldError::forbidden(&metadata.field("name"), &detail));
        }
    } else if value > USER_PRIORITY_MAX {
        let detail = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
        errors.push(FieldError::forbidden(&Path::new("value"), &detail));
    }
    let policy = class.text(&["preemptionPolicy"]);
    if !policy.is_empty() {
        let path = Path::new("preemptionPolicy");
        one_of(policy, &["Never", "PreemptLowerPriority"], &path, errors);
    }
}

pub(super) fn update_priority_class(new: &Value, old: &Value, errors: &mut Errors) {
    if new.int(&["value"]).unwrap_or(0) != old.int(&["value"]).unwrap_or(0) {
        errors.push(FieldError::forbidden(&Path::new("value"), "may not be changed in an update."));
    }
    let policy = new.at(&["preemptionPolicy"]);
    if policy != old.at(&["preemptionPolicy"]) {
        errors.push(FieldError::invalid(&Path::new("preemptionPolicy"), policy.clone(), IMMUTABLE));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{errors, update_errors};

    #[test]
    fn limits_are_refused_in_the_words_of_the_wire() {
        let range = |limit: Value| json!({"spec": {"limits": [limit]}});
        let l = "spec.limits[0]";
        let cases: [(Value, Vec<String>); 5] = [
            (range(json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}})), vec![]),
            (
                range(json!({"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}})),
                vec![format!("{l}.min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1")],
            ),
            (
                range(json!({"type": "Pod", "default": {"cpu": "2"}})),
                vec![format!("{l}.default: Forbidden: may not be specified when `type` is 'Pod'")],
            ),
            (
                range(json!({"type": "PersistentVolumeClaim"})),
                vec![format!(
                    "{l}: Required value: either minimum or maximum storage value is required, but neither was provided"
                )],
            ),
            (
                range(json!({"type": "Container", "defaultRequest": {"cpu": "3"}, "default": {"cpu": "2"},
                             "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "500m"}})),
                vec![
                    format!(
                        "{l}.defaultRequest[cpu]: Invalid value: \"3\": default request value 3 is greater than max value 2"
                    ),
                    format!(
                        "{l}.defaultRequest[cpu]: Invalid value: \"3\": default request value 3 is greater than default \
                         limit value 2"
                    ),
                    format!(
                        "{l}.maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1"
                    ),
                ],
            ),
        ];
        for (given, want) in cases {
            assert_eq!(errors("", "LimitRange", given.clone()), want, "{given}");
        }
    }

    #[test]
    fn quotas_are_refused_in_the_words_of_the_wire() {
        let quota = |spec: Value| json!({"spec": spec});
        let cases: [(Value, &[&str]); 4] = [
            (quota(json!({"hard": {"pods": "3", "requests.cpu": "1", "count/jobs.batch": "2"}})), &[]),
            (
                quota(json!({"hard": {"pods": "-1"}})),
                &["spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0"],
            ),
            (
                quota(json!({"hard": {"coffee": "1", "pods": "500m"}})),
                &[
                    "spec.hard[coffee]: Invalid value: \"coffee\": must be a standard resource for quota",
                    "spec.hard[pods]: Invalid value: \"500m\": must be an integer",
                ],
            ),
            (
                quota(
                    json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}),
                ),
                &[
                    "spec.scopeSelector.matchExpressions[0].values: Required value: must be at least one value when \
                     `operator` is 'In' or 'NotIn' for scope selector",
                ],
            ),
        ];
        for (given, want) in cases {
            assert_eq!(errors("", "ResourceQuota", given.clone()), want, "{given}");
        }
        let (new, old) = (quota(json!({"scopes": ["BestEffort"]})), quota(json!({})));
        let want = "spec.scopes: Invalid value: [\"BestEffort\"]: field is immutable";
        assert_eq!(update_errors("", "ResourceQuota", new, old), [want]);
    }

    #[test]
    fn budgets_are_refused_in_the_words_of_the_wire() {
        let cases: [(Value, &[&str]); 4] = [
            (json!({"minAvailable": "50%", "selector": {}}), &[]),
            (
                json!({"minAvailable": 1, "maxUnavailable": 1}),
                &[
                    "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and maxUnavailable cannot \
                     be both set",
                ],
            ),
            (
                json!({"maxUnavailable": "101%"}),
                &["spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"],
            ),
            (
                json!({"unhealthyPodEvictionPolicy": "Never"}),
                &[
                    "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \"AlwaysAllow\", \
                     \"IfHealthyBudget\"",
                ],
            ),
        ];
        for (spec, want) in cases {
            assert_eq!(errors("policy", "PodDisruptionBudget", json!({"spec": spec})), want, "{spec}");
        }
    }

    #[test]
    fn priorities_stay_below_the_system() {
        let group = "scheduling.k8s.io";
        let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
        assert_eq!(errors(group, "PriorityClass", class("high", 1_000_000_000)), Vec::<String>::new());
        assert_eq!(
            errors(group, "PriorityClass", class("system-node-critical", 2_000_001_000)),
            Vec::<String>::new()
        );
        let want = "value: Forbidden: maximum allowed value of a user defined priority is 1000000000";
        assert_eq!(errors(group, "PriorityClass", class("high", 1_000_000_001)), [want]);
        let refused = errors(group, "PriorityClass", class("system-mine", 1));
        assert!(refused[0].starts_with(
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: "
        ));
        let want = "value: Forbidden: may not be changed in an update.";
        let update = |new, old| {
            let without_namespace = |mut class: Value| {
                class["metadata"]["namespace"] = Value::Null;
                class
            };
            update_errors(group, "PriorityClass", without_namespace(new), without_namespace(old))
        };
        assert_eq!(update(class("high", 2), class("high", 1)), [want]);
    }
}
