//! Workloads: sets of pods from a template.

use serde_json::Value;

use super::{Errors, IMMUTABLE, SPEC, at_least, document, label_selector, labels, one_of, pod};
use crate::document::Document;
use crate::field::{FieldError, Path};
use crate::selector::LabelSelector;

const FIXED_STATEFUL_SET: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
    'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
    'minReadySeconds' are forbidden";

/// A selector that is there, not empty, and matches the template.
fn selector(object: &Value, kind: &str, errors: &mut Errors) {
    let path = SPEC.field("selector");
    let selector = object.at(&["spec", "selector"]);
    if selector.is_null() {
        errors.push(FieldError::required(&path, ""));
        return;
    }
    label_selector(selector, &path, errors);
    let Ok(parsed) = LabelSelector::from_object(selector) else { return };
    if parsed.is_empty() {
        let detail = format!("empty selector is invalid for {kind}");
        errors.push(FieldError::invalid(&path, selector.clone(), &detail));
        return;
    }
    let template_labels = object.at(&["spec", "template", "metadata", "labels"]);
    if !parsed.matches(template_labels) {
        let template = SPEC.field("template");
        let metadata = template.field("metadata");
        let shown = if template_labels.is_null() { Value::Null } else { template_labels.clone() };
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(&metadata.field("labels"), shown, detail));
    }
}

/// A template whose pods are restarted for ever.
fn template(object: &Value, errors: &mut Errors) {
    let path = SPEC.field("template");
    pod::template(object.at(&["spec", "template"]), &path, errors);
    let spec_path = path.field("spec");
    let spec = object.at(&["spec", "template", "spec"]);
    let policy = spec.text(&["restartPolicy"]);
    if !matches!(policy, "Always" | "") {
        errors.push(FieldError::not_supported(&spec_path.field("restartPolicy"), policy, &["Always"]));
    }
    if spec.has(&["activeDeadlineSeconds"]) {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.push(FieldError::forbidden(&spec_path.field("activeDeadlineSeconds"), detail));
    }
}

fn counts(object: &Value, fields: &[&'static str], errors: &mut Errors) {
    for field in fields {
        at_least(object, &["spec", field], &SPEC.field(field), 0, errors);
    }
}

pub(super) fn deployment(object: &Value, errors: &mut Errors) {
    counts(object, &["replicas"], errors);
    selector(object, "deployment", errors);
    template(object, errors);
    strategy(object, errors);
    counts(object, &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"], errors);
    let ready = object.int(&["spec", "minReadySeconds"]).unwrap_or(0);
    let deadline = object.int(&["spec", "progressDeadlineSeconds"]);
    if let Some(deadline) = deadline.filter(|deadline| *deadline <= ready) {
        let path = SPEC.field("progressDeadlineSeconds");
        errors.push(FieldError::invalid(&path, deadline, "must be greater than minReadySeconds"));
    }
}

fn strategy(object: &Value, errors: &mut Errors) {
    let path = SPEC.field("strategy");
    let rolling = path.field("rollingUpdate");
    match object.text(&["spec", "strategy", "type"]) {
        "Recreate" if object.has(&["spec", "strategy", "rollingUpdate"]) => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden(&rolling, detail));
        }
        "RollingUpdate" => {
            let update = object.at(&["spec", "strategy", "rollingUpdate"]);
            let unavailable = share(update.at(&["maxUnavailable"]), &rolling.field("maxUnavailable"), errors);
            let surge = share(update.at(&["maxSurge"]), &rolling.field("maxSurge"), errors);
            if (unavailable, surge) == (Some(0), Some(0)) {
                let value = update.at(&["maxUnavailable"]).clone();
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.push(FieldError::invalid(&rolling.field("maxUnavailable"), value, detail));
            }
            if update.text(&["maxUnavailable"]).ends_with('%')
                && unavailable.is_some_and(|percent| percent > 100)
            {
                let value = update.at(&["maxUnavailable"]).clone();
                let detail = "must not be greater than 100%";
                errors.push(FieldError::invalid(&rolling.field("maxUnavailable"), value, detail));
            }
        }
        other => one_of(other, &["Recreate", "RollingUpdate"], &path.field("type"), errors),
    }
}

/// A number or a percentage; the number in it.
pub(super) fn share(value: &Value, path: &Path<'_>, errors: &mut Errors) -> Option<i64> {
    match value {
        Value::Number(number) => {
            let number = number.as_i64()?;
            if number < 0 {
                errors.push(FieldError::invalid(path, number, "must be greater than or equal to 0"));
            }
            Some(number)
        }
        Value::String(text) => {
            let percent = text.strip_suffix('%').filter(|digits| digits.bytes().all(|c| c.is_ascii_digit()));
            let percent = percent.and_then(|digits| digits.parse().ok());
            if percent.is_none() {
                let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  \
                              or '93%', regex used for validation is '[0-9]+%')";
                errors.push(FieldError::invalid(path, text.as_str(), detail));
            }
            percent
        }
        _ => None,
    }
}

pub(super) fn replica_set(object: &Value, errors: &mut Errors) {
    counts(object, &["replicas", "minReadySeconds"], errors);
    selector(object, "replicaset", errors);
    template(object, errors);
}

/// The selector of a ReplicationController is a plain map of labels.
pub(super) fn replication_controller(object: &Value, errors: &mut Errors) {
    counts(object, &["replicas", "minReadySeconds"], errors);
    let path = SPEC.field("selector");
    let selector = object.at(&["spec", "selector"]);
    labels(selector, &path, errors);
    if selector.as_object().is_none_or(document::Object::is_empty) {
        errors.push(FieldError::required(&path, ""));
    }
    if !object.has(&["spec", "template"]) {
        errors.push(FieldError::required(&SPEC.field("template"), ""));
        return;
    }
    let template_labels = object.at(&["spec", "template", "metadata", "labels"]);
    let parsed = LabelSelector::from_map(selector);
    if !parsed.is_empty() && !parsed.matches(template_labels) {
        let template = SPEC.field("template");
        let metadata = template.field("metadata");
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(&metadata.field("labels"), template_labels.clone(), detail));
    }
    template(object, errors);
}

pub(super) fn stateful_set(object: &Value, errors: &mut Errors) {
    let policy = object.text(&["spec", "podManagementPolicy"]);
    one_of(policy, &["OrderedReady", "Parallel"], &SPEC.field("podManagementPolicy"), errors);
    let update = SPEC.field("updateStrategy");
    let strategy = object.text(&["spec", "updateStrategy", "type"]);
    match strategy {
        "OnDelete" if object.has(&["spec", "updateStrategy", "rollingUpdate"]) => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            let value = object.at(&["spec", "updateStrategy", "rollingUpdate"]).clone();
            errors.push(FieldError::invalid(&update.field("rollingUpdate"), value, detail));
        }
        "RollingUpdate" => {
            let rolling = update.field("rollingUpdate");
            let partition = ["spec", "updateStrategy", "rollingUpdate", "partition"];
            at_least(object, &partition, &rolling.field("partition"), 0, errors);
        }
        other => one_of(other, &["OnDelete", "RollingUpdate"], &update.field("type"), errors),
    }
    counts(object, &["replicas", "minReadySeconds"], errors);
    selector(object, "statefulset", errors);
    template(object, errors);
}

pub(super) fn daemon_set(object: &Value, errors: &mut Errors) {
    selector(object, "daemonset", errors);
    template(object, errors);
    counts(object, &["minReadySeconds", "revisionHistoryLimit"], errors);
    let strategy = object.text(&["spec", "updateStrategy", "type"]);
    let update = SPEC.field("updateStrategy");
    one_of(strategy, &["OnDelete", "RollingUpdate"], &update.field("type"), errors);
}

/// The selector of a workload never changes.
pub(super) fn keep_selector(new: &Value, old: &Value, errors: &mut Errors) {
    let selector = new.at(&["spec", "selector"]);
    if selector != old.at(&["spec", "selector"]) {
        errors.push(FieldError::invalid(&SPEC.field("selector"), selector.clone(), IMMUTABLE));
    }
}

pub(super) fn update_stateful_set(new: &Value, old: &Value, errors: &mut Errors) {
    let free = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |object: &Value| {
        let mut spec = object.at(&["spec"]).clone();
        for field in free {
            spec.take_at(&[field]);
        }
        spec
    };
    if fixed(new) != fixed(old) {
        errors.push(FieldError::forbidden(&SPEC, FIXED_STATEFUL_SET));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{errors, update_errors};

    fn workload(more: Value) -> Value {
        let mut object = json!({"spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        }});
        json_patch::merge(&mut object, &json!({"spec": more}));
        object
    }

    #[test]
    fn deployments_are_refused_in_the_words_of_the_wire() {
        let cases: [(Value, &[&str]); 9] = [
            (workload(json!({})), &[]),
            (workload(json!({"selector": null})), &["spec.selector: Required value"]),
            (
                workload(json!({"selector": {"matchLabels": null}})),
                &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
            ),
            (
                workload(json!({"selector": {"matchLabels": {"a": "c"}}})),
                &[
                    "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template \
                   `labels`",
                ],
            ),
            (
                workload(json!({"replicas": -1})),
                &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                workload(json!({"template": {"spec": {"restartPolicy": "Never"}}})),
                &[
                    "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                ],
            ),
            (
                workload(json!({"strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}})),
                &[
                    "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
                ],
            ),
            (
                workload(json!({"strategy": {"type": "Recreate", "rollingUpdate": {}}})),
                &[
                    "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
                ],
            ),
            (
                workload(json!({"progressDeadlineSeconds": 5, "minReadySeconds": 5})),
                &["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"],
            ),
        ];
        for (object, want) in cases {
            assert_eq!(errors("apps", "Deployment", object.clone()), want, "{object}");
        }
    }

    #[test]
    fn selectors_stay() {
        let other = json!({"selector": {"matchLabels": {"a": "c"}}, "template": {"metadata": {"labels": {"a": "c"}}}});
        assert_eq!(
            update_errors("apps", "Deployment", workload(other.clone()), workload(json!({}))),
            ["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable"]
        );
        let refused =
            update_errors("apps", "StatefulSet", workload(json!({"serviceName": "x"})), workload(json!({})));
        assert_eq!(
            refused,
            [
                "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
              'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' \
              are forbidden"
            ]
        );
        let scaled =
            update_errors("apps", "StatefulSet", workload(json!({"replicas": 5})), workload(json!({})));
        assert_eq!(scaled, Vec::<String>::new());
    }
}
