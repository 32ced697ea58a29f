//! What came of one request. Data only.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failure::Failure;
use crate::resolver::RecordText;

/// The most of an answer's body that is kept.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;

/// What came of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Counts the plan's requests from 0, in the order of their start.
    pub sequence: u64,
    /// When it began, in microseconds since 1970.
    pub started_us: u64,
    /// From its begin to the last byte or the failure.
    pub latency_us: u64,
    /// The address that was connected to (or tried last).
    pub address: Option<SocketAddr>,
    /// The answer or the failure.
    pub result: Result,
}

/// The answer or the failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Result {
    /// An HTTP answer (also gRPC and WebSocket).
    Http(Box<HttpAnswer>),
    /// Connected; what was read.
    Raw(RawAnswer),
    /// Records.
    Dns(DnsAnswer),
    /// No answer, and how exactly.
    Failed(Failure),
}

/// An HTTP answer with a complete body.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpAnswer {
    /// 100 to 999.
    pub status: u16,
    /// `HTTP/1.1`, `HTTP/2`.
    pub version: String,
    /// In the order they came, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The first 64 Ki bytes as text. gRPC: the reply's text; WebSocket: the greeting.
    pub body: String,
    /// Its whole length.
    pub body_bytes: u64,
    /// Pieces that the body came in, as this client saw them.
    pub chunks: u64,
    /// From the begin to the head of the answer.
    pub first_byte_us: u64,
    /// From the begin to the first piece of the body.
    pub first_chunk_us: Option<u64>,
    /// `grpc-status` of a gRPC call.
    pub grpc_status: Option<u16>,
    /// What a WebSocket answered to each message.
    pub messages: Vec<String>,
    /// What was agreed in TLS.
    pub tls: Option<Secured>,
}

/// What was agreed in TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secured {
    /// `TLSv1_3`.
    pub version: String,
    /// `h2`, `http/1.1`.
    pub alpn: Option<String>,
    /// The DNS names that the server's certificate is for.
    pub certificate_names: Vec<String>,
}

/// What a TCP or UDP peer said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawAnswer {
    /// The toolbox's greeting line, or the datagram.
    pub greeting: String,
    /// What came after it.
    pub received: String,
}

/// The records of the name that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsAnswer {
    /// The name that had an answer, with its search domain.
    pub name: String,
    /// Every name that was asked, in order.
    pub asked: Vec<String>,
    /// The answer section.
    pub records: Vec<RecordText>,
}

impl Outcome {
    /// The JSON fields of the answer's body, when it has some.
    pub fn fields(&self) -> Option<Value> {
        let text = match &self.result {
            Result::Http(answer) => &answer.body,
            Result::Raw(answer) => &answer.greeting,
            Result::Dns(_) | Result::Failed(_) => return None,
        };
        serde_json::from_str(text).ok()
    }

    /// The pod that answered, by its own word (`pod` in the body, or else the header `x-pod`).
    pub fn pod(&self) -> Option<String> {
        let stated = self.fields().and_then(|fields| Some(fields.get("pod")?.as_str()?.to_owned()));
        stated.or_else(|| match &self.result {
            Result::Http(answer) => answer.header("x-pod").map(str::to_owned),
            Result::Raw(_) | Result::Dns(_) | Result::Failed(_) => None,
        })
    }

    /// The failure, if it is one.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.result {
            Result::Failed(failure) => Some(failure),
            Result::Http(_) | Result::Raw(_) | Result::Dns(_) => None,
        }
    }
}

impl HttpAnswer {
    /// The first value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}
