//! The cluster's certificates and keys: made once, renewed before they expire, ECDSA P-256 throughout.
//!
//! | file | what it is |
//! |---|---|
//! | `ca.crt`, `ca.key` | the cluster's authority, ten years |
//! | `apiserver.crt`, `.key` | serves the API |
//! | `admin.crt`, `.key` | the user of `<state>/kubeconfig`, group `system:masters` |
//! | `controller.crt`, `.key` | `system:kube-controller-manager`, bound to the role of that name |
//! | `<node>.crt`, `.key` | `system:node:<node>`, group `system:nodes` |
//! | `sa.key`, `sa.pub` | signs and verifies service-account tokens |
//!
//! All of them, also the public ones, are readable by root only.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::{Span, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::files::{self, FileError};
use crate::settings::Settings;

const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;
/// A certificate that has less left than this is made anew at the next start.
const RENEW_DAYS: i64 = 30;

/// A certificate or key could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate could not be made.
    #[error("cannot make the certificate {name}: {source}")]
    Make {
        /// The file name without extension.
        name: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// The clock is at a date that certificates cannot have.
    #[error("the system clock is unusable for certificates: {source}; set the date")]
    Clock {
        /// What is wrong with the date.
        source: jiff::Error,
    },
}

/// Where the certificate and the key of one holder are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM (PKCS #8).
    pub key: PathBuf,
}

/// The files of a cluster's directory `pki/`.
#[derive(Clone, Debug)]
pub struct Pki {
    directory: PathBuf,
}

impl Pki {
    /// The files of that cluster, made or not.
    pub fn of(settings: &Settings) -> Self {
        Self { directory: settings.directories.pki() }
    }
    /// The authority that client and server certificates are checked against.
    pub fn ca(&self) -> Pair {
        self.pair("ca")
    }
    /// The API server's.
    pub fn apiserver(&self) -> Pair {
        self.pair("apiserver")
    }
    /// Signs service-account tokens.
    pub fn service_account_key(&self) -> PathBuf {
        self.directory.join("sa.key")
    }
    /// Verifies service-account tokens.
    pub fn service_account_public_key(&self) -> PathBuf {
        self.directory.join("sa.pub")
    }
    /// The kubeconfig of a role: `controller` or a node's name.
    pub fn kubeconfig(&self, holder: &str) -> PathBuf {
        self.directory.join(format!("{holder}.kubeconfig"))
    }
    pub(crate) fn pair(&self, name: &str) -> Pair {
        Pair {
            certificate: self.directory.join(format!("{name}.crt")),
            key: self.directory.join(format!("{name}.key")),
        }
    }
}

/// Who a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    /// The file name without extension.
    file: String,
    common_name: String,
    organization: Option<&'static str>,
    /// Names and addresses of a server; empty for a client.
    names: Vec<String>,
}

/// Makes what is missing, renews what ends soon or no longer fits the settings; returns the names of what was made.
pub(crate) fn ensure(settings: &Settings, now: Timestamp) -> Result<Vec<String>, PkiError> {
    let pki = Pki::of(settings);
    let mut made = Vec::new();
    let (ca_key, ca_pem) = ensure_ca(&pki, settings, now, &mut made)?;
    let issuer = Issuer::new(ca_params(settings, now)?, ca_key);
    for holder in holders(settings) {
        let pair = pki.pair(&holder.file);
        if !is_current(&pair, &holder, &ca_pem, now) {
            make_leaf(&pair, &holder, &issuer, now)?;
            made.push(holder.file);
        }
    }
    if !pki.service_account_key().exists() || !pki.service_account_public_key().exists() {
        let key = KeyPair::generate().map_err(make_failed("sa"))?;
        files::write(&pki.service_account_public_key(), key.public_key_pem().as_bytes(), 0o600)?;
        files::write(&pki.service_account_key(), key.serialize_pem().as_bytes(), 0o600)?;
        made.push("sa".to_owned());
    }
    Ok(made)
}

fn make_failed(name: &str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |source| PkiError::Make { name: name.to_owned(), source }
}

fn holders(settings: &Settings) -> Vec<Holder> {
    let domain = &settings.domain;
    let server = Holder {
        file: "apiserver".into(),
        common_name: "kube-apiserver".into(),
        organization: None,
        names: vec![
            settings.host_address().to_string(),
            settings.kubernetes_address().to_string(),
            "127.0.0.1".into(),
            "localhost".into(),
            "kubernetes".into(),
            "kubernetes.default".into(),
            "kubernetes.default.svc".into(),
            format!("kubernetes.default.svc.{domain}"),
        ],
    };
    let client = |file: &str, common_name: String, organization| Holder {
        file: file.to_owned(),
        common_name,
        organization,
        names: Vec::new(),
    };
    let mut all = vec![
        server,
        client("admin", "kubernetes-admin".into(), Some("system:masters")),
        client("controller", "system:kube-controller-manager".into(), None),
    ];
    all.extend(
        settings
            .nodes()
            .iter()
            .map(|node| client(&node.name, format!("system:node:{}", node.name), Some("system:nodes"))),
    );
    all
}

fn ca_params(settings: &Settings, now: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut params = params_valid_for(CA_DAYS, now)?;
    // The name is a function of the cluster's, so that the issuer can be made again from its key.
    params.distinguished_name.push(DnType::CommonName, format!("fairway-{}-ca", settings.name));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// The authority's key and certificate (PEM), made anew when missing, broken or near its end.
fn ensure_ca(
    pki: &Pki,
    settings: &Settings,
    now: Timestamp,
    made: &mut Vec<String>,
) -> Result<(KeyPair, String), PkiError> {
    let pair = pki.ca();
    if let (Some(key), Some(pem)) = (read_key(&pair.key), read_text(&pair.certificate))
        && certifies(&pem, &key)
        && facts_of(&pem).is_some_and(|facts| facts.days_left(now) > LEAF_DAYS)
    {
        return Ok((key, pem));
    }
    let key = KeyPair::generate().map_err(make_failed("ca"))?;
    let certificate = ca_params(settings, now)?.self_signed(&key).map_err(make_failed("ca"))?;
    files::write(&pair.key, key.serialize_pem().as_bytes(), 0o600)?;
    files::write(&pair.certificate, certificate.pem().as_bytes(), 0o600)?;
    made.push("ca".to_owned());
    Ok((key, certificate.pem()))
}

fn make_leaf(
    pair: &Pair,
    holder: &Holder,
    issuer: &Issuer<'_, KeyPair>,
    now: Timestamp,
) -> Result<(), PkiError> {
    let made = |source| PkiError::Make { name: holder.file.clone(), source };
    let mut params = CertificateParams::new(holder.names.clone()).map_err(made)?;
    let dates = params_valid_for(LEAF_DAYS, now)?;
    (params.not_before, params.not_after) = (dates.not_before, dates.not_after);
    params.distinguished_name = dates.distinguished_name;
    params.distinguished_name.push(DnType::CommonName, holder.common_name.clone());
    if let Some(organization) = holder.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![if holder.names.is_empty() {
        ExtendedKeyUsagePurpose::ClientAuth
    } else {
        ExtendedKeyUsagePurpose::ServerAuth
    }];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(made)?;
    let certificate = params.signed_by(&key, issuer).map_err(made)?;
    files::write(&pair.key, key.serialize_pem().as_bytes(), 0o600)?;
    files::write(&pair.certificate, certificate.pem().as_bytes(), 0o600)?;
    Ok(())
}

/// From yesterday (clocks differ) for that many days, with an empty name.
fn params_valid_for(days: i64, now: Timestamp) -> Result<CertificateParams, PkiError> {
    let today = now.to_zoned(TimeZone::UTC).date();
    let clock = |source| PkiError::Clock { source };
    let [from, until] = [today.checked_sub(Span::new().days(1)), today.checked_add(Span::new().days(days))];
    let date = |date: jiff::civil::Date| {
        date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = date(from.map_err(clock)?);
    params.not_after = date(until.map_err(clock)?);
    Ok(params)
}

/// What a certificate on disk says.
#[derive(Debug)]
struct Facts {
    ends: i64,
    organization: Option<String>,
    names: Vec<String>,
    public_key: Vec<u8>,
}

impl Facts {
    fn days_left(&self, now: Timestamp) -> i64 {
        (self.ends - now.as_second()) / 86_400
    }
}

fn facts_of(pem: &str) -> Option<Facts> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    let alternatives = certificate.subject_alternative_name().ok()?;
    let names =
        alternatives.iter().flat_map(|found| &found.value.general_names).filter_map(name_text).collect();
    let organization = certificate.subject().iter_organization().next();
    Some(Facts {
        organization: organization.and_then(|name| name.as_str().ok()).map(str::to_owned),
        ends: certificate.validity().not_after.timestamp(),
        names,
        public_key: certificate.public_key().raw.to_vec(),
    })
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match *bytes {
            [a, b, c, d] => Some(IpAddr::from([*a, *b, *c, *d]).to_string()),
            bytes => <[u8; 16]>::try_from(bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    }
}

fn is_current(pair: &Pair, holder: &Holder, ca_pem: &str, now: Timestamp) -> bool {
    let (Some(key), Some(pem)) = (read_key(&pair.key), read_text(&pair.certificate)) else { return false };
    let Some(facts) = facts_of(&pem) else { return false };
    facts.days_left(now) > RENEW_DAYS
        && facts.names == holder.names
        && facts.organization.as_deref() == holder.organization
        && certifies(&pem, &key)
        && signed_by(&pem, ca_pem)
}

/// Whether the certificate is of this key.
fn certifies(pem: &str, key: &KeyPair) -> bool {
    facts_of(pem).is_some_and(|facts| facts.public_key == key.subject_public_key_info())
}

/// Whether the certificate names that authority's key as its issuer's: cheap, and enough to see that the authority was renewed.
fn signed_by(pem: &str, ca_pem: &str) -> bool {
    let identifier = |pem: &str, issuer: bool| {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
        let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) if !issuer => {
                Some(id.0.to_vec())
            }
            x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) if issuer => {
                id.key_identifier.as_ref().map(|id| id.0.to_vec())
            }
            _ => None,
        })
    };
    let authority = identifier(ca_pem, false);
    authority.is_some() && identifier(pem, true) == authority
}

fn read_key(path: &Path) -> Option<KeyPair> {
    KeyPair::from_pem(&read_text(path)?).ok()
}

fn read_text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;
    use crate::settings::{ClusterName, Flags, Roots};

    fn settings(directory: &Path, nodes: u8) -> Settings {
        let roots = Roots { state: directory.join("state"), run: directory.join("run") };
        let flags = Flags { nodes: Some(nodes), ..Flags::default() };
        Settings::resolve(&ClusterName::parse("dev").unwrap(), &roots, &flags, None).unwrap()
    }

    #[test]
    fn made_once_renewed_when_it_must_be_and_secret() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (settings(directory.path(), 1), settings(directory.path(), 2));
        let now = Timestamp::now();
        let all = ["ca", "apiserver", "admin", "controller", "node-1"];
        let mut expected = all.to_vec();
        expected.push("sa");
        assert_eq!(ensure(&one, now).unwrap(), expected);
        assert_eq!(ensure(&one, now).unwrap(), Vec::<String>::new(), "a second start changes nothing");
        assert_eq!(ensure(&two, now).unwrap(), ["node-2"], "a new node gets one");

        let pki = Pki::of(&two);
        std::fs::write(pki.pair("admin").certificate, "broken").unwrap();
        assert_eq!(ensure(&two, now).unwrap(), ["admin"]);
        let days = |days: u64| now + Duration::from_secs(86_400 * days);
        assert_eq!(ensure(&two, days(300)).unwrap(), Vec::<String>::new());
        assert_eq!(
            ensure(&two, days(340)).unwrap(),
            ["apiserver", "admin", "controller", "node-1", "node-2"]
        );
        let renewed = ensure(&two, days(3_400)).unwrap();
        assert_eq!(renewed.len(), 6, "a new authority renews all that it signed: {renewed:?}");

        for entry in std::fs::read_dir(directory.path().join("state/dev/pki")).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
    }

    #[test]
    fn the_server_certificate_has_every_name_the_api_is_called_by() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path(), 1);
        ensure(&settings, Timestamp::now()).unwrap();
        let pem = read_text(&Pki::of(&settings).apiserver().certificate).unwrap();
        let names = facts_of(&pem).unwrap().names;
        for name in [
            "10.200.0.1",
            "10.96.0.1",
            "127.0.0.1",
            "localhost",
            "kubernetes",
            "kubernetes.default.svc.cluster.local",
        ] {
            assert!(names.iter().any(|found| found == name), "{name} is not in {names:?}");
        }
    }
}
