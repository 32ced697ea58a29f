//! Kubernetes objects → model, with a diagnostic for whatever is wrong with an object.
//!
//! Pure: what the watches delivered goes in, [`fairway_model`] types come out. A broken object costs only itself: its usable parts are
//! used, the rest becomes a [`Diagnostic`] that names the object, the field, and what it means for traffic; callers turn these into events and conditions.
//! Precedence between objects is decided by the model's `Ord`s, not here.
//!
//! - [`service`]: a Service with its EndpointSlices → [`fairway_model::Service`].
//! - [`index`]: which Services are touched by a change of the watched snapshots: the cost of a change is the change.
//! - [`ingress`]: Ingresses and IngressClasses → rules of [`fairway_model::http::Routes`].
//! - [`node`]: Nodes and pods.

pub mod index;
pub mod ingress;
pub mod node;
pub mod service;

use std::fmt;

/// Something wrong with an object. The rest of the object and every other object are in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// Its kind, as in manifests.
    pub kind: &'static str,
    /// Its namespace, or "".
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Path of the field, as the API server writes it.
    pub field: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// Not an IP address.
    NotAnAddress(String),
    /// Loopback, link-local, multicast or unspecified: never programmed.
    UnusableAddress(String),
    /// Not a port number.
    NotAPort(i64),
    /// Not a CIDR.
    NotARange(String),
    /// A protocol other than TCP, UDP, SCTP.
    UnknownProtocol(String),
    /// Not a host name.
    NotAHost(String),
    /// A path type that does not exist.
    UnknownPathType(String),
    /// Backends other than Services are not served.
    ResourceBackend,
    /// A Service backend without a port.
    BackendWithoutPort,
    /// An ExternalName Service without a name.
    NoExternalName,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        write!(f, "{} {}{slash}{}: {}: ", self.kind, self.namespace, self.name, self.field)?;
        match &self.problem {
            Problem::NotAnAddress(text) => write!(f, "{text:?} is not an IP address; it gets no traffic"),
            Problem::UnusableAddress(text) => {
                write!(
                    f,
                    "{text} is loopback, link-local, multicast or unspecified; it gets no traffic: use an address that nodes can reach"
                )
            }
            Problem::NotAPort(number) => write!(f, "{number} is not a port (1 to 65535); it gets no traffic"),
            Problem::NotARange(text) => write!(f, "{text:?} is not a CIDR; it lets nobody in"),
            Problem::UnknownProtocol(text) => {
                write!(f, "{text:?} is not TCP, UDP or SCTP; the port gets no traffic")
            }
            Problem::NotAHost(text) => write!(f, "{text:?} is not a host name; the rule is not served"),
            Problem::UnknownPathType(text) => {
                write!(f, "{text:?} is not Exact, Prefix or ImplementationSpecific; the path is not served")
            }
            Problem::ResourceBackend => {
                f.write_str("only Services can be backends; requests go to the default backend")
            }
            Problem::BackendWithoutPort => f.write_str(
                "the backend names no port; the path is not served: set service.port.number or .name",
            ),
            Problem::NoExternalName => {
                f.write_str("type ExternalName needs externalName; the name does not resolve")
            }
        }
    }
}

/// Collects the diagnostics of one object.
pub(crate) struct Findings<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    found: &'a mut Vec<Diagnostic>,
}

impl<'a> Findings<'a> {
    pub(crate) fn of(
        kind: &'static str,
        meta: &'a k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
        found: &'a mut Vec<Diagnostic>,
    ) -> Self {
        let (namespace, name) = (meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
        Self { kind, namespace, name, found }
    }

    pub(crate) fn add(&mut self, field: String, problem: Problem) {
        let (namespace, name) = (self.namespace.to_owned(), self.name.to_owned());
        self.found.push(Diagnostic { kind: self.kind, namespace, name, field, problem });
    }
}

/// Creation time in Unix seconds; objects without one (never from an API server) count as the oldest.
pub(crate) fn created_s(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}
