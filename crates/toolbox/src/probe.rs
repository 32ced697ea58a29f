//! The other end of a connection as a library: a [`Plan`] in, one [`Outcome`] a request out.
//!
//! [`run`] does the plan in this process, in whatever network namespace the calling thread is in; `toolbox probe` does the same with
//! the plan as one line of JSON on standard input and the outcomes as lines of JSON on standard output, for callers that start it in
//! another namespace. The types are the contract of both.

mod failure;
pub mod grpc;
mod http;
mod outcome;
mod plan;
mod raw;
mod run;
mod tls;
mod websocket;

pub use failure::{Failure, FailureClass, Phase};
pub use outcome::{DnsAnswer, HttpAnswer, Outcome, RawAnswer, Result, Secured};
pub use plan::{
    Asked, CONCURRENCY_MAX, HttpTarget, HttpVersion, Pace, Plan, RawTarget, ResolveTarget, ResolverFiles,
    Target, TlsTrust,
};
pub use run::run;
