//! Kubeconfig files: one for the user, one for each role that is not a pod.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::files::{self, FileError};
use crate::pki::{Pair, Pki};
use crate::settings::Settings;

/// Writes the files of the administrator, the controller and the nodes. They hold keys: mode 0600.
pub(crate) fn write_all(settings: &Settings) -> Result<(), FileError> {
    let pki = Pki::of(settings);
    let ca = files::read(&pki.ca().certificate)?;
    let write = |path: &Path, user: &str, pair: &Pair| {
        let text = render(settings, user, &ca, &files::read(&pair.certificate)?, &files::read(&pair.key)?);
        // An unchanged file is left alone: kubectl may be reading it.
        if files::read(path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        files::write(path, text.as_bytes(), 0o600)
    };
    write(&settings.directories.kubeconfig(), "admin", &pki.pair("admin"))?;
    write(&pki.kubeconfig("controller"), "controller", &pki.pair("controller"))?;
    settings
        .nodes()
        .iter()
        .try_for_each(|node| write(&pki.kubeconfig(&node.name), &node.name, &pki.pair(&node.name)))
}

/// The text. Everything put into it is base64 or was checked to be a plain name, so nothing needs quoting.
fn render(settings: &Settings, user: &str, ca: &[u8], certificate: &[u8], key: &[u8]) -> String {
    let cluster = format!("fairway-{}", settings.name);
    let server = settings.api_address();
    let [ca, certificate, key] = [ca, certificate, key].map(|pem| STANDARD.encode(pem));
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {cluster}
  cluster:
    server: https://{server}
    certificate-authority-data: {ca}
users:
- name: {cluster}-{user}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: {cluster}
  context:
    cluster: {cluster}
    user: {cluster}-{user}
current-context: {cluster}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{ClusterName, Flags, Roots};

    #[test]
    fn kube_rs_reads_what_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots { state: directory.path().join("state"), run: directory.path().join("run") };
        let name = ClusterName::parse("dev").unwrap();
        let settings = Settings::resolve(&name, &roots, &Flags::default(), None).unwrap();
        crate::pki::ensure(&settings, jiff::Timestamp::now()).unwrap();
        write_all(&settings).unwrap();
        for path in [settings.directories.kubeconfig(), Pki::of(&settings).kubeconfig("node-2")] {
            let read = kube::config::Kubeconfig::read_from(&path).unwrap();
            let cluster = read.clusters[0].cluster.as_ref().unwrap();
            assert_eq!(cluster.server.as_deref(), Some("https://10.200.0.1:6443"));
            assert_eq!(read.current_context.as_deref(), Some("fairway-dev"));
        }
    }
}
