//! Roles and their bindings.

use serde_json::Value;

use super::{Errors, invalid_all, label_selector, one_of};
use crate::document::Document;
use crate::field::{FieldError, Path};
use crate::names;

const GROUP: &str = "rbac.authorization.k8s.io";

/// A Role or ClusterRole.
pub(super) fn role(role: &Value, namespaced: bool, errors: &mut Errors) {
    let list = Path::new("rules");
    for (index, rule) in role.list(&["rules"]).iter().enumerate() {
        policy_rule(rule, namespaced, &list.index(index), errors);
    }
    if !role.has(&["aggregationRule"]) {
        return;
    }
    let aggregation = Path::new("aggregationRule");
    let path = aggregation.field("clusterRoleSelectors");
    let selectors = role.list(&["aggregationRule", "clusterRoleSelectors"]);
    if selectors.is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(FieldError::required(&path, detail));
    }
    for (index, selector) in selectors.iter().enumerate() {
        label_selector(selector, &path.index(index), errors);
    }
}

fn policy_rule(rule: &Value, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    let is_empty = |field: &str| rule.list(&[field]).is_empty();
    if is_empty("verbs") {
        errors.push(FieldError::required(&path.field("verbs"), "verbs must contain at least one value"));
    }
    if !is_empty("nonResourceURLs") {
        let urls = path.field("nonResourceURLs");
        let given = rule.list(&["nonResourceURLs"]).to_vec();
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            errors.push(FieldError::invalid(&urls, given.clone(), detail));
        }
        if !is_empty("apiGroups") || !is_empty("resources") || !is_empty("resourceNames") {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(FieldError::invalid(&urls, given, detail));
        }
        return;
    }
    if is_empty("apiGroups") {
        let detail = "resource rules must supply at least one api group";
        errors.push(FieldError::required(&path.field("apiGroups"), detail));
    }
    if is_empty("resources") {
        let detail = "resource rules must supply at least one resource";
        errors.push(FieldError::required(&path.field("resources"), detail));
    }
}

/// A RoleBinding or ClusterRoleBinding.
pub(super) fn binding(binding: &Value, namespaced: bool, errors: &mut Errors) {
    let path = Path::new("roleRef");
    let role = binding.at(&["roleRef"]);
    if role.text(&["apiGroup"]) != GROUP {
        let group = role.text(&["apiGroup"]);
        errors.push(FieldError::not_supported(&path.field("apiGroup"), group, &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    let kind = role.text(&["kind"]);
    if !kinds.contains(&kind) {
        errors.push(FieldError::not_supported(&path.field("kind"), kind, kinds));
    }
    match role.text(&["name"]) {
        "" => errors.push(FieldError::required(&path.field("name"), "")),
        name => invalid_all(&path.field("name"), name, names::path_segment(name), errors),
    }
    let list = Path::new("subjects");
    for (index, item) in binding.list(&["subjects"]).iter().enumerate() {
        subject(item, namespaced, &list.index(index), errors);
    }
}

fn subject(subject: &Value, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    let (name, group) = (subject.text(&["name"]), subject.text(&["apiGroup"]));
    if name.is_empty() {
        errors.push(FieldError::required(&path.field("name"), ""));
    }
    match subject.text(&["kind"]) {
        "ServiceAccount" => {
            if !name.is_empty() {
                invalid_all(&path.field("name"), name, names::dns_subdomain(name), errors);
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(&path.field("apiGroup"), group, &[""]));
            }
            if !namespaced && subject.text(&["namespace"]).is_empty() {
                errors.push(FieldError::required(&path.field("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(FieldError::not_supported(&path.field("apiGroup"), group, &[GROUP]));
            }
        }
        other => one_of(other, &["ServiceAccount", "User", "Group"], &path.field("kind"), errors),
    }
}

/// What a binding grants never changes.
pub(super) fn update_binding(new: &Value, old: &Value, errors: &mut Errors) {
    let role = new.at(&["roleRef"]);
    if role != old.at(&["roleRef"]) {
        errors.push(FieldError::invalid(&Path::new("roleRef"), role.clone(), "cannot change roleRef"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{errors, update_errors};

    const RBAC: &str = "rbac.authorization.k8s.io";

    #[test]
    fn roles_are_refused_in_the_words_of_the_wire() {
        let cases: [(&str, Value, &[&str]); 6] = [
            ("Role", json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]), &[]),
            (
                "Role",
                json!([{"apiGroups": [""], "resources": ["pods"], "verbs": []}]),
                &["rules[0].verbs: Required value: verbs must contain at least one value"],
            ),
            (
                "Role",
                json!([{"verbs": ["get"]}]),
                &[
                    "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                    "rules[0].resources: Required value: resource rules must supply at least one resource",
                ],
            ),
            (
                "Role",
                json!([{"verbs": ["get"], "nonResourceURLs": ["/x"]}]),
                &[
                    "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource \
                     URLs",
                ],
            ),
            ("ClusterRole", json!([{"verbs": ["get"], "nonResourceURLs": ["/x"]}]), &[]),
            (
                "ClusterRole",
                json!([{"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]}]),
                &[
                    "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and \
                     non-resource URLs",
                ],
            ),
        ];
        for (kind, rules, want) in cases {
            let role = json!({"metadata": {"name": "system:x"}, "rules": rules});
            assert_eq!(errors(RBAC, kind, role.clone()), want, "{role}");
        }
        let empty = json!({"aggregationRule": {}});
        let want = "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if \
                    aggregationRule is non-nil";
        assert_eq!(errors(RBAC, "ClusterRole", empty), [want]);
    }

    #[test]
    fn bindings_are_refused_in_the_words_of_the_wire() {
        let binding = |role: Value, subject: Value| json!({"roleRef": role, "subjects": [subject]});
        let role = json!({"kind": "ClusterRole", "name": "view"});
        let account = json!({"kind": "ServiceAccount", "name": "a", "namespace": "n"});
        let cases: [(&str, Value, &[&str]); 6] = [
            ("RoleBinding", binding(role.clone(), account.clone()), &[]),
            ("ClusterRoleBinding", binding(role.clone(), json!({"kind": "User", "name": "u"})), &[]),
            (
                "ClusterRoleBinding",
                binding(json!({"kind": "Role", "name": "x"}), account.clone()),
                &["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""],
            ),
            (
                "RoleBinding",
                binding(json!({"kind": "Role", "name": "", "apiGroup": "x"}), account),
                &[
                    "roleRef.apiGroup: Unsupported value: \"x\": supported values: \"rbac.authorization.k8s.io\"",
                    "roleRef.name: Required value",
                ],
            ),
            (
                "ClusterRoleBinding",
                binding(role.clone(), json!({"kind": "ServiceAccount", "name": "a"})),
                &["subjects[0].namespace: Required value"],
            ),
            (
                "RoleBinding",
                binding(role.clone(), json!({"kind": "Robot", "name": "a"})),
                &[
                    "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \
                     \"Group\"",
                ],
            ),
        ];
        for (kind, given, want) in cases {
            assert_eq!(errors(RBAC, kind, given.clone()), want, "{given}");
        }
        let other = json!({"roleRef": {"kind": "ClusterRole", "name": "edit"}});
        let want = "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\
                    \"name\":\"edit\"}: cannot change roleRef";
        assert_eq!(update_errors(RBAC, "RoleBinding", other, json!({"roleRef": role})), [want]);
    }
}
