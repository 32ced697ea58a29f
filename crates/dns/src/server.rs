//! The sockets: one UDP socket and one TCP listener a worker thread, all on the same port (SO_REUSEPORT).
//!
//! A question about the zone is answered where it was read, without a task. Only what has to wait (upstream, chains that leave the
//! zone) becomes a task; their number is limited and the newest are answered SERVFAIL beyond it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use fairway_kit::Shutdown;
use fairway_model::NoTrace;
use prometheus_client::registry::Registry;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::answer::Answer;
use crate::forward::Forwarder;
use crate::message::{Query, Rcode, Transport, Unanswerable, encode, number, parse, refusal};
use crate::metrics::Metrics;
use crate::zone::{Outcome, Zone};

/// Names that an alias may lead through (CNAME chains inside the zone).
const ALIAS_STEPS_MAX: usize = 8;
/// Queries a worker has waiting for upstream.
const WAITING_MAX: usize = 2_000;
/// TCP connections a worker serves; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 256;
/// A TCP connection without a query is closed after this time (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// Room for bursts while a worker is busy.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// What all workers read.
#[derive(Debug)]
pub struct Serving {
    /// The zone in force.
    pub zone: ArcSwap<Zone>,
    /// Where other names go.
    pub forwarder: Forwarder,
    pub(crate) metrics: Metrics,
}

impl Serving {
    /// Serves this zone and forwards the rest.
    pub fn new(zone: Zone, forwarder: Forwarder, registry: &mut Registry) -> Self {
        Self { zone: ArcSwap::from_pointee(zone), forwarder, metrics: Metrics::register(registry) }
    }
}

/// What becomes of a message.
enum Reply {
    /// Nothing is sent.
    Silence,
    /// `out` holds the answer.
    Ready,
    /// It has to wait for somebody else.
    Waits,
}

/// Answers into `out` what can be answered at once.
fn reply(serving: &Serving, wire: &[u8], transport: Transport, rotation: usize, out: &mut Vec<u8>) -> Reply {
    serving.metrics.request(transport);
    let query = match parse(wire) {
        Ok(query) => query,
        Err(Unanswerable::Drop) => return Reply::Silence,
        Err(Unanswerable::Refuse { id, flags, rcode }) => {
            *out = refusal(id, flags, rcode);
            serving.metrics.response(rcode);
            return Reply::Ready;
        }
    };
    let answer = match early_refusal(&query) {
        Some(rcode) => Answer::code(rcode),
        None => match serving.zone.load().answer(&query.name, query.kind, &mut NoTrace) {
            Outcome::Answer(answer) => answer,
            Outcome::Alias { answer, .. } if query.kind == number::CNAME => answer,
            Outcome::Alias { .. } | Outcome::Forward => return Reply::Waits,
        },
    };
    serving.metrics.response(answer.rcode);
    encode(&query, &answer, transport, rotation, out);
    Reply::Ready
}

fn early_refusal(query: &Query<'_>) -> Option<Rcode> {
    match query.edns {
        Some(edns) if edns.version != 0 => Some(Rcode::BadVers),
        // Zone transfers are for configured addresses only, and none is.
        _ if query.kind == number::AXFR => Some(Rcode::Refused),
        _ => None,
    }
}

/// Answers what had to wait: forwards it, or follows an alias.
async fn reply_later(serving: &Serving, wire: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let query = parse(wire).ok()?;
    let zone = serving.zone.load_full();
    let mut out = Vec::new();
    let answer = match zone.answer(&query.name, query.kind, &mut NoTrace) {
        Outcome::Answer(answer) => answer,
        Outcome::Alias { answer, target } => follow(serving, &zone, answer, target, query.kind).await,
        Outcome::Forward => {
            serving.metrics.forwarded.inc();
            match serving.forwarder.ask(wire).await {
                Ok(answer) => return Some(cut(answer, &query, transport)),
                Err(failure) => {
                    serving.metrics.forward_failures.inc();
                    tracing::debug!(name = %query.name, %failure, "not forwarded");
                    Answer::code(Rcode::ServFail)
                }
            }
        }
    };
    serving.metrics.response(answer.rcode);
    encode(&query, &answer, transport, 0, &mut out);
    Some(out)
}

/// Adds the records of the names that an alias leads to.
async fn follow(
    serving: &Serving,
    zone: &Zone,
    mut answer: Answer,
    target: crate::name::Name,
    kind: u16,
) -> Answer {
    let mut target = target;
    for _ in 0..ALIAS_STEPS_MAX {
        match zone.answer(&target, kind, &mut NoTrace) {
            Outcome::Answer(last) => {
                answer.answers.extend(last.answers);
                answer.authority = last.authority;
                answer.rcode = last.rcode;
                return answer;
            }
            Outcome::Alias { answer: next, target: further } => {
                answer.answers.extend(next.answers);
                target = further;
            }
            Outcome::Forward => {
                serving.metrics.forwarded.inc();
                match serving.forwarder.resolve(&target, kind).await {
                    Ok(records) => answer.answers.extend(records),
                    // The alias itself is known: the client gets it and may ask elsewhere.
                    Err(failure) => {
                        serving.metrics.forward_failures.inc();
                        tracing::debug!(name = %target, %failure, "alias not followed");
                    }
                }
                return answer;
            }
        }
    }
    Answer::code(Rcode::ServFail)
}

/// An upstream answer that is longer than the client takes: the question with TC, so that it asks again over TCP.
fn cut(mut answer: Vec<u8>, query: &Query<'_>, transport: Transport) -> Vec<u8> {
    if answer.len() <= crate::message::limit_bytes(query.edns, transport) {
        return answer;
    }
    answer.truncate(12 + query.question.len());
    if let Some(flags) = answer.get_mut(2) {
        *flags |= 0x02;
    }
    if let Some(counts) = answer.get_mut(6..12) {
        counts.fill(0);
    }
    answer
}

/// The bound sockets of one worker.
#[derive(Debug)]
pub struct Sockets {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
}

impl Sockets {
    /// Binds both to `address`; several workers may bind the same.
    pub fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let open = |kind, protocol| {
            let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
            socket.set_reuse_port(true)?;
            socket.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(socket)
        };
        let udp = open(Type::DGRAM, Protocol::UDP)?;
        udp.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        udp.bind(&address.into())?;
        // Port 0 picks one: TCP has to get the same.
        let bound = udp.local_addr()?.as_socket().unwrap_or(address);
        let tcp = open(Type::STREAM, Protocol::TCP)?;
        tcp.set_reuse_address(true)?;
        tcp.bind(&bound.into())?;
        tcp.listen(1_024)?;
        Ok(Self { udp: udp.into(), tcp: tcp.into() })
    }

    /// Where they are bound.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Serves on this thread until shutdown.
    pub async fn serve(self, serving: Arc<Serving>, shutdown: Shutdown) -> std::io::Result<()> {
        let udp = Arc::new(UdpSocket::from_std(self.udp)?);
        let tcp = TcpListener::from_std(self.tcp)?;
        let waiting = Arc::new(Semaphore::new(WAITING_MAX));
        tokio::join!(
            shutdown.unless_requested(serve_udp(udp, serving.clone(), waiting.clone())),
            shutdown.unless_requested(serve_tcp(tcp, serving, shutdown.clone())),
        );
        Ok(())
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, serving: Arc<Serving>, waiting: Arc<Semaphore>) {
    // Longer than any query we answer: what is cut here is malformed there.
    let mut buffer = vec![0; 4_096];
    let mut out = Vec::with_capacity(1_232);
    let mut rotation = 0usize;
    loop {
        // An error here is an ICMP message about an earlier answer: that client is gone, the others are not.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let wire = buffer.get(..length).unwrap_or_default();
        rotation = rotation.wrapping_add(1);
        match reply(&serving, wire, Transport::Udp, rotation, &mut out) {
            Reply::Silence => {}
            Reply::Ready => {
                let _ = socket.send_to(&out, client).await;
            }
            Reply::Waits => match waiting.clone().try_acquire_owned() {
                Ok(slot) => {
                    let (socket, serving, wire) = (socket.clone(), serving.clone(), wire.to_vec());
                    tokio::spawn(async move {
                        if let Some(answer) = reply_later(&serving, &wire, Transport::Udp).await {
                            let _ = socket.send_to(&answer, client).await;
                        }
                        drop(slot);
                    });
                }
                Err(_) => {
                    serving.metrics.shed.inc();
                    if let Ok(query) = parse(wire) {
                        encode(&query, &Answer::code(Rcode::ServFail), Transport::Udp, 0, &mut out);
                        let _ = socket.send_to(&out, client).await;
                    }
                }
            },
        }
    }
}

async fn serve_tcp(listener: TcpListener, serving: Arc<Serving>, shutdown: Shutdown) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: give the ones in use time to close instead of spinning.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (serving, shutdown) = (serving.clone(), shutdown.clone());
        tokio::spawn(async move {
            let _ = shutdown.unless_requested(serve_connection(stream, &serving)).await;
            drop(slot);
        });
    }
}

/// Queries of one connection, one after the other (RFC 7766 allows more).
async fn serve_connection(mut stream: TcpStream, serving: &Serving) -> std::io::Result<()> {
    let mut out = Vec::new();
    loop {
        let length = tokio::time::timeout(IDLE, stream.read_u16()).await??;
        let mut wire = vec![0; usize::from(length)];
        tokio::time::timeout(IDLE, stream.read_exact(&mut wire)).await??;
        let answer = match reply(serving, &wire, Transport::Tcp, 0, &mut out) {
            Reply::Silence => return Ok(()),
            Reply::Ready => std::mem::take(&mut out),
            Reply::Waits => match reply_later(serving, &wire, Transport::Tcp).await {
                Some(answer) => answer,
                None => return Ok(()),
            },
        };
        let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
        let framed = [&length.to_be_bytes(), answer.get(..usize::from(length)).unwrap_or_default()].concat();
        tokio::time::timeout(IDLE, stream.write_all(&framed)).await??;
    }
}
