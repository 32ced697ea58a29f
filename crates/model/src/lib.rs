//! The network as data, and its decisions with reasons.
//!
//! What a packet, a connection or a request will meet is decided here and nowhere else: [`select`] picks the endpoints of a Service
//! port, [`connect()`] decides one connection, [`announce`] which node answers for a load-balancer
//! address, [`http::Routes::decide`] one request. The node agent compiles these decisions into kernel tables, the
//! gateway calls them on every request, and `fairway why` calls the same functions with a recording [`Trace`], so an explanation
//! cannot differ from what happens.
//!
//! Not here: Kubernetes types (crate `ingest` makes this model from them), nft words, sockets, clocks, randomness. A choice among
//! several equally good endpoints is left to the caller, who has the random numbers; the model says which may be chosen.
//!
//! All types are ordered data without floats, so equal worlds compare equal and print the same.

pub mod announce;
pub mod connect;
pub mod frontend;
pub mod http;
pub mod name;
pub mod network;
pub mod select;
pub mod service;
pub mod trace;

pub use connect::{Destination, Refusal, Source, SourceAddress, Verdict, connect};
pub use frontend::{Claim, Conflict, Frontend, FrontendKind, Frontends};
pub use name::{IngressKey, NodeName, PodKey, SecretKey, ServiceKey};
pub use network::{Cluster, Network, Node};
pub use select::{Empty, LeftOut, Selection, select};
pub use service::{
    Affinity, Condition, Endpoint, PortEndpoint, PortNumber, Protocol, Service, ServiceKind, ServicePort,
    TrafficPolicy, VirtualIps,
};
pub use trace::{NoTrace, Trace};
