//! The server as its clients see it: real sockets, real TLS, real kubectl.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; the allowance for tests does not reach their helpers"
)]

mod apply;
mod auth;
mod clients;
mod documents;
mod kubectl;
mod proxies;
mod restart;
mod server;
mod streams;
mod verbs;
mod watches;
