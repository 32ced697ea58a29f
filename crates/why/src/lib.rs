//! One request explained hop by hop: what `fairway why FROM TO` says.
//!
//! This crate decides nothing. It takes a request through the same functions that DNS, the node agents and the gateway call
//! ([`fairway_dns::zone::Zone::answer`], [`fairway_model::connect()`], [`fairway_model::http::Routes::decide`]), each with a recording
//! trace, and puts the recorded steps into words. If an explanation is wrong, the traffic is too.
//!
//! Pure: a [`World`] is made from listed objects ([`World::new`]), a [`Question`] is parsed from the command line, and
//! [`explain()`] turns both into an [`Explanation`], which is text for people and JSON for programs.

mod explain;
mod phrase;
mod question;
mod world;

pub use explain::{Explanation, Hop, Line, Mark, explain};
pub use question::{From, InvalidQuestion, Question, Scheme, Target};
pub use world::{Objects, PodFacts, Setting, World};
