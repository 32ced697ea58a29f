//! Ingresses and IngressClasses → the rules of a route table.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use fairway_model::http::{
    Backend, HostPattern, PathMatch, PortRef, Precedence, Routes, Rule, RuleKind, RuleOrigin,
};
use fairway_model::{IngressKey, SecretKey, ServiceKey};
use k8s_openapi::api::networking::v1 as networking;

use crate::{Diagnostic, Findings, Problem, created_s};

/// `spec.controller` of the IngressClasses that Fairway serves.
pub const CONTROLLER: &str = "fairway.dev/ingress";

/// The annotation that named the class before `spec.ingressClassName` existed.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// ingress-nginx: "false" serves plain HTTP although the host has a certificate.
const SSL_REDIRECT_ANNOTATION: &str = "nginx.ingress.kubernetes.io/ssl-redirect";

/// The names of the classes that Fairway serves.
pub fn classes<'a>(objects: impl IntoIterator<Item = &'a networking::IngressClass>) -> BTreeSet<String> {
    let ours = |class: &&networking::IngressClass| {
        class.spec.as_ref().is_some_and(|spec| spec.controller.as_deref() == Some(CONTROLLER))
    };
    objects.into_iter().filter(ours).filter_map(|class| class.metadata.name.clone()).collect()
}

/// Whether Fairway serves this Ingress: its class is one of `classes`. One without any class is nobody's (the API server fills in the
/// default class at creation).
pub fn is_served(object: &networking::Ingress, classes: &BTreeSet<String>) -> bool {
    let named = object.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
    let annotated = object.metadata.annotations.as_ref().and_then(|all| all.get(CLASS_ANNOTATION));
    named.or(annotated).is_some_and(|name| classes.contains(name))
}

/// What the Ingresses of our classes say, ready for [`Routes::build`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ingested {
    /// One for each usable path.
    pub rules: Vec<Rule>,
    /// Which Secret a host's certificate is in, strongest claim first.
    pub certificates: Vec<(HostPattern, SecretKey)>,
    /// Default backends.
    pub defaults: Vec<(Precedence, RuleOrigin, Backend)>,
}

impl Ingested {
    /// The route table.
    pub fn build(self) -> Routes {
        Routes::build(self.rules, self.certificates, self.defaults)
    }
}

/// Reads all Ingresses that Fairway serves. The order of the input does not matter.
pub fn ingest<'a>(
    objects: impl IntoIterator<Item = &'a networking::Ingress>,
    classes: &BTreeSet<String>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Ingested {
    let mut served: Vec<(Precedence, &networking::Ingress)> = objects
        .into_iter()
        .filter(|object| is_served(object, classes))
        .filter_map(|object| {
            let key =
                IngressKey::new(object.metadata.namespace.as_deref()?, object.metadata.name.as_deref()?);
            Some((Precedence { created_s: created_s(&object.metadata), ingress: Reverse(key) }, object))
        })
        .collect();
    served.sort_by(|a, b| a.0.cmp(&b.0));
    let mut ingested = Ingested::default();
    for (precedence, object) in served {
        add(object, &precedence, &mut ingested, diagnostics);
    }
    ingested
}

fn add(
    object: &networking::Ingress,
    precedence: &Precedence,
    ingested: &mut Ingested,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let Some(spec) = &object.spec else { return };
    let ingress = &precedence.ingress.0;
    let mut findings = Findings::of("Ingress", &object.metadata, diagnostics);
    let annotation = object.metadata.annotations.as_ref().and_then(|all| all.get(SSL_REDIRECT_ANNOTATION));
    let redirect_to_https =
        annotation.is_none_or(|text| !matches!(text.as_str(), "0" | "f" | "F" | "false" | "False" | "FALSE"));
    let default = spec
        .default_backend
        .as_ref()
        .and_then(|backend| parse_backend(backend, ingress, "spec.defaultBackend", &mut findings));
    if let (Some(backend), None) = (&default, spec.rules.as_ref().filter(|rules| !rules.is_empty())) {
        let origin = RuleOrigin { ingress: ingress.clone(), rule: None, path: None };
        ingested.defaults.push((precedence.clone(), origin, backend.clone()));
    }
    let rule = |host: &HostPattern, rule, path: Option<(usize, PathMatch)>, backend| Rule {
        origin: RuleOrigin {
            ingress: ingress.clone(),
            rule: Some(rule),
            path: path.as_ref().map(|(index, _)| *index),
        },
        precedence: precedence.clone(),
        host: host.clone(),
        kind: if path.is_some() { RuleKind::Written } else { RuleKind::HostDefault },
        path: path.map_or_else(|| PathMatch::prefix("/"), |(_, path)| path),
        backend,
        redirect_to_https,
    };
    for (index, written) in spec.rules.iter().flatten().enumerate() {
        let text = written.host.as_deref().unwrap_or("");
        let Ok(host) = HostPattern::parse(text) else {
            findings.add(format!("spec.rules[{index}].host"), Problem::NotAHost(text.to_owned()));
            continue;
        };
        for (path_index, path) in written.http.iter().flat_map(|http| &http.paths).enumerate() {
            let field = format!("spec.rules[{index}].http.paths[{path_index}]");
            let Some(backend) = parse_backend(&path.backend, ingress, &field, &mut findings) else {
                continue;
            };
            match parse_path(path) {
                Ok(matched) => ingested.rules.push(rule(&host, index, Some((path_index, matched)), backend)),
                Err(problem) => findings.add(format!("{field}.pathType"), problem),
            }
        }
        // The default backend of an Ingress with rules serves what its own hosts do not name (ingress-nginx 2.4).
        if let Some(backend) = &default {
            ingested.rules.push(rule(&host, index, None, backend.clone()));
        }
    }
    for (index, tls) in spec.tls.iter().flatten().enumerate() {
        let Some(secret) = tls.secret_name.as_deref().filter(|name| !name.is_empty()) else { continue };
        for (host_index, text) in tls.hosts.iter().flatten().enumerate() {
            match HostPattern::parse(text) {
                Ok(host) => ingested.certificates.push((host, SecretKey::new(&ingress.namespace, secret))),
                Err(_) => findings
                    .add(format!("spec.tls[{index}].hosts[{host_index}]"), Problem::NotAHost(text.clone())),
            }
        }
    }
}

fn parse_path(path: &networking::HTTPIngressPath) -> Result<PathMatch, Problem> {
    let text = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    match path.path_type.as_str() {
        "Exact" => Ok(PathMatch::exact(text)),
        "Prefix" | "ImplementationSpecific" => Ok(PathMatch::prefix(text)),
        other => Err(Problem::UnknownPathType(other.to_owned())),
    }
}

fn parse_backend(
    backend: &networking::IngressBackend,
    ingress: &IngressKey,
    field: &str,
    findings: &mut Findings<'_>,
) -> Option<Backend> {
    let Some(service) = &backend.service else {
        findings.add(format!("{field}.backend.resource"), Problem::ResourceBackend);
        return None;
    };
    let port = service.port.as_ref().and_then(|port| {
        let name = port.name.clone().filter(|name| !name.is_empty());
        name.or_else(|| port.number.filter(|number| *number > 0).map(|number| number.to_string()))
    });
    let Some(port) = port else {
        findings.add(format!("{field}.backend.service.port"), Problem::BackendWithoutPort);
        return None;
    };
    Some(Backend { service: ServiceKey::new(&ingress.namespace, &service.name), port: PortRef(port.into()) })
}

#[cfg(test)]
mod tests {
    use fairway_model::NoTrace;
    use fairway_model::http::{Decision, Host, NormalPath};

    use super::*;

    fn ingress(name: &str, spec: serde_json::Value) -> networking::Ingress {
        let meta =
            serde_json::json!({"namespace": "ns", "name": name, "creationTimestamp": "2026-11-01T00:00:00Z"});
        serde_json::from_value(serde_json::json!({"metadata": meta, "spec": spec})).unwrap()
    }

    fn backend(service: &str) -> serde_json::Value {
        serde_json::json!({"service": {"name": service, "port": {"number": 80}}})
    }

    fn decide(routes: &Routes, host: &str, path: &str) -> String {
        match routes.decide(
            &Host::parse(host).unwrap(),
            &NormalPath::parse(path).unwrap(),
            true,
            &mut NoTrace,
        ) {
            Decision::Forward(location) => location.backend.service.name.to_string(),
            Decision::Default(_, backend) => format!("default {}", backend.service.name),
            Decision::RedirectToHttps(_) => "https".into(),
            Decision::NotFound => "404".into(),
        }
    }

    #[test]
    fn hosts_paths_and_default_backends() {
        let classes = ["fairway".to_owned()].into();
        let objects = [
            ingress(
                "shop",
                serde_json::json!({"ingressClassName": "fairway", "defaultBackend": backend("own-default"), "rules": [
                {"host": "shop.example", "http": {"paths": [
                    {"path": "/cart", "pathType": "Prefix", "backend": backend("cart")},
                    {"path": "/exact", "pathType": "Exact", "backend": backend("exact")},
                    {"pathType": "ImplementationSpecific", "path": "/impl", "backend": backend("impl")}]}},
                {"host": "whole.example"}]}),
            ),
            ingress(
                "all",
                serde_json::json!({"ingressClassName": "fairway", "defaultBackend": backend("all")}),
            ),
            ingress(
                "foreign",
                serde_json::json!({"ingressClassName": "nginx", "rules": [{"host": "x", "http": {"paths": []}}]}),
            ),
        ];
        let mut diagnostics = Vec::new();
        let routes = ingest(&objects, &classes, &mut diagnostics).build();
        assert_eq!(diagnostics, []);
        let cases = [
            ("shop.example", "/cart/1", "cart"),
            ("shop.example", "/exact", "exact"),
            ("shop.example", "/exact/", "own-default"),
            ("shop.example", "/impl/x", "impl"),
            ("whole.example", "/", "own-default"),
            ("other.example", "/", "default all"),
        ];
        for (host, path, want) in cases {
            assert_eq!(decide(&routes, host, path), want, "{host}{path}");
        }
    }

    #[test]
    fn a_written_root_path_beats_the_default_backend_of_its_ingress() {
        let objects = [ingress(
            "shop",
            serde_json::json!({"ingressClassName": "c", "defaultBackend": backend("d"),
            "rules": [{"host": "h", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend("root")}]}}]}),
        )];
        let routes = ingest(&objects, &["c".to_owned()].into(), &mut Vec::new()).build();
        assert_eq!(decide(&routes, "h", "/"), "root");
    }

    #[test]
    fn a_broken_rule_costs_only_itself() {
        let objects = [ingress(
            "shop",
            serde_json::json!({"ingressClassName": "c", "rules": [
            {"host": "bad host", "http": {"paths": []}},
            {"host": "h", "http": {"paths": [
                {"path": "/r", "pathType": "Prefix", "backend": {"resource": {"kind": "Bucket", "name": "b"}}},
                {"path": "/n", "pathType": "Prefix", "backend": {"service": {"name": "s"}}},
                {"path": "/ok", "pathType": "Prefix", "backend": backend("ok")}]}}]}),
        )];
        let mut diagnostics = Vec::new();
        let routes = ingest(&objects, &["c".to_owned()].into(), &mut diagnostics).build();
        assert_eq!(decide(&routes, "h", "/ok"), "ok");
        let problems: Vec<&Problem> = diagnostics.iter().map(|one| &one.problem).collect();
        assert_eq!(
            problems,
            [&Problem::NotAHost("bad host".into()), &Problem::ResourceBackend, &Problem::BackendWithoutPort]
        );
    }
}
