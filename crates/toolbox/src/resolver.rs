//! DNS lookups as the C library does them, with the files given by path: resolv.conf(5) and hosts(5).
//!
//! A process on the host can so ask exactly what a pod would ask. There is no cache: a test wants to see the server's answer of now.

mod config;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

pub use config::{Config, Hosts};

use crate::probe::{DnsAnswer, ResolverFiles};

/// The longest UDP answer that is read (no EDNS is sent, so servers keep to 512).
const UDP_BYTES_MAX: usize = 4096;

/// A record as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordText {
    /// Its owner, without the last dot.
    pub name: String,
    /// `A`, `SRV`, …
    #[serde(rename = "type")]
    pub record_type: String,
    /// Seconds that it may be cached.
    pub ttl_seconds: u32,
    /// Presentation format; names without the last dot.
    pub data: String,
}

/// Why there is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// NXDOMAIN for every name asked.
    #[error("{name} does not exist (NXDOMAIN; asked {asked})", asked = asked.join(", "))]
    NoSuchName {
        /// The name as given.
        name: String,
        /// With search domains.
        asked: Vec<String>,
    },
    /// The name exists without such a record (NODATA).
    #[error("{name} has no {record_type} record (NODATA; asked {asked})", asked = asked.join(", "))]
    NoSuchRecord {
        /// The name as given.
        name: String,
        /// What was asked for.
        record_type: String,
        /// With search domains.
        asked: Vec<String>,
    },
    /// A server answered with a failure.
    #[error("{server} answered {code} for {name}")]
    ServerFailed {
        /// The name as asked.
        name: String,
        /// The server.
        server: IpAddr,
        /// `SERVFAIL`, `REFUSED`, …
        code: String,
    },
    /// No server answered in time.
    #[error("no DNS server answered for {name}: {detail}")]
    NoAnswer {
        /// The name as asked.
        name: String,
        /// The last server and its error.
        detail: String,
    },
    /// resolv.conf has no `nameserver`.
    #[error("the resolv.conf names no server")]
    NoServers,
    /// Not a domain name.
    #[error("{name} is not a domain name")]
    BadName {
        /// As given.
        name: String,
    },
    /// Not a record type.
    #[error("{record_type} is not a record type")]
    BadType {
        /// As given.
        record_type: String,
    },
}

/// A resolver over two files, read once.
#[derive(Clone, Debug)]
pub struct Resolver {
    config: Config,
    hosts: Hosts,
}

impl Resolver {
    /// Reads the files. One that cannot be read is as if it were empty, which a lookup then says.
    pub fn read(files: &ResolverFiles) -> Self {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            config: Config::parse(&read(&files.resolv_conf)),
            hosts: files.hosts.as_deref().map(|path| Hosts::parse(&read(path))).unwrap_or_default(),
        }
    }

    /// The same, asking only this server.
    #[must_use]
    pub fn with_server(mut self, server: IpAddr) -> Self {
        self.config.servers = vec![server];
        self
    }

    /// The addresses of a host as `getaddrinfo` orders them here: IPv4 first, then IPv6, each in the server's order.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse() {
            return Ok(vec![address]);
        }
        let known = self.hosts.addresses(host);
        if !known.is_empty() {
            return Ok(known);
        }
        if host.eq_ignore_ascii_case("localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
        }
        let (mut asked, mut exists) = (Vec::new(), false);
        for candidate in self.config.candidates(host) {
            asked.push(candidate.clone());
            // Both families for one name before the next name: an address of either ends the search.
            let (v4, v6) =
                tokio::join!(self.ask(&candidate, RecordType::A), self.ask(&candidate, RecordType::AAAA));
            let addresses = [addresses_of(&v4), addresses_of(&v6)].concat();
            if !addresses.is_empty() {
                return Ok(addresses);
            }
            exists |= v4?.metadata.response_code == ResponseCode::NoError;
            v6?;
        }
        let name = host.to_owned();
        Err(if exists {
            ResolveError::NoSuchRecord { name, record_type: "A".to_owned(), asked }
        } else {
            ResolveError::NoSuchName { name, asked }
        })
    }

    /// One record type, through the search list: the first name with an answer wins.
    pub async fn lookup(&self, name: &str, record_type: RecordType) -> Result<DnsAnswer, ResolveError> {
        let candidates = self.config.candidates(name);
        let (mut asked, mut exists) = (Vec::new(), false);
        for candidate in candidates {
            asked.push(candidate.clone());
            let message = self.ask(&candidate, record_type).await?;
            match message.metadata.response_code {
                ResponseCode::NXDomain => {}
                _ if message.answers.iter().any(|record| record.record_type() == record_type) => {
                    let records = message.answers.iter().map(render).collect();
                    return Ok(DnsAnswer { name: candidate, asked, records });
                }
                _ => exists = true,
            }
        }
        let name = name.to_owned();
        Err(if exists {
            ResolveError::NoSuchRecord { name, record_type: record_type.to_string(), asked }
        } else {
            ResolveError::NoSuchName { name, asked }
        })
    }

    /// The same by the type's name.
    pub async fn lookup_text(&self, name: &str, record_type: &str) -> Result<DnsAnswer, ResolveError> {
        let parsed = record_type.to_ascii_uppercase().parse();
        let parsed = parsed.map_err(|_| ResolveError::BadType { record_type: record_type.to_owned() })?;
        self.lookup(name, parsed).await
    }

    /// Asks the servers in order, as often as `attempts` says, for one absolute name.
    async fn ask(&self, name: &str, record_type: RecordType) -> Result<Message, ResolveError> {
        let bad = || ResolveError::BadName { name: name.to_owned() };
        let mut absolute = Name::from_ascii(name).map_err(|_| bad())?;
        absolute.set_fqdn(true);
        let query = Query::query(absolute, record_type);
        let mut last = ResolveError::NoServers;
        for _ in 0..self.config.attempts {
            for &server in &self.config.servers {
                match exchange(server, &query, self.config.timeout).await {
                    Ok(message) => match message.metadata.response_code {
                        ResponseCode::NoError | ResponseCode::NXDomain => return Ok(message),
                        code => {
                            let code = code.to_str().to_owned();
                            last = ResolveError::ServerFailed { name: name.to_owned(), server, code };
                        }
                    },
                    Err(error) => {
                        let detail = format!("{server}: {error}");
                        last = ResolveError::NoAnswer { name: name.to_owned(), detail };
                    }
                }
            }
        }
        Err(last)
    }
}

/// One question to one server: UDP, and TCP when the answer was cut (RFC 1035 §4.2, RFC 7766 §5).
async fn exchange(server: IpAddr, query: &Query, timeout: Duration) -> std::io::Result<Message> {
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    let invalid = |error: &dyn std::fmt::Display| {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string())
    };
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.add_query(query.clone());
    let bytes = request.to_vec().map_err(|error| invalid(&error))?;
    let id = request.metadata.id;
    let server = SocketAddr::new(server, 53);
    let message =
        tokio::time::timeout(timeout, over_udp(server, &bytes, id, query)).await.map_err(|_| late())??;
    if !message.metadata.truncation {
        return Ok(message);
    }
    tokio::time::timeout(timeout, over_tcp(server, &bytes, id, query)).await.map_err(|_| late())?
}

async fn over_udp(server: SocketAddr, request: &[u8], id: u16, query: &Query) -> std::io::Result<Message> {
    let local: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(request).await?;
    let mut buffer = vec![0; UDP_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let message = buffer.get(..length).and_then(|bytes| Message::from_vec(bytes).ok());
        // Anything that is not the answer to our question may be forged or late: wait on (RFC 5452 §9.1).
        if let Some(message) = message.filter(|message| answers(message, id, query)) {
            return Ok(message);
        }
    }
}

async fn over_tcp(server: SocketAddr, request: &[u8], id: u16, query: &Query) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(request.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&length.to_be_bytes(), request].concat()).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    Message::from_vec(&bytes)
        .ok()
        .filter(|message| answers(message, id, query))
        .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "not the answer to our question"))
}

fn answers(message: &Message, id: u16, query: &Query) -> bool {
    message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && message
            .queries
            .first()
            .is_some_and(|asked| asked.name() == query.name() && asked.query_type() == query.query_type())
}

fn addresses_of(answer: &Result<Message, ResolveError>) -> Vec<IpAddr> {
    let records = answer.iter().flat_map(|message| &message.answers);
    records.filter_map(|record| record.data.ip_addr()).collect()
}

fn render(record: &Record) -> RecordText {
    let bare = |name: &Name| name.to_ascii().trim_end_matches('.').to_owned();
    let data = match &record.data {
        RData::CNAME(name) => bare(name),
        RData::PTR(name) => bare(name),
        RData::NS(name) => bare(name),
        RData::SRV(srv) => format!("{} {} {} {}", srv.priority, srv.weight, srv.port, bare(&srv.target)),
        other => other.to_string(),
    };
    RecordText {
        name: bare(&record.name),
        record_type: record.record_type().to_string(),
        ttl_seconds: record.ttl,
        data,
    }
}
