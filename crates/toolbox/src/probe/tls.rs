//! The client's side of TLS: who is trusted, and what was agreed.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::failure::{Failure, Phase};
use super::outcome::Secured;
use super::plan::{HttpVersion, TlsTrust};

/// The handshake, with the protocols that the HTTP version allows.
pub(super) async fn connect(
    stream: TcpStream,
    host: &str,
    trust: &TlsTrust,
    version: HttpVersion,
) -> Result<TlsStream<TcpStream>, Failure> {
    let name = trust.server_name.as_deref().unwrap_or(host).trim_matches(['[', ']']);
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| Failure::invalid(format!("{name} is not a name for TLS")))?;
    let mut config = config(trust)?;
    config.alpn_protocols = match version {
        HttpVersion::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        HttpVersion::Http1 => vec![b"http/1.1".to_vec()],
        HttpVersion::Http2 => vec![b"h2".to_vec()],
    };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|error| Failure::of(Phase::Secure, &error))
}

fn config(trust: &TlsTrust) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::of(Phase::Prepare, &error))?;
    if trust.insecure {
        let verifier = Arc::new(TrustsAnybody(provider));
        return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    for certificate in
        CertificateDer::pem_slice_iter(trust.authorities_pem.as_deref().unwrap_or("").as_bytes())
    {
        let certificate =
            certificate.map_err(|error| Failure::invalid(format!("trusted certificate: {error}")))?;
        roots.add(certificate).map_err(|error| Failure::invalid(format!("trusted certificate: {error}")))?;
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// What was agreed.
pub(super) fn secured(stream: &TlsStream<TcpStream>) -> Secured {
    let (_, session) = stream.get_ref();
    let leaf = session.peer_certificates().and_then(<[_]>::first);
    Secured {
        version: session.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default(),
        alpn: session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        certificate_names: leaf.map(|der| names(der)).unwrap_or_default(),
    }
}

/// The DNS names of a certificate (RFC 5280 §4.2.1.6).
fn names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else { return Vec::new() };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let dns_name = |name: &x509_parser::extensions::GeneralName<'_>| match name {
        x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(dns_name).collect()
}

/// For tests that ask which certificate is served, not whether it is good. Signatures are still checked: the peer has the key.
#[derive(Debug)]
struct TrustsAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsAnybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
