//! What can go wrong, with the object it went wrong on and what to do about it.

use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

/// A failed operation on a namespace or on something in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that the kernel or the file system would not take.
    #[error("{name:?} cannot name a {what}: {rule}")]
    InvalidName {
        /// What was to be named.
        what: &'static str,
        /// The name.
        name: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The namespace of that name does not exist.
    #[error("network namespace {name} does not exist")]
    NamespaceMissing {
        /// The name, as `ip netns` would show it.
        name: String,
    },
    /// A namespace could not be made, entered or removed.
    #[error("network namespace {netns}: cannot {action}: {source}{}", remedy(source))]
    Namespace {
        /// Which namespace.
        netns: String,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The link does not exist.
    #[error("link {link} does not exist in network namespace {netns}")]
    LinkMissing {
        /// Which namespace.
        netns: String,
        /// The link's name.
        link: String,
    },
    /// The kernel refused a request.
    #[error("{subject} in network namespace {netns}: cannot {action}: {source}{}", remedy(source))]
    Kernel {
        /// Which namespace.
        netns: String,
        /// Which object.
        subject: Subject,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// The reason given by the kernel, where there is one.
    pub fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Namespace { source, .. } | Self::Kernel { source, .. } => Some(source.kind()),
            Self::InvalidName { .. } | Self::NamespaceMissing { .. } | Self::LinkMissing { .. } => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = error.kind().unwrap_or(io::ErrorKind::NotFound);
        Self::new(kind, error)
    }
}

/// The object of a failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// All links.
    Links,
    /// One link by name.
    Link(String),
    /// An address on a link.
    Address {
        /// The link's name.
        link: String,
        /// The address with its prefix length.
        address: IpNet,
    },
    /// All addresses.
    Addresses,
    /// A route by destination.
    Route(IpNet),
    /// All routes.
    Routes,
    /// A neighbour entry.
    Neighbour {
        /// The link's name.
        link: String,
        /// The neighbour's address.
        address: IpAddr,
    },
    /// A value under `/proc/sys`.
    Sysctl(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Links => f.write_str("links"),
            Self::Link(name) => write!(f, "link {name}"),
            Self::Address { link, address } => write!(f, "address {address} of link {link}"),
            Self::Addresses => f.write_str("addresses"),
            Self::Route(destination) => write!(f, "route to {destination}"),
            Self::Routes => f.write_str("routes"),
            Self::Neighbour { link, address } => write!(f, "neighbour {address} on link {link}"),
            Self::Sysctl(key) => write!(f, "sysctl {key}"),
        }
    }
}

/// What the user can do about it, for the causes that have a remedy.
fn remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; run as root (CAP_SYS_ADMIN and CAP_NET_ADMIN are needed)",
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => {
            "; this kernel lacks the feature: load its module (modprobe veth bridge) or use a kernel with \
             CONFIG_NET_NS, CONFIG_VETH and CONFIG_BRIDGE"
        }
        Some(libc::ENOSPC | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => {
            "; the system is out of memory or file handles"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_object_the_namespace_and_the_remedy() {
        struct Case {
            name: &'static str,
            given: Error,
            want: &'static [&'static str],
        }
        let kernel = |subject, errno| Error::Kernel {
            netns: "fw-x".into(),
            subject,
            action: "create it",
            source: io::Error::from_raw_os_error(errno),
        };
        let cases = [
            Case {
                name: "not root",
                given: kernel(Subject::Link("fw-a".into()), libc::EPERM),
                want: &["link fw-a", "fw-x", "run as root"],
            },
            Case {
                name: "no such feature",
                given: kernel(Subject::Link("fw-a".into()), libc::EOPNOTSUPP),
                want: &["modprobe veth bridge"],
            },
            Case {
                name: "route",
                given: kernel(Subject::Route("10.0.0.0/8".parse().unwrap()), libc::ENETUNREACH),
                want: &["route to 10.0.0.0/8", "unreachable"],
            },
        ];
        for case in cases {
            let text = case.given.to_string();
            for part in case.want {
                assert!(text.contains(part), "{}: {text}", case.name);
            }
        }
    }
}
