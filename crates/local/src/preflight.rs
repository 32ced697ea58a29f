//! Everything that can be known to stand in the way, looked for before anything is touched.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use fairway_netns::{Links, Netns, Veth, write_sysctl};
use ipnet::{IpNet, Ipv4Net};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};

use crate::lock::SupervisorLock;
use crate::process;
use crate::settings::{Range, Settings};
use crate::underlay::{conflict, owned_links};

/// `linux/capability.h`: the twelfth bit.
const CAP_NET_ADMIN: u64 = 1 << 12;

/// One thing that has to be changed first, with what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not root.
    #[error("not root: network namespaces need it; run it again with sudo")]
    NotRoot,
    /// Another supervisor has the cluster.
    #[error(
        "cluster {name} is running already (process {pid}); see it with fairway status, stop it with fairway down"
    )]
    Running {
        /// The cluster.
        name: String,
        /// The supervisor.
        pid: u32,
    },
    /// Root of a user namespace, or root without its capabilities.
    #[error(
        "root has no rights over this machine's network ({reason}): run it as the machine's own root, in a container with --privileged"
    )]
    NoRights {
        /// What was tried and the answer.
        reason: String,
    },
    /// The kernel cannot do something.
    #[error("the kernel has no {feature}: {reason}; {remedy}")]
    Kernel {
        /// What is missing.
        feature: &'static str,
        /// What was tried and the answer.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Addresses that the host uses already.
    #[error("the {range} range {net} is in use on this machine ({taken} on link {link}); choose another with {}", range.flag())]
    RangeInUse {
        /// Which range.
        range: Range,
        /// Its addresses.
        net: Ipv4Net,
        /// What is there.
        taken: IpNet,
        /// On which link.
        link: String,
    },
    /// The port of the API server.
    #[error(
        "port {} for the API server is taken ({reason}); ss -ltnp shows by whom; choose another with --api-port",
        address.port()
    )]
    PortTaken {
        /// Where it would listen.
        address: SocketAddr,
        /// The answer of the kernel.
        reason: String,
    },
    /// A directory that cannot be written or is none.
    #[error("{path} cannot be used: {reason}; choose another with {flag}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
        /// The flag that moves it.
        flag: &'static str,
    },
    /// The saved settings are broken.
    #[error("{0}")]
    Saved(String),
}

/// All problems at once, most basic first. Creates nothing that is still there when it returns.
pub fn preflight(settings: &Settings) -> Vec<Problem> {
    if !nix::unistd::geteuid().is_root() {
        // Everything else would fail for this one reason.
        return vec![Problem::NotRoot];
    }
    let directories = &settings.directories;
    if let Some(pid) = SupervisorLock::holder(&directories.lock_file()) {
        // Its ranges and port are in use by itself.
        return vec![Problem::Running { name: settings.name.to_string(), pid }];
    }
    if let Err(problem) = rights() {
        return vec![problem];
    }
    let mut problems = kernel_features();
    problems.extend(ranges_in_use(settings));
    problems.extend(port_taken_by_others(settings));
    problems.extend(unusable_directory(&directories.state, "--state"));
    problems.extend(unusable_directory(&directories.run, "--run"));
    problems
}

/// Whether the host's own network may be changed: everything else would be refused for this one reason, too.
fn rights() -> Result<(), Problem> {
    let refused = |reason: String| Problem::NoRights { reason };
    let tried = Netns::host().and_then(|host| Links::open(&host));
    match tried {
        Err(error) if error.kind() == Some(std::io::ErrorKind::PermissionDenied) => {
            return Err(refused(
                "its network namespace cannot be entered: CAP_SYS_ADMIN is missing".to_owned(),
            ));
        }
        // Anything else is told by the looks that follow.
        _ => {}
    }
    let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match effective_capabilities(&own) {
        Some(held) if held & CAP_NET_ADMIN == 0 => Err(refused("CAP_NET_ADMIN is missing".to_owned())),
        _ => Ok(()),
    }
}

/// The set in the text of `/proc/<pid>/status` (capabilities(7)).
fn effective_capabilities(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

/// Tries everything that a cluster needs in a namespace that goes away at once.
fn kernel_features() -> Vec<Problem> {
    let modules = "load its module (modprobe veth bridge nf_tables) or use a kernel that has it";
    let missing = |feature, reason: String, remedy| Problem::Kernel { feature, reason, remedy };
    let netns = match Netns::anonymous() {
        Ok(netns) => netns,
        Err(error) => {
            let remedy = "use a kernel with CONFIG_NET_NS, and a container with CAP_SYS_ADMIN if this is one";
            return vec![missing("network namespaces", error.to_string(), remedy)];
        }
    };
    let mut problems = Vec::new();
    match Links::open(&netns) {
        Err(error) => problems.push(missing("route netlink", error.to_string(), modules)),
        Ok(mut links) => {
            if let Err(error) = links.create_bridge("probe-br") {
                problems.push(missing("bridges", error.to_string(), modules));
            }
            let veth = Veth { name: "probe-a", peer: "probe-b", peer_netns: &netns, mtu: None };
            if let Err(error) = links.create_veth(&veth) {
                problems.push(missing("veth links", error.to_string(), modules));
            }
        }
    }
    if let Err(error) = write_sysctl(&netns, "net/ipv4/ip_forward", "1") {
        let remedy = "mount /proc with /proc/sys writable (in a container: run it privileged)";
        problems.push(missing("way to set IPv4 forwarding", error.to_string(), remedy));
    }
    if let Err(reason) = crate::masquerade::probe(&netns) {
        problems.push(missing("nftables with NAT", reason, modules));
    }
    problems
}

fn ranges_in_use(settings: &Settings) -> Vec<Problem> {
    let networks = settings.networks;
    let ranges = [
        (Range::Underlay, networks.underlay()),
        (Range::Pods, networks.pods()),
        (Range::Services, networks.services()),
    ];
    let (taken, own) = match host_networks(settings) {
        Ok(found) => found,
        Err(error) => {
            let remedy = "route netlink is needed to see which addresses are in use";
            return vec![Problem::Kernel {
                feature: "usable route table",
                reason: error.to_string(),
                remedy,
            }];
        }
    };
    let in_use = |(range, net)| {
        let (taken, link) = conflict(net, &taken, &own)?;
        Some(Problem::RangeInUse { range, net, taken, link })
    };
    ranges.into_iter().filter_map(in_use).collect()
}

/// Addresses and routes with their links.
type Taken = Vec<(IpNet, String)>;

/// All addresses and routes of the host with their links, and the links that are leftovers of this very cluster.
fn host_networks(settings: &Settings) -> Result<(Taken, Vec<String>), fairway_netns::Error> {
    use fairway_netns::RouteKind;
    let mut links = Links::open(&Netns::host()?)?;
    let listed = links.list()?;
    let own = owned_links(&settings.name, &listed);
    let name_of = |index: u32| listed.iter().find(|link| link.index == index).map(|link| link.name.clone());
    let addresses = links.addresses()?;
    let mut taken: Taken = addresses
        .iter()
        .map(|found| (found.address, name_of(found.link).unwrap_or_else(|| "unknown".to_owned())))
        .collect();
    for route in links.routes()? {
        let link = match route.kind {
            RouteKind::Link(link) | RouteKind::GatewayOnLink { link, .. } => link,
            RouteKind::Gateway(gateway) => addresses
                .iter()
                .find(|near| near.address.contains(&gateway))
                .and_then(|near| name_of(near.link))
                .unwrap_or_else(|| format!("behind {gateway}")),
            RouteKind::Blackhole | RouteKind::Unreachable => "none".to_owned(),
        };
        taken.push((route.destination, link));
    }
    Ok((taken, own))
}

/// The API server of a crashed run is no problem: it is ended before the port is needed.
fn port_taken_by_others(settings: &Settings) -> Option<Problem> {
    let address = settings.api_address();
    port_taken(address)?;
    let leftovers = process::marked(&settings.name).unwrap_or_default();
    // Without leftovers the port may have come free just now, when the last of them died.
    if leftovers.is_empty() { port_taken(address) } else { None }
}

/// Binds where the API server will listen. The address need not exist yet; a listener on all addresses is met all the same.
fn port_taken(address: SocketAddr) -> Option<Problem> {
    let SocketAddr::V4(v4) = address else { return None };
    let try_bind = || -> nix::Result<()> {
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
        setsockopt(&fd, sockopt::IpFreebind, &true)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrIn::from(v4))
    };
    try_bind().err().map(|errno| Problem::PortTaken { address, reason: errno.desc().to_owned() })
}

/// Tries to write where the directory is or, when it is to be made, in the nearest directory above it.
fn unusable_directory(path: &Path, flag: &'static str) -> Option<Problem> {
    let nearest = path.ancestors().find(|ancestor| std::fs::symlink_metadata(ancestor).is_ok())?;
    let outcome = tempfile_in(nearest);
    outcome.err().map(|error| {
        let reason =
            if nearest == path { error.to_string() } else { format!("{}: {error}", nearest.display()) };
        Problem::Directory { path: path.to_owned(), reason, flag }
    })
}

/// Writes and removes a file.
fn tempfile_in(directory: &Path) -> std::io::Result<()> {
    if !std::fs::metadata(directory)?.is_dir() {
        return Err(std::io::Error::from(std::io::ErrorKind::NotADirectory));
    }
    let path = directory.join(format!(".fairway-probe-{}", std::process::id()));
    let written = std::fs::write(&path, b"probe");
    let removed = std::fs::remove_file(&path);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_taken_port_is_met_on_all_addresses_and_a_free_one_is_fine() {
        let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = everywhere.local_addr().unwrap().port();
        // An address of no link of this machine: it is made only after this check.
        let address = SocketAddr::from(([10, 251, 7, 1], port));
        let problem = port_taken(address).unwrap().to_string();
        assert!(problem.contains(&port.to_string()) && problem.contains("--api-port"), "{problem}");
        drop(everywhere);
        assert_eq!(port_taken(address), None);
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = SocketAddr::from(([10, 251, 7, 1], elsewhere.local_addr().unwrap().port()));
        assert_eq!(port_taken(address), None, "a listener on another address is not in the way");
    }

    #[test]
    fn a_directory_that_is_a_file_is_told_and_nothing_is_left_by_the_check() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let problem = unusable_directory(&file.join("state"), "--state").unwrap().to_string();
        assert!(problem.contains("--state") && problem.contains("file"), "{problem}");
        assert_eq!(unusable_directory(&directory.path().join("a/b/c"), "--state"), None);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_rights_of_a_process_are_read_from_its_status() {
        let status = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000001000\nCapBnd:\t0\n";
        assert_eq!(effective_capabilities(status), Some(CAP_NET_ADMIN));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
        assert_eq!(rights(), Ok(()));
    }

    #[test]
    fn this_kernel_has_everything() {
        assert_eq!(kernel_features(), []);
    }
}
