//! The built-in image `fairway.dev/toolbox`: echo servers that say who they are, and clients that say what they saw.
//!
//! It is what a network test needs at both ends of a connection, in one small process (current-thread runtime, a few megabytes):
//!
//! - `toolbox serve` answers HTTP/1.1, HTTP/2, gRPC, WebSocket, TLS, TCP and UDP with the pod's name in every answer, and misbehaves on
//!   request (`/status/503`, `/delay/200ms`, `/stream?chunks=10&every=50ms`, …).
//! - [`probe`] is the other end as a library: a [`probe::Plan`] (what to ask for, how often, until when) becomes one
//!   [`probe::Outcome`] a request: what came back, from which pod, how long it took, or how exactly it failed.
//! - [`resolver`] follows a resolv.conf file given by path, so that a process on the host can ask as a pod would.
//!
//! It is not a load generator and not a test runner: it judges nothing. Expectations belong to the crate `scenario`.

pub mod cli;
pub mod duration;
pub mod identity;
pub mod probe;
pub mod resolver;
mod serve;

pub use cli::main;
