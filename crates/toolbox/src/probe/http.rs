//! One HTTP request: resolve, connect, secure, ask, read.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::failure::{Failure, Phase};
use super::outcome::{BODY_BYTES_MAX, HttpAnswer, Secured};
use super::plan::{Asked, HttpTarget, HttpVersion};
use super::{grpc, tls, websocket};
use crate::resolver::Resolver;

/// A target that was read: what is asked, of whom.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    host: String,
    port: u16,
    secure: bool,
    version: HttpVersion,
    connect_to: Option<(String, Option<u16>)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
    target: HttpTarget,
}

/// A connection that may carry another request.
pub(super) enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A connection and what is known of it.
pub(super) struct Connected {
    pub(super) address: SocketAddr,
    sender: Sender,
    /// Reads and writes for the sender; its end says why a connection broke.
    driver: Driver,
    secured: Option<Secured>,
}

/// Reads the target once; a mistake in it is the same for every request.
pub(super) fn prepare(target: &HttpTarget) -> Result<Prepared, Failure> {
    let invalid = |what: &str, error: &dyn std::fmt::Display| Failure::invalid(format!("{what}: {error}"));
    let uri: Uri = target.url.parse().map_err(|error| invalid(&target.url, &error))?;
    let secure = match uri.scheme_str() {
        Some("http" | "ws" | "grpc") => false,
        Some("https" | "wss" | "grpcs") => true,
        _ => return Err(Failure::invalid(format!("{}: a URL begins with http:// or https://", target.url))),
    };
    let host = uri.host().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| Failure::invalid(format!("{} has no host", target.url)))?.to_owned();
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let is_grpc = matches!(target.asked, Asked::Grpc { .. });
    let version = match &target.asked {
        Asked::Plain => target.version,
        Asked::Grpc { .. } => HttpVersion::Http2,
        Asked::WebSocket { .. } => HttpVersion::Http1,
    };
    let path = if is_grpc {
        PathAndQuery::from_static(grpc::ECHO_METHOD)
    } else {
        uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
    };
    let method = match target.method.as_str() {
        "" if is_grpc => Method::POST,
        "" => Method::GET,
        given => given.parse().map_err(|error| invalid(given, &error))?,
    };
    let authority = uri.authority().cloned().ok_or_else(|| Failure::invalid("the URL has no host"))?;
    let mut headers = HeaderMap::new();
    for (name, value) in &target.headers {
        let parsed: HeaderName = name.parse().map_err(|error| invalid(name, &error))?;
        headers.append(parsed, HeaderValue::from_str(value).map_err(|error| invalid(name, &error))?);
    }
    let authority = match headers.get(header::HOST) {
        Some(given) => given.to_str().ok().and_then(|text| text.parse().ok()),
        None => Some(authority),
    };
    let authority = authority.ok_or_else(|| Failure::invalid("the host header is not a host"))?;
    let scheme = if secure { Scheme::HTTPS } else { Scheme::HTTP };
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build();
    let body = match &target.asked {
        Asked::Grpc { message } => grpc::encode_frame(&grpc::encode_string(message)),
        Asked::Plain | Asked::WebSocket { .. } => target.body.clone().unwrap_or_default().into(),
    };
    Ok(Prepared {
        host,
        port,
        secure,
        version,
        connect_to: target.connect_to.as_deref().map(split_port),
        method,
        uri: uri.map_err(|error| invalid(&target.url, &error))?,
        headers,
        body,
        target: target.clone(),
    })
}

/// `address`, `address:port` or `[address]:port`.
fn split_port(text: &str) -> (String, Option<u16>) {
    if text.parse::<IpAddr>().is_ok() {
        return (text.to_owned(), None);
    }
    match text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some((host, port)) => (host.to_owned(), Some(port)),
        None => (text.to_owned(), None),
    }
}

/// Tries the addresses in order, as clients do; the last error is the one that is told.
pub(super) async fn open(
    resolver: &Resolver,
    host: &str,
    port: u16,
    tried: &mut Option<SocketAddr>,
) -> Result<TcpStream, Failure> {
    let mut last = Failure::invalid("the name has no address");
    for address in resolver.addresses(host).await? {
        let address = SocketAddr::new(address, port);
        *tried = Some(address);
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Best effort: without it only latency suffers.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = Failure::of(Phase::Connect, &error),
        }
    }
    Err(last)
}

impl Prepared {
    /// The phase of a deadline that is met is written to `phase`.
    pub(super) async fn connect(
        &self,
        resolver: &Resolver,
        tried: &mut Option<SocketAddr>,
        phase: &mut Phase,
    ) -> Result<Connected, Failure> {
        let (host, port) = match &self.connect_to {
            Some((host, port)) => (host.as_str(), port.unwrap_or(self.port)),
            None => (self.host.as_str(), self.port),
        };
        *phase = Phase::Connect;
        let stream = open(resolver, host, port, tried).await?;
        let address = stream.peer_addr().map_err(|error| Failure::of(Phase::Connect, &error))?;
        *tried = Some(address);
        if !self.secure {
            *phase = Phase::Request;
            let (sender, driver) = handshake(stream, self.version == HttpVersion::Http2).await?;
            return Ok(Connected { address, sender, driver, secured: None });
        }
        *phase = Phase::Secure;
        let stream = tls::connect(stream, &self.host, &self.target.tls, self.version).await?;
        let secured = tls::secured(&stream);
        *phase = Phase::Request;
        let is_http2 = secured.alpn.as_deref() == Some("h2");
        if self.version == HttpVersion::Http2 && !is_http2 {
            return Err(Failure::protocol(Phase::Secure, "the server does not speak HTTP/2 (ALPN)"));
        }
        let (sender, driver) = handshake(stream, is_http2).await?;
        Ok(Connected { address, sender, driver, secured: Some(secured) })
    }

    /// Asks and reads the whole answer.
    pub(super) async fn ask(
        &self,
        connected: &mut Connected,
        begin: Instant,
        phase: &mut Phase,
    ) -> Result<HttpAnswer, Failure> {
        *phase = Phase::Request;
        let request = self.request(matches!(connected.sender, Sender::Http2(_)))?;
        let response = match connected.sender.send(request).await {
            Ok(response) => response,
            // The sender only knows that the connection is gone; its driver knows why.
            Err(error) if error.is_canceled() || error.is_closed() => {
                let ended = (&mut connected.driver).await;
                let cause = ended.ok().and_then(Result::err).unwrap_or(error);
                return Err(Failure::of(Phase::Request, &cause));
            }
            Err(error) => return Err(Failure::of(Phase::Request, &error)),
        };
        *phase = Phase::Read;
        let mut answer = head(&response, begin);
        answer.tls = connected.secured.clone();
        match &self.target.asked {
            Asked::WebSocket { messages } if answer.status == 101 => {
                let session = websocket::converse(response, messages).await?;
                (answer.body, answer.messages) = session;
                answer.body_bytes = answer.body.len() as u64;
            }
            Asked::WebSocket { .. } | Asked::Plain => {
                read(response, &mut answer, begin).await?;
            }
            Asked::Grpc { .. } => {
                let header_status = answer.header("grpc-status").and_then(|text| text.parse().ok());
                let (bytes, trailers) = read(response, &mut answer, begin).await?;
                let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
                let status = status.and_then(|value| value.to_str().ok()?.parse().ok());
                answer.grpc_status = status.or(header_status);
                let message = grpc::decode_frame(&bytes).and_then(|message| grpc::decode_string(&message));
                answer.body = message.unwrap_or(answer.body);
            }
        }
        Ok(answer)
    }

    /// HTTP/1 wants the path and a host header, HTTP/2 the whole URI (RFC 9113 §8.3.1).
    fn request(&self, is_http2: bool) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        let headers = request.headers_mut();
        if !headers.contains_key(header::USER_AGENT) {
            headers.insert(header::USER_AGENT, HeaderValue::from_static("fairway-toolbox"));
        }
        match &self.target.asked {
            Asked::Plain => {}
            Asked::Grpc { .. } => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
            }
            Asked::WebSocket { .. } => websocket::ask(headers),
        }
        if is_http2 {
            headers.remove(header::HOST);
            *request.uri_mut() = self.uri.clone();
            *request.version_mut() = Version::HTTP_2;
        } else {
            if let Some(authority) = self.uri.authority() {
                let host = HeaderValue::from_str(authority.as_str());
                headers.insert(header::HOST, host.map_err(|error| Failure::of(Phase::Prepare, &error))?);
            }
            let path = self.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
            *request.uri_mut() = Uri::from(path);
        }
        Ok(request)
    }
}

impl Sender {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

type Driver = JoinHandle<Result<(), hyper::Error>>;

async fn handshake<S>(stream: S, is_http2: bool) -> Result<(Sender, Driver), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let failed = |error: hyper::Error| Failure::of(Phase::Request, &error);
    if is_http2 {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .handshake(io)
            .await
            .map_err(failed)?;
        Ok((Sender::Http2(sender), tokio::spawn(connection)))
    } else {
        let (sender, connection) = http1::handshake(io).await.map_err(failed)?;
        Ok((Sender::Http1(sender), tokio::spawn(connection.with_upgrades())))
    }
}

fn head(response: &Response<Incoming>, begin: Instant) -> HttpAnswer {
    let headers = response.headers().iter();
    HttpAnswer {
        status: response.status().as_u16(),
        version: match response.version() {
            Version::HTTP_2 => "HTTP/2".to_owned(),
            Version::HTTP_10 => "HTTP/1.0".to_owned(),
            _ => "HTTP/1.1".to_owned(),
        },
        headers: headers
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect(),
        first_byte_us: super::run::micros(begin.elapsed()),
        ..HttpAnswer::default()
    }
}

/// Reads the body to its end; the bytes that are kept and the trailers.
async fn read(
    response: Response<Incoming>,
    answer: &mut HttpAnswer,
    begin: Instant,
) -> Result<(Vec<u8>, Option<HeaderMap>), Failure> {
    let (mut body, mut kept, mut trailers) = (response.into_body(), Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::of(Phase::Read, &error))?;
        match frame.into_data() {
            Ok(data) => {
                answer.first_chunk_us.get_or_insert(super::run::micros(begin.elapsed()));
                answer.chunks += 1;
                answer.body_bytes += data.len() as u64;
                let room = BODY_BYTES_MAX.saturating_sub(kept.len()).min(data.len());
                kept.extend_from_slice(data.get(..room).unwrap_or_default());
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    answer.body = String::from_utf8_lossy(&kept).into_owned();
    Ok((kept, trailers))
}

impl Connected {
    /// Whether another request may be sent on it.
    pub(super) fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> HttpTarget {
        HttpTarget { url: url.to_owned(), ..HttpTarget::default() }
    }

    #[test]
    fn a_url_says_where_and_how() {
        let cases = [
            ("http://web/", "web", 80, false),
            ("https://web.example", "web.example", 443, true),
            ("ws://10.0.0.1:81/ws", "10.0.0.1", 81, false),
            ("http://[fd00::1]:8080/x?y", "[fd00::1]", 8080, false),
        ];
        for (url, host, port, secure) in cases {
            let prepared = prepare(&target(url)).unwrap();
            assert_eq!(
                (prepared.host.as_str(), prepared.port, prepared.secure),
                (host, port, secure),
                "{url}"
            );
        }
        for url in ["web", "ftp://web/", "http:///x", "http://a b/"] {
            assert!(prepare(&target(url)).is_err(), "{url}");
        }
    }

    #[test]
    fn a_host_header_replaces_the_authority_in_both_versions() {
        let given = HttpTarget {
            headers: vec![("Host".into(), "shop.example".into())],
            ..target("http://10.0.0.1/a")
        };
        let prepared = prepare(&given).unwrap();
        let one = prepared.request(false).unwrap();
        assert_eq!(one.headers().get("host").unwrap(), "shop.example");
        assert_eq!(one.uri(), "/a");
        let two = prepared.request(true).unwrap();
        assert_eq!(two.uri(), "http://shop.example/a");
        assert!(!two.headers().contains_key("host"));
    }

    #[test]
    fn where_to_connect_may_name_a_port() {
        for (given, want) in [
            ("10.0.0.1", ("10.0.0.1", None)),
            ("10.0.0.1:81", ("10.0.0.1", Some(81))),
            ("fd00::1", ("fd00::1", None)),
            ("[fd00::1]:81", ("[fd00::1]", Some(81))),
            ("web", ("web", None)),
        ] {
            assert_eq!(split_port(given), (want.0.to_owned(), want.1), "{given}");
        }
    }
}
