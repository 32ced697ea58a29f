//! A server of a test's own, and a client that shows every byte that matters.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fairway_apiserver::{Config, Server, TlsFiles};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Long enough for a busy machine, short enough to fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The certificates of a cluster, in files.
pub(crate) struct Pki {
    pub(crate) directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in files.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    pub(crate) fn new_in(base: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("fw-apiserver-pki-").tempdir_in(base).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "fairway-ca");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.crt"), certificate.pem()).unwrap();
        std::fs::write(directory.path().join("sa.key"), KeyPair::generate().unwrap().serialize_pem())
            .unwrap();
        Self { directory, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A certificate for a user in groups, or for a server.
    pub(crate) fn identity(&self, name: &str, groups: &[&str]) -> Identity {
        let mut params =
            CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = name.replace(':', "-");
        let identity = Identity {
            certificate: self.path(&format!("{file}.crt")),
            key: self.path(&format!("{file}.key")),
        };
        std::fs::write(&identity.certificate, certificate.pem()).unwrap();
        std::fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }
}

/// A running server. Its directories go when it is dropped.
pub(crate) struct Running {
    pub(crate) pki: Pki,
    pub(crate) admin: Identity,
    pub(crate) address: SocketAddr,
    pub(crate) run_dir: PathBuf,
    state: TempDir,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn start() -> Self {
        Self::start_in(&std::env::temp_dir()).await
    }

    /// With its state below `base`.
    pub(crate) async fn start_in(base: &Path) -> Self {
        let pki = Pki::new();
        pki.identity("server", &[]);
        let admin = pki.identity("admin", &["system:masters"]);
        let state = tempfile::Builder::new().prefix("fw-apiserver-").tempdir_in(base).unwrap();
        let (address, stop, task) = Self::launch(&pki, state.path()).await;
        let run_dir = state.path().join("run");
        Self { pki, admin, address, run_dir, state, stop: Some(stop), task }
    }

    pub(crate) fn config(pki: &Pki, state: &Path) -> Config {
        Config {
            state_dir: state.join("store"),
            run_dir: state.join("run"),
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            advertise: "127.0.0.1:0".parse().unwrap(),
            service_range: "10.96.0.0/16".parse().unwrap(),
            node_port_range: 30000..=32767,
            tls: TlsFiles {
                certificate: pki.path("server.crt"),
                key: pki.path("server.key"),
                client_authority: pki.path("ca.crt"),
            },
            service_account_key: pki.path("sa.key"),
            definitions: Vec::new(),
        }
    }

    async fn launch(pki: &Pki, state: &Path) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let server = Server::bind(Self::config(pki, state)).await.unwrap();
        let address = server.addresses()[0];
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.serve(async move {
            let _ = stopped.await;
        }));
        (address, stop, task)
    }

    /// Stops the server and starts it again on the same state.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        let (address, stop, task) = Self::launch(&self.pki, self.state.path()).await;
        (self.address, self.stop, self.task) = (address, Some(stop), task);
    }

    pub(crate) async fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        tokio::time::timeout(PATIENCE, &mut self.task).await.unwrap().unwrap();
    }

    /// What a second server on the same state says.
    pub(crate) async fn second(&self) -> String {
        Server::bind(Self::config(&self.pki, self.state.path())).await.err().unwrap().to_string()
    }

    /// A connection with the administrator's certificate.
    pub(crate) async fn client(&self) -> Client {
        self.client_as(Some(&self.admin)).await
    }

    /// A connection with a certificate or none.
    pub(crate) async fn client_as(&self, identity: Option<&Identity>) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.pki.path("ca.crt")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match identity {
            Some(identity) => {
                let chain = vec![CertificateDer::from_pem_file(&identity.certificate).unwrap()];
                let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Client { sender, headers: Vec::new() }
    }

    /// A kubeconfig for the administrator.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        let path = self.pki.path("kubeconfig");
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: t\n\
             clusters: [{{name: t, cluster: {{server: \"https://{}\", certificate-authority: {}}}}}]\n\
             users: [{{name: t, user: {{client-certificate: {}, client-key: {}}}}}]\n\
             contexts: [{{name: t, context: {{cluster: t, user: t}}}}]\n",
            self.address,
            self.pki.path("ca.crt").display(),
            self.admin.certificate.display(),
            self.admin.key.display(),
        );
        std::fs::write(&path, config).unwrap();
        path
    }
}

/// One connection.
pub(crate) struct Client {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    /// Sent with every request.
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl Client {
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &str,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(path).header("host", "test");
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        self.sender.ready().await.unwrap();
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        tokio::time::timeout(PATIENCE, self.sender.send_request(request)).await.unwrap().unwrap()
    }

    pub(crate) async fn ask(&mut self, method: &str, path: &str, content_type: &str, body: &str) -> Answer {
        let response = self.send(method, path, content_type, body).await;
        let (code, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes =
            tokio::time::timeout(PATIENCE, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
        Answer { code, headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, "", "").await
    }

    pub(crate) async fn post(&mut self, path: &str, object: &Value) -> Answer {
        self.ask("POST", path, "application/json", &object.to_string()).await
    }

    pub(crate) async fn put(&mut self, path: &str, object: &Value) -> Answer {
        self.ask("PUT", path, "application/json", &object.to_string()).await
    }

    pub(crate) async fn merge(&mut self, path: &str, patch: &Value) -> Answer {
        self.ask("PATCH", path, "application/merge-patch+json", &patch.to_string()).await
    }

    pub(crate) async fn delete(&mut self, path: &str) -> Answer {
        self.ask("DELETE", path, "", "").await
    }

    /// A watch; the connection serves nothing else from now on.
    pub(crate) async fn watch(mut self, path: &str) -> Watch {
        let response = self.send("GET", path, "", "").await;
        assert_eq!(response.status(), 200, "{path}");
        Watch { body: response.into_body(), buffered: Vec::new(), _client: self }
    }
}

/// The events of a watch.
pub(crate) struct Watch {
    body: Incoming,
    buffered: Vec<u8>,
    _client: Client,
}

impl Watch {
    /// The next event; none at the clean end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffered.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffered.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            match tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time") {
                Some(frame) => self.buffered.extend_from_slice(&frame.unwrap().into_data().unwrap()),
                None => {
                    assert!(self.buffered.is_empty());
                    return None;
                }
            }
        }
    }

    /// The next event as `TYPE name`.
    pub(crate) async fn brief(&mut self) -> String {
        let event = self.next().await.expect("an event");
        format!(
            "{} {}",
            event["type"].as_str().unwrap(),
            event["object"]["metadata"]["name"].as_str().unwrap_or("-")
        )
    }
}

/// A ConfigMap.
pub(crate) fn config_map(name: &str, value: &str) -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}})
}
