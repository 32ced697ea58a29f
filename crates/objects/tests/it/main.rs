//! Checks of the crate against facts from outside.

mod type_tables;
