//! Every bound of the proxy by name. What happens at a bound is said at its field; [`crate::metrics`] counts the hits.

use std::time::Duration;

/// Bounds and time-outs. The defaults are those of ingress-nginx where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections of one worker, tunnels included; further ones wait in the listen queue.
    pub connections_max: usize,
    /// Bytes of a request head, and of a response head from an endpoint: 431, 502.
    pub header_bytes_max: usize,
    /// Header fields of a request or of a response: 431, 502.
    pub headers_max: usize,
    /// Bytes of a request body; `None` is no bound (bodies are streamed, never stored): 413.
    pub request_body_bytes_max: Option<u64>,
    /// Concurrent HTTP/2 streams of a client connection; further ones are refused.
    pub streams_max: u32,
    /// HTTP/2 streams that a client may reset before they were looked at (rapid reset); then the connection is closed.
    pub resets_max: usize,
    /// Bytes that a peer may have in flight on one HTTP/2 stream.
    pub stream_window_bytes: u32,
    /// Bytes that a peer may have in flight on one HTTP/2 connection.
    pub connection_window_bytes: u32,
    /// Endpoints tried for one request, the first included.
    pub tries_max: usize,
    /// Idle connections kept to one endpoint by one worker; further ones are closed when they become idle.
    pub idle_upstreams_max: usize,
    /// From the first byte of a TLS connection to the end of its handshake: closed.
    pub handshake_timeout: Duration,
    /// For a request head to arrive, waiting for it on a kept connection included: closed.
    pub header_timeout: Duration,
    /// Without a request on a client connection: closed.
    pub client_idle_timeout: Duration,
    /// Between two writes that a client takes: closed.
    pub client_send_timeout: Duration,
    /// For an endpoint to accept: next endpoint, then 504.
    pub connect_timeout: Duration,
    /// Between two reads from an endpoint, and between two writes it takes: 504, or the response is cut when it had begun.
    /// Also the longest silence of a tunnel.
    pub upstream_timeout: Duration,
    /// An idle connection to an endpoint: closed.
    pub upstream_idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            header_bytes_max: 64 * 1024,
            headers_max: 100,
            request_body_bytes_max: None,
            streams_max: 128,
            resets_max: 20,
            stream_window_bytes: 64 * 1024,
            connection_window_bytes: 1024 * 1024,
            tries_max: 3,
            idle_upstreams_max: 64,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(60),
            client_idle_timeout: Duration::from_secs(75),
            client_send_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(5),
            upstream_timeout: Duration::from_secs(60),
            upstream_idle_timeout: Duration::from_secs(60),
        }
    }
}
