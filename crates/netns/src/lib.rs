//! Network namespaces, links, addresses, routes and network sysctls of Linux, as blocking calls.
//!
//! Not here: packet filters (crate `netfilter`), and any idea of what a node or a pod is. Nothing runs `ip` or any other program.
//!
//! The shape follows from one property of Linux: a socket stays in the network namespace in which it was opened. So a namespace has to be
//! *entered* only to open things: on an own short-lived thread ([`Netns::run`]; never on a thread of an async runtime, which would carry
//! other tasks into it), or in a child process before it executes ([`Netns::enter_on_spawn`]). [`Links`] is a netlink socket opened that
//! way: afterwards it may be used from any thread. A request to it is one system call and its answer, some tens of microseconds and no
//! waiting on other machines, so it needs no runtime and may be called from async code; only making and removing whole namespaces and
//! links takes milliseconds and belongs on a blocking thread.
//!
//! - [`Netns`]: a handle on one namespace; [`Netns::create`] names it like iproute2 does, so that `ip netns` shows it.
//! - [`Links`]: links, addresses, routes and neighbours of one namespace. Calls say what should hold afterwards, so repeating one after a
//!   restart is harmless, and removing what is not there is `Ok(false)`.
//! - [`read_sysctl`], [`write_sysctl`]: values under `/proc/sys` as one namespace sees them.
//! - [`link_name`]: a name of at most 15 bytes for a longer wish.
//! - [`Error`]: what failed, on which object of which namespace, and what to do.

mod error;
mod links;
mod namespace;
mod socket;
mod sys;
mod sysctl;

pub use error::{Error, Subject};
pub use links::{Link, LinkAddress, Links, Mac, Route, RouteKind, Veth, link_name};
pub use namespace::{NETNS_DIR, Netns};
pub use sysctl::{read_sysctl, write_sysctl};
