//! Field selectors: `spec.nodeName=a,status.phase!=Running`, over the few fields each kind offers.

use serde_json::Value;

use crate::convert;
use crate::document::Document;
use crate::registry::{BuiltinKind, Resource};
use crate::status::Status;

/// Most requirements in one selector.
const REQUIREMENTS_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    field: String,
    value: String,
    negated: bool,
}

/// Requirements on fields, all of which must hold. The empty selector matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    requirements: Vec<Requirement>,
}

impl FieldSelector {
    /// Parses the `fieldSelector` query parameter for a resource; a field that the kind does not offer is 400.
    pub fn parse(resource: &Resource, text: &str) -> Result<FieldSelector, Status> {
        let mut requirements = Vec::new();
        for term in terms(text) {
            let Some(mut requirement) = requirement(&term) else {
                let message = format!("invalid selector: '{text}'; can't understand '{term}'");
                return Err(Status::bad_request(message));
            };
            requirement.field = convert::stored_field(resource, &requirement.field).into_owned();
            check_field(resource, &requirement.field)?;
            requirements.push(requirement);
            if requirements.len() > REQUIREMENTS_MAX {
                let message = format!("invalid selector: more than {REQUIREMENTS_MAX} requirements");
                return Err(Status::bad_request(message));
            }
        }
        Ok(FieldSelector { requirements })
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that `field` must have, if the selector says so: lets a lookup replace a scan.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let requirement = self.requirements.iter().find(|other| !other.negated && other.field == field)?;
        Some(&requirement.value)
    }

    /// Whether an object matches.
    pub fn matches(&self, object: &Value) -> bool {
        let holds = |requirement: &Requirement| {
            (extract(object, &requirement.field) == requirement.value) != requirement.negated
        };
        self.requirements.iter().all(holds)
    }
}

/// Splits at commas; a backslash keeps what follows it.
fn terms(text: &str) -> Vec<String> {
    let (mut terms, mut term, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match (escaped, c) {
            (false, ',') => terms.push(std::mem::take(&mut term)),
            _ => term.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    terms.push(term);
    terms.retain(|term| !term.is_empty());
    terms
}

fn requirement(term: &str) -> Option<Requirement> {
    for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((field, value)) = term.split_once(operator) {
            // The leftmost operator decides: `a=b!=c` is a malformed value, not a negation.
            if field.contains(['=', '!']) {
                continue;
            }
            return Some(Requirement { field: field.to_owned(), value: unescape(value)?, negated });
        }
    }
    None
}

fn unescape(value: &str) -> Option<String> {
    let (mut out, mut chars) = (String::with_capacity(value.len()), value.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                _ => return None,
            },
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

/// The fields of a kind besides name and namespace; `None` when it offers no others.
fn offered(kind: BuiltinKind) -> Option<&'static [&'static str]> {
    Some(match kind {
        BuiltinKind::Pod => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        BuiltinKind::Node => &["spec.unschedulable"],
        BuiltinKind::Namespace => &["status.phase"],
        BuiltinKind::Secret => &["type"],
        BuiltinKind::Service => &["spec.clusterIP", "spec.type"],
        BuiltinKind::ReplicationController | BuiltinKind::ReplicaSet => &["status.replicas"],
        BuiltinKind::Job => &["status.successful"],
        BuiltinKind::Event => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        _ => return None,
    })
}

fn check_field(resource: &Resource, field: &str) -> Result<(), Status> {
    if field == "metadata.name" || field == "metadata.namespace" {
        return Ok(());
    }
    let custom = resource.custom().into_iter().flat_map(|custom| &custom.selectable);
    if custom.map(|(name, _)| name).any(|name| name == field) {
        return Ok(());
    }
    match resource.builtin.map(offered) {
        Some(Some(fields)) if fields.contains(&field) => Ok(()),
        None | Some(Some(_)) => Err(Status::bad_request(format!("field label not supported: {field}"))),
        Some(None) => Err(Status::bad_request(format!(
            "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ))),
    }
}

fn extract(object: &Value, field: &str) -> String {
    match field {
        "source" => {
            let component = object.text(&["source", "component"]);
            let reporting = object.text(&["reportingComponent"]);
            return if component.is_empty() { reporting } else { component }.to_owned();
        }
        "status.podIPs" => {
            let ips: Vec<&str> =
                object.list(&["status", "podIPs"]).iter().map(|ip| ip.text(&["ip"])).collect();
            return ips.join(",");
        }
        "status.successful" => return object.int(&["status", "succeeded"]).unwrap_or(0).to_string(),
        _ => {}
    }
    let value = field.split('.').fold(object, |value, name| value.at(&[name]));
    match value {
        Value::String(text) => text.clone(),
        Value::Null if matches!(field, "spec.unschedulable" | "spec.hostNetwork") => "false".to_owned(),
        Value::Null if field == "status.replicas" => "0".to_owned(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::Registry;

    fn resource(plural: &str) -> &'static Resource {
        Registry::builtin().resource("", "v1", plural).unwrap()
    }

    #[test]
    fn fields_select_objects() {
        let pod = json!({
            "metadata": {"name": "a,b", "namespace": "n"},
            "spec": {"nodeName": "node-1"},
            "status": {"phase": "Running", "podIPs": [{"ip": "1.2.3.4"}]},
        });
        let cases: &[(&str, bool)] = &[
            ("", true),
            ("spec.nodeName=node-1", true),
            ("spec.nodeName==node-1,status.phase!=Pending", true),
            ("spec.nodeName!=node-1", false),
            ("metadata.name=a\\,b", true),
            ("spec.hostNetwork=false", true),
            ("status.podIPs=1.2.3.4", true),
            ("status.nominatedNodeName=", true),
        ];
        for (text, want) in cases {
            let selector = FieldSelector::parse(resource("pods"), text).unwrap();
            assert_eq!(selector.matches(&pod), *want, "{text}");
        }
        let selector = FieldSelector::parse(resource("pods"), "metadata.name=x").unwrap();
        assert_eq!(selector.exact("metadata.name"), Some("x"));
    }

    #[test]
    fn unknown_fields_are_refused_in_the_words_of_the_kind() {
        let cases: &[(&str, &str, &str)] = &[
            (
                "configmaps",
                "data.k=v",
                "\"data.k\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            ),
            ("pods", "spec.foo=v", "field label not supported: spec.foo"),
            ("pods", "nonsense", "invalid selector: 'nonsense'; can't understand 'nonsense'"),
        ];
        for (plural, text, want) in cases {
            let status = FieldSelector::parse(resource(plural), text).unwrap_err();
            assert_eq!((status.code, status.message.as_str()), (400, *want));
        }
    }
}
