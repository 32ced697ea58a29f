//! Jobs and CronJobs.

use serde_json::Value;

use super::{Errors, IMMUTABLE, SPEC, at_least, document, label_selector, one_of, pod, schedule};
use crate::document::Document;
use crate::field::{FieldError, Path};
use crate::selector::LabelSelector;

/// Characters that the controller adds to a CronJob's name for each Job.
const CRON_NAME_BYTES_MAX: usize = 52;
const FAILURE_RULES_MAX: usize = 20;
const NAME: &str = "batch.kubernetes.io/job-name";
const UID: &str = "batch.kubernetes.io/controller-uid";

pub(super) fn job(job: &Value, errors: &mut Errors) {
    generated_selector(job, errors);
    let path = SPEC.field("selector");
    let selector = job.at(&["spec", "selector"]);
    if selector.is_null() {
        errors.push(FieldError::required(&path, ""));
    } else {
        label_selector(selector, &path, errors);
    }
    job_spec(job.at(&["spec"]), &SPEC, errors);
    if let Ok(parsed) = LabelSelector::from_object(selector)
        && !selector.is_null()
    {
        let template_labels = job.at(&["spec", "template", "metadata", "labels"]);
        if !parsed.matches(template_labels) {
            let (template, detail) = (SPEC.field("template"), "`selector` does not match template `labels`");
            let metadata = template.field("metadata");
            errors.push(FieldError::invalid(&metadata.field("labels"), template_labels.clone(), detail));
        }
    }
}

/// Unless the user selects pods by hand, the selector is the one the server made.
fn generated_selector(job: &Value, errors: &mut Errors) {
    if job.is_true(&["spec", "manualSelector"]) {
        return;
    }
    let (uid, name) = (document::uid(job), document::name(job));
    let template = SPEC.field("template");
    let metadata = template.field("metadata");
    let path = metadata.field("labels");
    let template_labels = job.at(&["spec", "template", "metadata", "labels"]);
    for (label, want) in [(UID, uid), (NAME, name)] {
        let detail = format!("must be '{want}'");
        match template_labels.at(&[label]).as_str() {
            None => errors.push(FieldError::required(&path.key(label), &detail)),
            Some(have) if have != want => {
                errors.push(FieldError::invalid(&path, template_labels.clone(), &detail));
            }
            Some(_) => {}
        }
    }
    let own = serde_json::json!({UID: uid, NAME: name, "controller-uid": uid, "job-name": name});
    let selector = job.at(&["spec", "selector"]);
    if !LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches(&own)) {
        let path = SPEC.field("selector");
        errors.push(FieldError::invalid(&path, selector.clone(), "`selector` not auto-generated"));
    }
}

/// What a Job and the template of a CronJob have in common.
fn job_spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        at_least(spec, &[field], &path.field(field), 0, errors);
    }
    completion_mode(spec, path, errors);
    let replacement = spec.text(&["podReplacementPolicy"]);
    let policy = path.field("podReplacementPolicy");
    if spec.has(&["podFailurePolicy"]) {
        failure_policy(spec, path, errors);
        if !replacement.is_empty() {
            one_of(replacement, &["Failed"], &policy, errors);
        }
    } else if !replacement.is_empty() {
        one_of(replacement, &["Failed", "TerminatingOrFailed"], &policy, errors);
    }
    let template = path.field("template");
    pod::template(spec.at(&["template"]), &template, errors);
    let pod_path = template.field("spec");
    let restart = pod_path.field("restartPolicy");
    match spec.text(&["template", "spec", "restartPolicy"]) {
        "" | "Always" => {
            errors.push(FieldError::required(&restart, "valid values: \"OnFailure\", \"Never\""));
        }
        other if !matches!(other, "OnFailure" | "Never") => {
            errors.push(FieldError::not_supported(&restart, other, &["Never", "OnFailure"]));
        }
        other if spec.has(&["podFailurePolicy"]) && other != "Never" => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(FieldError::invalid(&restart, other, detail));
        }
        _ => {}
    }
}

fn completion_mode(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mode = spec.text(&["completionMode"]);
    if !mode.is_empty() {
        one_of(mode, &["Indexed", "NonIndexed"], &path.field("completionMode"), errors);
    }
    if mode == "Indexed" && !spec.has(&["completions"]) {
        let detail = "when completion mode is Indexed";
        errors.push(FieldError::required(&path.field("completions"), detail));
    }
    if mode == "NonIndexed" {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if spec.has(&[field]) {
                let value = spec.at(&[field]).clone();
                errors.push(FieldError::invalid(
                    &path.field(field),
                    value,
                    "requires indexed completion mode",
                ));
            }
        }
    }
    if spec.has(&["maxFailedIndexes"]) && !spec.has(&["backoffLimitPerIndex"]) {
        let detail = "when maxFailedIndexes is specified";
        errors.push(FieldError::required(&path.field("backoffLimitPerIndex"), detail));
    }
}

fn failure_policy(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let policy = path.field("podFailurePolicy");
    let list = policy.field("rules");
    let rules = spec.list(&["podFailurePolicy", "rules"]);
    if rules.len() > FAILURE_RULES_MAX {
        errors.push(FieldError::too_many(&list, rules.len(), FAILURE_RULES_MAX));
    }
    let containers: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| spec.list(&["template", "spec", list]))
        .map(|container| container.text(&["name"]))
        .collect();
    for (index, rule) in rules.iter().enumerate() {
        let path = list.index(index);
        let action = rule.text(&["action"]);
        one_of(action, &["Count", "FailIndex", "FailJob", "Ignore"], &path.field("action"), errors);
        let (codes, conditions) = (rule.has(&["onExitCodes"]), !rule.list(&["onPodConditions"]).is_empty());
        match (codes, conditions) {
            (true, true) => {
                let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
                errors.push(FieldError::invalid(&path, Value::Null, detail));
            }
            (false, false) => {
                let detail = "specifying one of OnExitCodes and OnPodConditions is required";
                errors.push(FieldError::invalid(&path, Value::Null, detail));
            }
            _ => {}
        }
        if codes {
            let requirement = rule.at(&["onExitCodes"]);
            exit_codes(requirement, &containers, &path.field("onExitCodes"), errors);
        }
    }
}

fn exit_codes(requirement: &Value, containers: &[&str], path: &Path<'_>, errors: &mut Errors) {
    let operator = requirement.text(&["operator"]);
    one_of(operator, &["In", "NotIn"], &path.field("operator"), errors);
    let container = requirement.text(&["containerName"]);
    if !container.is_empty() && !containers.contains(&container) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(&path.field("containerName"), container, detail));
    }
    let list = path.field("values");
    let values = requirement.list(&["values"]);
    if values.is_empty() {
        errors.push(FieldError::invalid(&list, values.to_vec(), "at least one value is required"));
    }
    for (index, value) in values.iter().enumerate() {
        if operator == "In" && value == 0 {
            let detail = "must not be 0 for the In operator";
            errors.push(FieldError::invalid(&list.index(index), 0, detail));
        }
        if values.iter().take(index).any(|other| other == value) {
            errors.push(FieldError::duplicate(&list.index(index), value.clone()));
        }
    }
}

pub(super) fn update_job(new: &Value, old: &Value, errors: &mut Errors) {
    let indexed = new.text(&["spec", "completionMode"]) == "Indexed";
    let tandem = new.at(&["spec", "completions"]) == new.at(&["spec", "parallelism"])
        && old.at(&["spec", "completions"]) == old.at(&["spec", "parallelism"]);
    let suspended = old.is_true(&["spec", "suspend"]) && !old.has(&["status", "startTime"]);
    for field in [
        "completions",
        "selector",
        "template",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        let value = new.at(&["spec", field]);
        if value == old.at(&["spec", field]) {
            continue;
        }
        match field {
            "completions" if indexed && value.is_null() => {
                errors.push(FieldError::required(&SPEC.field(field), "when completion mode is Indexed"));
            }
            "completions" if indexed && tandem => {}
            "completions" if indexed => {
                let detail = "can only be modified in tandem with spec.parallelism";
                errors.push(FieldError::invalid(&SPEC.field(field), value.clone(), detail));
            }
            "template" if suspended && scheduling_only(value, old.at(&["spec", "template"])) => {}
            field => errors.push(FieldError::invalid(&SPEC.field(field), value.clone(), IMMUTABLE)),
        }
    }
}

/// A suspended Job that has not begun may still be told where its pods run.
fn scheduling_only(new: &Value, old: &Value) -> bool {
    let fixed = |template: &Value| {
        let mut template = template.clone();
        for field in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
            template.take_at(&["spec", field]);
        }
        for field in ["labels", "annotations"] {
            template.take_at(&["metadata", field]);
        }
        for list in ["containers", "initContainers"] {
            for container in template.list_mut(&["spec", list]) {
                container.take_at(&["resources"]);
            }
        }
        template
    };
    fixed(new) == fixed(old)
}

pub(super) fn cron_job(cron_job: &Value, errors: &mut Errors) {
    let name = document::name(cron_job);
    if name.len() > CRON_NAME_BYTES_MAX {
        let metadata = Path::new("metadata");
        let detail = format!("must be no more than {CRON_NAME_BYTES_MAX} characters");
        errors.push(FieldError::invalid(&metadata.field("name"), name, &detail));
    }
    let path = SPEC.field("schedule");
    let text = cron_job.text(&["spec", "schedule"]);
    if text.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else if text.contains("TZ") {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(FieldError::invalid(&path, text, detail));
    } else if let Err(why) = schedule::check(text) {
        errors.push(FieldError::invalid(&path, text, &why));
    }
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        at_least(cron_job, &["spec", field], &SPEC.field(field), 0, errors);
    }
    let policy = cron_job.text(&["spec", "concurrencyPolicy"]);
    one_of(policy, &["Allow", "Forbid", "Replace"], &SPEC.field("concurrencyPolicy"), errors);
    if let Some(zone) = cron_job.at(&["spec", "timeZone"]).as_str() {
        time_zone(zone, errors);
    }
    let template = SPEC.field("jobTemplate");
    let path = template.field("spec");
    if cron_job.has(&["spec", "jobTemplate", "spec", "selector"]) {
        let selector = path.field("selector");
        let value = cron_job.at(&["spec", "jobTemplate", "spec", "selector"]).clone();
        errors.push(FieldError::invalid(&selector, value, "`selector` will be auto-generated"));
    }
    if cron_job.is_true(&["spec", "jobTemplate", "spec", "manualSelector"]) {
        errors.push(FieldError::not_supported(&path.field("manualSelector"), "true", &["nil", "false"]));
    }
    job_spec(cron_job.at(&["spec", "jobTemplate", "spec"]), &path, errors);
}

fn time_zone(zone: &str, errors: &mut Errors) {
    let path = SPEC.field("timeZone");
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+');
    if zone.is_empty() {
        errors.push(FieldError::invalid(&path, zone, "timeZone must be nil or non-empty string"));
    } else if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(FieldError::invalid(&path, zone, detail));
    } else if !zone.chars().all(plain) || zone.starts_with('/') {
        errors.push(FieldError::invalid(&path, zone, &format!("unknown time zone {zone}")));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{errors, update_errors};

    fn job(more: Value) -> Value {
        let mut job = json!({"spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        json_patch::merge(&mut job, &json!({"spec": more}));
        job
    }

    fn cron(more: Value) -> Value {
        let mut cron = json!({"spec": {"schedule": "* * * * *", "jobTemplate": job(json!({}))}});
        json_patch::merge(&mut cron, &json!({"spec": more}));
        cron
    }

    #[test]
    fn jobs_are_refused_in_the_words_of_the_wire() {
        let restart = "spec.template.spec.restartPolicy";
        let cases: [(Value, Vec<String>); 9] = [
            (job(json!({})), vec![]),
            (
                job(json!({"template": {"spec": {"restartPolicy": "Always"}}})),
                vec![format!("{restart}: Required value: valid values: \"OnFailure\", \"Never\"")],
            ),
            (
                job(json!({"parallelism": -1})),
                vec!["spec.parallelism: Invalid value: -1: must be greater than or equal to 0".to_owned()],
            ),
            (
                job(json!({"completionMode": "Indexed", "parallelism": 2})),
                vec!["spec.completions: Required value: when completion mode is Indexed".to_owned()],
            ),
            (
                job(json!({"completionMode": "Both"})),
                vec![
                    "spec.completionMode: Unsupported value: \"Both\": supported values: \"Indexed\", \"NonIndexed\""
                        .to_owned(),
                ],
            ),
            (
                job(json!({"selector": {"matchLabels": {"a": "b"}}})),
                vec![
                    "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"batch.kubernetes.io/controller-uid\":\"u\"}}: \
                     `selector` not auto-generated"
                        .to_owned(),
                    "spec.template.metadata.labels: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u\",\
                     \"batch.kubernetes.io/job-name\":\"x\",\"controller-uid\":\"u\",\"job-name\":\"x\"}: \
                     `selector` does not match template `labels`"
                        .to_owned(),
                ],
            ),
            (job(json!({"manualSelector": true})), vec!["spec.selector: Required value".to_owned()]),
            (
                job(json!({"backoffLimitPerIndex": 1})),
                vec![
                    "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode".to_owned(),
                ],
            ),
            (
                job(json!({"template": {"spec": {"restartPolicy": "OnFailure"}}, "podFailurePolicy": {"rules": [
                    {"action": "Retry", "onExitCodes": {"operator": "In", "values": [0]}}]},
                    "podReplacementPolicy": "Failed"})),
                vec![
                    "spec.podFailurePolicy.rules[0].action: Unsupported value: \"Retry\": supported values: \"Count\", \
                     \"FailIndex\", \"FailJob\", \"Ignore\""
                        .to_owned(),
                    "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In \
                     operator"
                        .to_owned(),
                    format!(
                        "{restart}: Invalid value: \"OnFailure\": only \"Never\" is supported when podFailurePolicy is \
                         specified"
                    ),
                ],
            ),
        ];
        for (given, want) in cases {
            assert_eq!(errors("batch", "Job", given.clone()), want, "{given}");
        }
    }

    #[test]
    fn a_begun_job_stays_what_it_is() {
        let selector = json!({"matchLabels": {"a": "b"}});
        let begun = |more: Value| {
            let mut begun =
                job(json!({"manualSelector": true, "selector": selector.clone(), "completions": 1,
                "template": {"metadata": {"labels": {"a": "b"}}}}));
            json_patch::merge(&mut begun, &json!({"spec": more}));
            begun
        };
        let cases: [(Value, &[&str]); 4] = [
            (json!({"parallelism": 5, "suspend": true, "activeDeadlineSeconds": 9}), &[]),
            (json!({"completions": 7}), &["spec.completions: Invalid value: 7: field is immutable"]),
            (
                json!({"selector": {"matchLabels": {"a": "b", "c": null}, "matchExpressions": [{"key": "a", "operator": "Exists"}]}}),
                &[
                    "spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"Exists\"}],\
                     \"matchLabels\":{\"a\":\"b\"}}: field is immutable",
                ],
            ),
            (
                json!({"completionMode": "Indexed"}),
                &["spec.completionMode: Invalid value: \"Indexed\": field is immutable"],
            ),
        ];
        for (more, want) in cases {
            assert_eq!(update_errors("batch", "Job", begun(more.clone()), begun(json!({}))), want, "{more}");
        }
        let template = json!({"template": {"spec": {"nodeSelector": {"a": "b"}}}});
        let suspended = begun(json!({"suspend": true}));
        let mut moved = begun(template.clone());
        moved["spec"]["suspend"] = json!(true);
        assert_eq!(update_errors("batch", "Job", moved, suspended), Vec::<String>::new());
        let refused = update_errors("batch", "Job", begun(template), begun(json!({})));
        assert!(
            refused.len() == 1 && refused[0].starts_with("spec.template: Invalid value: "),
            "{refused:?}"
        );
    }

    #[test]
    fn cron_jobs_are_refused_in_the_words_of_the_wire() {
        let cases: [(Value, &[&str]); 6] = [
            (cron(json!({})), &[]),
            (cron(json!({"schedule": null})), &["spec.schedule: Required value"]),
            (
                cron(json!({"schedule": "x"})),
                &["spec.schedule: Invalid value: \"x\": expected exactly 5 fields, found 1: [x]"],
            ),
            (
                cron(json!({"schedule": "TZ=UTC * * * * *"})),
                &[
                    "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone \
                     field instead",
                ],
            ),
            (
                cron(json!({"timeZone": "Local"})),
                &[
                    "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in \
                     https://www.iana.org/time-zones",
                ],
            ),
            (
                cron(json!({"concurrencyPolicy": "Maybe"})),
                &[
                    "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \
                     \"Replace\"",
                ],
            ),
        ];
        for (given, want) in cases {
            assert_eq!(errors("batch", "CronJob", given.clone()), want, "{given}");
        }
        let long = json!({"metadata": {"name": "x".repeat(53)}, "spec": cron(json!({}))["spec"]});
        let want = format!(
            "metadata.name: Invalid value: \"{}\": must be no more than 52 characters",
            "x".repeat(53)
        );
        assert_eq!(errors("batch", "CronJob", long), [want]);
    }
}
