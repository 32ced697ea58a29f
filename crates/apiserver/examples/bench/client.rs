//! Connections that cost the client as little as possible.

use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::server::{Identity, Pki};

/// One connection, or a stream of one.
pub(crate) enum Connection {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// The TLS side of a client.
pub(crate) fn tls(pki: &Pki, identity: &Identity, protocol: &[u8]) -> Arc<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.path("ca.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(&identity.certificate).unwrap()],
            PrivateKeyDer::from_pem_file(&identity.key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

impl Connection {
    /// With TLS; HTTP/2 when that is what `config` offers.
    pub(crate) async fn secure(
        address: SocketAddr,
        config: &Arc<rustls::ClientConfig>,
    ) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await?;
        if config.alpn_protocols[0] == b"h2" {
            return Ok(Self::two(stream).await);
        }
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Ok(Self::One(sender))
    }

    /// HTTP/2 without TLS.
    pub(crate) async fn plain_two(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::two(stream).await)
    }

    async fn two(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self::Two(sender)
    }

    /// Another stream of the same connection; HTTP/2 only.
    pub(crate) fn another(&self) -> Self {
        match self {
            Self::One(_) => panic!("HTTP/1.1 has no streams"),
            Self::Two(sender) => Self::Two(sender.clone()),
        }
    }

    pub(crate) async fn start(
        &mut self,
        method: &str,
        uri: &str,
        kind: &str,
        body: Bytes,
    ) -> Response<Incoming> {
        let request =
            Request::builder().method(method).uri(uri).header("host", "bench").header("content-type", kind);
        let request = request.header("te", "trailers").body(Full::new(body)).unwrap();
        match self {
            Self::One(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
            Self::Two(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
        }
    }

    /// The code and the length of the whole answer.
    pub(crate) async fn ask(&mut self, method: &str, uri: &str, kind: &str, body: Bytes) -> (u16, usize) {
        let mut response = self.start(method, uri, kind, body).await;
        let (code, mut len) = (response.status().as_u16(), 0);
        while let Some(frame) = response.body_mut().frame().await {
            len += frame.unwrap().data_ref().map_or(0, Bytes::len);
        }
        (code, len)
    }
}
