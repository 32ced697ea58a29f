//! From one state of the kernel to another in one transaction. Pure.
//!
//! [`update`] goes from one compiled ruleset to the next and touches only what differs. [`repair`] starts from what was read from the kernel,
//! whatever that is: a table of an earlier run of this program, a damaged one, or none.

use fairway_model::{Frontend, PortNumber, Protocol};
use fairway_netfilter::conntrack::FlowFilters;
use fairway_netfilter::{
    Chain, Command, Comment, Element, Flow, FlowFilter, InstalledTable, Name, Rule, Set, Table, Transaction,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use imbl::OrdMap;
use imbl::ordmap::DiffItem as MapDiff;
use imbl::ordset::DiffItem as SetDiff;

use crate::layout;
use crate::ruleset::{
    BalanceChain, FrontendRules, Outcome, Placed, Ruleset, address_member, hairpin_member, protocol,
};

/// What has to be done for a change.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// For nftables.
    pub transaction: Transaction,
    /// For connection tracking, afterwards: UDP flows that the old rules made and the new ones would not.
    pub stale_flows: FlowFilters,
}

/// From `old` to `new`, of the same family; `new` is best a changed copy of `old`, then what they share is not looked at.
pub fn update(old: &Ruleset, new: &Ruleset) -> Change {
    let mut delta = Delta::default();
    let mut stale = Vec::new();
    for item in old.frontends().diff(new.frontends()) {
        let (frontend, before, after) = match item {
            MapDiff::Add(frontend, after) => (frontend, None, Some(after.as_ref())),
            MapDiff::Update { old: (frontend, before), new: (_, after) } => {
                (frontend, Some(before.as_ref()), Some(after.as_ref()))
            }
            MapDiff::Remove(frontend, before) => (frontend, Some(before.as_ref()), None),
        };
        let elements =
            |rules: Option<&FrontendRules>| rules.map(|rules| rules.elements(frontend)).unwrap_or_default();
        delta.between(elements(before), elements(after));
        stale.extend(stale_flows(frontend, before, after));
    }
    for (set, old, new) in [
        (layout::CLUSTER_IPS, &old.cluster_ips, &new.cluster_ips),
        (layout::ANNOUNCED, &old.announced, &new.announced),
    ] {
        for item in old.diff(new) {
            match item {
                SetDiff::Add(address) => delta.add(address_member(set.clone(), *address)),
                SetDiff::Remove(address) => delta.delete(address_member(set.clone(), *address)),
            }
        }
    }
    let (came, went) = keys_changed(old.hairpin(), new.hairpin());
    came.into_iter().for_each(|address| delta.add(hairpin_member(address)));
    went.into_iter().for_each(|address| delta.delete(hairpin_member(address)));
    if old.ranges != new.ranges {
        delta.between(old.ranges.elements(), new.ranges.elements());
    }
    let (needed, unneeded) = keys_changed(old.chains(), new.chains());
    let mut transaction = Transaction::new(layout::table(new.family));
    needed.into_iter().for_each(|chain| add_balance_chain(&mut transaction, chain));
    delta.push_to(&mut transaction);
    unneeded.into_iter().for_each(|chain| remove_chain(&mut transaction, &chain.name()));
    Change { transaction, stale_flows: stale.into_iter().collect() }
}

/// Keys that only the new map has, and those that only the old one has.
fn keys_changed<K: Ord + Copy>(old: &OrdMap<K, u32>, new: &OrdMap<K, u32>) -> (Vec<K>, Vec<K>) {
    let (mut came, mut went) = (Vec::new(), Vec::new());
    for item in old.diff(new) {
        match item {
            MapDiff::Add(key, _) => came.push(*key),
            MapDiff::Remove(key, _) => went.push(*key),
            MapDiff::Update { .. } => {}
        }
    }
    (came, went)
}

/// UDP clients keep their source port, so their flow would stay with an endpoint that left, or with the refusal of a Service that had none.
fn stale_flows(
    frontend: &Frontend,
    old: Option<&FrontendRules>,
    new: Option<&FrontendRules>,
) -> Vec<FlowFilter> {
    if frontend.protocol != Protocol::Udp {
        return Vec::new();
    }
    let filter = |endpoint| FlowFilter {
        protocol: protocol(frontend.protocol),
        address: frontend.address,
        port: frontend.port.number(),
        endpoint,
    };
    let (before, after) = (endpoints(old), endpoints(new));
    if before.is_empty() && !after.is_empty() {
        return vec![filter(None)];
    }
    before.difference(&after).map(|endpoint| filter(Some(*endpoint))).collect()
}

/// Whether the rules would not make this flow: it goes to an endpoint that its frontend does not have.
pub fn is_stale(flow: &Flow, ruleset: &Ruleset) -> bool {
    let to = flow.original.destination;
    let Some(port) =
        PortNumber::new(to.port().into()).filter(|_| flow.protocol == fairway_netfilter::Protocol::Udp)
    else {
        return false;
    };
    let at = |address| ruleset.frontends().get(&Frontend { address, protocol: Protocol::Udp, port });
    // A flow that was not rewritten is to a port of this node itself, unless it is to a Service's own address.
    let node_port = || at(None).filter(|_| flow.reply.source != to);
    at(Some(to.ip()))
        .or_else(node_port)
        .is_some_and(|rules| !endpoints(Some(rules)).contains(&flow.reply.source))
}

fn endpoints(rules: Option<&FrontendRules>) -> BTreeSet<SocketAddr> {
    let outcomes = rules.into_iter().flat_map(|rules| std::iter::once(&rules.outcome).chain(&rules.outside));
    outcomes.flat_map(Outcome::endpoints).copied().collect()
}

fn add_balance_chain(transaction: &mut Transaction, chain: BalanceChain) {
    let family = transaction.table.family;
    transaction.push(Command::AddChain(Chain {
        name: chain.name(),
        base: None,
        comment: Comment::default(),
    }));
    layout::balance_rules(family, chain)
        .into_iter()
        .for_each(|rule| transaction.push(Command::AddRule(rule)));
}

fn remove_chain(transaction: &mut Transaction, name: &Name) {
    transaction.push(Command::FlushChain(name.clone()));
    transaction.push(Command::DeleteChain(name.clone()));
}

/// Elements to delete and to add, by set.
#[derive(Default)]
struct Delta {
    delete: BTreeMap<Name, Vec<Element>>,
    add: BTreeMap<Name, Vec<Element>>,
}

impl Delta {
    /// What leads from `old` to `new`. An element whose value or comment differs is replaced.
    fn between(&mut self, old: impl IntoIterator<Item = Placed>, new: impl IntoIterator<Item = Placed>) {
        let old: BTreeSet<Placed> = old.into_iter().collect();
        let new: BTreeSet<Placed> = new.into_iter().collect();
        old.difference(&new).for_each(|placed| self.delete(placed.clone()));
        new.difference(&old).for_each(|placed| self.add(placed.clone()));
    }

    fn add(&mut self, (set, element): Placed) {
        self.add.entry(set).or_default().push(element);
    }

    fn delete(&mut self, (set, element): Placed) {
        self.delete.entry(set).or_default().push(element);
    }

    /// Deletes before it adds: a key that gets another value is free by then.
    fn push_to(self, transaction: &mut Transaction) {
        self.delete.into_iter().for_each(|(set, elements)| transaction.delete_elements(&set, elements));
        self.add.into_iter().for_each(|(set, elements)| transaction.add_elements(&set, elements));
    }
}

/// What is in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Installed {
    /// Chains, rules and set declarations; `None`: no table.
    pub table: Option<InstalledTable>,
    /// All elements of our sets.
    pub elements: Vec<Placed>,
}

/// From whatever is installed to `wanted`; an empty transaction when that is the same.
pub fn repair(installed: &Installed, wanted: &Ruleset) -> Transaction {
    let family = wanted.family;
    let mut transaction = Transaction::new(layout::table(family));
    let sets = layout::sets(family);
    let mut chains: Vec<Chain> = layout::chains();
    let balance: Vec<BalanceChain> = wanted.chains().keys().copied().collect();
    chains.extend(balance.iter().map(|chain| Chain {
        name: chain.name(),
        base: None,
        comment: Comment::default(),
    }));
    let mut rules = layout::rules(family);
    rules.extend(balance.iter().flat_map(|chain| layout::balance_rules(family, *chain)));
    match installed.table.as_ref().filter(|table| fits(table, &sets, &chains)) {
        Some(table) => {
            repair_table(&mut transaction, table, &sets, &chains, &rules, &installed.elements, wanted)
        }
        None => {
            // Set types and hooks of what is there cannot be changed: a new table takes the place of the old one in the same instant.
            transaction.push(Command::AddTable(Table { comment: table_comment() }));
            if installed.table.is_some() {
                transaction.push(Command::DeleteTable);
                transaction.push(Command::AddTable(Table { comment: table_comment() }));
            }
            sets.into_iter().for_each(|set| transaction.push(Command::AddSet(set)));
            chains.into_iter().for_each(|chain| transaction.push(Command::AddChain(chain)));
            rules.into_iter().for_each(|rule| transaction.push(Command::AddRule(rule)));
            let mut delta = Delta::default();
            delta.between([], wanted.elements());
            delta.push_to(&mut transaction);
        }
    }
    transaction
}

/// For people who list the table.
pub fn table_comment() -> Comment {
    Comment::new("Services of Kubernetes; kept by fairway, changes are undone")
}

/// Whether what is there can be kept: no set of another type, no chain at another hook.
fn fits(table: &InstalledTable, sets: &[Set], chains: &[Chain]) -> bool {
    let set_fits = |set: &Set| table.sets.get(&set.name).is_none_or(|found| *found == set.installed());
    let chain_fits = |chain: &Chain| {
        table.chains.get(&chain.name).is_none_or(|found| found.base == chain.installed_base())
    };
    let foreign_base = table
        .chains
        .iter()
        .any(|(name, chain)| chain.base.is_some() && !chains.iter().any(|ours| ours.name == *name));
    sets.iter().all(set_fits) && chains.iter().all(chain_fits) && !foreign_base
}

fn repair_table(
    transaction: &mut Transaction,
    table: &InstalledTable,
    sets: &[Set],
    chains: &[Chain],
    rules: &[Rule],
    elements: &[Placed],
    wanted: &Ruleset,
) {
    for set in sets.iter().filter(|set| !table.sets.contains_key(&set.name)) {
        transaction.push(Command::AddSet(set.clone()));
    }
    for chain in chains.iter().filter(|chain| !table.chains.contains_key(&chain.name)) {
        transaction.push(Command::AddChain(chain.clone()));
    }
    for chain in chains {
        let want: Vec<&Rule> = rules.iter().filter(|rule| rule.chain == chain.name).collect();
        let found = table.chains.get(&chain.name).map(|chain| chain.rules.as_slice()).unwrap_or_default();
        let same = want.len() == found.len()
            && want.iter().zip(found).all(|(rule, found)| found.fingerprint == Some(rule.fingerprint()));
        if !same {
            if !found.is_empty() {
                transaction.push(Command::FlushChain(chain.name.clone()));
            }
            want.into_iter().for_each(|rule| transaction.push(Command::AddRule(rule.clone())));
        }
    }
    let mut delta = Delta::default();
    delta.between(elements.iter().cloned(), wanted.elements());
    delta.push_to(transaction);
    let surplus: Vec<&Name> =
        table.chains.keys().filter(|name| !chains.iter().any(|chain| chain.name == **name)).collect();
    // They may call each other: emptied before any is deleted.
    surplus.iter().for_each(|name| transaction.push(Command::FlushChain((*name).clone())));
    surplus.into_iter().for_each(|name| transaction.push(Command::DeleteChain(name.clone())));
    for set in table.sets.keys().filter(|name| !sets.iter().any(|set| set.name == **name)) {
        transaction.push(Command::DeleteSet(set.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fairway_model::{Frontends, Network, Service};
    use fairway_netfilter::Family;

    use super::*;
    use crate::compile::{Place, compile};
    use crate::example;

    fn world(services: Vec<Service>) -> Network {
        let mut network = example::network();
        network.services =
            services.into_iter().map(|service| (service.key.clone(), Arc::new(service))).collect();
        network
    }

    fn compiled(network: &Network, installed: &Ruleset) -> Ruleset {
        let node = example::node("a", 2);
        let place = Place { node: &node, family: Family::Ip, load_balancer_ranges: &[] };
        compile(network, &Frontends::build(network), &place, installed)
    }

    fn pods(lasts: impl IntoIterator<Item = u8>) -> Vec<(String, &'static str)> {
        lasts.into_iter().map(|last| (format!("10.244.2.{last}"), "b")).collect()
    }

    fn service(name: &str, lasts: impl IntoIterator<Item = u8>) -> Service {
        let pods = pods(lasts);
        example::service(
            name,
            &pods.iter().map(|(address, node)| (address.as_str(), *node)).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn no_change_is_an_empty_transaction() {
        let ruleset = compiled(&world(vec![service("web", 1..4)]), &Ruleset::empty(Family::Ip));
        let change = update(&ruleset, &ruleset.clone());
        assert!(change.transaction.is_empty() && change.stale_flows.is_empty());
    }

    #[test]
    fn an_endpoint_that_is_replaced_costs_one_element_whatever_the_number_of_endpoints() {
        let before = compiled(&world(vec![service("web", 1..100)]), &Ruleset::empty(Family::Ip));
        let after = compiled(&world(vec![service("web", (1..50).chain(51..101))]), &before);
        let change = update(&before, &after);
        assert_eq!(change.transaction.element_count(), 2, "one deleted, one added: {:?}", change.transaction);
        let fewer = compiled(&world(vec![service("web", (1..50).chain(51..100))]), &before);
        // Its slot, the last slot, the verdict: each deleted, two of them added again.
        assert_eq!(update(&before, &fewer).transaction.element_count(), 5);
    }

    #[test]
    fn stale_udp_flows() {
        let udp = |lasts: &[u8]| {
            let mut service = service("dns", lasts.iter().copied());
            service.ports[0].protocol = Protocol::Udp;
            world(vec![service])
        };
        let none = compiled(&udp(&[]), &Ruleset::empty(Family::Ip));
        let two = compiled(&udp(&[1, 2]), &none);
        let one = compiled(&udp(&[2]), &two);
        let filter = |endpoint: Option<u8>| FlowFilter {
            protocol: fairway_netfilter::Protocol::Udp,
            address: Some([10, 96, 0, 20].into()),
            port: 80,
            endpoint: endpoint.map(|last| ([10, 244, 2, last], 8080).into()),
        };
        let filters = |filters: &[FlowFilter]| filters.iter().copied().collect::<FlowFilters>();
        assert_eq!(update(&none, &two).stale_flows, filters(&[filter(None)]));
        assert_eq!(update(&two, &one).stale_flows, filters(&[filter(Some(1))]));
        assert_eq!(update(&one, &two).stale_flows, filters(&[]));
        let flow = |to: [u8; 4], endpoint: u8| {
            let client = ([10, 244, 1, 9], 4000).into();
            let reply = fairway_netfilter::conntrack::Tuple {
                source: ([10, 244, 2, endpoint], 8080).into(),
                destination: client,
            };
            let original =
                fairway_netfilter::conntrack::Tuple { source: client, destination: (to, 80).into() };
            Flow { protocol: fairway_netfilter::Protocol::Udp, original, reply, id: 1 }
        };
        assert!(is_stale(&flow([10, 96, 0, 20], 1), &one), "left by an earlier run");
        assert!(!is_stale(&flow([10, 96, 0, 20], 2), &one));
        assert!(!is_stale(&flow([10, 96, 0, 21], 1), &one), "not a Service");
        let gone = Ruleset::empty(Family::Ip);
        assert_eq!(update(&two, &gone).stale_flows, filters(&[filter(Some(1)), filter(Some(2))]));
    }
}
