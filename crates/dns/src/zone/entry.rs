//! The names of one Service, prepared when it changes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fairway_model::select::published;
use fairway_model::{Condition, Endpoint, Service, ServiceKey, ServiceKind, ServicePort};

use crate::name::{InvalidName, Name};

/// One target of an SRV answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SrvTarget {
    pub(super) name: Name,
    pub(super) port: u16,
    pub(super) addresses: Vec<IpAddr>,
}

/// `_port._protocol` and what it leads to.
#[derive(Clone, Debug)]
struct SrvName {
    port: Box<[u8]>,
    protocol: Box<[u8]>,
    targets: Vec<SrvTarget>,
}

/// Everything below `<service>.<namespace>.svc.<origin>`.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    key: ServiceKey,
    addresses: Vec<IpAddr>,
    alias: Option<Name>,
    /// Addresses of each hostname; empty but for headless Services.
    hosts: BTreeMap<Box<[u8]>, Vec<IpAddr>>,
    /// One for each named port.
    services: Vec<SrvName>,
    /// What PTR queries get.
    reverse: Vec<(IpAddr, Name)>,
    /// Every endpoint with its condition, for the trace.
    endpoints: Vec<(IpAddr, Condition)>,
}

impl Entry {
    pub(super) fn of(service: &Service, origin: &Name) -> Result<Self, InvalidName> {
        let own =
            Name::from_text(&format!("{}.{}.svc", service.key.name, service.key.namespace))?.under(origin)?;
        let mut entry = Self {
            key: service.key.clone(),
            addresses: vec![],
            alias: None,
            hosts: BTreeMap::new(),
            services: vec![],
            reverse: vec![],
            endpoints: vec![],
        };
        match &service.kind {
            ServiceKind::Virtual(ips) => {
                entry.addresses = ips.cluster_ips.clone();
                entry.reverse = ips.cluster_ips.iter().map(|address| (*address, own.clone())).collect();
                for port in &service.ports {
                    let target = SrvTarget {
                        name: own.clone(),
                        port: port.port.number(),
                        addresses: ips.cluster_ips.clone(),
                    };
                    entry.add_service(port, vec![target]);
                }
            }
            ServiceKind::ExternalName(target) => {
                entry.alias = Name::from_text(target).ok().filter(|name| *name != Name::root())
            }
            ServiceKind::Headless => entry.add_endpoints(service, &own)?,
        }
        Ok(entry)
    }

    fn add_endpoints(&mut self, service: &Service, own: &Name) -> Result<(), InvalidName> {
        self.endpoints = service.endpoints.iter().map(|one| (one.address, one.condition)).collect();
        for endpoint in published(&service.endpoints) {
            let label = host_label(endpoint);
            self.addresses.push(endpoint.address);
            self.reverse.push((endpoint.address, Name::from_text(&label)?.under(own)?));
            self.hosts.entry(label.into_bytes().into()).or_default().push(endpoint.address);
        }
        for port in &service.ports {
            let mut targets = Vec::new();
            for one in port.endpoints.iter().filter(|one| one.endpoint.condition == Condition::Ready) {
                let name = Name::from_text(&host_label(&one.endpoint))?.under(own)?;
                targets.push(SrvTarget {
                    name,
                    port: one.port.number(),
                    addresses: vec![one.endpoint.address],
                });
            }
            targets.sort();
            self.add_service(port, targets);
        }
        Ok(())
    }

    fn add_service(&mut self, port: &ServicePort, targets: Vec<SrvTarget>) {
        if port.name.is_empty() {
            return;
        }
        let underscored =
            |text: &str| format!("_{}", text.to_ascii_lowercase()).into_bytes().into_boxed_slice();
        let (port, protocol) = (underscored(&port.name), underscored(&port.protocol.to_string()));
        self.services.push(SrvName { port, protocol, targets });
    }

    pub(super) fn key(&self) -> &ServiceKey {
        &self.key
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    pub(super) fn alias(&self) -> Option<&Name> {
        self.alias.as_ref()
    }

    pub(super) fn endpoints(&self) -> &[(IpAddr, Condition)] {
        &self.endpoints
    }

    pub(super) fn reverse_names(&self) -> impl Iterator<Item = (IpAddr, Name)> {
        self.reverse.iter().cloned()
    }

    pub(super) fn find_host(&self, label: &[u8]) -> Option<&[IpAddr]> {
        self.hosts.get(label).map(Vec::as_slice)
    }

    pub(super) fn find_services(&self, port: &[u8], protocol: &[u8]) -> Option<&[SrvTarget]> {
        let found = self.services.iter().find(|one| *one.port == *port && *one.protocol == *protocol);
        found.map(|one| one.targets.as_slice())
    }

    /// Whether `_tcp` (or the like) exists as a name with something below it.
    pub(super) fn has_protocol(&self, label: &[u8]) -> bool {
        self.services.iter().any(|one| *one.protocol == *label)
    }
}

/// An endpoint's own label: its hostname, or its address with dashes.
fn host_label(endpoint: &Endpoint) -> String {
    match &endpoint.hostname {
        Some(hostname) => hostname.to_ascii_lowercase(),
        None => endpoint.address.to_string().replace(['.', ':'], "-"),
    }
}

/// `10-244-1-2` or `fd00--1` as an address.
pub(super) fn dashed_address(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    let v4 = || text.replace('-', ".").parse().ok().map(IpAddr::V4);
    let v6 = || text.replace('-', ":").parse().ok().map(IpAddr::V6);
    v4().or_else(v6)
}
