//! What can go wrong between this program and the kernel.

use std::io;

use crate::codec::Malformed;
use crate::transaction::Object;

/// A failed exchange with the kernel. A failed transaction changed nothing: the rules that were there stay in force.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket: the kernel lacks nf_tables or conntrack netlink, or the process lacks CAP_NET_ADMIN.
    #[error(
        "cannot talk to netfilter ({step}): {source}; the kernel needs nf_tables and nf_conntrack_netlink, the process CAP_NET_ADMIN"
    )]
    Open {
        /// The system call.
        step: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The kernel did not take the bytes.
    #[error("cannot send {len} bytes to netfilter: {source}; nothing was changed")]
    Send {
        /// Bytes in the message.
        len: usize,
        /// The error of the system call.
        source: io::Error,
    },
    /// The kernel's answer could not be received.
    #[error(
        "cannot receive the answer of netfilter: {source}; what is installed is unknown until it is read back"
    )]
    Receive {
        /// The error of the system call.
        source: io::Error,
    },
    /// The kernel refused an object, and with it the whole transaction.
    #[error("the kernel refused {object}: {source}{}; nothing was changed", if .reason.is_empty() { String::new() } else { format!(" ({})", .reason) })]
    Refused {
        /// The first object that was refused.
        object: Box<Object>,
        /// The kernel's error.
        source: io::Error,
        /// The kernel's own words, often empty.
        reason: String,
    },
    /// The kernel neither refused nor acknowledged.
    #[error(
        "netfilter did not acknowledge a transaction; what is installed is unknown until it is read back"
    )]
    Unacknowledged,
    /// A question was refused.
    #[error("netfilter refused to list {what}: {source}")]
    List {
        /// What was asked for.
        what: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// A list changed while it was read, again and again.
    #[error(
        "{what} changed {attempts} times while being listed; something else changes nftables without pause"
    )]
    Interrupted {
        /// What was asked for.
        what: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The answer is not netlink.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl Error {
    /// Whether the kernel said that something does not exist (`ENOENT`).
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Refused { source, .. } | Self::List { source, .. } => {
                source.raw_os_error() == Some(libc::ENOENT)
            }
            _ => false,
        }
    }
}
