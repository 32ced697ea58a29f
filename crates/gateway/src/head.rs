//! Message heads as data: what a request asks for, what is handed to the endpoint, what is handed back. No sockets, no clocks.
//!
//! [`identify`] is the only place that decides whether a head is unambiguous; [`forward`] and [`clean_response`] may therefore assume it.
//! Framing itself (chunk sizes, line ends, header syntax) is checked by the codec before a head gets here.

mod forward;
mod identify;
mod response;

pub(crate) use forward::{Forwarded, forward};
pub(crate) use identify::{BadHead, Identified, identify};
pub(crate) use response::clean_response;

use http::HeaderMap;
use http::header::{self, HeaderName};

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientFacts {
    /// The client's address.
    pub(crate) peer: std::net::SocketAddr,
    /// The address it connected to.
    pub(crate) local: std::net::SocketAddr,
    /// Whether it came over TLS.
    pub(crate) secure: bool,
}

impl ClientFacts {
    /// The scheme of the request.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// The port that clients see: that of the Service, whatever the pod listens on.
    pub(crate) fn public_port(&self) -> &'static str {
        if self.secure { "443" } else { "80" }
    }
}

/// Fields that are about one connection and never passed on (RFC 9110 §7.6.1), whether `Connection` lists them or not.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("http2-settings"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Removes what is about this connection only. `Host` and `Content-Length` stay even when `Connection` lists them: without them
/// the message would mean something else.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let listed: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::try_from(name.trim()).ok())
            .filter(|name| name != header::HOST && name != header::CONTENT_LENGTH)
            .collect();
        for name in listed {
            headers.remove(name);
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}
