//! Asking probes: the shell around [`crate::probe`]. Connections start in the node's namespace, where this process is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::rustls;

use super::worker::Event;
use crate::probe::{ProbeKind, ProbePlan, Question, Tally, Verdict};
use crate::protocol::{ExecPlan, How};
use crate::sandbox::ExecSession;

/// Bytes of a response that are read: enough for its status and a word in an event.
const BODY_BYTES_MAX: usize = 10 << 10;
/// Bytes of a body in an event.
const SHOWN_BYTES_MAX: usize = 128;

/// The probes of one attempt of a container.
#[derive(Clone, Debug)]
pub(super) struct Probing {
    pub container: String,
    pub attempt: u32,
    pub socket: PathBuf,
    pub plans: Vec<ProbePlan>,
    /// Since when it runs.
    pub started: Instant,
}

impl Probing {
    /// Asks until the task is aborted; what changes is sent to the worker.
    pub(super) async fn run(self, events: mpsc::Sender<Event>) {
        let find = |kind| self.plans.iter().find(|plan| plan.kind == kind).cloned();
        if let Some(plan) = find(ProbeKind::Startup) {
            self.ask_on(plan, &events).await;
        }
        let rest = [find(ProbeKind::Liveness), find(ProbeKind::Readiness)];
        let [liveness, readiness] = rest.map(|plan| async {
            if let Some(plan) = plan {
                self.ask_on(plan, &events).await;
            }
        });
        join(liveness, readiness).await;
    }

    /// A startup probe ends when it passed; the others never.
    async fn ask_on(&self, plan: ProbePlan, events: &mpsc::Sender<Event>) {
        let kind = plan.kind;
        let mut tally = Tally::new(plan);
        let mut age = self.started.elapsed();
        loop {
            age = tally.next_at(age);
            tokio::time::sleep_until(self.started + age).await;
            let timeout = tally.plan().timeout;
            let answer = tokio::time::timeout(timeout, ask(&tally.plan().question, self)).await;
            let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", timeout.as_secs())));
            let (verdict, counted_failure) = tally.record(age, answer.is_ok());
            let message = answer.err();
            if counted_failure {
                let message =
                    format!("{} probe failed: {}", kind.title(), message.as_deref().unwrap_or_default());
                let event =
                    Event::ProbeFailed { container: self.container.clone(), attempt: self.attempt, message };
                if events.send(event).await.is_err() {
                    return;
                }
            }
            if let Some(verdict) = verdict {
                let event = Event::Probe {
                    container: self.container.clone(),
                    attempt: self.attempt,
                    kind,
                    verdict,
                    grace_secs: tally.plan().grace_secs,
                };
                if events.send(event).await.is_err()
                    || (kind == ProbeKind::Startup && verdict == Verdict::Passed)
                {
                    return;
                }
            }
            age = age.max(self.started.elapsed().saturating_sub(Duration::from_millis(1)));
        }
    }
}

async fn ask(question: &Question, probing: &Probing) -> Result<(), String> {
    match question {
        Question::Tcp { address } => connect(*address).await.map(drop),
        Question::Http { tls, address, host, path, headers } => {
            let stream = connect(*address).await?;
            if *tls {
                ask_http(encrypt(stream, *address).await?, *tls, host, path, headers).await
            } else {
                ask_http(stream, *tls, host, path, headers).await
            }
        }
        Question::Grpc { address, service } => ask_grpc(connect(*address).await?, *address, service).await,
        Question::Exec { command } => run(&probing.socket, &probing.container, command).await,
    }
}

/// Runs a command in a container; an exit code other than 0 is an error.
pub(super) async fn run(socket: &Path, container: &str, command: &[String]) -> Result<(), String> {
    let plan = ExecPlan {
        container: container.to_owned(),
        argv: command.to_vec(),
        tty: false,
        stdin: false,
        stdout: false,
        stderr: false,
    };
    let mut session = ExecSession::start(socket, plan, &[]).await.map_err(|error| error.to_string())?;
    match session.wait().await {
        How::Code(0) => Ok(()),
        How::Code(code) => Err(format!("command {command:?} exited with code {code}")),
        How::Signal(signal) => Err(format!("command {command:?} was ended by signal {signal}")),
        How::NotStarted { message } => Err(message),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("connect to {address}: {error}"))
}

/// One GET: 200 to 399 is success.
pub(super) async fn ask_http<S>(
    stream: S,
    tls: bool,
    host: &str,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let text = |error: hyper::Error| format!("GET {path}: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let connection = tokio::spawn(connection);
    let mut request = Request::get(path).header("host", host).header("connection", "close");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
        request = request.header("user-agent", "kube-probe/1.36");
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::<Bytes>::default()).map_err(|error| format!("GET {path}: {error}"))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(text)?;
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(());
        }
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map(|body| {
            String::from_utf8_lossy(&body.to_bytes()).chars().take(SHOWN_BYTES_MAX).collect::<String>()
        });
        let scheme = if tls { "https" } else { "http" };
        Err(format!(
            "{scheme}://{host}{path} answered {}: {}",
            status.as_u16(),
            body.unwrap_or_default().trim()
        ))
    };
    let answer = answer.await;
    connection.abort();
    answer
}

/// grpc.health.v1.Health/Check over HTTP/2 without TLS: SERVING is success.
async fn ask_grpc(stream: TcpStream, address: SocketAddr, service: &str) -> Result<(), String> {
    let text = |error: hyper::Error| format!("grpc {address}: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(text)?;
    let connection = tokio::spawn(connection);
    let length = |bytes: usize| {
        u8::try_from(bytes).map_err(|_| "grpc: the service name is longer than 100 bytes".to_owned())
    };
    let mut message = Vec::new();
    if !service.is_empty() {
        message.extend([
            0x0a,
            length(service.len())
                .ok()
                .filter(|len| *len <= 100)
                .ok_or_else(|| "grpc: the service name is longer than 100 bytes".to_owned())?,
        ]);
        message.extend_from_slice(service.as_bytes());
    }
    // A gRPC frame: not compressed, four bytes of length, the message.
    let mut frame = vec![0, 0, 0, 0, length(message.len())?];
    frame.extend(message);
    let uri: Uri = format!("http://{address}/grpc.health.v1.Health/Check")
        .parse()
        .map_err(|error| format!("grpc: {error}"))?;
    let request = Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(frame)))
        .map_err(|error| format!("grpc: {error}"))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(text)?;
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| format!("grpc: {error}"))?;
        let bytes = body.to_bytes();
        // HealthCheckResponse.status is field 1, a varint; SERVING is 1.
        if bytes.get(5..) == Some(&[0x08, 0x01]) {
            Ok(())
        } else {
            Err(format!("grpc {address}: service {service:?} is not SERVING"))
        }
    };
    let answer = answer.await;
    connection.abort();
    answer
}

/// TLS without looking at the certificate, as kubelet does: the probe asks whether the pod works, not who it is.
pub(super) async fn encrypt(
    stream: TcpStream,
    address: SocketAddr,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector
        .connect(address.ip().into(), stream)
        .await
        .map_err(|error| format!("TLS with {address}: {error}"))
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
