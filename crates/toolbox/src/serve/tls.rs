//! The certificate that the TLS ports show.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::ServeError;

/// A client that does not finish its handshake is let go.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// From PEM files, or self-signed for `name` and `localhost`.
pub(super) fn acceptor(
    files: Option<&(PathBuf, PathBuf)>,
    name: &str,
) -> Result<tokio_rustls::TlsAcceptor, ServeError> {
    let (chain, key) = match files {
        Some((certificate, key)) => read(certificate, key)?,
        None => self_signed(name)?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let failed = |error: rustls::Error| ServeError::Certificate { detail: error.to_string() };
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(failed)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config).into())
}

type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read(certificate: &PathBuf, key: &PathBuf) -> Result<Chain, ServeError> {
    let failed = |path: &PathBuf, error: rustls::pki_types::pem::Error| ServeError::Certificate {
        detail: format!("{}: {error}", path.display()),
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(certificate, error))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, error))?;
    Ok((chain, key))
}

fn self_signed(name: &str) -> Result<Chain, ServeError> {
    let name = if name.is_empty() { "toolbox" } else { name };
    let made = rcgen::generate_simple_self_signed([name.to_owned(), "localhost".to_owned()])
        .map_err(|error| ServeError::Certificate { detail: error.to_string() })?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|detail| ServeError::Certificate { detail: detail.to_owned() })?;
    Ok((vec![made.cert.der().clone()], key))
}
