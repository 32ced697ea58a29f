//! Which backend gets an HTTP request.
//!
//! The table is built once a change ([`Routes::build`]) and then only read: hosts by name, the paths of a host in the order in which
//! they win. That order is the `Ord` of [`PathMatch`]; there is no other precedence logic. A request is decided by [`Routes::decide`],
//! which the gateway calls on every request and `fairway why` with a recording trace.

mod host;
mod path;
mod routes;

pub use host::{Host, HostPattern, InvalidHost};
pub use path::{InvalidPath, NormalPath, PathMatch};
pub use routes::{
    Backend, Decision, HostLost, Location, PortRef, Precedence, RouteLost, Routes, Rule, RuleKind,
    RuleOrigin, Server, Step,
};
