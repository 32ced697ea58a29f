//! The controllers against the real embedded API server, as users of kubectl see them. Nodes are simulated: they answer a bound
//! pod with "running and ready" and a deleted one with its end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; the allowance for tests does not reach their helpers"
)]

#[path = "it/batch.rs"]
mod batch;
#[path = "it/cluster.rs"]
mod cluster;
#[path = "it/daemons.rs"]
mod daemons;
#[path = "it/endings.rs"]
mod endings;
#[path = "it/faults.rs"]
mod faults;
#[path = "it/services.rs"]
mod services;
#[path = "it/workloads.rs"]
mod workloads;
