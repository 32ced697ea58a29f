//! What every shell needs and no decision: API client, watches turned into snapshots, shutdown, metrics, health, logging.
//!
//! Shells (`node`, `pods`, `dns`, `gateway`, `controllers`, `local`) meet only here. Nothing in this crate knows what a Service means.
//!
//! - [`client`]: a [`kube::Client`] from a kubeconfig file or from the pod's service account.
//! - [`watch`]: one kind watched, relisted and backed off by kube-rs, delivered as an immutable [`watch::Snapshot`] that is replaced
//!   atomically; whoever waits learns that there is a newer one, bursts coalesce by themselves.
//! - [`shutdown`]: who triggers, who waits, who holds the process open.
//! - [`admin`]: `/healthz`, `/readyz` and `/metrics` on their own port.
//! - [`findings`]: what is wrong with objects, told on them as events.
//! - [`logging`]: one format for all roles.
//! - [`reason()`]: errors of the API client in a person's words.

pub mod admin;
pub mod client;
pub mod findings;
pub mod logging;
mod reason;
pub mod shutdown;
pub mod watch;

pub use client::{ClientError, ClientSource, connect};
pub use reason::reason;
pub use shutdown::{Shutdown, Trigger};
pub use watch::{Snapshot, Watched};
