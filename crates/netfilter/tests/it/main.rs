//! Against the real kernel, each test in a network namespace of its own. Needs root, `ip` and `nft`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod flows;
mod load;
mod namespace;
