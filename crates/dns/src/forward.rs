//! Names that are not ours: asked of upstream servers, UDP first, TCP when the answer was cut.
//!
//! Answers are passed on byte for byte (only the id is the client's again), so record types we have never heard of work. A response
//! counts only when it comes from the server that was asked, to a random port, with a random id and the same question.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RData;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::answer::{Data, Record};
use crate::message::number;
use crate::name::Name;

/// One server has this long to answer before the next is asked.
const ATTEMPT: Duration = Duration::from_secs(2);
/// The whole question, over all servers.
const QUESTION: Duration = Duration::from_secs(5);
/// Questions under way at once; more are answered SERVFAIL (CoreDNS `max_concurrent`).
const CONCURRENT_MAX: usize = 1_000;
/// The header of a message.
const HEADER_BYTES: usize = 12;

/// Why a question could not be forwarded; the client gets SERVFAIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no upstream server.
    #[error("no upstream DNS server is configured: names outside the cluster do not resolve")]
    NoUpstream,
    /// Too many questions wait for upstream already.
    #[error("{CONCURRENT_MAX} questions wait for upstream already")]
    Overloaded,
    /// Nobody answered in time.
    #[error("no upstream DNS server answered")]
    Silent,
    /// The query is no longer than a header.
    #[error("not a query")]
    NotAQuery,
}

/// The upstream servers.
#[derive(Clone, Debug)]
pub struct Forwarder {
    servers: Arc<[SocketAddr]>,
    slots: Arc<Semaphore>,
}

impl Forwarder {
    /// Forwards to these, in order: the next one is asked when one fails. Loopback addresses would be this very server's own pod, a
    /// loop, and are left out.
    pub fn new(servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        let (looping, servers): (Vec<_>, Vec<_>) =
            servers.into_iter().partition(|server| server.ip().is_loopback());
        for server in looping {
            tracing::warn!(%server, "upstream DNS server is on loopback, which is this server itself: not used");
        }
        Self::on_any_address(servers)
    }

    /// Like [`Forwarder::new`] for a process that shares its loopback with the servers, on a host.
    pub fn on_any_address(servers: Vec<SocketAddr>) -> Self {
        Self { servers: servers.into(), slots: Arc::new(Semaphore::new(CONCURRENT_MAX)) }
    }

    /// Asks upstream. `query` is the client's message; the answer carries its id.
    pub async fn ask(&self, query: &[u8]) -> Result<Vec<u8>, Failure> {
        if self.servers.is_empty() {
            return Err(Failure::NoUpstream);
        }
        let _slot = self.slots.try_acquire().map_err(|_| Failure::Overloaded)?;
        tokio::time::timeout(QUESTION, self.ask_in_turn(query)).await.unwrap_or(Err(Failure::Silent))
    }

    async fn ask_in_turn(&self, query: &[u8]) -> Result<Vec<u8>, Failure> {
        let client_id: [u8; 2] =
            query.get(..2).and_then(|id| id.try_into().ok()).ok_or(Failure::NotAQuery)?;
        for server in self.servers.iter() {
            let mut sent = query.to_vec();
            let id = rand::random::<u16>().to_be_bytes();
            sent.splice(..2, id);
            let answered = tokio::time::timeout(ATTEMPT, ask_one(*server, &sent)).await;
            if let Ok(Ok(mut answer)) = answered {
                answer.splice(..2, client_id);
                return Ok(answer);
            }
        }
        Err(Failure::Silent)
    }

    /// The addresses of a name upstream, with the CNAMEs on the way, as records for our own answer.
    pub async fn resolve(&self, name: &Name, kind: u16) -> Result<Vec<Record>, Failure> {
        let mut query = vec![0, 0, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend_from_slice(name.as_wire());
        query.extend_from_slice(&kind.to_be_bytes());
        query.extend_from_slice(&number::CLASS_IN.to_be_bytes());
        let answer = self.ask(&query).await?;
        Ok(Message::from_vec(&answer)
            .map(|message| message.answers.iter().filter_map(record).collect())
            .unwrap_or_default())
    }
}

fn record(record: &hickory_proto::rr::Record) -> Option<Record> {
    let name = |name: &hickory_proto::rr::Name| Name::from_text(&name.to_ascii()).ok();
    let data = match &record.data {
        RData::A(address) => Data::A(address.0),
        RData::AAAA(address) => Data::Aaaa(address.0),
        RData::CNAME(target) => Data::Cname(name(&target.0)?),
        _ => return None,
    };
    Some(Record { owner: name(&record.name)?, ttl_s: record.ttl, data })
}

async fn ask_one(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let local: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 4_096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Some(answer) = buffer.get(..length).filter(|answer| is_answer_to(answer, query)) else {
            continue;
        };
        if answer.get(2).is_some_and(|flags| flags & 0x02 != 0) {
            return ask_over_tcp(server, query).await;
        }
        return Ok(answer.to_vec());
    }
}

async fn ask_over_tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if is_answer_to(&answer, query) { Ok(answer) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

/// Same id, a response, and the same question but for the case of its letters.
fn is_answer_to(answer: &[u8], query: &[u8]) -> bool {
    let question = |message: &[u8]| {
        let body = message.get(HEADER_BYTES..)?;
        let (name, taken) = Name::from_wire(body).ok()?;
        Some((name, body.get(taken..taken + 4)?.to_vec()))
    };
    answer.get(..2) == query.get(..2)
        && answer.get(2).is_some_and(|flags| flags & 0x80 != 0)
        && question(answer).is_some_and(|answered| question(query) == Some(answered))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let query = b"\x01\x02\x01\0\0\x01\0\0\0\0\0\0\x03wWw\0\0\x01\0\x01";
        let answer = |edit: fn(&mut Vec<u8>)| {
            let mut answer = query.to_vec();
            answer[2] |= 0x80;
            edit(&mut answer);
            is_answer_to(&answer, query)
        };
        assert!(answer(|_| ()));
        assert!(answer(|wire| wire[13] = b'W'), "another case is the same name");
        assert!(!answer(|wire| wire[0] = 9), "another id");
        assert!(!answer(|wire| wire[13] = b'x'), "another name");
        assert!(!answer(|wire| wire[18] = 28), "another type");
        assert!(!answer(|wire| wire[2] &= 0x7f), "a query");
    }
}
