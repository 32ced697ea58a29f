//! The compiled rules in real kernels: two nodes, their pods and an outside host, each in a network namespace of its own. Needs root; `nft` for
//! tampering.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod affinity;
mod agent;
mod changes;
mod decisions;
mod fake_api;
mod lab;
