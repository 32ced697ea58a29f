//! The gateway with real sockets: each test in a network namespace of its own, where all of 10.244.0.0/16 is local.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that panics has failed, which is what it is for"
)]

mod body;
mod certificates;
mod change;
mod failure;
mod http;
mod role;
mod smuggling;
mod stop;
mod support;
mod upgrade;
