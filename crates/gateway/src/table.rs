//! What workers read on every request: the model's routes, and for each location where its requests go and where they are counted.

use std::collections::HashMap;
use std::sync::Arc;

use fairway_model::NoTrace;
use fairway_model::http::{Decision, Location, NormalPath, Routes, RuleOrigin};
use http::Uri;
use http::header::HeaderValue;

use crate::failure::Failure;
use crate::head::{BadHead, ClientFacts, Identified};
use crate::metrics::RouteMetrics;
use crate::pool::PoolCell;

/// One location's way out.
#[derive(Debug)]
pub(crate) struct Route {
    /// Its endpoints.
    pub(crate) pool: Arc<PoolCell>,
    /// Its counters.
    pub(crate) metrics: Arc<RouteMetrics>,
}

/// Immutable; replaced as a whole when a rule changes, untouched when endpoints do.
#[derive(Debug, Default)]
pub(crate) struct Table {
    routes: Routes,
    by_origin: HashMap<RuleOrigin, Arc<Route>>,
}

/// What happens to a request.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Sent on.
    Forward(Arc<Route>),
    /// Answered 308 with this `Location`.
    Redirect(Arc<Route>, HeaderValue),
    /// Answered with an error.
    Refuse(Failure),
}

impl Table {
    pub(crate) fn new(routes: Routes, by_origin: HashMap<RuleOrigin, Arc<Route>>) -> Self {
        Self { routes, by_origin }
    }

    /// Decides a request: the model's decision, with the ways out attached.
    pub(crate) fn decide(&self, asked: &Identified, uri: &Uri, client: &ClientFacts) -> Plan {
        let Ok(path) = NormalPath::parse(uri.path()) else {
            return Plan::Refuse(Failure::BadHead(BadHead::BadPath));
        };
        let origin = match self.routes.decide(&asked.host, &path, client.secure, &mut NoTrace) {
            Decision::Forward(location) => &location.origin,
            Decision::Default(origin, _) => origin,
            Decision::RedirectToHttps(location) => return self.redirect(asked, uri, location),
            Decision::NotFound => return Plan::Refuse(Failure::NoRule),
        };
        match self.by_origin.get(origin) {
            Some(route) => Plan::Forward(route.clone()),
            None => Plan::Refuse(Failure::NoRule),
        }
    }

    fn redirect(&self, asked: &Identified, uri: &Uri, location: &Location) -> Plan {
        match (self.by_origin.get(&location.origin), https_location(asked, uri)) {
            (Some(route), Some(target)) => Plan::Redirect(route.clone(), target),
            _ => Plan::Refuse(Failure::BadHead(BadHead::BadPath)),
        }
    }
}

/// The same URL under https: without port, and without a slash at its end (ingress-nginx section 4).
fn https_location(asked: &Identified, uri: &Uri) -> Option<HeaderValue> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let target = target.strip_suffix('/').unwrap_or(target);
    HeaderValue::try_from(format!("https://{}{target}", asked.host)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_redirect_keeps_everything_but_scheme_port_and_last_slash() {
        for (authority, uri, want) in [
            ("shop.example:8080", "/a?b=c", "https://shop.example/a?b=c"),
            ("shop.example", "/", "https://shop.example"),
            ("Shop.Example", "/a/", "https://shop.example/a"),
        ] {
            let asked = Identified {
                host: fairway_model::http::Host::parse(authority).unwrap(),
                authority: HeaderValue::from_static(authority),
                upgrade: None,
                grpc: false,
                trailers: false,
            };
            assert_eq!(https_location(&asked, &uri.parse().unwrap()).unwrap(), want);
        }
    }
}
