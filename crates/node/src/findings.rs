//! What is wrong with Services, told on them. Pure: problems of the objects and lost claims in, findings out.

use std::collections::BTreeMap;

use fairway_ingest::{Diagnostic, Problem};
use fairway_kit::findings::{Finding, Subject};
use fairway_model::{Conflict, ServiceKey};

/// What may be told at once; a cluster where more is wrong has told enough.
const FINDINGS_MAX: usize = 1000;

/// One finding for each problem of a Service or its slices and for each address that a Service does not get.
pub fn findings<'a>(
    problems: &BTreeMap<ServiceKey, Vec<Diagnostic>>,
    conflicts: impl IntoIterator<Item = Conflict>,
    uid: impl Fn(&ServiceKey) -> Option<&'a str>,
) -> Vec<Finding> {
    let on = |key: &ServiceKey, reason, message| Finding {
        about: Subject {
            api_version: "v1",
            kind: "Service",
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: uid(key).map(str::to_owned),
        },
        reason,
        message,
    };
    let on = &on;
    let of_objects = problems
        .iter()
        .flat_map(|(key, found)| found.iter().map(move |one| on(key, reason(&one.problem), one.to_string())));
    let of_conflicts = conflicts
        .into_iter()
        .map(|conflict| on(&conflict.loser.service, "AddressInUse", describe(&conflict)));
    let mut findings: Vec<Finding> = of_objects.chain(of_conflicts).take(FINDINGS_MAX).collect();
    // A Service's ports may all have the same to say.
    findings.sort();
    findings.dedup();
    findings
}

fn reason(problem: &Problem) -> &'static str {
    match problem {
        Problem::NotAnAddress(_) | Problem::UnusableAddress(_) => "InvalidAddress",
        Problem::NotARange(_) => "InvalidSourceRange",
        Problem::NotAPort(_)
        | Problem::UnknownProtocol(_)
        | Problem::NotAHost(_)
        | Problem::UnknownPathType(_)
        | Problem::ResourceBackend
        | Problem::BackendWithoutPort
        | Problem::NoExternalName => "InvalidSpec",
    }
}

fn describe(conflict: &Conflict) -> String {
    let Conflict { frontend, winner, loser } = conflict;
    let (port, protocol) = (frontend.port, frontend.protocol);
    let what = match frontend.address {
        Some(address) => format!("{address} port {port}/{protocol}"),
        None => format!("node port {port}/{protocol}"),
    };
    if winner.service == loser.service {
        return format!(
            "{what} is claimed by two ports of the Service; only the first gets traffic there: change one of them"
        );
    }
    let why = match winner.kind == loser.kind {
        true if winner.created_s < loser.created_s => "is older and keeps it",
        true => "was created in the same second, comes first by name, and keeps it",
        false => "has the stronger claim and keeps it",
    };
    format!(
        "{what} is also claimed by Service {}, which {why}; this Service gets no traffic there: change one of them",
        winner.service
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::example;
    use fairway_model::Frontends;

    #[test]
    fn a_service_is_told_what_is_wrong_with_it_and_who_has_its_address() {
        let mut network = example::network();
        for (name, created_s) in [("newer", 20), ("older", 10)] {
            let mut service = example::service(name, &[]);
            service.created_s = created_s;
            network.services.insert(service.key.clone(), Arc::new(service));
        }
        let diagnostic = Diagnostic {
            kind: "Service",
            namespace: "shop".into(),
            name: "older".into(),
            field: "spec.externalIPs[0]".into(),
            problem: Problem::UnusableAddress("127.0.0.1".into()),
        };
        let problems = BTreeMap::from([(ServiceKey::new("shop", "older"), vec![diagnostic])]);
        let found = findings(&problems, Frontends::build(&network).conflicts(), |key| {
            (&*key.name == "older").then_some("uid-1")
        });
        let told: Vec<_> =
            found.iter().map(|one| (&*one.about.name, one.about.uid.as_deref(), one.reason)).collect();
        assert_eq!(told, [("newer", None, "AddressInUse"), ("older", Some("uid-1"), "InvalidAddress")]);
        assert_eq!(
            found[0].message,
            "10.96.0.20 port 80/TCP is also claimed by Service shop/older, which is older and keeps it; this Service gets no traffic there: change one of them"
        );
    }
}
