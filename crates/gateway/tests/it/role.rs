//! The role as a whole, against a small API server: first table, changes, the API server gone, shutdown.
