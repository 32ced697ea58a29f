//! Route tables, then the HTTP proxy.
