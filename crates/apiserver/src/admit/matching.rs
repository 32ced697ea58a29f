//! Whom a webhook or policy is about: rules over the request, selectors over the object and its namespace. Pure.

use fairway_objects::document::{self, Document};
use fairway_objects::registry::{BuiltinKind, Registry};
use fairway_objects::selector::LabelSelector;
use serde_json::Value;

use super::{Attributes, Operation};

/// A rule of `rules` or `resourceRules`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
    names: Vec<String>,
}

impl Rule {
    fn read(rule: &Value) -> Self {
        let texts = |name| rule.list(&[name]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Self {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources"),
            scope: rule.text(&["scope"]).to_owned(),
            names: texts("resourceNames"),
        }
    }

    /// All but the version.
    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        let resource = attributes.resource;
        let is_namespace = resource.builtin == Some(BuiltinKind::Namespace);
        let in_namespace = resource.is_namespaced() && !is_namespace;
        includes(&self.operations, attributes.operation.as_str())
            && includes(&self.groups, resource.group())
            && self.resources.iter().any(|known| {
                let (parent, part) = known.split_once('/').unwrap_or((known, ""));
                (parent == "*" || *parent == *resource.plural)
                    && (part == "*" || part == attributes.subresource)
            })
            && match self.scope.as_str() {
                "Namespaced" => in_namespace,
                "Cluster" => !in_namespace,
                _ => true,
            }
            && (self.names.is_empty() || self.names.iter().any(|name| name == attributes.name))
    }
}

fn includes(known: &[String], wanted: &str) -> bool {
    known.iter().any(|known| known == wanted || known == "*")
}

/// Everything that decides whether a webhook or policy is about a request, except its expressions.
#[derive(Debug, Clone)]
pub(super) struct Matching {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Whether a rule for another version of the resource counts too.
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

impl Matching {
    /// Reads `rules`, `excludeResourceRules`, `matchPolicy` and the selectors; what is not there selects everything. A selector that
    /// cannot be read, which validation refuses, selects nothing.
    pub(super) fn read(source: &Value, rules: &str) -> Self {
        let selector = |name: &str| match source.at(&[name]) {
            Value::Null => LabelSelector::from_map(&Value::Null),
            selector => LabelSelector::from_object(selector).unwrap_or_else(|_| LabelSelector::nothing()),
        };
        let list = |name: &str| source.list(&[name]).iter().map(Rule::read).collect();
        Self {
            rules: list(rules),
            excluded: list("excludeResourceRules"),
            equivalent: source.text(&["matchPolicy"]) != "Exact",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// Whether rules are given at all; a binding without any is about what its policy is about.
    pub(super) fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// The version of the resource that a rule is for, when one is for this request: that of the request if possible.
    pub(super) fn version<'a>(
        &self,
        attributes: &'a Attributes<'_>,
        registry: &'a Registry,
    ) -> Option<String> {
        if is_exempt(attributes.resource.builtin) {
            return None;
        }
        let version = attributes.resource.version();
        let holds = |rules: &[Rule], version: &str| {
            rules.iter().any(|rule| includes(&rule.versions, version) && rule.matches(attributes))
        };
        if holds(&self.excluded, version) {
            return None;
        }
        if holds(&self.rules, version) {
            return Some(version.to_owned());
        }
        if !self.equivalent {
            return None;
        }
        let resource = attributes.resource;
        let others = registry.resources().filter(|other| {
            other.group() == resource.group() && other.plural == resource.plural && other.version() != version
        });
        others.map(|other| other.version().to_owned()).find(|version| holds(&self.rules, version))
    }

    /// Whether the selectors match: the labels of the namespace, and of the object as it was or as it is to be.
    pub(super) fn selects(
        &self,
        attributes: &Attributes<'_>,
        namespace: Option<&Value>,
        object: &Value,
        old: Option<&Value>,
    ) -> bool {
        let objects = || {
            self.objects.matches_object(object) && !object.is_null()
                || old.is_some_and(|old| self.objects.matches_object(old))
        };
        let is_namespace = attributes.resource.builtin == Some(BuiltinKind::Namespace);
        let namespaces = if is_namespace {
            let own = if object.is_null() { old } else { Some(object) };
            own.is_some_and(|own| self.namespaces.matches_object(own))
        } else {
            namespace.is_none_or(|namespace| self.namespaces.matches_object(namespace))
        };
        namespaces && (self.objects.is_empty() || objects())
    }

    /// Whether namespaces matter at all.
    pub(super) fn needs_namespace(&self) -> bool {
        !self.namespaces.is_empty()
    }
}

/// Nobody may be locked out of taking a webhook or policy away, and no question about access is admitted.
fn is_exempt(kind: Option<BuiltinKind>) -> bool {
    use BuiltinKind as Kind;
    matches!(
        kind,
        Some(
            Kind::MutatingWebhookConfiguration
                | Kind::ValidatingWebhookConfiguration
                | Kind::ValidatingAdmissionPolicy
                | Kind::ValidatingAdmissionPolicyBinding
                | Kind::TokenReview
                | Kind::SelfSubjectReview
                | Kind::SubjectAccessReview
                | Kind::LocalSubjectAccessReview
                | Kind::SelfSubjectAccessReview
                | Kind::SelfSubjectRulesReview
        )
    )
}

impl Operation {
    /// The name in rules and reviews.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// The document as another version of its group: what the conversion strategy `None` does.
pub(super) fn in_version(object: &Value, group: &str, version: &str) -> Value {
    let mut object = object.clone();
    if object.is_object() {
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        object.put(&["apiVersion"], api_version);
    }
    object
}

/// The name of an object in an admission request: that of the path, else its own.
pub(super) fn name_of<'a>(attributes: &Attributes<'a>, object: &'a Value) -> &'a str {
    if attributes.name.is_empty() { document::name(object) } else { attributes.name }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::auth::User;
    use crate::http::query::Query;

    #[test]
    fn rules_and_selectors_say_whom_it_is_about() {
        struct Case {
            name: &'static str,
            matching: Value,
            request: (&'static str, Operation, &'static str),
            object: Value,
            namespace: Value,
            want: bool,
        }
        let pods = || json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]);
        let any = |resources: Value| json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources}]);
        let labelled = |key: &str| json!({"metadata": {"name": "x", "labels": {key: "1"}}});
        let cases = [
            Case {
                name: "the very thing",
                matching: json!({"rules": pods()}),
                request: ("pods", Operation::Create, ""),
                object: json!({}),
                namespace: json!({}),
                want: true,
            },
            Case {
                name: "another operation",
                matching: json!({"rules": pods()}),
                request: ("pods", Operation::Update, ""),
                object: json!({}),
                namespace: json!({}),
                want: false,
            },
            Case {
                name: "a subresource is something else",
                matching: json!({"rules": any(json!(["pods", "*"]))}),
                request: ("pods", Operation::Update, "status"),
                object: json!({}),
                namespace: json!({}),
                want: false,
            },
            Case {
                name: "all subresources of one",
                matching: json!({"rules": any(json!(["pods/*"]))}),
                request: ("pods", Operation::Update, "status"),
                object: json!({}),
                namespace: json!({}),
                want: true,
            },
            Case {
                name: "excluded",
                matching: json!({"rules": any(json!(["*"])), "excludeResourceRules": pods()}),
                request: ("pods", Operation::Create, ""),
                object: json!({}),
                namespace: json!({}),
                want: false,
            },
            Case {
                name: "a namespace is in no namespace",
                matching: json!({"rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "scope": "Namespaced"}]}),
                request: ("namespaces", Operation::Create, ""),
                object: json!({}),
                namespace: Value::Null,
                want: false,
            },
            Case {
                name: "labels of the namespace",
                matching: json!({"rules": pods(), "namespaceSelector": {"matchLabels": {"a": "1"}}}),
                request: ("pods", Operation::Create, ""),
                object: json!({}),
                namespace: labelled("a"),
                want: true,
            },
            Case {
                name: "other labels of the namespace",
                matching: json!({"rules": pods(), "namespaceSelector": {"matchLabels": {"a": "1"}}}),
                request: ("pods", Operation::Create, ""),
                object: labelled("a"),
                namespace: labelled("b"),
                want: false,
            },
            Case {
                name: "a namespace selects by its own labels",
                matching: json!({"rules": any(json!(["*"])), "namespaceSelector": {"matchLabels": {"a": "1"}}}),
                request: ("namespaces", Operation::Create, ""),
                object: labelled("a"),
                namespace: Value::Null,
                want: true,
            },
            Case {
                name: "labels of the object",
                matching: json!({"rules": pods(), "objectSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}),
                request: ("pods", Operation::Create, ""),
                object: labelled("b"),
                namespace: json!({}),
                want: false,
            },
            Case {
                name: "what admits is not admitted",
                matching: json!({"rules": any(json!(["*"]))}),
                request: ("validatingwebhookconfigurations", Operation::Delete, ""),
                object: json!({}),
                namespace: Value::Null,
                want: false,
            },
        ];
        let registry = Registry::builtin();
        let (user, query) = (User::default(), Query::default());
        for case in cases {
            let (plural, operation, subresource) = case.request;
            let resource = registry.resources().find(|resource| &*resource.plural == plural).unwrap();
            let attributes = Attributes {
                user: &user,
                operation,
                resource: &Arc::clone(resource),
                subresource,
                object_type: &resource.object,
                name: "x",
                namespace: "",
                dry_run: false,
                query: &query,
                options: None,
            };
            let matching = Matching::read(&case.matching, "rules");
            let namespace = (!case.namespace.is_null()).then_some(&case.namespace);
            let got = matching.version(&attributes, registry).is_some()
                && matching.selects(&attributes, namespace, &case.object, None);
            assert_eq!(got, case.want, "{}", case.name);
        }
    }
}
