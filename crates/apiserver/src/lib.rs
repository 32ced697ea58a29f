//! The embedded Kubernetes-compatible API server.

pub mod allocations;
pub mod store;
