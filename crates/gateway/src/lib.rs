//! The HTTP reverse proxy that serves Ingress.
//!
//! What it is: HTTP/1.1 and HTTP/2 (with and without TLS) in, HTTP/1.1 and HTTP/2 out, bodies streamed both ways, WebSocket, gRPC, straight
//! to the endpoints of Services. What it is not: a place where routing is decided (that is [`fairway_model::http::Routes::decide`], which
//! `fairway why` calls too) or where Ingresses are understood (crate `ingest`).
//!
//! ```text
//!  watches ──Inputs──► Compiler ──► Table ──┐ one pointer each      worker 0: runtime, sockets, upstream connections, counters
//!  (watch)             (control)    pools ──┼──────────────────►    worker 1: …
//!                                   certificates                    nothing that a request writes is shared
//! ```
//!
//! - [`control`](crate::Compiler): watched objects → table, pools, certificates; each change costs in proportion to itself. No I/O.
//! - `head`: message heads as data; the only place that decides whether a request is unambiguous.
//! - `table`, `pool`: what a request reads. `failure`: what may go wrong, as one enum with total functions.
//! - `worker` → `connection` → `proxy`: accept → identify → decide → connect → copy → count.
//! - [`Gateway`]: the workers as a whole; [`run`]: the role with its watches.
//!
//! Limits have names: [`Limits`].

mod access_log;
mod body;
mod certificates;
mod client_stream;
mod connection;
mod control;
mod exchange;
mod failure;
mod gateway;
mod head;
mod limits;
mod metrics;
mod pool;
mod proxy;
mod table;
mod tunnel;
mod upstream;
mod watch;
mod worker;

pub use control::{Compiler, Inputs, Objects, Update};
pub use gateway::{Gateway, StartError};
pub use limits::Limits;
pub use watch::run;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

/// What the role is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API server is.
    pub client: fairway_kit::ClientSource,
    /// Where plain HTTP is served, as HTTP/1.1 and HTTP/2.
    pub http: SocketAddr,
    /// Where TLS is served.
    pub https: SocketAddr,
    /// `/healthz`, `/readyz`, `/metrics`.
    pub admin: SocketAddr,
    /// Threads that serve requests.
    pub workers: NonZeroUsize,
    /// After a request to stop, for how long new connections are still served, so that those who send them learn that this pod leaves.
    pub lame_duck: Duration,
    /// After that, for how long requests under way may take; then they are cut.
    pub drain: Duration,
    /// Whether every request is logged on standard output.
    pub access_log: bool,
    /// Bounds and time-outs.
    pub limits: Limits,
}

impl Config {
    /// The defaults of a pod: 8080, 8443 and 10254 on every address, a worker per core, 2 s lame duck, 30 s drain.
    pub fn new(client: fairway_kit::ClientSource) -> Self {
        let on = |port| SocketAddr::from(([0, 0, 0, 0], port));
        Self {
            client,
            http: on(8080),
            https: on(8443),
            admin: on(10254),
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            lame_duck: Duration::from_secs(2),
            drain: Duration::from_secs(30),
            access_log: false,
            limits: Limits::default(),
        }
    }
}

/// Why the role ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to the API server.
    #[error(transparent)]
    Client(#[from] fairway_kit::ClientError),
    /// The proxy could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The administration port cannot be bound.
    #[error("cannot serve metrics and health on {address}: {source}; give another address with --admin")]
    Admin {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}
