//! Ingresses and their classes.

use serde_json::Value;

use super::{Errors, SPEC, invalid_all, one_of, port_number};
use crate::document::{self, Document};
use crate::field::{FieldError, Path};
use crate::names;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const CONTROLLER_BYTES_MAX: usize = 250;
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];

/// What holds for new Ingresses only.
pub(super) fn create(ingress: &Value, errors: &mut Errors) {
    let class = document::annotation(ingress, CLASS_ANNOTATION);
    if let (Some(class), true) = (class, ingress.has(&["spec", "ingressClassName"])) {
        let metadata = Path::new("metadata");
        let annotations = metadata.field("annotations");
        let detail = "can not be set when the class field is also set";
        errors.push(FieldError::invalid(&annotations.field(CLASS_ANNOTATION), class, detail));
    }
}

pub(super) fn ingress(ingress: &Value, errors: &mut Errors) {
    let rules = ingress.list(&["spec", "rules"]);
    if rules.is_empty() && !ingress.has(&["spec", "defaultBackend"]) {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(&SPEC, Value::Null, detail));
    }
    if ingress.has(&["spec", "defaultBackend"]) {
        backend(ingress.at(&["spec", "defaultBackend"]), &SPEC.field("defaultBackend"), errors);
    }
    let path = SPEC.field("rules");
    for (index, rule) in rules.iter().enumerate() {
        self::rule(rule, &path.index(index), errors);
    }
    let path = SPEC.field("tls");
    for (index, tls) in ingress.list(&["spec", "tls"]).iter().enumerate() {
        let path = path.index(index);
        let hosts = path.field("hosts");
        for (index, host) in tls.list(&["hosts"]).iter().enumerate() {
            self::host(host.as_str().unwrap_or_default(), &hosts.index(index), errors);
        }
        let secret = tls.text(&["secretName"]);
        if !secret.is_empty() {
            invalid_all(&path.field("secretName"), secret, names::dns_subdomain(secret), errors);
        }
    }
    let class = ingress.text(&["spec", "ingressClassName"]);
    if !class.is_empty() {
        invalid_all(&SPEC.field("ingressClassName"), class, names::dns_subdomain(class), errors);
    }
}

fn host(host: &str, path: &Path<'_>, errors: &mut Errors) {
    let messages =
        if host.contains('*') { names::wildcard_subdomain(host) } else { names::dns_subdomain(host) };
    invalid_all(path, host, messages, errors);
}

fn rule(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let host = rule.text(&["host"]);
    if !host.is_empty() {
        if names::ip(host).is_ok() {
            let detail = "must be a DNS name, not an IP address";
            errors.push(FieldError::invalid(&path.field("host"), host, detail));
        }
        self::host(host, &path.field("host"), errors);
    }
    if !rule.has(&["http"]) {
        return;
    }
    let http = path.field("http");
    let paths = http.field("paths");
    if rule.list(&["http", "paths"]).is_empty() {
        errors.push(FieldError::required(&paths, ""));
    }
    for (index, entry) in rule.list(&["http", "paths"]).iter().enumerate() {
        let path = paths.index(index);
        http_path(entry, &path, errors);
        backend(entry.at(&["backend"]), &path.field("backend"), errors);
    }
}

fn http_path(entry: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (text, field) = (entry.text(&["path"]), path.field("path"));
    let mut refuse = |message: &str| errors.push(FieldError::invalid(&field, text, message));
    match entry.text(&["pathType"]) {
        "" => errors.push(FieldError::required(&path.field("pathType"), "pathType must be specified")),
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                refuse("must be an absolute path");
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
                if text.contains(sequence) {
                    refuse(&format!("must not contain '{sequence}'"));
                }
            }
            for suffix in ["/..", "/."] {
                if text.ends_with(suffix) {
                    refuse(&format!("cannot end with '{suffix}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                refuse("must be an absolute path");
            }
        }
        other => errors.push(FieldError::not_supported(&path.field("pathType"), other, PATH_TYPES)),
    }
}

fn backend(backend: &Value, path: &Path<'_>, errors: &mut Errors) {
    match (backend.has(&["resource"]), backend.has(&["service"])) {
        (true, true) => {
            errors.push(FieldError::invalid(path, "", "cannot set both resource and service backends"));
        }
        (false, false) => {
            errors.push(FieldError::invalid(path, "", "resource or service backend is required"))
        }
        (true, false) => {
            let resource = path.field("resource");
            for field in ["kind", "name"] {
                if backend.text(&["resource", field]).is_empty() {
                    errors
                        .push(FieldError::required(&resource.field(field), &format!("{field} is required")));
                }
            }
        }
        (false, true) => service_backend(backend, path, errors),
    }
}

fn service_backend(backend: &Value, path: &Path<'_>, errors: &mut Errors) {
    let service = path.field("service");
    let name = backend.text(&["service", "name"]);
    if name.is_empty() {
        errors.push(FieldError::required(&service.field("name"), ""));
    } else {
        invalid_all(&service.field("name"), name, names::dns_1035_label(name), errors);
    }
    let port = service.field("port");
    let (name, number) = (
        backend.text(&["service", "port", "name"]),
        backend.int(&["service", "port", "number"]).unwrap_or(0),
    );
    match (name, number) {
        ("", 0) => errors.push(FieldError::required(path, "port name or number is required")),
        ("", number) => port_number(number, &port.field("number"), errors),
        (name, 0) => invalid_all(&port.field("name"), name, names::port_name(name), errors),
        (_, _) => errors.push(FieldError::invalid(path, "", "cannot set both port name & port number")),
    }
}

pub(super) fn class(class: &Value, errors: &mut Errors) {
    let (controller, path) = (class.text(&["spec", "controller"]), SPEC.field("controller"));
    if controller.len() > CONTROLLER_BYTES_MAX {
        errors.push(FieldError::too_long(&path, CONTROLLER_BYTES_MAX));
    }
    match controller.split_once('/') {
        _ if controller.is_empty() => errors.push(FieldError::required(&path, "")),
        Some((domain, rest)) if !rest.is_empty() => {
            invalid_all(&path, domain, names::dns_subdomain(domain), errors);
        }
        _ => {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(FieldError::invalid(&path, controller, detail));
        }
    }
    if class.has(&["spec", "parameters"]) {
        parameters(class.at(&["spec", "parameters"]), &SPEC.field("parameters"), errors);
    }
}

fn parameters(parameters: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["kind", "name"] {
        if parameters.text(&[field]).is_empty() {
            errors.push(FieldError::required(&path.field(field), &format!("{field} is required")));
        }
    }
    let (scope, namespace) = (parameters.text(&["scope"]), path.field("namespace"));
    one_of(scope, &["Cluster", "Namespace"], &path.field("scope"), errors);
    match (scope, parameters.text(&["namespace"])) {
        ("Namespace", "") => {
            let detail = "`parameters.scope` is set to 'Namespace'";
            errors.push(FieldError::required(&namespace, detail));
        }
        ("Cluster", given) if !given.is_empty() => {
            let detail = "`parameters.scope` is set to 'Cluster'";
            errors.push(FieldError::forbidden(&namespace, detail));
        }
        _ => {}
    }
}

pub(super) fn update_class(new: &Value, old: &Value, errors: &mut Errors) {
    let controller = new.at(&["spec", "controller"]);
    if controller != old.at(&["spec", "controller"]) {
        errors.push(FieldError::invalid(&SPEC.field("controller"), controller.clone(), super::IMMUTABLE));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{errors, update_errors};

    fn with_path(path: Value) -> Value {
        let mut entry = json!({"backend": {"service": {"name": "s", "port": {"number": 80}}}});
        json_patch::merge(&mut entry, &path);
        json!({"spec": {"rules": [{"host": "a.b", "http": {"paths": [entry]}}]}})
    }

    #[test]
    fn ingresses_are_refused_in_the_words_of_the_wire() {
        let p = "spec.rules[0].http.paths[0]";
        let cases: [(Value, Vec<String>); 14] = [
            (with_path(json!({"pathType": "Prefix", "path": "/"})), vec![]),
            (with_path(json!({"pathType": "ImplementationSpecific"})), vec![]),
            (
                json!({"spec": {}}),
                vec!["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified".to_owned()],
            ),
            (with_path(json!({"path": "/"})), vec![format!("{p}.pathType: Required value: pathType must be specified")]),
            (
                with_path(json!({"pathType": "Prefix"})),
                vec![format!("{p}.path: Invalid value: \"\": must be an absolute path")],
            ),
            (
                with_path(json!({"pathType": "Exact", "path": "/a//b/.."})),
                vec![
                    format!("{p}.path: Invalid value: \"/a//b/..\": must not contain '//'"),
                    format!("{p}.path: Invalid value: \"/a//b/..\": cannot end with '/..'"),
                ],
            ),
            (
                with_path(json!({"pathType": "ImplementationSpecific", "path": "a"})),
                vec![format!("{p}.path: Invalid value: \"a\": must be an absolute path")],
            ),
            (
                with_path(json!({"pathType": "X", "path": "/"})),
                vec![format!(
                    "{p}.pathType: Unsupported value: \"X\": supported values: \"Exact\", \
                     \"ImplementationSpecific\", \"Prefix\""
                )],
            ),
            (
                with_path(json!({"pathType": "Exact", "path": "/", "backend": {"service": null}})),
                vec![format!("{p}.backend: Invalid value: \"\": resource or service backend is required")],
            ),
            (
                with_path(json!({"pathType": "Exact", "path": "/", "backend": {"service": {"port": {"name": "a"}}}})),
                vec![format!("{p}.backend: Invalid value: \"\": cannot set both port name & port number")],
            ),
            (
                with_path(json!({"pathType": "Exact", "path": "/", "backend": {"service": {"port": {"number": 0}}}})),
                vec![format!("{p}.backend: Required value: port name or number is required")],
            ),
            (
                json!({"spec": {"rules": [{"host": "1.2.3.4"}]}}),
                vec!["spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address".to_owned()],
            ),
            (json!({"spec": {"rules": [{"host": "*.a.b"}]}}), vec![]),
            (
                json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "c"}},
                       "spec": {"ingressClassName": "c", "rules": [{}]}}),
                vec!["metadata.annotations.kubernetes.io/ingress.class: Invalid value: \"c\": can not be set when \
                      the class field is also set"
                    .to_owned()],
            ),
        ];
        for (object, want) in cases {
            assert_eq!(errors("networking.k8s.io", "Ingress", object.clone()), want, "{object}");
        }
    }

    #[test]
    fn classes_keep_their_controller() {
        let class = |controller: &str| json!({"spec": {"controller": controller}});
        assert_eq!(errors("networking.k8s.io", "IngressClass", class("a.b/c")), Vec::<String>::new());
        assert_eq!(
            errors("networking.k8s.io", "IngressClass", class("")),
            ["spec.controller: Required value"]
        );
        assert_eq!(
            errors("networking.k8s.io", "IngressClass", class("a")),
            [
                "spec.controller: Invalid value: \"a\": must be a domain-prefixed path (such as \"acme.io/foo\")"
            ]
        );
        let changed = update_errors(
            "networking.k8s.io",
            "IngressClass",
            json!({"metadata": {"namespace": null}, "spec": {"controller": "a/c"}}),
            json!({"metadata": {"namespace": null}, "spec": {"controller": "a/b"}}),
        );
        assert!(changed.contains(&"spec.controller: Invalid value: \"a/c\": field is immutable".to_owned()));
    }
}
