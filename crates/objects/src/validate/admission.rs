//! What decides about writes: webhook configurations, admission policies and their bindings.

use serde_json::Value;

use super::{Errors, SPEC, invalid_all, label_selector, one_of, port_number};
use crate::document::Document;
use crate::field::{FieldError, Path};
use crate::names;

const OPERATIONS: &[&str] = &["*", "CREATE", "UPDATE", "DELETE", "CONNECT"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
const FAILURE: &[&str] = &["Fail", "Ignore"];
const MATCH: &[&str] = &["Equivalent", "Exact"];
const REASONS: &[&str] = &["Unauthorized", "Forbidden", "Invalid", "RequestEntityTooLarge"];
const CONDITIONS_MAX: usize = 64;

/// A MutatingWebhookConfiguration or ValidatingWebhookConfiguration.
pub(super) fn webhooks(configuration: &Value, errors: &mut Errors) {
    let list = Path::new("webhooks");
    let all = configuration.list(&["webhooks"]);
    for (index, item) in all.iter().enumerate() {
        let path = list.index(index);
        webhook(item, &path, errors);
        let name = item.text(&["name"]);
        if all.iter().take(index).any(|other| other.text(&["name"]) == name) {
            errors.push(FieldError::duplicate(&path.field("name"), name));
        }
    }
}

fn webhook(hook: &Value, path: &Path<'_>, errors: &mut Errors) {
    let name = hook.text(&["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(&path.field("name"), ""));
    } else {
        let mut messages = names::dns_subdomain(name);
        if name.split('.').count() < 3 {
            messages.push("should be a domain with at least three segments separated by dots".to_owned());
        }
        invalid_all(&path.field("name"), name, messages, errors);
    }
    review_versions(hook, path, errors);
    let rules = path.field("rules");
    for (index, rule) in hook.list(&["rules"]).iter().enumerate() {
        rule_with_operations(rule, &rules.index(index), errors);
    }
    for (field, supported) in
        [("failurePolicy", FAILURE), ("matchPolicy", MATCH), ("reinvocationPolicy", &["IfNeeded", "Never"])]
    {
        let value = hook.text(&[field]);
        if !value.is_empty() {
            one_of(value, supported, &path.field(field), errors);
        }
    }
    one_of(hook.text(&["sideEffects"]), &["None", "NoneOnDryRun"], &path.field("sideEffects"), errors);
    if let Some(seconds) = hook.int(&["timeoutSeconds"]).filter(|seconds| !(1..=30).contains(seconds)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(&path.field("timeoutSeconds"), seconds, detail));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        label_selector(hook.at(&[field]), &path.field(field), errors);
    }
    client(hook.at(&["clientConfig"]), &path.field("clientConfig"), errors);
    match_conditions(hook.list(&["matchConditions"]), &path.field("matchConditions"), errors);
}

fn review_versions(hook: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.field("admissionReviewVersions");
    let versions: Vec<&str> =
        hook.list(&["admissionReviewVersions"]).iter().filter_map(Value::as_str).collect();
    if versions.is_empty() {
        let detail = format!("must specify one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(FieldError::required(&path, &detail));
        return;
    }
    for (index, version) in versions.iter().enumerate() {
        if versions.iter().take(index).any(|other| other == version) {
            errors.push(FieldError::invalid(&path.index(index), *version, "duplicate version"));
        }
        invalid_all(&path.index(index), version, names::dns_1035_label(version), errors);
    }
    if !versions.iter().any(|version| REVIEW_VERSIONS.contains(version)) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(FieldError::invalid(&path, hook.at(&["admissionReviewVersions"]).clone(), &detail));
    }
}

fn rule_with_operations(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["operations", "apiGroups", "apiVersions", "resources"] {
        let values = rule.list(&[field]);
        let path = path.field(field);
        if values.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        let is_star = |value: &Value| value == "*";
        if values.len() > 1 && values.iter().any(is_star) && field != "resources" {
            let detail = "if '*' is present, must not specify other values";
            errors.push(FieldError::invalid(&path, values.to_vec(), detail));
        }
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            match field {
                "operations" if !OPERATIONS.contains(&value) => {
                    errors.push(FieldError::not_supported(&path.index(index), value, OPERATIONS));
                }
                "apiVersions" | "resources" if value.is_empty() => {
                    errors.push(FieldError::required(&path.index(index), ""));
                }
                _ => {}
            }
        }
    }
    let scope = rule.text(&["scope"]);
    if !scope.is_empty() && !SCOPES.contains(&scope) {
        errors.push(FieldError::not_supported(&path.field("scope"), scope, SCOPES));
    }
}

/// Where a webhook is: one of a URL and a Service.
fn client(client: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (url, service) = (client.text(&["url"]), client.at(&["service"]));
    if client.has(&["url"]) != service.is_null() {
        errors.push(FieldError::required(path, "exactly one of url or service is required"));
        return;
    }
    if service.is_null() {
        return webhook_url(url, &path.field("url"), errors);
    }
    let path = path.field("service");
    for (field, detail) in
        [("name", "service name is required"), ("namespace", "service namespace is required")]
    {
        if service.text(&[field]).is_empty() {
            errors.push(FieldError::required(&path.field(field), detail));
        }
    }
    let url_path = service.text(&["path"]);
    if !url_path.is_empty() && !url_path.starts_with('/') {
        errors.push(FieldError::invalid(&path.field("path"), url_path, "must start with a '/'"));
    } else if url_path.len() > 1 && url_path.trim_end_matches('/').contains("//") {
        let detail = "segment[1] may not be empty";
        errors.push(FieldError::invalid(&path.field("path"), url_path, detail));
    }
    let mut wrong = Errors::new();
    port_number(service.int(&["port"]).unwrap_or(0), &path.field("port"), &mut wrong);
    if !wrong.is_empty() {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        let port = service.at(&["port"]).clone();
        errors.push(FieldError::invalid(&path.field("port"), port, detail));
    }
}

fn webhook_url(url: &str, path: &Path<'_>, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let mut refuse = |value: &str, why: &str| {
        errors.push(FieldError::invalid(path, value, &format!("{why}{FORM}")));
    };
    if scheme != "https" {
        refuse(scheme, "'https' is the only allowed URL scheme");
    }
    if authority.is_empty() {
        refuse(authority, "host must be specified");
    }
    if authority.contains('@') {
        refuse(authority, "user information is not permitted in the URL");
    }
    if rest.contains('#') {
        refuse(url, "fragments are not permitted in the URL");
    }
    if rest.contains('?') {
        refuse(url, "query parameters are not permitted in the URL");
    }
}

fn match_conditions(conditions: &[Value], path: &Path<'_>, errors: &mut Errors) {
    if conditions.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(path, conditions.len(), CONDITIONS_MAX));
    }
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        if condition.text(&["expression"]).trim().is_empty() {
            errors.push(FieldError::required(&path.field("expression"), ""));
        }
        let name = condition.text(&["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(&path.field("name"), ""));
            continue;
        }
        invalid_all(&path.field("name"), name, names::qualified_name(name), errors);
        if conditions.iter().take(index).any(|other| other.text(&["name"]) == name) {
            errors.push(FieldError::duplicate(&path.field("name"), name));
        }
    }
}

/// A ValidatingAdmissionPolicy. Whether its expressions compile is decided where they are evaluated.
pub(super) fn policy(policy: &Value, errors: &mut Errors) {
    let spec = policy.at(&["spec"]);
    let failure = spec.text(&["failurePolicy"]);
    one_of(failure, FAILURE, &SPEC.field("failurePolicy"), errors);
    if spec.has(&["paramKind"]) {
        let path = SPEC.field("paramKind");
        for field in ["apiVersion", "kind"] {
            if spec.text(&["paramKind", field]).is_empty() {
                errors.push(FieldError::required(&path.field(field), ""));
            }
        }
    }
    let constraints = SPEC.field("matchConstraints");
    if spec.has(&["matchConstraints"]) {
        match_resources(spec.at(&["matchConstraints"]), &constraints, errors);
        if spec.list(&["matchConstraints", "resourceRules"]).is_empty() {
            errors.push(FieldError::required(&constraints.field("resourceRules"), ""));
        }
    } else {
        errors.push(FieldError::required(&constraints, ""));
    }
    match_conditions(spec.list(&["matchConditions"]), &SPEC.field("matchConditions"), errors);
    variables(spec, errors);
    if spec.list(&["validations"]).is_empty() && spec.list(&["auditAnnotations"]).is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.push(FieldError::required(&SPEC.field("validations"), detail));
        errors.push(FieldError::required(&SPEC.field("auditAnnotations"), detail));
    }
    let list = SPEC.field("validations");
    for (index, validation) in spec.list(&["validations"]).iter().enumerate() {
        policy_rule(validation, &list.index(index), errors);
    }
    let list = SPEC.field("auditAnnotations");
    for (index, annotation) in spec.list(&["auditAnnotations"]).iter().enumerate() {
        let path = list.index(index);
        let key = annotation.text(&["key"]);
        if key.is_empty() {
            errors.push(FieldError::required(&path.field("key"), ""));
        } else {
            invalid_all(&path.field("key"), key, names::qualified_name(key), errors);
        }
        if annotation.text(&["valueExpression"]).trim().is_empty() {
            let detail = "valueExpression is not specified";
            errors.push(FieldError::required(&path.field("valueExpression"), detail));
        }
    }
}

fn variables(spec: &Value, errors: &mut Errors) {
    let list = SPEC.field("variables");
    let all = spec.list(&["variables"]);
    for (index, variable) in all.iter().enumerate() {
        let path = list.index(index);
        let name = variable.text(&["name"]);
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() {
            errors.push(FieldError::required(&path.field("name"), "name is not specified"));
        } else if !name.chars().all(is_word) || name.starts_with(|c: char| c.is_ascii_digit()) {
            let detail = "name is not a valid CEL identifier";
            errors.push(FieldError::invalid(&path.field("name"), name, detail));
        } else if all.iter().take(index).any(|other| other.text(&["name"]) == name) {
            errors.push(FieldError::duplicate(&path.field("name"), name));
        }
        if variable.text(&["expression"]).trim().is_empty() {
            errors.push(FieldError::required(&path.field("expression"), "expression is not specified"));
        }
    }
}

fn policy_rule(validation: &Value, path: &Path<'_>, errors: &mut Errors) {
    if validation.text(&["expression"]).trim().is_empty() {
        errors.push(FieldError::required(&path.field("expression"), "expression is not specified"));
    }
    let message = validation.text(&["message"]);
    if message.trim().contains('\n') {
        let detail = "message must not contain line breaks";
        errors.push(FieldError::invalid(&path.field("message"), message, detail));
    } else if !message.is_empty() && message.trim().is_empty() {
        let detail = "message must be non-empty if specified";
        errors.push(FieldError::invalid(&path.field("message"), message, detail));
    } else if message.is_empty() && validation.text(&["expression"]).trim().contains('\n') {
        let detail = "message must be specified if expression contains line breaks";
        errors.push(FieldError::required(&path.field("message"), detail));
    }
    let reason = validation.text(&["reason"]);
    if !reason.is_empty() && !REASONS.contains(&reason) {
        errors.push(FieldError::not_supported(&path.field("reason"), reason, REASONS));
    }
}

fn match_resources(resources: &Value, path: &Path<'_>, errors: &mut Errors) {
    one_of(resources.text(&["matchPolicy"]), MATCH, &path.field("matchPolicy"), errors);
    for field in ["namespaceSelector", "objectSelector"] {
        if resources.has(&[field]) {
            label_selector(resources.at(&[field]), &path.field(field), errors);
        } else {
            errors.push(FieldError::required(&path.field(field), ""));
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        let list = path.field(field);
        for (index, rule) in resources.list(&[field]).iter().enumerate() {
            rule_with_operations(rule, &list.index(index), errors);
        }
    }
}

/// A ValidatingAdmissionPolicyBinding.
pub(super) fn binding(binding: &Value, errors: &mut Errors) {
    let spec = binding.at(&["spec"]);
    let name = spec.text(&["policyName"]);
    if name.is_empty() {
        errors.push(FieldError::required(&SPEC.field("policyName"), ""));
    } else {
        invalid_all(&SPEC.field("policyName"), name, names::dns_subdomain(name), errors);
    }
    if spec.has(&["paramRef"]) {
        parameters(spec.at(&["paramRef"]), &SPEC.field("paramRef"), errors);
    }
    if spec.has(&["matchResources"]) {
        match_resources(spec.at(&["matchResources"]), &SPEC.field("matchResources"), errors);
    }
    let path = SPEC.field("validationActions");
    let actions = spec.list(&["validationActions"]);
    if actions.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    for (index, action) in actions.iter().enumerate() {
        let text = action.as_str().unwrap_or_default();
        one_of(text, &["Audit", "Deny", "Warn"], &path.index(index), errors);
        if actions.iter().take(index).any(|other| other == action) {
            errors.push(FieldError::duplicate(&path.index(index), text));
        }
    }
    let has = |wanted: &str| actions.iter().any(|action| action == wanted);
    if has("Deny") && has("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                      response and headers serves no purpose)";
        errors.push(FieldError::invalid(&path, actions.to_vec(), detail));
    }
}

fn parameters(reference: &Value, path: &Path<'_>, errors: &mut Errors) {
    let name = reference.text(&["name"]);
    let named = !name.is_empty();
    let selected = reference.has(&["selector"]);
    if named {
        invalid_all(&path.field("name"), name, names::path_segment(name), errors);
    }
    if named && selected {
        let detail = "name and selector are mutually exclusive";
        errors.push(FieldError::forbidden(&path.field("name"), detail));
    }
    if !named && !selected {
        errors.push(FieldError::required(path, "one of name or selector must be specified"));
    }
    let action = reference.text(&["parameterNotFoundAction"]);
    one_of(action, &["Deny", "Allow"], &path.field("parameterNotFoundAction"), errors);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::errors;

    const GROUP: &str = "admissionregistration.k8s.io";

    fn hook(more: Value) -> Value {
        let mut hook = json!({
            "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "s", "namespace": "n"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        });
        json_patch::merge(&mut hook, &more);
        json!({"webhooks": [hook]})
    }

    #[test]
    fn webhooks_are_refused_in_the_words_of_the_wire() {
        let cases: [(Value, &[&str]); 9] = [
            (hook(json!({})), &[]),
            (
                hook(json!({"name": "a.b"})),
                &[
                    "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by \
                     dots",
                ],
            ),
            (
                hook(json!({"admissionReviewVersions": []})),
                &["webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1"],
            ),
            (
                hook(json!({"admissionReviewVersions": ["v9"]})),
                &[
                    "webhooks[0].admissionReviewVersions: Invalid value: [\"v9\"]: must include at least one of v1, v1beta1",
                ],
            ),
            (
                hook(json!({"sideEffects": "Some"})),
                &[
                    "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
                ],
            ),
            (
                hook(json!({"timeoutSeconds": 31})),
                &[
                    "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                ],
            ),
            (
                hook(json!({"clientConfig": {"url": "https://x"}})),
                &["webhooks[0].clientConfig: Required value: exactly one of url or service is required"],
            ),
            (
                hook(json!({"clientConfig": {"service": null, "url": "http://x"}})),
                &[
                    "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired \
                     format: https://host[/path]",
                ],
            ),
            (
                hook(
                    json!({"rules": [{"operations": ["*", "CREATE"], "apiGroups": [""], "apiVersions": ["v1"]}]}),
                ),
                &[
                    "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify \
                     other values",
                    "webhooks[0].rules[0].resources: Required value",
                ],
            ),
        ];
        for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
            for (given, want) in &cases {
                assert_eq!(errors(GROUP, kind, given.clone()), *want, "{given}");
            }
        }
    }

    #[test]
    fn policies_are_refused_in_the_words_of_the_wire() {
        let policy = |more: Value| {
            let mut policy = json!({"spec": {
                "matchConstraints": {"resourceRules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"],
                    "resources": ["*"]}]},
                "validations": [{"expression": "true"}],
            }});
            json_patch::merge(&mut policy, &json!({"spec": more}));
            policy
        };
        let none = "validations or auditAnnotations must contain at least one item";
        let cases: [(Value, Vec<String>); 5] = [
            (policy(json!({})), vec![]),
            (
                policy(json!({"validations": []})),
                vec![
                    format!("spec.validations: Required value: {none}"),
                    format!("spec.auditAnnotations: Required value: {none}"),
                ],
            ),
            (
                policy(json!({"validations": [{"expression": " ", "reason": "Sad"}]})),
                vec![
                    "spec.validations[0].expression: Required value: expression is not specified".to_owned(),
                    "spec.validations[0].reason: Unsupported value: \"Sad\": supported values: \"Unauthorized\", \
                     \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\""
                        .to_owned(),
                ],
            ),
            (
                policy(json!({"matchConstraints": null})),
                vec!["spec.matchConstraints: Required value".to_owned()],
            ),
            (
                policy(json!({"variables": [{"name": "1a", "expression": "1"}]})),
                vec![
                    "spec.variables[0].name: Invalid value: \"1a\": name is not a valid CEL identifier".to_owned(),
                ],
            ),
        ];
        for (given, want) in cases {
            assert_eq!(errors(GROUP, "ValidatingAdmissionPolicy", given.clone()), want, "{given}");
        }
        let binding = |spec: Value| errors(GROUP, "ValidatingAdmissionPolicyBinding", json!({"spec": spec}));
        assert_eq!(binding(json!({"policyName": "p", "validationActions": ["Deny"]})), Vec::<String>::new());
        assert_eq!(
            binding(json!({"policyName": "", "validationActions": ["Shout"], "paramRef": {}})),
            [
                "spec.policyName: Required value",
                "spec.paramRef: Required value: one of name or selector must be specified",
                "spec.paramRef.parameterNotFoundAction: Required value",
                "spec.validationActions[0]: Unsupported value: \"Shout\": supported values: \"Audit\", \"Deny\", \"Warn\"",
            ]
        );
    }
}
