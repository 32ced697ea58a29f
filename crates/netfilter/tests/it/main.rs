//! Against the real kernel, each test in a network namespace of its own. Needs root, `ip` and `nft`.

mod flows;
mod load;
mod namespace;
