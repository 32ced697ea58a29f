//! The server as its clients see it: real sockets, real TLS, real kubectl.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; the allowance for tests does not reach their helpers"
)]

#[path = "it/auth.rs"]
mod auth;
#[path = "it/kubectl.rs"]
mod kubectl;
#[path = "it/restart.rs"]
mod restart;
#[path = "it/server.rs"]
mod server;
#[path = "it/streams.rs"]
mod streams;
#[path = "it/verbs.rs"]
mod verbs;
#[path = "it/watches.rs"]
mod watches;
