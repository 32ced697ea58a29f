//! The server as its clients see it: real sockets, real TLS, real kubectl.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; the allowance for tests does not reach their helpers"
)]

mod access;
mod admission;
mod apply;
mod auth;
mod clients;
mod crash;
mod custom;
mod disk;
mod documents;
mod kubectl;
mod limits;
mod lists;
mod model;
mod protobuf;
mod proxies;
mod restart;
mod server;
mod slow;
mod streams;
mod transport;
mod verbs;
mod watches;
