//! The host's nft table of a cluster: what leaves the cluster through the host gets the host's address.
//!
//! Only the table `ip fairway-<cluster>` is touched. It decides about nothing but source addresses of the cluster's own ranges.

use std::io;
use std::net::IpAddr;

use fairway_netfilter::object::NameError;
use fairway_netfilter::{
    Base, Chain, ChainKind, Command, Comment, Family, Field, Hook, Name, Relation, Rule, Socket, Statement,
    Table, TableId, Transaction,
};
use fairway_netns::Netns;
use ipnet::Ipv4Net;

use crate::error::Error;
use crate::settings::{ClusterName, Settings};

const POSTROUTING: Name = Name::fixed("postrouting");
/// `srcnat` of nft(8).
const PRIORITY_SOURCE_NAT: i32 = 100;

/// Puts the table in place, whatever was there under its name.
pub(crate) fn apply(settings: &Settings) -> Result<(), Error> {
    let networks = settings.networks;
    let outcome = table_id(&settings.name).map_err(io::Error::other).and_then(|id| {
        let mut socket = Socket::open().map_err(io::Error::other)?;
        socket.commit(&[replacement(id, &[networks.underlay(), networks.pods()])]).map_err(io::Error::other)
    });
    outcome.map_err(|error| failed(&settings.name, "set it up", &error))
}

/// Removes the table; false when there was none.
pub(crate) fn remove(name: &ClusterName) -> Result<bool, Error> {
    let refused = |error: &dyn std::error::Error| failed(name, "remove it", error);
    let id = table_id(name).map_err(|error| refused(&error))?;
    let mut socket = Socket::open().map_err(|error| refused(&error))?;
    let mut transaction = Transaction::new(id);
    transaction.push(Command::DeleteTable);
    match socket.commit(&[transaction]) {
        Ok(()) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(refused(&error)),
    }
}

/// Tries in a scratch namespace whether the kernel takes such a table.
pub(crate) fn probe(netns: &Netns) -> Result<(), String> {
    let id = TableId { family: Family::Ip, name: Name::fixed("fairway-probe") };
    let net = Ipv4Net::new_assert([192, 0, 2, 0].into(), 24);
    let commit = || {
        let mut socket = Socket::open().map_err(io::Error::other)?;
        socket.commit(&[replacement(id, &[net])]).map_err(io::Error::other)
    };
    netns.run(commit).map_err(|error| error.to_string())
}

fn failed(name: &ClusterName, action: &'static str, reason: &dyn std::error::Error) -> Error {
    Error::Table { table: name.table(), action, reason: reason.to_string() }
}

fn table_id(name: &ClusterName) -> Result<TableId, NameError> {
    Ok(TableId { family: Family::Ip, name: Name::parse(&name.table())? })
}

/// The table anew: what goes from one of the ranges to an address outside all of them is masqueraded.
fn replacement(id: TableId, ranges: &[Ipv4Net]) -> Transaction {
    let mut transaction = Transaction::new(id);
    let table =
        || Command::AddTable(Table { comment: Comment::new("local cluster: the way out through this host") });
    // Adding first makes the deletion succeed whether it was there or not.
    transaction.push(table());
    transaction.push(Command::DeleteTable);
    transaction.push(table());
    let base = Base { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: PRIORITY_SOURCE_NAT };
    transaction.push(Command::AddChain(Chain {
        name: POSTROUTING,
        base: Some(base),
        comment: Comment::default(),
    }));
    for source in ranges {
        let mut statements = vec![prefix(Field::IpSource, Relation::Is, *source)];
        statements.extend(ranges.iter().map(|range| prefix(Field::IpDestination, Relation::IsNot, *range)));
        statements.push(Statement::Masquerade);
        transaction.push(Command::AddRule(Rule {
            chain: POSTROUTING,
            statements,
            comment: Comment::default(),
        }));
    }
    transaction
}

fn prefix(field: Field, relation: Relation, net: Ipv4Net) -> Statement {
    Statement::Prefix { field, relation, address: IpAddr::V4(net.network()), prefix_len: net.prefix_len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_it_and_nft_reads_it_as_meant() {
        let netns = Netns::anonymous().unwrap();
        let id = TableId { family: Family::Ip, name: Name::fixed("fairway-dev") };
        let ranges = ["10.200.0.0/24".parse().unwrap(), "10.244.0.0/16".parse().unwrap()];
        for _ in 0..2 {
            let id = id.clone();
            let commit =
                || Socket::open().unwrap().commit(&[replacement(id, &ranges)]).map_err(io::Error::other);
            netns.run(commit).unwrap();
        }
        let mut nft = std::process::Command::new("nft");
        nft.args(["list", "table", "ip", "fairway-dev"]);
        netns.enter_on_spawn(&mut nft);
        let shown = nft.output().expect("needs the program nft (nftables)");
        let shown = String::from_utf8(shown.stdout).unwrap();
        let rules: Vec<&str> =
            shown.lines().map(str::trim).filter(|line| line.ends_with("masquerade fully-random")).collect();
        let want = [
            "ip saddr 10.200.0.0/24 ip daddr != 10.200.0.0/24 ip daddr != 10.244.0.0/16 masquerade fully-random",
            "ip saddr 10.244.0.0/16 ip daddr != 10.200.0.0/24 ip daddr != 10.244.0.0/16 masquerade fully-random",
        ];
        assert_eq!(rules, want, "{shown}");
    }
}
