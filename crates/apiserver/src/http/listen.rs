//! Sockets, TLS and connections: from `accept` to one call per request.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::Body;
use crate::auth::{User, certificate};

/// Connections open at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection over HTTP/1 may be without a whole request head, so also how long it may idle: longer than the 90 seconds after
/// which clients drop idle connections themselves, so that no request meets a closing one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 250;
/// Size of a request head over HTTP/1.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long requests under way may go on after a stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or holds no PEM of the right kind.
    #[error("cannot read {what} from {path}: {reason}; the server cannot prove who it is")]
    File {
        /// Certificate, key or authority.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// They are there but do not fit together.
    #[error("the certificate {path} cannot be used: {source}")]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// The files that TLS needs, all PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's certificate and its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority that signs client certificates.
    pub client_authority: PathBuf,
}

/// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, client certificates welcome but not required.
pub fn tls(files: &TlsFiles) -> Result<rustls::ServerConfig, TlsError> {
    let unusable = |source| TlsError::Unusable { path: files.certificate.clone(), source };
    let chain = certificates("the server certificate", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| TlsError::File {
        what: "the server key",
        path: files.key.clone(),
        reason: error.to_string(),
    })?;
    let mut roots = RootCertStore::empty();
    for authority in certificates("the client authority", &files.client_authority)? {
        roots.add(authority).map_err(unusable)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| unusable(rustls::Error::General(error.to_string())))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |reason: String| TlsError::File { what, path: path.to_owned(), reason };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(list) if list.is_empty() => Err(failed("it holds no certificate".to_owned())),
        Ok(list) => Ok(list),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whom its certificate names.
    pub certificate: Option<User>,
    /// Ends the connection at once.
    pub hang_up: CancellationToken,
}

/// Answers requests.
pub trait Handle: Send + Sync + 'static {
    /// One request.
    fn handle(&self, peer: &Peer, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// Serves `listeners` until `stop`, then lets what is under way end.
pub async fn serve<H: Handle>(
    listeners: Vec<TcpListener>,
    config: rustls::ServerConfig,
    handler: Arc<H>,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let loops = TaskTracker::new();
    for listener in listeners {
        let (acceptor, handler, stop) = (acceptor.clone(), Arc::clone(&handler), stop.clone());
        let (slots, connections) = (Arc::clone(&slots), connections.clone());
        loops.spawn(async move {
            while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stop.cancelled() => return,
                };
                let (stream, address) = match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        pause_after(&error).await;
                        continue;
                    }
                };
                let (acceptor, handler, stop) = (acceptor.clone(), Arc::clone(&handler), stop.clone());
                connections.spawn(async move {
                    connection(stream, address, acceptor, handler, stop).await;
                    drop(slot);
                });
            }
        });
    }
    loops.close();
    loops.wait().await;
    connections.close();
    let _ = tokio::time::timeout(STOP_GRACE, connections.wait()).await;
}

/// No more file descriptors is the one failure of `accept` that lasts: give others time to close theirs.
async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "could not accept a connection");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn connection<H: Handle>(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    handler: Arc<H>,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%address, "TLS handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = certificates.and_then(|chain| certificate::user(chain.first()?));
    let hang_up = CancellationToken::new();
    let peer = Arc::new(Peer { address, certificate, hang_up: hang_up.clone() });
    let service = service_fn(move |request| {
        let (handler, peer) = (Arc::clone(&handler), Arc::clone(&peer));
        async move { Ok::<_, Infallible>(handler.handle(&peer, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(15));
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = hang_up.cancelled() => return tracing::debug!(%address, "hung up"),
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "connection ended");
    }
}
