//! Counters under CoreDNS's names. Handles are resolved once; the hot path only adds.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::message::{Rcode, Transport};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTransport {
    proto: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCode {
    rcode: &'static str,
}

type Count = Counter<u64, AtomicU64>;

/// What is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests_udp: Count,
    requests_tcp: Count,
    responses: [Count; 7],
    /// Questions sent upstream.
    pub(crate) forwarded: Count,
    /// Questions upstream did not answer.
    pub(crate) forward_failures: Count,
    /// Queries answered SERVFAIL because too many were under way.
    pub(crate) shed: Count,
}

const CODES: [Rcode; 7] = [
    Rcode::NoError,
    Rcode::FormErr,
    Rcode::ServFail,
    Rcode::NxDomain,
    Rcode::NotImp,
    Rcode::Refused,
    Rcode::BadVers,
];

impl Metrics {
    /// Registers everything.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let requests = Family::<ByTransport, Count>::default();
        registry.register("coredns_dns_requests", "Queries received", requests.clone());
        let responses = Family::<ByCode, Count>::default();
        registry.register("coredns_dns_responses", "Responses sent by code (own answers)", responses.clone());
        let [forwarded, forward_failures, shed] = [(); 3].map(|()| Count::default());
        registry.register("coredns_forward_requests", "Questions sent upstream", forwarded.clone());
        registry.register(
            "coredns_forward_failures",
            "Questions upstream did not answer",
            forward_failures.clone(),
        );
        registry.register(
            "fairway_dns_shed",
            "Queries answered SERVFAIL because too many were under way",
            shed.clone(),
        );
        // The `owned` form: the other one hands out a lock guard, and two of them in one expression wait for each other.
        Self {
            requests_udp: requests.get_or_create_owned(&ByTransport { proto: "udp" }),
            requests_tcp: requests.get_or_create_owned(&ByTransport { proto: "tcp" }),
            responses: CODES.map(|code| responses.get_or_create_owned(&ByCode { rcode: code.label() })),
            forwarded,
            forward_failures,
            shed,
        }
    }

    pub(crate) fn request(&self, transport: Transport) {
        match transport {
            Transport::Udp => self.requests_udp.inc(),
            Transport::Tcp => self.requests_tcp.inc(),
        };
    }

    pub(crate) fn response(&self, rcode: Rcode) {
        if let Some((_, count)) = CODES.iter().zip(&self.responses).find(|(code, _)| **code == rcode) {
            count.inc();
        }
    }
}
