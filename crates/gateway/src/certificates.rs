//! Which certificate a TLS client gets.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use fairway_model::http::{Host, HostPattern};
use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Why a Secret cannot serve TLS.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum CertificateError {
    /// There is no such Secret.
    #[error("the Secret does not exist")]
    NoSecret,
    /// A key of the Secret is missing or empty.
    #[error("the Secret has no {0}")]
    NoKey(&'static str),
    /// `tls.crt` holds no certificate.
    #[error("tls.crt is not a PEM certificate chain")]
    NotACertificate,
    /// `tls.key` holds no private key.
    #[error("tls.key is not a PEM private key")]
    NotAKey,
    /// They do not belong together, or are of a kind that TLS does not take.
    #[error("tls.key does not fit tls.crt: {0}")]
    DoNotFit(rustls::Error),
}

/// Reads `tls.crt` (leaf first) and `tls.key`; the type of the Secret does not matter (ingress-nginx 10.1).
pub(crate) fn certified_key(secret: &Secret) -> Result<Arc<CertifiedKey>, CertificateError> {
    let field = |name: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(name)).map(|bytes| bytes.0.as_slice());
        bytes.filter(|bytes| !bytes.is_empty()).ok_or(CertificateError::NoKey(name))
    };
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(field("tls.crt")?).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or(CertificateError::NotACertificate)?;
    let key = PrivateKeyDer::from_pem_slice(field("tls.key")?).map_err(|_| CertificateError::NotAKey)?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())
        .map(Arc::new)
        .map_err(CertificateError::DoNotFit)
}

/// A certificate for names that have none, made at start: nobody trusts it, everybody can see what it is.
pub(crate) fn self_signed() -> Result<Arc<CertifiedKey>, rcgen::Error> {
    let mut parameters = rcgen::CertificateParams::new(vec!["ingress.local".to_owned()])?;
    let name = &mut parameters.distinguished_name;
    name.push(rcgen::DnType::OrganizationName, "Acme Co");
    name.push(rcgen::DnType::CommonName, "Kubernetes Ingress Controller Fake Certificate");
    let key = rcgen::KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    CertifiedKey::from_der(
        vec![certificate.der().clone()],
        key,
        &rustls::crypto::aws_lc_rs::default_provider(),
    )
    .map(Arc::new)
    .map_err(|_| rcgen::Error::CouldNotParseKeyPair)
}

/// Certificates by server name.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    exact: HashMap<String, Arc<CertifiedKey>>,
    wildcard: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    /// The first certificate of a name wins.
    pub(crate) fn new(certificates: impl IntoIterator<Item = (HostPattern, Arc<CertifiedKey>)>) -> Self {
        let mut built = Self::default();
        for (pattern, key) in certificates {
            let (names, name) = match &pattern {
                HostPattern::Exact(host) => (&mut built.exact, host),
                HostPattern::Wildcard(parent) => (&mut built.wildcard, parent),
                HostPattern::Any => continue,
            };
            names.entry(name.as_str().to_owned()).or_insert(key);
        }
        built
    }

    /// The certificate for a server name: its own, then its wildcard's.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let host = Host::parse(name).ok()?;
        let by_wildcard = || self.wildcard.get(host.parent()?);
        self.exact.get(host.as_str()).or_else(by_wildcard)
    }
}

/// The certificates in force, as rustls asks for them.
#[derive(Debug)]
pub(crate) struct Resolver {
    current: ArcSwap<Certificates>,
    default: Arc<CertifiedKey>,
}

impl Resolver {
    pub(crate) fn new(default: Arc<CertifiedKey>) -> Self {
        Self { current: ArcSwap::default(), default }
    }

    /// From the next handshake on.
    pub(crate) fn replace(&self, certificates: Certificates) {
        self.current.store(Arc::new(certificates));
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
        let found = hello.server_name().and_then(|name| current.find(name));
        Some(found.unwrap_or(&self.default).clone())
    }
}

/// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN, no tickets (ingress-nginx 10.1).
pub(crate) fn server_config(resolver: Arc<Resolver>) -> Result<rustls::ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(fields: &[(&str, &str)]) -> Secret {
        let data =
            fields.iter().map(|(name, text)| ((*name).to_owned(), ByteString(text.as_bytes().to_vec())));
        Secret { data: Some(data.collect()), ..Secret::default() }
    }

    #[test]
    fn names_are_found_exactly_then_by_wildcard() {
        let (one, two) = (self_signed().unwrap(), self_signed().unwrap());
        let pattern = |text: &str| HostPattern::parse(text).unwrap();
        let certificates = Certificates::new([
            (pattern("a.example"), one.clone()),
            (pattern("*.example"), two.clone()),
            (pattern("a.example"), two.clone()),
            (HostPattern::Any, one.clone()),
        ]);
        for (name, want) in [
            ("a.example", Some(&one)),
            ("A.Example.", Some(&one)),
            ("b.example", Some(&two)),
            ("c.b.example", None),
            ("example", None),
        ] {
            let got = certificates.find(name);
            assert_eq!(got.map(Arc::as_ptr), want.map(Arc::as_ptr), "{name}");
        }
    }

    #[test]
    fn a_broken_secret_says_what_is_wrong() {
        let made = rcgen::generate_simple_self_signed(vec!["a".into()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let got = |fields: &[(&str, &str)]| certified_key(&secret(fields)).map(|_| ());
        assert_eq!(got(&[("tls.crt", &certificate), ("tls.key", &key)]), Ok(()));
        assert_eq!(got(&[("tls.key", &key)]), Err(CertificateError::NoKey("tls.crt")));
        assert_eq!(got(&[("tls.crt", &certificate)]), Err(CertificateError::NoKey("tls.key")));
        assert_eq!(got(&[("tls.crt", "x"), ("tls.key", &key)]), Err(CertificateError::NotACertificate));
        assert_eq!(got(&[("tls.crt", &certificate), ("tls.key", "x")]), Err(CertificateError::NotAKey));
        assert!(matches!(
            got(&[("tls.crt", &certificate), ("tls.key", &other)]),
            Err(CertificateError::DoNotFit(_))
        ));
    }
}
