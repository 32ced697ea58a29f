//! What is wrong, as it becomes an event on an Ingress.

use fairway_ingest::{Diagnostic, Problem};
use fairway_model::http::Backend;
use fairway_model::{IngressKey, SecretKey};

use super::BackendProblem;
use crate::certificates::CertificateError;

/// Something that costs an Ingress traffic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Finding {
    /// The object that the user has to look at.
    pub(crate) ingress: IngressKey,
    /// One word in the manner of Kubernetes.
    pub(crate) reason: &'static str,
    /// What failed, what it means for traffic, what to do next.
    pub(crate) message: String,
}

impl Finding {
    /// Of an Ingress only: other kinds have other reporters.
    pub(crate) fn of_diagnostic(diagnostic: &Diagnostic) -> Option<Self> {
        let reason = match diagnostic.problem {
            Problem::ResourceBackend | Problem::BackendWithoutPort => "UnsupportedBackend",
            Problem::NotAHost(_)
            | Problem::UnknownPathType(_)
            | Problem::NotAnAddress(_)
            | Problem::UnusableAddress(_)
            | Problem::NotAPort(_)
            | Problem::NotARange(_)
            | Problem::UnknownProtocol(_)
            | Problem::NoExternalName => "InvalidSpec",
        };
        (diagnostic.kind == "Ingress").then(|| Self {
            ingress: IngressKey::new(&diagnostic.namespace, &diagnostic.name),
            reason,
            message: diagnostic.to_string(),
        })
    }

    pub(crate) fn of_backend(ingress: &IngressKey, backend: &Backend, problem: BackendProblem) -> Self {
        let (reason, what) = match problem {
            BackendProblem::NoService => ("ServiceNotFound", "the Service does not exist: create it"),
            BackendProblem::NoPort => {
                ("ServicePortNotFound", "the Service has no such port: name one it has")
            }
            BackendProblem::Loopback => (
                "ExternalNameRefused",
                "its externalName is a loopback name, which would be the gateway itself",
            ),
        };
        let message = format!("{backend} gets no requests, they are answered 503: {what}");
        Self { ingress: ingress.clone(), reason, message }
    }

    pub(crate) fn of_certificate(ingress: &IngressKey, secret: &SecretKey, error: &CertificateError) -> Self {
        let message = format!(
            "Secret {secret}: {error}; its hosts are served with the self-signed default certificate"
        );
        Self { ingress: ingress.clone(), reason: "CertificateUnusable", message }
    }
}
