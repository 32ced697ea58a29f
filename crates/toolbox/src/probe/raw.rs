//! TCP and UDP exchanges with the toolbox's echo servers (or anything else).

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UdpSocket;

use super::failure::{Failure, Phase};
use super::outcome::{BODY_BYTES_MAX, RawAnswer};
use super::plan::RawTarget;
use crate::resolver::Resolver;

/// `host:port`, with brackets around an IPv6 address.
fn split(address: &str) -> Result<(&str, u16), Failure> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let parts = parts.filter(|(host, _)| !host.is_empty());
    parts.ok_or_else(|| Failure::invalid(format!("{address} is not host:port")))
}

/// Connects, reads the greeting where one is expected, sends, reads.
pub(super) async fn tcp(
    target: &RawTarget,
    resolver: &Resolver,
    tried: &mut Option<SocketAddr>,
    phase: &mut Phase,
) -> Result<RawAnswer, Failure> {
    let (host, port) = split(&target.address)?;
    *phase = Phase::Connect;
    let mut stream = BufReader::new(super::http::open(resolver, host, port, tried).await?);
    *phase = Phase::Read;
    let failed = |error: std::io::Error| Failure::of(Phase::Read, &error);
    let mut answer = RawAnswer::default();
    if target.expect_greeting {
        let mut limited = (&mut stream).take(BODY_BYTES_MAX as u64);
        let length = limited.read_line(&mut answer.greeting).await.map_err(failed)?;
        if length == 0 {
            return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
    if let Some(text) = &target.send {
        stream.write_all(text.as_bytes()).await.map_err(failed)?;
        // Half closed: an echo server ends its answer when it has sent everything back.
        stream.shutdown().await.map_err(failed)?;
    }
    if target.read_bytes_max > 0 {
        let mut bytes = Vec::new();
        let limit = u64::from(target.read_bytes_max).min(BODY_BYTES_MAX as u64);
        stream.take(limit).read_to_end(&mut bytes).await.map_err(failed)?;
        answer.received = String::from_utf8_lossy(&bytes).into_owned();
    }
    Ok(answer)
}

/// Sends one datagram and awaits one. The socket is connected, so that an ICMP error is reported.
pub(super) async fn udp(
    target: &RawTarget,
    resolver: &Resolver,
    tried: &mut Option<SocketAddr>,
    phase: &mut Phase,
) -> Result<RawAnswer, Failure> {
    let (host, port) = split(&target.address)?;
    let addresses = resolver.addresses(host).await?;
    let Some(&address) = addresses.first() else { return Err(Failure::invalid("the name has no address")) };
    let address = SocketAddr::new(address, port);
    *tried = Some(address);
    *phase = Phase::Connect;
    let failed = |error: std::io::Error| Failure::of(Phase::Connect, &error);
    let local: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await.map_err(failed)?;
    socket.connect(address).await.map_err(failed)?;
    socket.send(target.send.as_deref().unwrap_or("").as_bytes()).await.map_err(failed)?;
    *phase = Phase::Read;
    let mut buffer = vec![0; BODY_BYTES_MAX];
    let length = socket.recv(&mut buffer).await.map_err(|error| Failure::of(Phase::Read, &error))?;
    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
    Ok(RawAnswer { greeting: text, received: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port() {
        assert_eq!(split("web:80").unwrap(), ("web", 80));
        assert_eq!(split("[fd00::1]:80").unwrap(), ("[fd00::1]", 80));
        for text in ["web", ":80", "web:x", "web:70000"] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
