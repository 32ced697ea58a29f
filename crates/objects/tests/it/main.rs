//! Checks of the crate against facts from outside.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]

mod laws;
mod type_tables;
