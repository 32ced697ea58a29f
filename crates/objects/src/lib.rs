//! Kubernetes object semantics: the schema registry and all that derives from it.
//!
//! An object is a JSON document ([`serde_json::Value`]), never a Rust structure: unknown but valid fields survive, and
//! built-in and custom resources take the same path. What is known about types is one table ([`schema`]), what is
//! known about resources another ([`registry`]); decoding, protobuf, patches, discovery, OpenAPI walk those. Rules
//! that no table can say (defaults, validation, what an update may change) are functions per kind.
//!
//! The life of a write, as an API server calls it:
//! 1. [`decode::decode`] the body, or [`patch`] the stored object and [`decode::normalize`] the result;
//! 2. [`strategy::prepare_for_create`] or [`strategy::prepare_for_update`], admission, [`defaults::apply`];
//! 3. [`validate::create`] or [`validate::update`]; 4. [`allocate::service`]; 5. store.
//!
//! Pure: no files, sockets, clocks or randomness; times and random numbers are arguments.
//! Not here: storage, watches and HTTP (crate `apiserver`), controllers (crate `controllers`).

pub mod allocate;
pub mod apply;
pub mod cel;
pub mod convert;
pub mod custom;
pub mod decode;
pub mod defaults;
pub mod discovery;
pub mod document;
pub mod encode;
pub mod field;
pub mod gateway_api;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod registry;
pub mod scale;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod table;
pub mod validate;

pub use document::{Document, Object};
pub use field::{FieldError, FieldErrorKind, Path};
pub use registry::{BuiltinKind, ObjectType, Registry, Resource, Scope, Subresource, Verb};
pub use status::{Qualified, Reason, Status};
