//! The way of one request, hop by hop.

use std::net::IpAddr;

use fairway_dns::answer::{Answer, Data};
use fairway_dns::message::{Rcode, number};
use fairway_dns::name::Name;
use fairway_dns::search::ResolvConf;
use fairway_dns::zone::Outcome;
use fairway_model::announce::announcers;
use fairway_model::connect::source_seen;
use fairway_model::http::{Backend, Decision, Host, NormalPath};
use fairway_model::select::select_anywhere;
use fairway_model::{
    Destination, FrontendKind, Node, PodKey, PortEndpoint, PortNumber, Protocol, Service, ServicePort,
    Source, SourceAddress, Verdict, connect,
};
use serde::Serialize;

use crate::phrase;
use crate::question::{From, Question, Scheme, Target};
use crate::world::World;

/// Aliases followed for one name; DNS gives up at the same number.
const ALIAS_STEPS_MAX: usize = 8;

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// This is what happens.
    Taken,
    /// This would have been possible, and was not taken.
    Lost,
    /// Something to know.
    Note,
}

/// One line of a hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its kind.
    pub mark: Mark,
    /// Its words.
    pub text: String,
}

/// One decision on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// What is decided, and where.
    pub title: String,
    /// The reasons.
    pub lines: Vec<Line>,
}

/// The whole way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Who asks.
    pub from: String,
    /// For what.
    pub to: String,
    /// The decisions, in order.
    pub hops: Vec<Hop>,
    /// What the client gets.
    pub verdict: String,
    /// Whether something answers, as far as the network decides it.
    pub reaches: bool,
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} -> {}", self.from, self.to)?;
        for (index, hop) in self.hops.iter().enumerate() {
            writeln!(f, "\n{}. {}", index + 1, hop.title)?;
            for line in &hop.lines {
                let mark = match line.mark {
                    Mark::Taken => '+',
                    Mark::Lost => '-',
                    Mark::Note => ' ',
                };
                writeln!(f, "   {mark} {}", line.text)?;
            }
        }
        write!(f, "\n{} {}", if self.reaches { "Reaches:" } else { "Does not reach:" }, self.verdict)
    }
}

/// Explains a request.
pub fn explain(world: &World, question: &Question) -> Explanation {
    let mut way = Way { world, hops: Vec::new() };
    let end = way.walk(question);
    let (verdict, reaches) = match end {
        Ok(verdict) => (verdict, true),
        Err(verdict) => (verdict, false),
    };
    Explanation {
        from: question.from.to_string(),
        to: question.to.to_string(),
        hops: way.hops,
        verdict,
        reaches,
    }
}

/// Where the asker is.
struct Asker<'w> {
    source: Source,
    /// The node whose rules see its first packet.
    node: &'w Node,
    /// Its resolver, when it asks cluster DNS.
    resolver: Option<ResolvConf>,
}

/// Why the walk ends without an answer.
type Dead = String;

struct Way<'w> {
    world: &'w World,
    hops: Vec<Hop>,
}

impl<'w> Way<'w> {
    fn walk(&mut self, question: &Question) -> Result<String, Dead> {
        let mut asker = self.locate(&question.from)?;
        let to = &question.to;
        let address = match to.address() {
            Some(address) => address,
            None => match &asker.resolver {
                Some(resolver) => self.resolve(&asker, resolver, to)?,
                None => self.resolve_outside(to)?,
            },
        };
        if matches!(asker.source, Source::Outside(_)) {
            asker.node = self.enter(address)?;
        }
        self.connect(&asker, address, to)
    }

    /// The node that packets from outside the cluster come in by: it has the address, or answers for it.
    fn enter(&mut self, address: IpAddr) -> Result<&'w Node, Dead> {
        let world = self.world;
        let network = &world.network;
        if let Some(node) = network.node_of(address) {
            return Ok(node);
        }
        let announcer = announcers(network).get(&address).and_then(|name| network.nodes.get(*name));
        if let Some(node) = announcer {
            let through = node.addresses.first().map_or("no address".to_owned(), ToString::to_string);
            let lines = self.hop(format!("Way into the cluster: who has {address}?"));
            lines.push(Line {
                mark: Mark::Taken,
                text: format!("{} at {through} answers for this load-balancer address", node.name),
            });
            return Ok(node);
        }
        match world.frontends.addresses.get(&address) {
            Some(FrontendKind::ClusterIp) => {
                Err(format!("{address} is a cluster IP: it is reached from pods and nodes only"))
            }
            Some(FrontendKind::LoadBalancer) => {
                Err(format!("no ready node answers for the load-balancer address {address}"))
            }
            _ if network.cluster.is_service(address) => {
                Err(format!("{address} is in the Service range: it is reached from pods and nodes only"))
            }
            _ => network
                .nodes
                .values()
                .next()
                .map(|node| &**node)
                .ok_or_else(|| "the cluster has no node".to_owned()),
        }
    }

    fn hop(&mut self, title: impl Into<String>) -> &mut Vec<Line> {
        self.hops.push(Hop { title: title.into(), lines: Vec::new() });
        match self.hops.last_mut() {
            Some(hop) => &mut hop.lines,
            None => unreachable!("a hop was pushed"),
        }
    }

    fn locate(&mut self, from: &From) -> Result<Asker<'w>, Dead> {
        let world = self.world;
        let find_node = |name| {
            world.network.nodes.get(name).map(|node| &**node).ok_or(format!("there is no node {name}"))
        };
        match from {
            From::Pod(key) => self.locate_pod(key),
            From::Node(name) => {
                let node = find_node(name)?;
                let address = node.addresses.first().ok_or(format!("node {name} has no address yet"))?;
                Ok(Asker { source: Source::Node(*address), node, resolver: None })
            }
            From::Outside => {
                let node = world.network.nodes.values().next().ok_or("the cluster has no node")?;
                Ok(Asker { source: Source::Outside(world.setting.outside), node, resolver: None })
            }
        }
    }

    fn locate_pod(&mut self, key: &PodKey) -> Result<Asker<'w>, Dead> {
        let world = self.world;
        let facts = world.pods.get(key).ok_or(format!("there is no pod {key}"))?;
        let address = facts.address.ok_or(format!("pod {key} has no address yet"))?;
        let name = facts.node.as_ref().ok_or(format!("pod {key} is on no node yet"))?;
        let node = world.network.nodes.get(name).ok_or(format!("node {name} of pod {key} is gone"))?;
        let source = if facts.host_network { Source::Node(address) } else { Source::Pod(address) };
        let domain = &world.setting.cluster.domain;
        let search =
            vec![format!("{}.svc.{domain}", key.namespace), format!("svc.{domain}"), domain.to_string()];
        let servers = world.setting.zone.server.into_iter().collect();
        let resolver = facts.cluster_dns.then_some(ResolvConf { servers, search, ndots: 5 });
        Ok(Asker { source, node, resolver })
    }

    /// A name asked outside the cluster: our DNS is not asked, so the best that can be said is where it has to point.
    fn resolve_outside(&mut self, to: &Target) -> Result<IpAddr, Dead> {
        let world = self.world;
        let gateway =
            world.network.services.get(&world.setting.gateway).and_then(|service| service.virtual_ips());
        let address = gateway.and_then(|ips| ips.load_balancer.first().copied());
        let lines = self.hop(format!("DNS of the client: where is {}?", to.host));
        match (to.scheme, address) {
            (Scheme::Http | Scheme::Https, Some(address)) => {
                let text = format!(
                    "not a question for cluster DNS; taken as {address}, the gateway's address, which it has to point at"
                );
                lines.push(Line { mark: Mark::Note, text });
                Ok(address)
            }
            (Scheme::Http | Scheme::Https, None) => {
                Err(format!("the gateway's Service {} has no address", world.setting.gateway))
            }
            (Scheme::Raw(_), _) => {
                Err(format!("{} is resolved by the client's own DNS: give the address instead", to.host))
            }
        }
    }

    fn resolve(&mut self, asker: &Asker<'w>, resolver: &ResolvConf, to: &Target) -> Result<IpAddr, Dead> {
        let world = self.world;
        let mut lines = self.reach_dns(asker, resolver)?;
        for candidate in resolver.candidates(&to.host) {
            let Ok(name) = Name::from_text(&candidate) else {
                lines.push(Line { mark: Mark::Lost, text: format!("{candidate}: not a DNS name") });
                continue;
            };
            match ask(world, name, &mut lines) {
                Asked::Addresses(addresses) => {
                    self.hop(format!("DNS: where is {}?", to.host)).append(&mut lines);
                    return addresses.first().copied().ok_or_else(|| format!("{} has no address", to.host));
                }
                Asked::Nothing => {}
                Asked::Elsewhere(name) => {
                    self.hop(format!("DNS: where is {}?", to.host)).append(&mut lines);
                    return Err(format!(
                        "{name} is decided by upstream DNS, not in the cluster: ask again with the address it gives"
                    ));
                }
            }
        }
        self.hop(format!("DNS: where is {}?", to.host)).append(&mut lines);
        Err(format!("the name {} does not exist", to.host))
    }

    /// The query's own way to cluster DNS.
    fn reach_dns(&mut self, asker: &Asker<'w>, resolver: &ResolvConf) -> Result<Vec<Line>, Dead> {
        let world = self.world;
        let (Some(server), Some(port)) = (resolver.servers.first(), PortNumber::new(53)) else {
            return Err("the cluster has no DNS Service".into());
        };
        let to = Destination { address: *server, protocol: Protocol::Udp, port };
        let mut steps = Vec::new();
        match connect(&world.network, &world.frontends, asker.node, asker.source, to, &mut steps) {
            Verdict::Balance { service, endpoints, .. } => {
                let text = format!(
                    "asked of {server} (Service {}), {} of its endpoints ready",
                    service.key,
                    endpoints.len()
                );
                Ok(vec![Line { mark: Mark::Note, text }])
            }
            Verdict::Refused(refusal) => {
                let lines =
                    self.hop(format!("Query to cluster DNS at {server}, decided on {}", asker.node.name));
                lines.extend(steps.iter().filter_map(phrase::connect_step));
                Err(format!("no name resolves: queries to {server} are {}", phrase::refusal(refusal)))
            }
            Verdict::NotAService => Err(format!("no name resolves: no Service has the DNS address {server}")),
        }
    }

    fn connect(&mut self, asker: &Asker<'w>, address: IpAddr, to: &Target) -> Result<String, Dead> {
        let world = self.world;
        let destination = Destination { address, protocol: to.protocol(), port: to.port };
        let mut steps = Vec::new();
        let verdict =
            connect(&world.network, &world.frontends, asker.node, asker.source, destination, &mut steps);
        let title = format!(
            "Connection {} -> {address}:{}/{}, decided on {}",
            asker.source.address(),
            to.port,
            to.protocol(),
            asker.node.name
        );
        let lines = self.hop(title);
        lines.extend(steps.iter().filter_map(phrase::connect_step));
        match verdict {
            Verdict::Refused(refusal) => {
                Err(format!("{address}:{} is {}", to.port, phrase::refusal(refusal)))
            }
            Verdict::NotAService => self.route(asker, address, to),
            Verdict::Balance { service, port, kind, endpoints } => {
                if let Some(ips) = service.virtual_ips() {
                    let seen = |endpoint: &PortEndpoint| {
                        source_seen(&world.network, ips, kind, asker.source, endpoint)
                    };
                    lines.extend(source_lines(asker, &endpoints, seen));
                    lines.extend(phrase::affinity(ips.affinity));
                }
                self.cross(asker, &endpoints);
                let is_gateway =
                    service.key == world.setting.gateway && matches!(to.scheme, Scheme::Http | Scheme::Https);
                if is_gateway { self.gateway(to) } else { Ok(reached(service, port, &endpoints)) }
            }
        }
    }

    /// Packets to an address that no Service has.
    fn route(&mut self, asker: &Asker<'w>, address: IpAddr, to: &Target) -> Result<String, Dead> {
        let world = self.world;
        let pod = world.pods.iter().find(|(_, facts)| facts.address == Some(address) && !facts.host_network);
        if let Some((key, facts)) = pod {
            let node = facts.node.as_ref().map_or("an unknown node".to_owned(), ToString::to_string);
            let lines = self.hop(format!("Route to pod {key}"));
            let crossing = if facts.node.as_ref() == Some(&asker.node.name) {
                "on the same node"
            } else {
                "over the underlay"
            };
            lines.push(Line {
                mark: Mark::Taken,
                text: format!("{address} is pod {key} on {node}, {crossing}"),
            });
            return Ok(format!("pod {key}, if it listens on port {}", to.port));
        }
        if let Some(node) = world.network.node_of(address) {
            return Ok(format!("node {}, if something listens on port {} there", node.name, to.port));
        }
        if world.network.cluster.is_pod(address) {
            return Err(format!("{address} is in the pod range, but no pod has it"));
        }
        Ok(format!("{address} outside the cluster, with the address of {} as its source", asker.node.name))
    }

    fn cross(&mut self, asker: &Asker<'w>, endpoints: &[&PortEndpoint]) {
        let here =
            endpoints.iter().filter(|one| one.endpoint.node.as_ref() == Some(&asker.node.name)).count();
        let lines = self.hop(format!("Way from {}", asker.node.name));
        if here > 0 {
            lines.push(Line {
                mark: Mark::Taken,
                text: format!("{here} of {} endpoints are on {} itself", endpoints.len(), asker.node.name),
            });
        }
        for one in endpoints.iter().filter(|one| one.endpoint.node.as_ref() != Some(&asker.node.name)) {
            let node = one.endpoint.node.as_ref().and_then(|name| self.world.network.nodes.get(name));
            let text = match (node, &one.endpoint.node) {
                (Some(node), _) => {
                    let through = node.addresses.first().map_or("no address".to_owned(), ToString::to_string);
                    format!("{} is on {}, reached through {through}", one.endpoint.address, node.name)
                }
                (None, Some(gone)) => {
                    format!("{} is on {gone}, which is no node of the cluster any more", one.endpoint.address)
                }
                (None, None) => format!("{} is on no known node: routed as it is", one.endpoint.address),
            };
            if let Some(hop) = self.hops.last_mut() {
                hop.lines.push(Line { mark: Mark::Taken, text });
            }
        }
    }

    fn gateway(&mut self, to: &Target) -> Result<String, Dead> {
        let world = self.world;
        let secure = to.scheme == Scheme::Https;
        let host = Host::parse(&to.host)
            .map_err(|error| format!("the gateway answers 400: {:?} is {error}", to.host))?;
        let path =
            NormalPath::parse(&to.path).map_err(|error| format!("the gateway answers 400: {error}"))?;
        let mut steps = Vec::new();
        let decision = world.routes.decide(&host, &path, secure, &mut steps);
        let lines = self.hop(format!("Gateway: which rule has {host}{}?", path.as_str()));
        lines.extend(steps.iter().map(phrase::route_step));
        if secure {
            let certificate = world.routes.server(&host).and_then(|server| server.certificate.as_ref());
            let text = match certificate {
                Some(secret) => format!("TLS with the certificate of Secret {secret}"),
                None => "TLS with the gateway's own certificate: no Ingress gives this host one".to_owned(),
            };
            lines.push(Line { mark: Mark::Note, text });
        }
        match decision {
            Decision::NotFound => {
                Err("the gateway, which answers 404: no rule matches and there is no default backend".into())
            }
            Decision::RedirectToHttps(location) => Ok(format!(
                "the gateway, which answers 308 to https: {} has a certificate (ssl-redirect)",
                location.origin
            )),
            Decision::Forward(location) => self.backend(&location.backend),
            Decision::Default(_, backend) => self.backend(backend),
        }
    }

    fn backend(&mut self, backend: &Backend) -> Result<String, Dead> {
        let world = self.world;
        let service = world.network.services.get(&backend.service);
        let port = service.and_then(|service| service.find_port(&backend.port.0));
        let lines = self.hop(format!("Gateway: endpoints of {backend}"));
        let (Some(service), Some(port)) = (service, port) else {
            let missing =
                if service.is_none() { "there is no such Service" } else { "the Service has no such port" };
            lines.push(Line { mark: Mark::Lost, text: missing.to_owned() });
            return Err(format!("the gateway, which answers 503: {missing} ({backend})"));
        };
        let taken: Vec<&PortEndpoint> = select_anywhere(&port.endpoints).collect();
        lines.extend(
            port.endpoints
                .iter()
                .map(|one| phrase::endpoint(one, taken.iter().any(|kept| std::ptr::eq(*kept, one)))),
        );
        if taken.is_empty() {
            return Err(format!(
                "the gateway, which answers 503: Service {} has no ready endpoint",
                service.key
            ));
        }
        Ok(reached(service, port, &taken))
    }
}

/// What one name gave.
enum Asked {
    Addresses(Vec<IpAddr>),
    Nothing,
    Elsewhere(Name),
}

fn ask(world: &World, asked: Name, lines: &mut Vec<Line>) -> Asked {
    let mut name = asked;
    for _ in 0..ALIAS_STEPS_MAX {
        let mut steps = Vec::new();
        let outcome = world.zone.answer(&name, number::A, &mut steps);
        let reasons = steps.iter().filter_map(phrase::zone_step);
        match outcome {
            Outcome::Answer(answer) => {
                let addresses = addresses(&answer);
                let (mark, result) = match (addresses.is_empty(), answer.rcode) {
                    (false, _) => (
                        Mark::Taken,
                        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                    ),
                    (true, Rcode::NoError) => (Mark::Lost, "exists, without address".to_owned()),
                    (true, rcode) => (Mark::Lost, rcode.label().to_owned()),
                };
                lines.push(Line { mark, text: format!("{name} {result}") });
                lines.extend(reasons);
                return if addresses.is_empty() { Asked::Nothing } else { Asked::Addresses(addresses) };
            }
            Outcome::Alias { target, .. } => {
                lines.push(Line { mark: Mark::Taken, text: format!("{name} is an alias of {target}") });
                lines.extend(reasons);
                name = target;
            }
            Outcome::Forward => {
                lines.push(Line {
                    mark: Mark::Note,
                    text: format!("{name} is outside the cluster domain: forwarded upstream"),
                });
                return Asked::Elsewhere(name);
            }
        }
    }
    lines.push(Line { mark: Mark::Lost, text: format!("{name}: aliases lead in a circle; SERVFAIL") });
    Asked::Nothing
}

fn addresses(answer: &Answer) -> Vec<IpAddr> {
    let address = |data: &Data| match data {
        Data::A(address) => Some(IpAddr::V4(*address)),
        Data::Aaaa(address) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    answer.answers.iter().filter_map(|record| address(&record.data)).collect()
}

fn source_lines(
    asker: &Asker<'_>,
    endpoints: &[&PortEndpoint],
    seen: impl Fn(&PortEndpoint) -> SourceAddress,
) -> Vec<Line> {
    let mut distinct: Vec<SourceAddress> = endpoints.iter().map(|one| seen(one)).collect();
    distinct.sort();
    distinct.dedup();
    let text = |one: &SourceAddress| match one {
        SourceAddress::Kept => format!("the endpoint sees {}, the client itself", asker.source.address()),
        SourceAddress::Masqueraded(why) => {
            format!("the endpoint sees the address of {}: {}", asker.node.name, phrase::masquerade(*why))
        }
    };
    distinct.iter().map(|one| Line { mark: Mark::Note, text: text(one) }).collect()
}

fn reached(service: &Service, port: &ServicePort, endpoints: &[&PortEndpoint]) -> String {
    let name = |one: &&PortEndpoint| match &one.endpoint.pod {
        Some(pod) => format!("pod {} at {}", pod.name, one.socket()),
        None => one.socket().to_string(),
    };
    let list: Vec<String> = endpoints.iter().map(name).collect();
    let choice = if list.len() == 1 { "" } else { "one of " };
    format!("Service {} port {}: {choice}{}", service.key, port.port, list.join(", "))
}
