//! The laws of changes: compiling what changed is compiling everything, and a change leads where a fresh start does.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_model::{
    Affinity, Condition, Frontends, Network, NodeName, PortNumber, Protocol, Service, ServiceKey,
    TrafficPolicy,
};
use fairway_netfilter::{Command, Data, Element, Family, Name, Rule, Transaction};
use ipnet::IpNet;

use crate::change::{Installed, repair, update};
use crate::compile::{Place, Replaced, Touched, compile, compile_changed};
use crate::example;
use crate::ruleset::{Outcome, Ruleset};

const SEQUENCES: u64 = 300;
const STEPS: usize = 12;
const STICKY: Affinity = Affinity::ClientIp { timeout_s: 10_800 };

/// splitmix64: the same worlds in every run.
struct Seed(u64);

impl Seed {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn last(&mut self) -> u8 {
        u8::try_from(1 + self.below(3)).unwrap()
    }
}

/// A Service whose addresses others may claim too.
fn random_service(seed: &mut Seed, name: &str) -> Service {
    const PODS: [(&str, &str); 5] = [
        ("10.244.1.5", "a"),
        ("10.244.1.6", "a"),
        ("10.244.2.5", "b"),
        ("10.244.2.6", "b"),
        ("fd00::5", "a"),
    ];
    let pods: Vec<_> = PODS.into_iter().filter(|_| seed.below(3) > 0).collect();
    let mut service = example::service(name, &pods);
    service.created_s = i64::from(seed.last());
    for index in 0..pods.len() {
        if seed.one_in(4) {
            example::set_condition(&mut service, index, Condition::Draining);
        }
    }
    let port = &mut service.ports[0];
    port.protocol = [Protocol::Tcp, Protocol::Udp][seed.below(2)];
    port.port = PortNumber::new(80 + i64::from(seed.last())).unwrap();
    port.node_port = seed.one_in(2).then(|| PortNumber::new(30_000 + i64::from(seed.last())).unwrap());
    let ips = example::virtual_ips(&mut service);
    ips.affinity =
        [Affinity::None, Affinity::None, STICKY, Affinity::ClientIp { timeout_s: 60 }][seed.below(4)];
    ips.cluster_ips = vec![[10, 96, 0, seed.last()].into()];
    if seed.one_in(2) {
        ips.external_ips = vec![[10, 96, 0, seed.last()].into(), [192, 0, 2, seed.last()].into()];
    }
    if seed.one_in(2) {
        ips.load_balancer = vec![[10, 200, 0, 130 + seed.last()].into()];
    }
    if seed.one_in(3) {
        ips.source_ranges = vec![
            format!("10.{}.0.0/16", seed.last()).parse().unwrap(),
            format!("10.{}.7.0/24", seed.last()).parse().unwrap(),
        ];
    }
    if seed.one_in(3) {
        ips.external_policy = TrafficPolicy::Local;
    }
    if seed.one_in(4) {
        ips.internal_policy = TrafficPolicy::Local;
    }
    service
}

/// A few changes to the network, as the world would tell them.
fn step(seed: &mut Seed, network: &mut Network, frontends: &mut Frontends) -> Touched {
    let mut touched = Touched::default();
    for name in ["one", "two", "three", "four"] {
        if seed.one_in(2) {
            continue;
        }
        let key = ServiceKey::new("shop", name);
        let after = (!seed.one_in(4)).then(|| Arc::new(random_service(seed, name)));
        let before = match &after {
            Some(service) => network.services.insert(key, service.clone()),
            None => network.services.remove(&key),
        };
        touched.frontends.extend(frontends.replace(before.as_deref(), after.as_deref()));
        touched.services.push(Replaced { before, after });
    }
    for name in ["a", "b"] {
        if seed.one_in(6) {
            let node = network.nodes.get_mut(&NodeName::from(name)).unwrap();
            let node = Arc::make_mut(node);
            node.ready = !node.ready;
            touched.nodes.insert(node.name.clone());
        }
    }
    touched
}

/// What the kernel does with transactions, as far as it matters here.
#[derive(Debug, Default, PartialEq)]
struct Table {
    chains: BTreeMap<Name, Vec<Rule>>,
    elements: BTreeMap<(Name, Data), Element>,
}

impl Table {
    fn apply(&mut self, transaction: &Transaction) {
        for command in &transaction.commands {
            match command {
                Command::AddTable(_) | Command::AddSet(_) => {}
                Command::AddChain(chain) => drop(self.chains.entry(chain.name.clone()).or_default()),
                Command::AddRule(rule) => self.chains.get_mut(&rule.chain).unwrap().push(rule.clone()),
                Command::FlushChain(name) => self.chains.get_mut(name).unwrap().clear(),
                Command::DeleteChain(name) => assert_eq!(self.chains.remove(name), Some(Vec::new())),
                Command::AddElements { set, elements } => {
                    for element in elements {
                        let key = (set.clone(), identity(element));
                        assert_eq!(
                            self.elements.insert(key, element.clone()),
                            None,
                            "{element:?} twice in {set}"
                        );
                    }
                }
                Command::DeleteElements { set, elements } => {
                    for element in elements {
                        let removed = self.elements.remove(&(set.clone(), identity(element)));
                        assert!(removed.is_some(), "{element:?} is not in {set}");
                    }
                }
                other => panic!("not in a change: {other:?}"),
            }
        }
    }
}

/// Ranges may begin where another ends.
fn identity(element: &Element) -> Data {
    let value = match &element.value {
        fairway_netfilter::Value::RangeEnd => Data::raw(&[1]),
        fairway_netfilter::Value::Through(last) => last.clone(),
        _ => Data::new(),
    };
    Data::raw(&[element.key.as_bytes(), value.as_bytes()].concat())
}

/// A kernel that was empty.
fn fresh(wanted: &Ruleset) -> Table {
    let mut table = Table::default();
    table.apply(&repair(&Installed::default(), wanted));
    table
}

/// Which slot an endpoint has depends on what was there before; nothing else does.
fn without_slots(ruleset: &Ruleset) -> Ruleset {
    let mut sorted = ruleset.clone();
    for (frontend, rules) in ruleset.frontends() {
        let mut rules = rules.as_ref().clone();
        for outcome in std::iter::once(&mut rules.outcome).chain(&mut rules.outside) {
            if let Outcome::Balance { endpoints, .. } = outcome {
                endpoints.sort();
            }
        }
        sorted.put(*frontend, Some(Arc::new(rules)));
    }
    sorted
}

#[test]
fn a_change_leads_where_a_fresh_start_does() {
    let balancer: [IpNet; 1] = ["10.200.0.128/25".parse().unwrap()];
    for number in 0..SEQUENCES {
        let mut seed = Seed(number);
        let (mut network, mut frontends) = (example::network(), Frontends::default());
        let family = [Family::Ip, Family::Ip6][usize::from(number % 5 == 0)];
        let mut installed = Ruleset::empty(family);
        let mut table = fresh(&installed);
        for at in 0..STEPS {
            let touched = step(&mut seed, &mut network, &mut frontends);
            let node = &network.nodes[&NodeName::from("a")];
            let place = Place { node, family, load_balancer_ranges: &balancer };
            let changed = compile_changed(&network, &frontends, &place, &installed, &touched);
            let whole = compile(&network, &frontends, &place, &installed);
            assert_eq!(changed, whole, "sequence {number}, step {at}");
            let anew = compile(&network, &Frontends::build(&network), &place, &Ruleset::empty(family));
            assert_eq!(without_slots(&changed), without_slots(&anew), "sequence {number}, step {at}");
            table.apply(&update(&installed, &changed).transaction);
            assert_eq!(table, fresh(&changed), "sequence {number}, step {at}");
            installed = changed;
        }
    }
}
