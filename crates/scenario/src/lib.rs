//! Network tests as code: `fairway test FILE…`.
//!
//! A scenario says in YAML what is applied to a cluster, what is asked from where, and what has to come of it; `docs/test.md` is its
//! reference. The crate is a pure core and a shell around it:
//!
//! - [`document`]: YAML → typed steps, every mistake with its line and the name that was probably meant.
//! - [`expect`]: outcomes × expectations → mismatches. Nothing here knows a cluster.
//! - [`report`]: what came of a run as text, JSON and JUnit XML.
//! - [`template`]: `${variables}` in steps.
//! - [`run`]: does the steps. Requests are made by `fairway toolbox probe` started in the network namespace of a pod or node, so
//!   that packets really begin where the scenario says. Objects go through the Kubernetes API; kubectl is used only by a step that
//!   says so.
//!
//! It does not decide what correct networking is: expectations are the user's.

pub mod document;
pub mod expect;
pub mod report;
mod run;
pub mod template;

pub use run::{ClusterError, Error, Format, Options, Summary, run};
