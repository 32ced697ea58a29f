//! The kernel of the node: tables, flows, the addresses that it answers for. Thin; what to do is decided by [`crate::change`].

mod arp;

use std::collections::BTreeSet;
use std::net::IpAddr;

use fairway_netfilter::{Command, Conntrack, Family, Name, Socket, Table, Transaction};
use fairway_netns::{Links, Netns};
use ipnet::IpNet;

use crate::change::{self, Change, Installed};
use crate::layout;
use crate::ruleset::Ruleset;

/// Where load-balancer addresses live: the kernel answers ARP for them on every interface, also when this program is gone.
const LOOPBACK: &str = "lo";

/// An exchange with the kernel that failed. The rules that were there stay in force; the agent reads them back and tries again.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// nftables or connection tracking.
    #[error("Services on this node: {0}")]
    Netfilter(#[from] fairway_netfilter::Error),
    /// Links and addresses.
    #[error("load-balancer addresses on this node: {0}")]
    Links(#[from] fairway_netns::Error),
    /// Opening sockets in the namespace.
    #[error("cannot enter the node's network namespace: {0}")]
    Enter(std::io::Error),
    /// The gratuitous ARP: neighbours go on sending to the previous node until their entry expires.
    #[error(
        "cannot announce {address} on {interface}: {source}; neighbours may reach it only after their ARP entry expired"
    )]
    Announce {
        /// The load-balancer address.
        address: IpAddr,
        /// The interface.
        interface: String,
        /// The error of the system call.
        source: std::io::Error,
    },
}

/// Open sockets to one network namespace.
#[derive(Debug)]
pub struct Kernel {
    socket: Socket,
    conntrack: Conntrack,
    links: Links,
    netns: Netns,
    /// What [`Socket::generation`] says if nobody but us changes anything.
    expected_generation: Option<u32>,
}

impl Kernel {
    /// Opens the sockets.
    pub fn open(netns: &Netns) -> Result<Self, KernelError> {
        let opened = netns.run(|| Ok(Socket::open().and_then(|socket| Ok((socket, Conntrack::open()?)))));
        let (socket, conntrack) = opened.map_err(KernelError::Enter)??;
        Ok(Self {
            socket,
            conntrack,
            links: Links::open(netns)?,
            netns: netns.clone(),
            expected_generation: None,
        })
    }

    /// Everything of our table of that family that is ours to say: not the clients that packets remember.
    fn read(&mut self, family: Family) -> Result<Installed, KernelError> {
        let table = layout::table(family);
        let mut installed = Installed { table: self.socket.read_table(&table)?, elements: Vec::new() };
        let found = |name: &Name| installed.table.as_ref().is_some_and(|table| table.sets.contains_key(name));
        let ours = layout::sets(family).into_iter().filter(|set| !set.is_dynamic());
        let names: Vec<Name> = ours.map(|set| set.name).filter(found).collect();
        for name in names {
            let elements = self.socket.read_elements(&table, &name)?;
            installed.elements.extend(elements.into_iter().map(|element| (name.clone(), element)));
        }
        Ok(installed)
    }

    /// Makes the kernel hold `wanted` (one ruleset a family), whatever it holds now. False when it did already.
    pub fn repair(&mut self, wanted: &[Ruleset]) -> Result<bool, KernelError> {
        // Before reading: a change that comes meanwhile is then seen as one that is still to be looked at.
        self.expected_generation = Some(self.socket.generation()?);
        let mut changed = false;
        for ruleset in wanted {
            let transaction = change::repair(&self.read(ruleset.family)?, ruleset);
            changed |= !transaction.is_empty();
            self.commit(&transaction)?;
        }
        Ok(changed)
    }

    /// Applies a change whose starting point is known to be what is installed. Returns the number of UDP flows that were cut.
    pub fn apply(&mut self, change: &Change) -> Result<usize, KernelError> {
        self.commit(&change.transaction)?;
        if change.stale_flows.is_empty() {
            return Ok(0);
        }
        Ok(self.conntrack.delete(change.transaction.table.family, |flow| change.stale_flows.matches(flow))?)
    }

    /// Cuts the UDP flows that these rules would not make: what an earlier run of this program left. Returns their number.
    pub fn cut_stale_flows(&mut self, ruleset: &Ruleset) -> Result<usize, KernelError> {
        Ok(self.conntrack.delete(ruleset.family, |flow| change::is_stale(flow, ruleset))?)
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), KernelError> {
        if !transaction.is_empty() {
            self.socket.commit(std::slice::from_ref(transaction))?;
            // Zero is never a generation.
            self.expected_generation = self.expected_generation.map(|number| number.wrapping_add(1).max(1));
        }
        Ok(())
    }

    /// Whether somebody else changed something in nftables (not necessarily in our table) since it was last read.
    pub fn was_touched(&mut self) -> Result<bool, KernelError> {
        Ok(Some(self.socket.generation()?) != self.expected_generation)
    }

    /// Answers for exactly these addresses of `ranges`; returns those that are new here.
    pub fn answer_for(
        &mut self,
        wanted: &BTreeSet<IpAddr>,
        ranges: &[IpNet],
    ) -> Result<Vec<IpAddr>, KernelError> {
        let loopback = self.links.index(LOOPBACK)?;
        let is_ours = |address: &IpAddr| ranges.iter().any(|range| range.contains(address));
        let on_loopback = self.links.addresses()?.into_iter().filter(|one| one.link == loopback);
        let present: BTreeSet<IpAddr> = on_loopback.map(|one| one.address.addr()).filter(is_ours).collect();
        for address in present.difference(wanted) {
            self.links.remove_address(LOOPBACK, IpNet::from(*address))?;
        }
        let new: Vec<IpAddr> = wanted.difference(&present).copied().collect();
        for address in &new {
            self.links.add_address(LOOPBACK, IpNet::from(*address))?;
        }
        Ok(new)
    }

    /// Tells the neighbours on `interface` that these addresses are here (IPv4 only).
    pub fn announce(&mut self, addresses: &[IpAddr], interface: &str) -> Result<(), KernelError> {
        let Some(link) = self.links.find(interface)? else { return Ok(()) };
        let Some(mac) = link.mac else { return Ok(()) };
        for address in addresses {
            let IpAddr::V4(v4) = address else { continue };
            self.netns.run(|| arp::announce(link.index, mac, *v4)).map_err(|source| {
                KernelError::Announce { address: *address, interface: interface.into(), source }
            })?;
        }
        Ok(())
    }

    /// Removes our tables and the addresses of `ranges`. Repeatable.
    pub fn clean_up(&mut self, ranges: &[IpNet]) -> Result<(), KernelError> {
        for family in [Family::Ip, Family::Ip6] {
            let mut transaction = Transaction::new(layout::table(family));
            // Deleting needs something to delete.
            transaction.push(Command::AddTable(Table { comment: change::table_comment() }));
            transaction.push(Command::DeleteTable);
            self.commit(&transaction)?;
        }
        self.answer_for(&BTreeSet::new(), ranges)?;
        Ok(())
    }
}
