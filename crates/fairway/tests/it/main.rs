//! The whole program as a user has it: real clusters, real kills, real mistakes; and the rules of the house. Needs root, `nft` and `ip`.
//!
//! Each test has a machine of its own as far as the network goes ([`machine`]), so that tests run side by side and what a cluster leaves
//! behind is seen however it is named.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod api;
mod cluster;
mod crash;
mod house;
mod lifecycle;
mod machine;
mod mistakes;
mod shop;
mod traffic;
