//! A request's life: route, who asks, may they, is there room, answer, count.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fairway_objects::allocate::Ranges;
use fairway_objects::status::Status;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::admit::{Configured, Connections};
use crate::auth::rbac::Rbac;
use crate::auth::token::Keys;
use crate::catalog::Catalog;
use crate::http::body::{self, Body};
use crate::http::listen::{Handle, Peer};
use crate::http::query::Query;
use crate::http::route::{self, Route, Target};
use crate::marks::Made;
use crate::metrics::Metrics;
use crate::rest;
use crate::rest::watch::pulse::Pulses;
use crate::store::Store;

/// Requests under way at once, not counting watches and streams.
pub(crate) const IN_FLIGHT_MAX: usize = 600;
/// How long such a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Everything that answering needs.
pub(crate) struct Api {
    pub(crate) store: Store,
    /// What is served now. A request takes it once and goes by that to its end.
    pub(crate) catalog: ArcSwap<Catalog>,
    /// Held while the catalog is made to follow the store.
    pub(crate) refreshing: Mutex<()>,
    /// How many catalogs there were.
    pub(crate) catalogs: watch::Sender<u64>,
    /// Custom resources that are there from the beginning.
    pub(crate) definitions: Vec<Value>,
    pub(crate) ranges: Ranges,
    pub(crate) keys: Keys,
    /// What roles and bindings say.
    pub(crate) rbac: Made<Rbac>,
    /// Webhooks and policies.
    pub(crate) configured: Made<Configured>,
    /// Connections to webhooks.
    pub(crate) webhooks: Connections,
    pub(crate) authority_pem: String,
    pub(crate) advertise: std::net::SocketAddr,
    pub(crate) run_dir: PathBuf,
    pub(crate) metrics: Metrics,
    pub(crate) pulses: Pulses,
    pub(crate) slots: Semaphore,
    pub(crate) stop: CancellationToken,
}

/// The connection side of [`Api`].
pub(crate) struct Front(pub(crate) Arc<Api>);

impl Handle for Front {
    async fn handle(&self, peer: &Peer, mut request: Request<Incoming>) -> Response<Body> {
        request.extensions_mut().insert(peer.hang_up.clone());
        let api = &self.0;
        let started = Instant::now();
        let route = route::parse(request.uri().path());
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let (verb, resource) = match &route {
            Route::Resource(target) => {
                (rest::verb(request.method(), target, &query), resource_label(api, target))
            }
            _ => (path_verb(request.method()), String::new()),
        };
        let accept = request.headers().get(header::ACCEPT).cloned();
        let mut response = match api.answer(peer, &route, &query, verb, request).await {
            Ok(response) => response,
            Err(status) => rest::answer::status(accept.as_ref(), &status),
        };
        let mut id = uuid::Uuid::encode_buffer();
        if let Ok(id) = HeaderValue::from_str(crate::random_uid().hyphenated().encode_lower(&mut id)) {
            response.headers_mut().insert("audit-id", id);
        }
        api.metrics.answered(verb, &resource, response.status().as_u16(), started.elapsed());
        response
    }
}

/// Only names of the registry become labels.
fn resource_label(api: &Api, target: &Target) -> String {
    let catalog = api.catalog.load();
    let resource = catalog.registry.resource(&target.group, &target.version, &target.resource);
    match (resource, &target.subresource) {
        (Some(resource), Some(part)) if resource.subresource(part).is_some() => {
            format!("{}/{part}", target.resource)
        }
        (Some(_), _) => target.resource.clone(),
        (None, _) => "unknown".to_owned(),
    }
}

fn path_verb(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" | "HEAD" => "get",
        "POST" => "post",
        _ => "other",
    }
}

impl Api {
    async fn answer(
        self: &Arc<Self>,
        peer: &Peer,
        route: &Route,
        query: &Query,
        verb: &'static str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        let user = self.identify(peer, request.headers())?;
        let Route::Resource(target) = route else {
            let method = request.method().as_str().to_ascii_lowercase();
            self.allow_path(&user, if method == "head" { "get" } else { &method }, request.uri().path())?;
            return Ok(self.path(route, query, &request));
        };
        self.allow_resource(&user, verb, target, query)?;
        let long = verb == "watch"
            || matches!(
                target.subresource.as_deref(),
                Some("log" | "exec" | "attach" | "portforward" | "proxy")
            );
        if long {
            return rest::handle(self, &user, target, query, request).await;
        }
        let Ok(_slot) = self.slots.try_acquire() else {
            self.metrics.refuse();
            return Err(Status::too_many_requests("too many requests, please try again later", 1));
        };
        let answer = rest::handle(self, &user, target, query, request);
        tokio::time::timeout(REQUEST_TIMEOUT, answer).await.unwrap_or_else(|_| {
            Err(Status::timeout("request did not complete within the allotted timeout", 1))
        })
    }

    fn path(&self, route: &Route, query: &Query, request: &Request<Incoming>) -> Response<Body> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return body::status(&Status::method_not_allowed());
        }
        let headers = request.headers();
        match route {
            Route::Version => body::json(200, &crate::discovery::version()),
            Route::Health(check) => health(check.as_deref(), query),
            Route::Metrics => body::respond(
                200,
                "text/plain; version=0.0.4; charset=utf-8",
                body::full(self.metrics.render(&self.store, &self.pulses)),
            ),
            Route::OpenIdConfiguration => body::json(
                200,
                &crate::auth::token::openid_configuration(&format!("https://{}", self.advertise)),
            ),
            Route::Jwks => body::json(200, &self.keys.jwks()),
            Route::Root => body::json(200, &crate::discovery::root(&self.catalog.load().registry)),
            Route::CoreVersions
            | Route::Groups
            | Route::Group(_)
            | Route::Resources { .. }
            | Route::Swagger
            | Route::OpenApiIndex
            | Route::OpenApi { .. } => {
                self.catalog.load().answer(&self.advertise.to_string(), route, headers)
            }
            Route::Resource(_) | Route::Unknown => body::text(404, "404 page not found\n"),
        }
    }
}

/// The server listens only after its store is open and its first objects are there, so every check is the same.
fn health(check: Option<&str>, query: &Query) -> Response<Body> {
    match check {
        None if query.has("verbose") => {
            body::text(200, "[+]ping ok\n[+]store ok\n[+]boot ok\nhealthz check passed\n")
        }
        None | Some("ping" | "store" | "boot" | "etcd") => body::text(200, "ok"),
        Some(_) => body::text(404, "404 page not found\n"),
    }
}
