//! The route table and its decision.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::host::{Host, HostPattern};
use super::path::{NormalPath, PathMatch};
use crate::name::{IngressKey, SecretKey, ServiceKey};
use crate::trace::Trace;

/// Who wins when two Ingresses name the same host and path: the older one; of the same second, the one whose namespace/name is
/// greater (ingress-nginx 2.5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    /// Creation in Unix seconds.
    pub created_s: i64,
    /// The Ingress.
    pub ingress: Reverse<IngressKey>,
}

/// How a rule came to be; the order is the precedence among rules with the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleKind {
    /// A path that somebody wrote.
    Written,
    /// The `/` that an Ingress's default backend puts under its hosts: a written `/`, even a younger one, replaces it (ingress-nginx 2.4).
    HostDefault,
}

/// Where a rule was written: `spec.rules[rule].http.paths[path]`, or `spec.defaultBackend` when both are `None`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleOrigin {
    /// The object.
    pub ingress: IngressKey,
    /// Index of the rule.
    pub rule: Option<usize>,
    /// Index of the path in it.
    pub path: Option<usize>,
}

impl fmt::Display for RuleOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ingress {}", self.ingress)?;
        match (self.rule, self.path) {
            (Some(rule), Some(path)) => write!(f, " rules[{rule}].paths[{path}]"),
            (Some(rule), None) => write!(f, " rules[{rule}]"),
            (None, _) => f.write_str(" defaultBackend"),
        }
    }
}

/// A port of a Service as a rule names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRef(pub Arc<str>);

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The Service.
    pub service: ServiceKey,
    /// Its port, by number or name.
    pub port: PortRef,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service {} port {}", self.service, self.port.0)
    }
}

/// One path of one host with its backend, as ingest delivers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it was written.
    pub origin: RuleOrigin,
    /// Decides between equal rules.
    pub precedence: Precedence,
    /// Its host.
    pub host: HostPattern,
    /// Its path.
    pub path: PathMatch,
    /// Decides between rules of the same path before [`Rule::precedence`] does.
    pub kind: RuleKind,
    /// Its backend.
    pub backend: Backend,
    /// Whether plain-text requests are sent to HTTPS when the host has a certificate (ingress-nginx `ssl-redirect`, on by default).
    pub redirect_to_https: bool,
}

/// A rule in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// What it matches.
    pub path: PathMatch,
    /// Where it was written.
    pub origin: RuleOrigin,
    /// Where requests go.
    pub backend: Backend,
    /// See [`Rule::redirect_to_https`].
    pub redirect_to_https: bool,
}

/// Everything about one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its host.
    pub pattern: HostPattern,
    /// Its paths, in the order in which they win.
    pub locations: Vec<Location>,
    /// Its certificate.
    pub certificate: Option<SecretKey>,
    /// Rules that can never match because an older Ingress has the same host and path, each with the winner.
    pub shadowed: Vec<(RuleOrigin, RuleOrigin)>,
}

/// The table: immutable once built.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Routes {
    servers: BTreeMap<HostPattern, Server>,
    default_backend: Option<(RuleOrigin, Backend)>,
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Sent to this location's backend.
    Forward(&'a Location),
    /// Sent to the default backend.
    Default(&'a RuleOrigin, &'a Backend),
    /// Answered 308 to the same URL under `https`.
    RedirectToHttps(&'a Location),
    /// Answered 404.
    NotFound,
}

/// Why a host did not get the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostLost {
    /// It is another name.
    OtherName,
    /// It would match, but a more specific one does too.
    LessSpecific {
        /// The winner.
        than: HostPattern,
    },
}

/// Why a rule of the right host did not get the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteLost {
    /// Its path does not match.
    PathDiffers,
    /// Its path matches, but a stronger one does too (exact before prefix, longest prefix first).
    WeakerPath {
        /// The winner.
        than: RuleOrigin,
    },
    /// An older Ingress has the same host and path.
    Shadowed {
        /// The winner.
        by: RuleOrigin,
    },
}

/// A step of [`Routes::decide`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This host has the request.
    HostMatched(HostPattern),
    /// This one does not.
    HostLost(HostPattern, HostLost),
    /// No host has it.
    NoHost,
    /// This rule has the request.
    RuleMatched(RuleOrigin, PathMatch),
    /// This one does not.
    RuleLost(RuleOrigin, PathMatch, RouteLost),
    /// This rule can never match.
    RuleShadowed(RuleOrigin, RuleOrigin),
    /// No rule of the host matches.
    NoRule,
}

impl Routes {
    /// The table of these rules. `certificates` gives the Secret of a host (the first claim of a host wins: pass them in order of
    /// [`Precedence`]); `defaults` are the default backends of Ingresses, of which the first by precedence serves what nothing matches.
    pub fn build(
        rules: impl IntoIterator<Item = Rule>,
        certificates: impl IntoIterator<Item = (HostPattern, SecretKey)>,
        defaults: impl IntoIterator<Item = (Precedence, RuleOrigin, Backend)>,
    ) -> Self {
        let mut by_host: BTreeMap<HostPattern, Vec<Rule>> = BTreeMap::new();
        for rule in rules {
            by_host.entry(rule.host.clone()).or_default().push(rule);
        }
        let mut secrets = BTreeMap::new();
        for (pattern, secret) in certificates {
            secrets.entry(pattern).or_insert(secret);
        }
        let servers = by_host.into_iter().map(|(pattern, rules)| {
            let certificate = certificate_of(&pattern, &secrets);
            (pattern.clone(), server(pattern, rules, certificate))
        });
        let default_backend =
            defaults.into_iter().min_by(|a, b| a.0.cmp(&b.0)).map(|(_, origin, backend)| (origin, backend));
        Self { servers: servers.collect(), default_backend }
    }

    /// All hosts, in the order in which they win.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.servers.values()
    }

    /// What serves the requests that no rule matches.
    pub fn default_backend(&self) -> Option<(&RuleOrigin, &Backend)> {
        self.default_backend.as_ref().map(|(origin, backend)| (origin, backend))
    }

    /// Every backend that some rule names.
    pub fn backends(&self) -> BTreeSet<&Backend> {
        let of_rules =
            self.servers.values().flat_map(|server| &server.locations).map(|location| &location.backend);
        of_rules.chain(self.default_backend.iter().map(|(_, backend)| backend)).collect()
    }

    /// The host entry that serves `host`: exact, then wildcard, then any.
    pub fn server(&self, host: &Host) -> Option<&Server> {
        let exact = || self.servers.get(&HostPattern::Exact(host.clone()));
        let wildcard = || {
            let parent = Host::parse(host.parent()?).ok()?;
            self.servers.get(&HostPattern::Wildcard(parent))
        };
        exact().or_else(wildcard).or_else(|| self.servers.get(&HostPattern::Any))
    }

    /// Decides a request. `secure` is true when it came over TLS.
    ///
    /// A host that is named somewhere is served by its own rules only: its missing paths do not fall through to a wildcard or to rules
    /// without a host (ingress-nginx 2.3), but to the default backend.
    pub fn decide<'a>(
        &'a self,
        host: &Host,
        path: &NormalPath<'_>,
        secure: bool,
        trace: &mut impl Trace<Step>,
    ) -> Decision<'a> {
        let server = self.server(host);
        explain_hosts(self, server, host, trace);
        let location =
            server.and_then(|server| server.locations.iter().find(|location| location.path.matches(path)));
        if let Some(server) = server {
            explain_rules(server, location, path, trace);
        }
        match (server, location) {
            (Some(server), Some(location))
                if !secure && location.redirect_to_https && server.certificate.is_some() =>
            {
                Decision::RedirectToHttps(location)
            }
            (_, Some(location)) => Decision::Forward(location),
            (_, None) => self
                .default_backend
                .as_ref()
                .map_or(Decision::NotFound, |(origin, backend)| Decision::Default(origin, backend)),
        }
    }
}

/// The certificate for a rule's host: named itself, or covered by a wildcard.
fn certificate_of(pattern: &HostPattern, secrets: &BTreeMap<HostPattern, SecretKey>) -> Option<SecretKey> {
    let by_wildcard = || match pattern {
        HostPattern::Exact(host) => {
            let parent = Host::parse(host.parent()?).ok()?;
            secrets.get(&HostPattern::Wildcard(parent))
        }
        HostPattern::Wildcard(_) | HostPattern::Any => None,
    };
    secrets.get(pattern).or_else(by_wildcard).cloned()
}

fn server(pattern: HostPattern, mut rules: Vec<Rule>, certificate: Option<SecretKey>) -> Server {
    rules.sort_by(|a, b| {
        (&a.path, a.kind, &a.precedence, &a.origin).cmp(&(&b.path, b.kind, &b.precedence, &b.origin))
    });
    let mut locations: Vec<Location> = Vec::with_capacity(rules.len());
    let mut shadowed = Vec::new();
    for rule in rules {
        match locations.last() {
            Some(winner) if winner.path == rule.path => shadowed.push((rule.origin, winner.origin.clone())),
            _ => locations.push(Location {
                path: rule.path,
                origin: rule.origin,
                backend: rule.backend,
                redirect_to_https: rule.redirect_to_https,
            }),
        }
    }
    Server { pattern, locations, certificate, shadowed }
}

fn explain_hosts<T: Trace<Step>>(routes: &Routes, winner: Option<&Server>, host: &Host, trace: &mut T) {
    if !T::RECORDS {
        return;
    }
    for server in routes.servers.values() {
        match winner {
            Some(winner) if std::ptr::eq(winner, server) => {
                trace.record(|| Step::HostMatched(server.pattern.clone()))
            }
            Some(winner) if server.pattern.matches(host) => {
                let lost = HostLost::LessSpecific { than: winner.pattern.clone() };
                trace.record(|| Step::HostLost(server.pattern.clone(), lost));
            }
            _ => trace.record(|| Step::HostLost(server.pattern.clone(), HostLost::OtherName)),
        }
    }
    if winner.is_none() {
        trace.record(|| Step::NoHost);
    }
}

fn explain_rules<T: Trace<Step>>(
    server: &Server,
    winner: Option<&Location>,
    path: &NormalPath<'_>,
    trace: &mut T,
) {
    if !T::RECORDS {
        return;
    }
    for location in &server.locations {
        let (origin, rule) = (location.origin.clone(), location.path.clone());
        match winner {
            Some(winner) if std::ptr::eq(winner, location) => {
                trace.record(|| Step::RuleMatched(origin, rule))
            }
            Some(winner) if location.path.matches(path) => {
                trace.record(|| {
                    Step::RuleLost(origin, rule, RouteLost::WeakerPath { than: winner.origin.clone() })
                });
            }
            _ => trace.record(|| Step::RuleLost(origin, rule, RouteLost::PathDiffers)),
        }
    }
    for (loser, winner) in &server.shadowed {
        trace.record(|| Step::RuleShadowed(loser.clone(), winner.clone()));
    }
    if winner.is_none() {
        trace.record(|| Step::NoRule);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::NoTrace;

    fn rule(ingress: &str, created_s: i64, host: &str, path: PathMatch, service: &str) -> Rule {
        let key = IngressKey::new("ns", ingress);
        Rule {
            origin: RuleOrigin { ingress: key.clone(), rule: Some(0), path: Some(0) },
            precedence: Precedence { created_s, ingress: Reverse(key) },
            host: HostPattern::parse(host).unwrap(),
            path,
            kind: RuleKind::Written,
            backend: backend(service),
            redirect_to_https: true,
        }
    }

    fn backend(service: &str) -> Backend {
        Backend { service: ServiceKey::new("ns", service), port: PortRef("80".into()) }
    }

    fn table() -> Routes {
        let key = IngressKey::new("ns", "fallback");
        Routes::build(
            [
                rule("a", 1, "shop.example", PathMatch::prefix("/"), "root"),
                rule("a", 1, "shop.example", PathMatch::prefix("/cart"), "cart"),
                rule("b", 2, "shop.example", PathMatch::prefix("/cart"), "late"),
                rule("b", 2, "shop.example", PathMatch::exact("/cart"), "exact"),
                rule("a", 1, "*.shop.example", PathMatch::prefix("/"), "wild"),
                rule("a", 1, "only.example", PathMatch::exact("/x"), "x"),
                rule("a", 1, "", PathMatch::prefix("/any"), "any"),
                rule("a", 1, "tls.example", PathMatch::prefix("/"), "tls"),
            ],
            [(HostPattern::parse("tls.example").unwrap(), SecretKey::new("ns", "cert"))],
            [(
                Precedence { created_s: 1, ingress: Reverse(key.clone()) },
                RuleOrigin { ingress: key, rule: None, path: None },
                backend("fallback"),
            )],
        )
    }

    fn decide(routes: &Routes, host: &str, path: &str, secure: bool) -> String {
        let (host, path) = (Host::parse(host).unwrap(), NormalPath::parse(path).unwrap());
        let bare = routes.decide(&host, &path, secure, &mut NoTrace);
        let mut steps = Vec::new();
        assert_eq!(bare, routes.decide(&host, &path, secure, &mut steps), "the trace changes nothing");
        match bare {
            Decision::Forward(location) => location.backend.service.name.to_string(),
            Decision::Default(_, backend) => format!("default {}", backend.service.name),
            Decision::RedirectToHttps(_) => "https".into(),
            Decision::NotFound => "404".into(),
        }
    }

    #[test]
    fn a_request_goes_to_the_strongest_rule() {
        let routes = table();
        let cases = [
            ("shop.example", "/", "root"),
            ("shop.example", "/cart", "exact"),
            ("shop.example", "/cart/1", "cart"),
            ("shop.example", "/cartoon", "root"),
            ("de.shop.example", "/", "wild"),
            ("a.b.shop.example", "/any", "any"),
            ("only.example", "/any", "default fallback"),
            ("unknown.example", "/any/thing", "any"),
            ("unknown.example", "/", "default fallback"),
        ];
        for (host, path, want) in cases {
            assert_eq!(decide(&routes, host, path, false), want, "{host}{path}");
        }
        assert_eq!(decide(&Routes::default(), "a", "/", false), "404");
    }

    #[test]
    fn plain_requests_to_a_host_with_a_certificate_are_redirected() {
        let routes = table();
        assert_eq!(decide(&routes, "tls.example", "/", false), "https");
        assert_eq!(decide(&routes, "tls.example", "/", true), "tls");
    }

    #[test]
    fn the_trace_names_every_rule_that_lost_and_why() {
        let routes = table();
        let mut steps = Vec::new();
        routes.decide(
            &Host::parse("shop.example").unwrap(),
            &NormalPath::parse("/cart").unwrap(),
            false,
            &mut steps,
        );
        let text: Vec<String> = steps
            .iter()
            .filter_map(|step| match step {
                Step::RuleMatched(origin, _) => Some(format!("{} matched", origin.ingress.name)),
                Step::RuleLost(origin, path, RouteLost::WeakerPath { than }) => {
                    Some(format!("{} {path} weaker than {}", origin.ingress.name, than.ingress.name))
                }
                Step::RuleShadowed(loser, winner) => {
                    Some(format!("{} shadowed by {}", loser.ingress.name, winner.ingress.name))
                }
                _ => None,
            })
            .collect();
        assert_eq!(
            text,
            ["b matched", "a Prefix /cart weaker than b", "a Prefix / weaker than b", "b shadowed by a"]
        );
    }

    #[test]
    fn the_order_of_the_input_does_not_matter() {
        let key = |name| rule(name, 5, "h", PathMatch::prefix("/p"), name);
        let one = Routes::build([key("a"), key("b")], [], []);
        let other = Routes::build([key("b"), key("a")], [], []);
        assert_eq!(one, other);
        assert_eq!(decide(&one, "h", "/p", false), "b", "of the same second the greater name wins");
    }
}
