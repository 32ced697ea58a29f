//! Watched objects → what the workers read. Every change costs in proportion to itself: endpoints replace one pool, rules the route
//! table, a Secret the certificates; the others are not looked at.
//!
//! [`Compiler::update`] does no I/O: it is given everything the watches know and compares with what it was given before.

mod finding;

pub(crate) use finding::Finding;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fairway_ingest::{ingress, service};
use fairway_kit::watch::ObjectKey;
use fairway_model::http::{Backend, HostPattern, Routes, RuleOrigin};
use fairway_model::{IngressKey, SecretKey, Service, ServiceKey, ServiceKind, select};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use rustls::sign::CertifiedKey;

use crate::certificates::{CertificateError, Certificates, certified_key};
use crate::metrics::{Metrics, RouteLabels, RouteMetrics};
use crate::pool::{Endpoint, Pool, PoolCell, UpstreamProtocol};
use crate::table::{Route, Table};

/// Objects of one kind by name.
pub type Objects<K> = OrdMap<ObjectKey, Arc<K>>;

/// Everything that the gateway's tables are made of.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// All of the cluster; those of other classes are ignored.
    pub ingresses: Objects<networking::Ingress>,
    /// All of the cluster.
    pub classes: Objects<networking::IngressClass>,
    /// All of the cluster.
    pub services: Objects<core::Service>,
    /// All of the cluster.
    pub slices: Objects<discovery::EndpointSlice>,
    /// At least those that [`Compiler::wanted_secrets`] names.
    pub secrets: BTreeMap<SecretKey, Arc<core::Secret>>,
}

/// What has to be put in force after an update; `None` is as before. Pools are already replaced.
#[derive(Debug, Default)]
pub struct Update {
    pub(crate) table: Option<Arc<Table>>,
    pub(crate) certificates: Option<Certificates>,
    /// Whether some pool was replaced.
    pub(crate) pools_replaced: bool,
}

/// A DNS name that a backend stands for, with the port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExternalTarget {
    pub(crate) name: Arc<str>,
    pub(crate) port: u16,
}

/// Why a backend has nothing to send to, apart from having no endpoints just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendProblem {
    /// There is no such Service.
    NoService,
    /// The Service has no such port.
    NoPort,
    /// An ExternalName that is a loopback name or address.
    Loopback,
}

/// Where the addresses of a backend come from.
#[derive(Debug)]
enum Source {
    Slices(Vec<SocketAddr>),
    External(ExternalTarget),
    Nowhere(BackendProblem),
}

#[derive(Debug)]
struct BackendState {
    cell: Arc<PoolCell>,
    problem: Option<BackendProblem>,
    external: Option<ExternalTarget>,
    users: BTreeSet<IngressKey>,
}

/// A Secret with what was read from it.
#[derive(Debug)]
struct ReadCertificate {
    from: Arc<core::Secret>,
    read: Result<Arc<CertifiedKey>, CertificateError>,
}

/// Keeps what was compiled, to change only what must be.
#[derive(Debug)]
pub struct Compiler {
    workers: usize,
    metrics: Arc<Metrics>,
    inputs: Inputs,
    slices_of: BTreeMap<ServiceKey, BTreeSet<ObjectKey>>,
    backends: BTreeMap<Backend, BackendState>,
    endpoints: BTreeMap<SocketAddr, (Arc<Endpoint>, usize)>,
    claims: Vec<(HostPattern, SecretKey)>,
    secret_users: BTreeMap<SecretKey, BTreeSet<IngressKey>>,
    certificates: BTreeMap<SecretKey, ReadCertificate>,
    diagnostics: Vec<fairway_ingest::Diagnostic>,
}

impl Compiler {
    pub(crate) fn new(workers: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            workers,
            metrics,
            inputs: Inputs::default(),
            slices_of: BTreeMap::new(),
            backends: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            claims: Vec::new(),
            secret_users: BTreeMap::new(),
            certificates: BTreeMap::new(),
            diagnostics: Vec::new(),
        }
    }

    /// Compares with the inputs before and compiles what changed.
    pub fn update(&mut self, inputs: Inputs) -> Update {
        let before = std::mem::replace(&mut self.inputs, inputs);
        let mut touched: BTreeSet<ServiceKey> =
            changed_keys(&before.services, &self.inputs.services).map(|key| service_key(&key)).collect();
        self.index_slices(&before.slices, &mut touched);
        let rules_changed = changed_keys(&before.ingresses, &self.inputs.ingresses).next().is_some()
            || changed_keys(&before.classes, &self.inputs.classes).next().is_some();
        let mut update = Update::default();
        for key in touched {
            update.pools_replaced |= self.refresh_service(&key);
        }
        if rules_changed {
            update.table = Some(self.rebuild_routes());
            update.pools_replaced = true;
        }
        if rules_changed || before.secrets != self.inputs.secrets {
            update.certificates = Some(self.rebuild_certificates());
        }
        update
    }

    /// The Secrets that some Ingress refers to.
    pub fn wanted_secrets(&self) -> BTreeSet<SecretKey> {
        self.claims.iter().map(|(_, secret)| secret.clone()).collect()
    }

    /// The names that must be resolved, each with its backend.
    pub(crate) fn external_targets(&self) -> BTreeMap<Backend, ExternalTarget> {
        let external = self.backends.iter().filter_map(|(backend, state)| {
            state.external.as_ref().map(|target| (backend.clone(), target.clone()))
        });
        external.collect()
    }

    /// Puts the addresses of an external name in force; false when nothing changed. Loopback addresses are left out: a name
    /// must not lead into the gateway's own pod.
    pub(crate) fn resolved(
        &mut self,
        backend: &Backend,
        target: &ExternalTarget,
        addresses: &[IpAddr],
    ) -> bool {
        let Some(state) = self.backends.get(backend) else { return false };
        if state.external.as_ref() != Some(target) {
            return false;
        }
        let mut usable: Vec<SocketAddr> = addresses
            .iter()
            .filter(|address| !address.is_loopback() && !address.is_unspecified())
            .map(|address| SocketAddr::new(*address, target.port))
            .collect();
        usable.sort_unstable();
        usable.dedup();
        let cell = state.cell.clone();
        self.replace_pool(&cell, &usable, UpstreamProtocol::Http1)
    }

    /// What is wrong now, for events. A Secret of which it is not known yet whether it exists is not wrong.
    pub(crate) fn findings(&self, is_known: impl Fn(&SecretKey) -> bool) -> Vec<Finding> {
        let of_objects = self.diagnostics.iter().filter_map(Finding::of_diagnostic);
        let of_backends = self.backends.iter().flat_map(|(backend, state)| {
            let problem = state.problem;
            state.users.iter().filter_map(move |user| Some(Finding::of_backend(user, backend, problem?)))
        });
        let of_certificates = self.secret_users.iter().flat_map(|(secret, users)| {
            let error = match self.certificates.get(secret) {
                Some(certificate) => certificate.read.as_ref().err().cloned(),
                None => is_known(secret).then_some(CertificateError::NoSecret),
            };
            users.iter().filter_map(move |user| Some(Finding::of_certificate(user, secret, error.as_ref()?)))
        });
        of_objects.chain(of_backends).chain(of_certificates).collect()
    }

    fn index_slices(
        &mut self,
        before: &Objects<discovery::EndpointSlice>,
        touched: &mut BTreeSet<ServiceKey>,
    ) {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for item in before.diff(&self.inputs.slices) {
            match item {
                DiffItem::Add(key, slice) => come.push((key.clone(), service::owner_of(slice))),
                DiffItem::Remove(key, slice) => gone.push((key.clone(), service::owner_of(slice))),
                DiffItem::Update { old: (key, old), new: (_, new) } => {
                    gone.push((key.clone(), service::owner_of(old)));
                    come.push((key.clone(), service::owner_of(new)));
                }
            }
        }
        for (key, owner) in gone {
            let Some(owner) = owner else { continue };
            if let Some(keys) = self.slices_of.get_mut(&owner) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.slices_of.remove(&owner);
                }
            }
            touched.insert(owner);
        }
        for (key, owner) in come {
            let Some(owner) = owner else { continue };
            self.slices_of.entry(owner.clone()).or_default().insert(key);
            touched.insert(owner);
        }
    }

    /// Recompiles the backends of one Service; true when a pool changed.
    fn refresh_service(&mut self, key: &ServiceKey) -> bool {
        let first = Backend { service: key.clone(), port: fairway_model::http::PortRef("".into()) };
        let of_service: Vec<Backend> = self
            .backends
            .range(first..)
            .map(|(backend, _)| backend)
            .take_while(|backend| backend.service == *key)
            .cloned()
            .collect();
        if of_service.is_empty() {
            return false;
        }
        let model = self.service(key);
        let mut changed = false;
        for backend in of_service {
            changed |= self.refresh_backend(&backend, model.as_ref());
        }
        changed
    }

    fn refresh_backend(&mut self, backend: &Backend, model: Option<&Service>) -> bool {
        let (source, protocol) = source_of(backend, model);
        let Some(state) = self.backends.get_mut(backend) else { return false };
        let cell = state.cell.clone();
        state.problem = None;
        let was = state.external.take();
        match source {
            Source::Slices(addresses) => self.replace_pool(&cell, &addresses, protocol),
            // The addresses known so far stay until the new ones are there, unless it is another name.
            Source::External(target) => {
                let same = was.as_ref() == Some(&target);
                state.external = Some(target);
                !same && self.replace_pool(&cell, &[], protocol)
            }
            Source::Nowhere(problem) => {
                state.problem = Some(problem);
                self.replace_pool(&cell, &[], protocol)
            }
        }
    }

    /// The model of a Service with its slices.
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        let object = self.inputs.services.get(&ObjectKey::new(&key.namespace, &key.name))?;
        let slices = self.slices_of.get(key).into_iter().flatten();
        let slices = slices.filter_map(|slice| self.inputs.slices.get(slice)).map(AsRef::as_ref);
        // What is wrong with Services is told by the node agents, once for the cluster.
        service::service(object, slices, &mut Vec::new())
    }

    /// Replaces the pool of a cell unless it has exactly these endpoints.
    fn replace_pool(&mut self, cell: &PoolCell, wanted: &[SocketAddr], protocol: UpstreamProtocol) -> bool {
        let old = cell.load();
        let same = old.protocol == protocol
            && old.endpoints().iter().map(|endpoint| &endpoint.address).eq(wanted.iter());
        if same {
            return false;
        }
        // New ones first: an endpoint that stays must not be seen as gone in between.
        let endpoints = wanted.iter().map(|address| self.enter(*address)).collect();
        cell.replace(Pool::new(endpoints, protocol, self.workers));
        for endpoint in old.endpoints() {
            self.leave(endpoint.address);
        }
        self.metrics.pools_replaced.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn enter(&mut self, address: SocketAddr) -> Arc<Endpoint> {
        let fresh = || (Arc::new(Endpoint::new(address, self.workers)), 0);
        let (endpoint, pools) = self.endpoints.entry(address).or_insert_with(fresh);
        *pools += 1;
        endpoint.clone()
    }

    fn leave(&mut self, address: SocketAddr) {
        let Some((endpoint, pools)) = self.endpoints.get_mut(&address) else { return };
        *pools -= 1;
        if *pools == 0 {
            endpoint.leave();
            self.endpoints.remove(&address);
        }
    }

    fn rebuild_routes(&mut self) -> Arc<Table> {
        let classes = ingress::classes(self.inputs.classes.values().map(AsRef::as_ref));
        self.diagnostics.clear();
        let objects = self.inputs.ingresses.values().map(AsRef::as_ref);
        let ingested = ingress::ingest(objects, &classes, &mut self.diagnostics);
        self.claims.clone_from(&ingested.certificates);
        self.secret_users = secret_users(&self.inputs.ingresses, &self.claims, &classes);
        let routes = ingested.build();
        let uses = uses(&routes);
        self.replace_backends(&uses);
        let metrics = self.metrics.routes(uses.iter().map(|one| one.labels.clone()));
        let unrouted = self.metrics.unrouted.clone();
        let by_origin: HashMap<RuleOrigin, Arc<Route>> = uses
            .into_iter()
            .filter_map(|one| {
                let pool = self.backends.get(&one.backend)?.cell.clone();
                let metrics: Arc<RouteMetrics> = metrics.get(&one.labels).unwrap_or(&unrouted).clone();
                Some((one.origin, Arc::new(Route { pool, metrics })))
            })
            .collect();
        self.metrics.tables_built.fetch_add(1, Ordering::Relaxed);
        Arc::new(Table::new(routes, by_origin))
    }

    /// Backends that are still named keep their pools; new ones are compiled, those that no rule names are let go.
    fn replace_backends(&mut self, uses: &[Use]) {
        let mut users: BTreeMap<&Backend, BTreeSet<IngressKey>> = BTreeMap::new();
        for one in uses {
            users.entry(&one.backend).or_default().insert(one.origin.ingress.clone());
        }
        let gone: Vec<Backend> =
            self.backends.keys().filter(|backend| !users.contains_key(backend)).cloned().collect();
        for backend in gone {
            if let Some(state) = self.backends.remove(&backend) {
                for endpoint in state.cell.load().endpoints() {
                    self.leave(endpoint.address);
                }
            }
        }
        for (backend, users) in users {
            if let Some(state) = self.backends.get_mut(backend) {
                state.users = users;
                continue;
            }
            let empty = Pool::new(Vec::new(), UpstreamProtocol::default(), self.workers);
            let cell = Arc::new(PoolCell::new(empty));
            self.backends
                .insert(backend.clone(), BackendState { cell, problem: None, external: None, users });
            let model = self.service(&backend.service);
            self.refresh_backend(backend, model.as_ref());
        }
    }

    fn rebuild_certificates(&mut self) -> Certificates {
        let wanted = self.wanted_secrets();
        let mut known = std::mem::take(&mut self.certificates);
        for key in wanted {
            let Some(secret) = self.inputs.secrets.get(&key) else { continue };
            let certificate = match known.remove(&key) {
                Some(known) if Arc::ptr_eq(&known.from, secret) => known,
                _ => ReadCertificate { from: secret.clone(), read: certified_key(secret) },
            };
            self.certificates.insert(key, certificate);
        }
        Certificates::new(self.claims.iter().filter_map(|(pattern, secret)| {
            let key = self.certificates.get(secret)?.read.as_ref().ok()?;
            Some((pattern.clone(), key.clone()))
        }))
    }
}

/// One location: where its requests go and how they are labelled.
struct Use {
    origin: RuleOrigin,
    backend: Backend,
    labels: RouteLabels,
}

fn uses(routes: &Routes) -> Vec<Use> {
    let labels = |host: String, path: String, origin: &RuleOrigin, backend: &Backend| RouteLabels {
        host,
        path,
        namespace: origin.ingress.namespace.to_string(),
        ingress: origin.ingress.name.to_string(),
        service: backend.service.name.to_string(),
    };
    let mut uses: Vec<Use> = routes
        .servers()
        .flat_map(|server| server.locations.iter().map(move |location| (server, location)))
        .map(|(server, location)| {
            let path = location.path.to_string();
            let path = path.split_once(' ').map_or("", |(_, path)| path).to_owned();
            Use {
                origin: location.origin.clone(),
                backend: location.backend.clone(),
                labels: labels(server.pattern.to_string(), path, &location.origin, &location.backend),
            }
        })
        .collect();
    if let Some((origin, backend)) = routes.default_backend() {
        let labels = labels("*".into(), "/".into(), origin, backend);
        uses.push(Use { origin: origin.clone(), backend: backend.clone(), labels });
    }
    uses
}

/// Which Ingresses refer to which of the Secrets in force.
fn secret_users(
    ingresses: &Objects<networking::Ingress>,
    claims: &[(HostPattern, SecretKey)],
    classes: &BTreeSet<String>,
) -> BTreeMap<SecretKey, BTreeSet<IngressKey>> {
    let mut users: BTreeMap<SecretKey, BTreeSet<IngressKey>> =
        claims.iter().map(|(_, secret)| (secret.clone(), BTreeSet::new())).collect();
    for (key, object) in ingresses {
        if !ingress::is_served(object, classes) {
            continue;
        }
        let tls = object.spec.iter().filter_map(|spec| spec.tls.as_ref()).flatten();
        for name in tls.filter_map(|tls| tls.secret_name.as_deref()) {
            if let Some(users) = users.get_mut(&SecretKey::new(&key.namespace, name)) {
                users.insert(IngressKey::new(&key.namespace, &key.name));
            }
        }
    }
    users
}

fn source_of(backend: &Backend, model: Option<&Service>) -> (Source, UpstreamProtocol) {
    let nowhere = |problem| (Source::Nowhere(problem), UpstreamProtocol::default());
    let Some(model) = model else { return nowhere(BackendProblem::NoService) };
    let port = model.find_port(&backend.port.0);
    if let ServiceKind::ExternalName(name) = &model.kind {
        // Such a Service needs no ports: the number is then the Ingress's own (ingress-nginx 2.6).
        let number = port.map(|port| port.port.number()).or_else(|| backend.port.0.parse().ok());
        let loopback = name.as_ref() == "localhost"
            || name.ends_with(".localhost")
            || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        return match number {
            _ if loopback => nowhere(BackendProblem::Loopback),
            Some(port) => {
                let target = ExternalTarget { name: name.clone(), port };
                (Source::External(target), UpstreamProtocol::default())
            }
            None => nowhere(BackendProblem::NoPort),
        };
    }
    let Some(port) = port else { return nowhere(BackendProblem::NoPort) };
    let addresses = select::select_anywhere(&port.endpoints).map(fairway_model::PortEndpoint::socket);
    (Source::Slices(addresses.collect()), UpstreamProtocol::of(port.app_protocol.as_deref()))
}

fn service_key(key: &ObjectKey) -> ServiceKey {
    ServiceKey { namespace: key.namespace.clone(), name: key.name.clone() }
}

/// The names of what was added, removed or replaced. Parts that both maps share are skipped.
fn changed_keys<'a, K: PartialEq>(
    before: &'a Objects<K>,
    now: &'a Objects<K>,
) -> impl Iterator<Item = ObjectKey> + 'a {
    before.diff(now).map(|item| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => {
            key.clone()
        }
    })
}

#[cfg(test)]
mod tests;
