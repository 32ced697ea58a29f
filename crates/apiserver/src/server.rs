//! A request's life: route, who asks, may they, is there room, answer, count.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fairway_objects::Reason;
use fairway_objects::allocate::Ranges;
use fairway_objects::document;
use fairway_objects::status::{Details, Qualified, Status};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::auth::authorize::{Action, Authorizer, ResourceAction};
use crate::auth::token::{Claims, ISSUER, Keys, Reference};
use crate::auth::{AUTHENTICATED, MASTERS, User};
use crate::catalog::Catalog;
use crate::http::body::{self, Body};
use crate::http::listen::{Handle, Peer};
use crate::http::query::Query;
use crate::http::route::{self, Route, Target};
use crate::metrics::Metrics;
use crate::rest;
use crate::store::{Collection, Key, Store};

/// Requests under way at once, not counting watches and streams.
pub(crate) const IN_FLIGHT_MAX: usize = 600;
/// How long such a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Everything that answering needs.
pub(crate) struct Api {
    pub(crate) store: Store,
    /// What is served now. A request takes it once and goes by that to its end.
    pub(crate) catalog: ArcSwap<Catalog>,
    pub(crate) ranges: Ranges,
    pub(crate) keys: Keys,
    pub(crate) authorizer: Authorizer,
    pub(crate) authority_pem: String,
    pub(crate) advertise: std::net::SocketAddr,
    pub(crate) run_dir: PathBuf,
    pub(crate) metrics: Metrics,
    pub(crate) slots: Semaphore,
    pub(crate) stop: CancellationToken,
}

/// Why a token stands for nobody.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is not valid: {0}")]
    Invalid(#[from] jsonwebtoken::errors::Error),
    #[error("the {kind} {name:?} that the token is bound to is gone")]
    Gone { kind: &'static str, name: String },
}

/// The connection side of [`Api`].
pub(crate) struct Front(pub(crate) Arc<Api>);

impl Handle for Front {
    async fn handle(&self, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
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
        let mut response = match api.answer(peer, &route, &query, verb, request).await {
            Ok(response) => response,
            Err(status) => body::status(&status),
        };
        if let Ok(id) = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
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
            self.allow_path(&user, verb, request.uri().path())?;
            return Ok(self.path(route, query, &request));
        };
        self.allow_resource(&user, verb, target)?;
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

    /// Who asks: a certificate, else a token, else nobody. A bad token is refused, not ignored.
    fn identify(&self, peer: &Peer, headers: &HeaderMap) -> Result<User, Status> {
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = authorization
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let user = match (&peer.certificate, bearer) {
            (Some(user), _) => user.clone(),
            (None, Some((_, token))) => {
                let claims = self.token_claims(token.trim(), &[ISSUER.to_owned()]);
                claims
                    .map_err(|error| {
                        tracing::debug!(address = %peer.address, %error, "refused a token");
                        Status::unauthorized()
                    })?
                    .user()
            }
            (None, None) => User::anonymous(),
        };
        impersonate(user, headers)
    }

    /// The claims of a token whose account, and pod if it names one, still exist.
    pub(crate) fn token_claims(&self, token: &str, audiences: &[String]) -> Result<Claims, TokenError> {
        let claims = self.keys.verify(token, audiences)?;
        let state = self.store.state();
        let binding = &claims.binding;
        let exists = |plural: &str, reference: &Reference| {
            let object =
                state.object(&Collection::new("", plural), &Key::new(&binding.namespace, &reference.name));
            object.is_some_and(|object| document::uid(object.value()) == reference.uid)
        };
        let bound = [
            ("service account", "serviceaccounts", Some(&binding.serviceaccount)),
            ("pod", "pods", binding.pod.as_ref()),
            ("secret", "secrets", binding.secret.as_ref()),
        ];
        for (kind, plural, reference) in bound {
            if let Some(gone) = reference.filter(|reference| !exists(plural, reference)) {
                return Err(TokenError::Gone { kind, name: gone.name.clone() });
            }
        }
        Ok(claims)
    }

    fn allow_path(&self, user: &User, verb: &str, path: &str) -> Result<(), Status> {
        if self.authorizer.decide(user, &Action::Path(path)).is_allowed() {
            return Ok(());
        }
        let message = format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name);
        let mut status = Status::new(403, Reason::Forbidden, message);
        status.details = Some(Box::new(Details::default()));
        Err(status)
    }

    fn allow_resource(&self, user: &User, verb: &'static str, target: &Target) -> Result<(), Status> {
        let part = target.subresource.as_deref().unwrap_or_default();
        let name = target.name.as_deref().unwrap_or_default();
        // A namespace is in itself.
        let namespace =
            if target.resource == "namespaces" && target.group.is_empty() { name } else { &target.namespace };
        let action = ResourceAction {
            verb,
            group: &target.group,
            resource: &target.resource,
            subresource: part,
            namespace,
            name,
        };
        if self.authorizer.decide(user, &Action::Resource(action)).is_allowed() {
            return Ok(());
        }
        let resource = Qualified { group: &target.group, name: &target.resource };
        Err(Status::unauthorized_action(resource, name, &user.name, verb, part, namespace))
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
                body::full(self.metrics.render(&self.store)),
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

/// `Impersonate-User` and `Impersonate-Group`: who may do everything may also do it as another.
fn impersonate(user: User, headers: &HeaderMap) -> Result<User, Status> {
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let Some(name) = headers.get("impersonate-user").and_then(text) else { return Ok(user) };
    if !user.is_in(MASTERS) {
        let users = Qualified { group: "", name: "users" };
        return Err(Status::unauthorized_action(users, &name, &user.name, "impersonate", "", ""));
    }
    let mut groups: Vec<String> = headers.get_all("impersonate-group").iter().filter_map(text).collect();
    if let Some((namespace, _)) =
        name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
    {
        groups.extend(["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]);
    }
    if name != "system:anonymous" {
        groups.push(AUTHENTICATED.to_owned());
    }
    Ok(User { name, groups, ..User::default() })
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
