//! The protocol without the objects: paths, queries, media types, bodies, connections.

pub mod body;
mod gather;
pub mod listen;
pub mod negotiate;
pub mod query;
pub mod route;
