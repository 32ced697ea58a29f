//! Client certificates: the common name is the user, the organizations are the groups (RFC 5280 §4.1.2.6).

use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AUTHENTICATED, User};

/// The user of a certificate that the TLS handshake has already verified; none when it names nobody.
pub fn user(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok().filter(|name| !name.is_empty())?;
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    let groups = groups.map(str::to_owned).chain([AUTHENTICATED.to_owned()]).collect();
    Some(User { name: name.to_owned(), groups, ..User::default() })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn the_subject_is_the_user() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "admin");
        params.distinguished_name.push(DnType::OrganizationName, "system:masters");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let user = user(certificate.der()).unwrap();
        assert_eq!(user.name, "admin");
        assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
        assert_eq!(super::user(b"not a certificate"), None);
    }
}
