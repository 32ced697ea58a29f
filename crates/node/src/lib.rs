//! The node agent: Services and load-balancer announcements into one kernel.

pub mod announce;
pub mod change;
pub mod compile;
#[cfg(test)]
mod example;
pub mod layout;
pub mod ruleset;
