//! Cluster DNS: names, zone and answers as data; then sockets and forwarding.
//!
//! The zone is a pure function of the model ([`zone::Zone`]): one entry a Service, so one endpoint change replaces one entry of a
//! persistent map, and the servers read it through one pointer load. [`zone::Zone::answer`] decides a question and, given a trace,
//! says which Service, endpoint or missing name made the answer. [`message`] is our own codec: it runs on every packet, refuses what
//! is malformed before anything is allocated for it, and never follows a compression pointer in a question.
//!
//! The shells are [`server`] (UDP, TCP), [`forward`] (upstreams, with hickory-proto where foreign messages must be read) and [`run`](fn@run) (watches, wiring).
//!
//! Not here: caching, autopath and Corefiles (they come with the DNS issue), DNSSEC validation (forwarded answers keep their bits).
//! Follows the Kubernetes DNS specification 1.1.0, RFC 1035, 2308, 2782, 6891, 8020.

pub mod answer;
pub mod forward;
pub mod message;
mod metrics;
pub mod name;
mod role;
pub mod search;
pub mod server;
pub mod zone;

pub use role::{Config, Error, run};
