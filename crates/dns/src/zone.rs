//! The cluster zone: a pure function of the Services, read by every question.

mod entry;
mod reverse;

use std::net::IpAddr;
use std::sync::Arc;

use fairway_model::{Condition, Service, ServiceKey, Trace};
use ipnet::IpNet;

use crate::answer::{Answer, Data, Record};
use crate::message::{Rcode, number};
use crate::name::{InvalidName, Name};
use entry::Entry;

/// "dns-version" of the Kubernetes DNS specification that is followed.
const SPEC_VERSION: &str = "1.1.0";
/// SOA timers as CoreDNS sends them.
const REFRESH_S: u32 = 7_200;
const RETRY_S: u32 = 1_800;
const EXPIRE_S: u32 = 86_400;

/// What an operator configures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The cluster domain, `cluster.local.` unless configured.
    pub origin: Name,
    /// TTL of records, 5 s unless configured.
    pub ttl_s: u32,
    /// TTL of negative answers.
    pub negative_ttl_s: u32,
    /// Whether `1-2-3-4.<ns>.pod.<origin>` exists.
    pub pods: PodRecords,
    /// Reverse names in these ranges are ours: the Service and pod ranges.
    pub reverse_ranges: Vec<IpNet>,
    /// Address of the cluster DNS Service, for the apex records.
    pub server: Option<IpAddr>,
}

/// The `pods` option of CoreDNS's kubernetes plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodRecords {
    /// No such names.
    Disabled,
    /// The address in the name, whether a pod has it or not.
    Insecure,
}

/// A step of [`Zone::answer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Outside the zone: forwarded.
    NotInZone,
    /// No such namespace.
    NoNamespace(String),
    /// The namespace has no such Service.
    NoService(ServiceKey),
    /// This Service has the name.
    Service(ServiceKey),
    /// It is an ExternalName Service: the name stands for another one.
    Alias(ServiceKey, Name),
    /// An endpoint that is shown.
    Published(IpAddr),
    /// An endpoint that is not shown, because of its condition.
    LeftOut(IpAddr, Condition),
    /// The Service has no such port, protocol or hostname below its name.
    NothingBelow(ServiceKey),
    /// The name exists, but has no record of the type.
    NoRecordOfType,
    /// No name like this is ever made.
    NoSuchForm,
}

/// What the zone says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This.
    Answer(Answer),
    /// The name stands for `target`; `answer` holds the CNAME so far. Addresses of the target are added by asking again, here when it
    /// is in the zone and upstream when not.
    Alias {
        /// With the CNAME.
        answer: Answer,
        /// Where it points.
        target: Name,
    },
    /// Not ours: forwarded.
    Forward,
}

/// The zone at one moment. Cloning and changing one Service cost O(log n): a change touches one entry.
#[derive(Clone, Debug)]
pub struct Zone {
    settings: Arc<Settings>,
    serial: u32,
    /// By wire form of `<service>.<namespace>`, so that a question is looked up without building a key from text.
    services: imbl::HashMap<Box<[u8]>, Arc<Entry>>,
    namespaces: imbl::HashSet<Box<[u8]>>,
    reverse: imbl::HashMap<IpAddr, Vec<(ServiceKey, Name)>>,
}

impl Zone {
    /// The zone of a cluster without Services.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings: Arc::new(settings),
            serial: 1,
            services: imbl::HashMap::new(),
            namespaces: imbl::HashSet::new(),
            reverse: imbl::HashMap::new(),
        }
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Number of Services with names.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// True without Services.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Adds or replaces a Service. Fails when its names cannot exist (longer than DNS allows); it then has none.
    pub fn insert(&mut self, service: &Service) -> Result<(), InvalidName> {
        self.remove(&service.key);
        let key = service_labels(&service.key)?;
        let entry = Entry::of(service, &self.settings.origin)?;
        for (address, name) in entry.reverse_names() {
            let names = self.reverse.entry(address).or_default();
            names.push((service.key.clone(), name));
            names.sort();
        }
        self.services.insert(key.as_wire().into(), Arc::new(entry));
        self.serial = self.serial.wrapping_add(1);
        Ok(())
    }

    /// Removes a Service.
    pub fn remove(&mut self, key: &ServiceKey) {
        let Ok(labels) = service_labels(key) else { return };
        let Some(entry) = self.services.remove(labels.as_wire()) else { return };
        for (address, _) in entry.reverse_names() {
            if let Some(names) = self.reverse.get_mut(&address) {
                names.retain(|(owner, _)| owner != key);
                if names.is_empty() {
                    self.reverse.remove(&address);
                }
            }
        }
        self.serial = self.serial.wrapping_add(1);
    }

    /// Replaces the set of namespaces that exist.
    pub fn set_namespaces<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        self.namespaces = names.into_iter().map(|name| Box::<[u8]>::from(name.as_bytes())).collect();
    }

    /// Answers a question.
    pub fn answer(&self, name: &Name, kind: u16, trace: &mut impl Trace<Step>) -> Outcome {
        let Some(labels) = name.labels_in(&self.settings.origin) else {
            return self.answer_reverse(name, kind, trace);
        };
        let found = match labels.as_slice() {
            [] => Found::Records(self.apex(name, kind)),
            [b"dns-version"] => Found::Records(self.of_kind(kind, name, [Data::Txt(SPEC_VERSION)])),
            [b"dns"] | [b"svc"] => Found::Records(vec![]),
            [b"pod"] if self.settings.pods == PodRecords::Insecure => Found::Records(vec![]),
            [b"ns", b"dns"] => {
                Found::Records(self.of_kind(kind, name, self.settings.server.map(Data::address)))
            }
            [namespace, b"svc"] => self.namespace(namespace, trace),
            [address, namespace, b"pod"] => self.pod(name, kind, address, namespace, trace),
            [namespace, b"pod"] if self.settings.pods == PodRecords::Insecure => {
                self.namespace(namespace, trace)
            }
            [below @ .., service, namespace, b"svc"] => {
                self.service(name, kind, below, service, namespace, trace)
            }
            _ => {
                trace.record(|| Step::NoSuchForm);
                Found::NoName
            }
        };
        self.outcome(found, trace)
    }

    fn outcome(&self, found: Found, trace: &mut impl Trace<Step>) -> Outcome {
        let negative = |rcode| Answer {
            rcode,
            authority: vec![self.soa(self.settings.origin.clone())],
            ..Answer::no_data()
        };
        match found {
            Found::NoName => Outcome::Answer(negative(Rcode::NxDomain)),
            Found::Records(records) if records.is_empty() => {
                trace.record(|| Step::NoRecordOfType);
                Outcome::Answer(negative(Rcode::NoError))
            }
            Found::Records(answers) => {
                Outcome::Answer(Answer { answers, rotates: true, ..Answer::no_data() })
            }
            Found::Services { answers, additional } => {
                Outcome::Answer(Answer { answers, additional, rotates: true, ..Answer::no_data() })
            }
            Found::Alias(record, target) => {
                Outcome::Alias { answer: Answer { answers: vec![*record], ..Answer::no_data() }, target }
            }
        }
    }

    fn record(&self, owner: &Name, data: Data) -> Record {
        Record { owner: owner.clone(), ttl_s: self.settings.ttl_s, data }
    }

    /// Those of `data` that the question asks for.
    fn of_kind(&self, kind: u16, owner: &Name, data: impl IntoIterator<Item = Data>) -> Vec<Record> {
        let wanted = |data: &Data| data.kind() == kind || kind == number::ANY;
        data.into_iter().filter(wanted).map(|data| self.record(owner, data)).collect()
    }

    fn soa(&self, owner: Name) -> Record {
        let below = |label: &str| {
            Name::from_text(label)
                .and_then(|name| name.under(&self.settings.origin))
                .unwrap_or_else(|_| Name::root())
        };
        let data = Data::Soa {
            primary: below("ns.dns"),
            contact: below("hostmaster"),
            serial: self.serial,
            refresh_s: REFRESH_S,
            retry_s: RETRY_S,
            expire_s: EXPIRE_S,
            negative_ttl_s: self.settings.negative_ttl_s,
        };
        Record { owner, ttl_s: self.settings.negative_ttl_s, data }
    }

    fn apex(&self, name: &Name, kind: u16) -> Vec<Record> {
        let server = Name::from_text("ns.dns").and_then(|server| server.under(&self.settings.origin)).ok();
        let mut records = self.of_kind(kind, name, server.map(Data::Ns));
        if kind == number::SOA || kind == number::ANY {
            records.push(self.soa(name.clone()));
        }
        records
    }

    fn namespace(&self, namespace: &[u8], trace: &mut impl Trace<Step>) -> Found {
        if self.namespaces.contains(namespace) {
            return Found::Records(vec![]);
        }
        trace.record(|| Step::NoNamespace(namespace.escape_ascii().to_string()));
        Found::NoName
    }

    fn pod(
        &self,
        name: &Name,
        kind: u16,
        address: &[u8],
        namespace: &[u8],
        trace: &mut impl Trace<Step>,
    ) -> Found {
        if self.settings.pods == PodRecords::Disabled || !self.namespaces.contains(namespace) {
            trace.record(|| Step::NoNamespace(namespace.escape_ascii().to_string()));
            return Found::NoName;
        }
        match entry::dashed_address(address) {
            Some(address) => Found::Records(self.of_kind(kind, name, [Data::address(address)])),
            None => {
                trace.record(|| Step::NoSuchForm);
                Found::NoName
            }
        }
    }

    fn service(
        &self,
        name: &Name,
        kind: u16,
        below: &[&[u8]],
        service: &[u8],
        namespace: &[u8],
        trace: &mut impl Trace<Step>,
    ) -> Found {
        let as_key =
            || ServiceKey::new(&namespace.escape_ascii().to_string(), &service.escape_ascii().to_string());
        let Some(entry) = self.find(service, namespace) else {
            match self.namespaces.contains(namespace) {
                true => trace.record(|| Step::NoService(as_key())),
                false => trace.record(|| Step::NoNamespace(namespace.escape_ascii().to_string())),
            }
            return Found::NoName;
        };
        let key = entry.key();
        match below {
            [] => self.at_service(name, kind, entry, trace),
            [one] if entry.has_protocol(one) => Found::Records(vec![]),
            [port, protocol] => match entry.find_services(port, protocol) {
                Some(services) => self.srv(name, kind, services),
                None => nothing_below(key, trace),
            },
            [hostname] => match entry.find_host(hostname) {
                Some(addresses) => {
                    trace.record(|| Step::Service(key.clone()));
                    Found::Records(self.of_kind(
                        kind,
                        name,
                        addresses.iter().map(|address| Data::address(*address)),
                    ))
                }
                None => nothing_below(key, trace),
            },
            _ => nothing_below(key, trace),
        }
    }

    fn at_service<T: Trace<Step>>(&self, name: &Name, kind: u16, entry: &Entry, trace: &mut T) -> Found {
        if let Some(target) = entry.alias() {
            trace.record(|| Step::Alias(entry.key().clone(), target.clone()));
            return Found::Alias(Box::new(self.record(name, Data::Cname(target.clone()))), target.clone());
        }
        trace.record(|| Step::Service(entry.key().clone()));
        if T::RECORDS {
            for (address, condition) in entry.endpoints() {
                trace.record(|| match condition {
                    Condition::Ready => Step::Published(*address),
                    left_out => Step::LeftOut(*address, *left_out),
                });
            }
        }
        Found::Records(self.of_kind(
            kind,
            name,
            entry.addresses().iter().map(|address| Data::address(*address)),
        ))
    }

    fn srv(&self, name: &Name, kind: u16, services: &[entry::SrvTarget]) -> Found {
        if kind != number::SRV && kind != number::ANY {
            return Found::Records(vec![]);
        }
        // The targets share a weight of 100, at least 1 each, as CoreDNS does.
        let weight = u16::try_from(100 / services.len().max(1)).unwrap_or(1).max(1);
        let data = |one: &entry::SrvTarget| Data::Srv {
            priority: 0,
            weight,
            port: one.port,
            target: one.name.clone(),
        };
        let answers = services.iter().map(|one| self.record(name, data(one))).collect();
        let addresses =
            services.iter().flat_map(|one| one.addresses.iter().map(move |address| (&one.name, *address)));
        let additional =
            addresses.map(|(target, address)| self.record(target, Data::address(address))).collect();
        Found::Services { answers, additional }
    }

    fn find(&self, service: &[u8], namespace: &[u8]) -> Option<&Arc<Entry>> {
        let mut key: smallvec::SmallVec<[u8; 132]> = smallvec::SmallVec::new();
        for label in [service, namespace] {
            key.push(u8::try_from(label.len()).ok()?);
            key.extend_from_slice(label);
        }
        key.push(0);
        self.services.get(&*key)
    }

    fn answer_reverse(&self, name: &Name, kind: u16, trace: &mut impl Trace<Step>) -> Outcome {
        let Some(address) = reverse::address(name) else {
            trace.record(|| Step::NotInZone);
            return Outcome::Forward;
        };
        if !self.settings.reverse_ranges.iter().any(|range| range.contains(&address)) {
            trace.record(|| Step::NotInZone);
            return Outcome::Forward;
        }
        let names = self.reverse.get(&address).map(Vec::as_slice).unwrap_or_default();
        for (key, _) in names {
            trace.record(|| Step::Service(key.clone()));
        }
        let records = self.of_kind(kind, name, names.iter().map(|(_, name)| Data::Ptr(name.clone())));
        let found = if names.is_empty() { Found::NoName } else { Found::Records(records) };
        match self.outcome(found, trace) {
            Outcome::Answer(mut answer) => {
                for soa in &mut answer.authority {
                    soa.owner = reverse::zone(address);
                }
                Outcome::Answer(answer)
            }
            other => other,
        }
    }
}

/// What a lookup found.
enum Found {
    NoName,
    /// The name exists; these are its records of the type, maybe none.
    Records(Vec<Record>),
    Services {
        answers: Vec<Record>,
        additional: Vec<Record>,
    },
    Alias(Box<Record>, Name),
}

fn nothing_below(key: &ServiceKey, trace: &mut impl Trace<Step>) -> Found {
    trace.record(|| Step::NothingBelow(key.clone()));
    Found::NoName
}

fn service_labels(key: &ServiceKey) -> Result<Name, InvalidName> {
    Name::from_text(&format!("{}.{}", key.name, key.namespace))
}

#[cfg(test)]
mod tests;
