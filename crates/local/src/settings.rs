//! What a cluster is: name, nodes, ranges, directories. Checked when made, saved in `cluster.json`, and the source from which every
//! address and name of the cluster is derived.

mod directories;
mod name;
mod networks;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::Path;

use fairway_netns::link_name;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use self::directories::{Directories, Roots};
pub use self::name::ClusterName;
pub(crate) use self::networks::overlaps;
pub use self::networks::{Networks, Range};
use crate::files::{self, FileError};

/// Nodes are processes and namespaces of one machine; more than this is not a local cluster.
pub const NODES_MAX: u8 = 64;
const NODE_POD_PREFIX: u8 = 24;

/// Why the settings cannot be used. Nothing was touched.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The name would not do as part of namespace, link and table names.
    #[error(
        "cluster name {name:?}: use 1 to 40 lower-case letters, digits and '-', beginning and ending with a letter or digit"
    )]
    Name {
        /// The name given.
        name: String,
    },
    /// Not 1 to [`NODES_MAX`].
    #[error("{nodes} nodes: give --nodes 1 to {NODES_MAX}")]
    Nodes {
        /// The number given.
        nodes: u8,
    },
    /// Port 0.
    #[error("API port 0 cannot be listened on; give --api-port 1 to 65535")]
    ApiPort,
    /// The domain is not a DNS name.
    #[error("cluster domain {domain:?} is not a DNS name such as cluster.local")]
    Domain {
        /// The domain given.
        domain: String,
    },
    /// A range is too small or too large for what it is for.
    #[error("{range} range {net}: {rule}")]
    Range {
        /// Which range.
        range: Range,
        /// The range given.
        net: Ipv4Net,
        /// What it would have to be.
        rule: &'static str,
    },
    /// Two ranges share addresses.
    #[error("the {one} range {one_net} and the {other} range {other_net} overlap; choose disjoint ranges")]
    Overlap {
        /// The first range.
        one: Range,
        /// The first range's addresses.
        one_net: Ipv4Net,
        /// The second range.
        other: Range,
        /// The second range's addresses.
        other_net: Ipv4Net,
    },
    /// A flag contradicts what the cluster was made with.
    #[error(
        "cluster {name} was made with {what} {saved}, not {given}: leave the flag out to go on with it, or forget the cluster first \
         (fairway down --name {name} --purge)"
    )]
    Conflict {
        /// The cluster.
        name: ClusterName,
        /// Which setting.
        what: &'static str,
        /// Its saved value.
        saved: String,
        /// What the flag says.
        given: String,
    },
}

/// What the user asked for; what is `None` comes from the saved settings or the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--nodes`
    pub nodes: Option<u8>,
    /// `--underlay`
    pub underlay: Option<Ipv4Net>,
    /// `--load-balancers`; the upper half of the underlay when only that is given.
    pub load_balancers: Option<Ipv4Net>,
    /// `--pods`
    pub pods: Option<Ipv4Net>,
    /// `--services`
    pub services: Option<Ipv4Net>,
    /// `--api-port`
    pub api_port: Option<u16>,
    /// `--cluster-domain`
    pub domain: Option<String>,
}

/// A checked description of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The cluster's name.
    pub name: ClusterName,
    nodes: u8,
    /// The ranges.
    pub networks: Networks,
    /// The port of the API server on [`Settings::host_address`].
    pub api_port: NonZeroU16,
    /// The domain of cluster DNS, without a dot at the end.
    pub domain: String,
    /// Where its files are.
    pub directories: Directories,
}

/// One node as planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `node-1`…
    pub name: String,
    /// Its address in the underlay.
    pub address: Ipv4Addr,
    /// The addresses of its pods.
    pub pods: Ipv4Net,
    /// Its network namespace.
    pub netns: String,
    /// The host's end of its link; the node's end is `eth0`.
    pub host_link: String,
}

impl Settings {
    /// Flags over saved settings over defaults. Ranges and domain of a saved cluster cannot change (objects hold addresses of them);
    /// nodes may be added, the API port may move.
    pub fn resolve(
        name: &ClusterName,
        roots: &Roots,
        flags: &Flags,
        saved: Option<&Settings>,
    ) -> Result<Self, SettingsError> {
        let settings = match saved {
            Some(saved) => {
                refuse_conflicts(saved, flags)?;
                Self {
                    nodes: flags.nodes.unwrap_or(saved.nodes),
                    api_port: flags.api_port.map_or(Ok(saved.api_port), port)?,
                    ..saved.clone()
                }
            }
            None => Self {
                name: name.clone(),
                nodes: flags.nodes.unwrap_or(2),
                networks: networks_of(flags)?,
                api_port: port(flags.api_port.unwrap_or(6443))?,
                domain: domain_of(flags)?,
                directories: Directories::new(roots, name),
            },
        };
        settings.check_nodes()?;
        Ok(settings)
    }

    fn check_nodes(&self) -> Result<(), SettingsError> {
        let nodes = self.nodes;
        if !(1..=NODES_MAX).contains(&nodes) {
            return Err(SettingsError::Nodes { nodes });
        }
        let networks = self.networks;
        let last = host_of(networks.underlay(), u32::from(nodes) + 1);
        if !networks.underlay().contains(&last) || networks.load_balancers().contains(&last) {
            let rule = "it leaves too few addresses below the load-balancer range for the nodes";
            return Err(SettingsError::Range { range: Range::Underlay, net: networks.underlay(), rule });
        }
        if !networks.pods().contains(&pod_range(networks.pods(), nodes)) {
            let rule = "it has no /24 for every node";
            return Err(SettingsError::Range { range: Range::Pods, net: networks.pods(), rule });
        }
        Ok(())
    }

    /// Reads a `cluster.json`. What is in it is checked like flags.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let bytes = files::read(path)?;
        let broken = |reason: String| FileError::Broken { path: path.to_owned(), reason };
        let settings: Self = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        settings.check_nodes().map_err(|error| broken(error.to_string()))?;
        Ok(settings)
    }

    /// The saved settings, or `None` when the cluster is new.
    pub fn load_if_any(path: &Path) -> Result<Option<Self>, FileError> {
        match Self::load(path) {
            Ok(settings) => Ok(Some(settings)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes `cluster.json`, whole or not at all.
    pub fn save(&self) -> Result<(), FileError> {
        let path = self.directories.settings_file();
        files::write_json(&path, self, 0o644)
    }

    /// The host's address on the bridge: the first of the underlay.
    pub fn host_address(&self) -> Ipv4Addr {
        host_of(self.networks.underlay(), 1)
    }

    /// Where the API server listens and is reached, from the host, nodes and (through the `kubernetes` Service) pods.
    pub fn api_address(&self) -> SocketAddr {
        SocketAddr::from((self.host_address(), self.api_port.get()))
    }

    /// The ClusterIP of `default/kubernetes`: the first of the service range.
    pub fn kubernetes_address(&self) -> Ipv4Addr {
        host_of(self.networks.services(), 1)
    }

    /// The ClusterIP of cluster DNS: the tenth of the service range.
    pub fn dns_address(&self) -> Ipv4Addr {
        host_of(self.networks.services(), 10)
    }

    /// The nodes in order.
    pub fn nodes(&self) -> Vec<Node> {
        (1..=self.nodes).map(|number| self.node(number)).collect()
    }

    /// The node of that name.
    pub fn find_node(&self, name: &str) -> Option<Node> {
        self.nodes().into_iter().find(|node| node.name == name)
    }

    fn node(&self, number: u8) -> Node {
        let name = format!("node-{number}");
        let netns = format!("fw-{}-{name}", self.name);
        Node {
            address: host_of(self.networks.underlay(), u32::from(number) + 1),
            pods: pod_range(self.networks.pods(), number),
            host_link: link_name(&netns),
            netns,
            name,
        }
    }
}

fn host_of(net: Ipv4Net, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(net.network()).wrapping_add(number))
}

fn pod_range(pods: Ipv4Net, number: u8) -> Ipv4Net {
    Ipv4Net::new_assert(host_of(pods, u32::from(number) << (32 - NODE_POD_PREFIX)), NODE_POD_PREFIX)
}

fn port(port: u16) -> Result<NonZeroU16, SettingsError> {
    NonZeroU16::new(port).ok_or(SettingsError::ApiPort)
}

fn networks_of(flags: &Flags) -> Result<Networks, SettingsError> {
    let defaults = Networks::default();
    let underlay = flags.underlay.unwrap_or(defaults.underlay()).trunc();
    let upper_half =
        underlay.subnets(underlay.prefix_len().saturating_add(1).min(32)).ok().and_then(Iterator::last);
    let load_balancers = flags.load_balancers.or(upper_half).unwrap_or(defaults.load_balancers());
    let pods = flags.pods.unwrap_or(defaults.pods());
    Networks::check(underlay, load_balancers, pods, flags.services.unwrap_or(defaults.services()))
}

fn domain_of(flags: &Flags) -> Result<String, SettingsError> {
    let domain =
        flags.domain.as_deref().unwrap_or("cluster.local").trim_end_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if domain.len() <= 200 && domain.split('.').all(label) {
        Ok(domain)
    } else {
        Err(SettingsError::Domain { domain })
    }
}

fn refuse_conflicts(saved: &Settings, flags: &Flags) -> Result<(), SettingsError> {
    let conflict = |what, saved_value: String, given: Option<String>| match given {
        Some(given) if given != saved_value => {
            Err(SettingsError::Conflict { name: saved.name.clone(), what, saved: saved_value, given })
        }
        _ => Ok(()),
    };
    let net = |net: Option<Ipv4Net>| net.map(|net| net.trunc().to_string());
    let networks = saved.networks;
    conflict("underlay", networks.underlay().to_string(), net(flags.underlay))?;
    conflict("load-balancer range", networks.load_balancers().to_string(), net(flags.load_balancers))?;
    conflict("pod range", networks.pods().to_string(), net(flags.pods))?;
    conflict("service range", networks.services().to_string(), net(flags.services))?;
    if flags.domain.is_some() {
        conflict("cluster domain", saved.domain.clone(), Some(domain_of(flags)?))?;
    }
    match flags.nodes {
        Some(nodes) if nodes < saved.nodes => {
            conflict("number of nodes", saved.nodes.to_string(), Some(format!("fewer ({nodes})")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
