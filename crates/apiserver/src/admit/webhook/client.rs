//! Connections to webhooks: HTTPS to an address or to the ready endpoints of a Service, kept for the next question.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fairway_objects::document::Document;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::store::{Collection, Key, State};

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Connections kept for one webhook.
const IDLE_MAX: usize = 8;
/// Webhooks that connections are kept for.
const TARGETS_MAX: usize = 256;
/// Characters of a refusal's body that are told.
const BODY_CHARS_MAX: usize = 512;

/// Where a webhook is, and how it proves that it is that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::admit) struct ClientConfiguration {
    place: Place,
    /// PEM; empty for the authorities of the host.
    authority: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Url(String),
    Service { namespace: String, name: String, port: i64, path: String },
}

/// Why there is no answer, as the error behind `failed to call webhook: `.
#[derive(Debug, thiserror::Error)]
pub(in crate::admit) enum CallError {
    #[error("Post {url:?}: {reason}")]
    NotReached { url: String, reason: String },
    #[error("the server could not find the requested resource")]
    NotFound,
    #[error("an error on the server ({body:?}) has prevented the request from succeeding")]
    Refused { body: String },
    #[error("the webhook's authority cannot be used: {0}")]
    Authority(String),
}

/// One way to one webhook.
struct Route {
    url: String,
    host: String,
    addresses: Vec<(String, u16)>,
    path: String,
}

/// Name and address, and the authority that it was checked against.
type Destination = (String, Vec<u8>);

type Connection = SendRequest<Full<Bytes>>;

/// Connections that wait for the next question, by where they go and whom they trust.
#[derive(Default)]
pub(crate) struct Connections {
    idle: Mutex<HashMap<Destination, Vec<Connection>>>,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connections")
    }
}

impl ClientConfiguration {
    /// Reads a `clientConfig`.
    pub(super) fn read(config: &Value) -> Self {
        use base64::Engine as _;
        let service = config.at(&["service"]);
        let place = if service.is_null() {
            Place::Url(config.text(&["url"]).to_owned())
        } else {
            Place::Service {
                namespace: service.text(&["namespace"]).to_owned(),
                name: service.text(&["name"]).to_owned(),
                port: service.int(&["port"]).unwrap_or(443),
                path: service.text(&["path"]).to_owned(),
            }
        };
        let authority = config.text(&["caBundle"]);
        let authority = base64::engine::general_purpose::STANDARD.decode(authority).unwrap_or_default();
        Self { place, authority }
    }

    /// Where to connect to now.
    fn route(&self, state: &State, timeout_seconds: u64) -> Result<Route, CallError> {
        match &self.place {
            Place::Url(text) => {
                let url = format!("{text}?timeout={timeout_seconds}s");
                let unusable =
                    |reason: &str| CallError::NotReached { url: url.clone(), reason: reason.to_owned() };
                let uri: Uri = text.parse().map_err(|_| unusable("the URL cannot be read"))?;
                if uri.scheme_str() != Some("https") {
                    return Err(unusable("only https is allowed"));
                }
                let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                let port = uri.port_u16().unwrap_or(443);
                let addresses = vec![(host.clone(), port)];
                Ok(Route { url, host, addresses, path: uri.path().to_owned() })
            }
            Place::Service { namespace, name, port, path } => {
                let slash = if path.starts_with('/') { "" } else { "/" };
                let host = format!("{name}.{namespace}.svc");
                let url = format!("https://{host}:{port}{slash}{path}?timeout={timeout_seconds}s");
                let addresses = endpoints(state, namespace, name, *port)
                    .map_err(|reason| CallError::NotReached { url: url.clone(), reason })?;
                Ok(Route { url, host, addresses, path: format!("{slash}{path}") })
            }
        }
    }
}

/// The addresses and target ports of the ready endpoints behind a port of a Service.
fn endpoints(state: &State, namespace: &str, name: &str, port: i64) -> Result<Vec<(String, u16)>, String> {
    let service = state.object(&Collection::new("", "services"), &Key::new(namespace, name));
    let service = service.ok_or_else(|| format!("service {name:?} not found"))?.value();
    if service.text(&["spec", "type"]) == "ExternalName" {
        let port = u16::try_from(port).map_err(|_| "the port is none".to_owned())?;
        return Ok(vec![(service.text(&["spec", "externalName"]).to_owned(), port)]);
    }
    let served = service.list(&["spec", "ports"]).iter();
    let served = served.into_iter().find(|served| served.int(&["port"]) == Some(port));
    let served = served.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let port_name = served.text(&["name"]);
    let slices = state.objects(&Collection::new("discovery.k8s.io", "endpointslices"));
    let prefix = format!("{namespace}/");
    let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
    let of_service = slices.range::<_, str>(from);
    let of_service = of_service
        .take_while(|(key, _)| key.as_str().starts_with(&prefix))
        .filter(|(_, slice)| slice.value().at(&["metadata", "labels", "kubernetes.io/service-name"]) == name);
    let mut found = Vec::new();
    for (_, slice) in of_service {
        let slice = slice.value();
        let ports = slice.list(&["ports"]).iter();
        let target = ports.into_iter().find(|target| target.text(&["name"]) == port_name);
        let Some(port) = target.and_then(|target| u16::try_from(target.int(&["port"])?).ok()) else {
            continue;
        };
        for endpoint in slice.list(&["endpoints"]) {
            if endpoint.at(&["conditions", "ready"]).as_bool() != Some(false)
                && let Some(address) = endpoint.list(&["addresses"]).first().and_then(Value::as_str)
            {
                found.push((address.to_owned(), port));
            }
        }
    }
    if found.is_empty() { Err(format!("no endpoints available for service {name:?}")) } else { Ok(found) }
}

impl Connections {
    /// Asks a webhook; whoever calls limits the time.
    pub(super) async fn ask(
        &self,
        config: &ClientConfiguration,
        state: &State,
        timeout_seconds: u64,
        question: &Value,
    ) -> Result<Bytes, CallError> {
        let route = config.route(state, timeout_seconds)?;
        let start = usize::from(rand::random::<u16>()) % route.addresses.len().max(1);
        let Some((host, port)) = route.addresses.get(start) else { return Err(CallError::NotFound) };
        let key = (format!("{}@{host}:{port}", route.host), config.authority.clone());
        let body = Bytes::from(question.to_string());
        // A kept connection may have been closed meanwhile: then a new one is asked.
        if let Some(kept) = self.take(&key)
            && let Ok(answer) = self.send(&route, kept, body.clone(), key.clone(), timeout_seconds).await
        {
            return answer;
        }
        let failed = |reason: String| CallError::NotReached { url: route.url.clone(), reason };
        let connection = connect(&route.host, host, *port, &config.authority).await?.map_err(failed)?;
        self.send(&route, connection, body, key, timeout_seconds).await.map_err(failed)?
    }

    /// The inner result is the webhook's, the outer that of the connection.
    async fn send(
        &self,
        route: &Route,
        mut connection: Connection,
        body: Bytes,
        key: Destination,
        timeout_seconds: u64,
    ) -> Result<Result<Bytes, CallError>, String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}?timeout={timeout_seconds}s", route.path))
            .header(header::HOST, &route.host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        connection.ready().await.map_err(|error| error.to_string())?;
        let response = connection.send_request(request).await.map_err(|error| error.to_string())?;
        let code = response.status().as_u16();
        let collected = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let answer = match collected {
            Ok(collected) => collected.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Ok(Err(CallError::NotReached {
                    url: route.url.clone(),
                    reason: format!("the answer is longer than {ANSWER_BYTES_MAX} bytes"),
                }));
            }
            Err(error) => return Err(error.to_string()),
        };
        self.keep(key, connection);
        Ok(match code {
            200..300 => Ok(answer),
            404 => Err(CallError::NotFound),
            _ => Err(CallError::Refused {
                body: String::from_utf8_lossy(&answer).trim().chars().take(BODY_CHARS_MAX).collect(),
            }),
        })
    }

    fn take(&self, key: &Destination) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(key)?;
        while let Some(connection) = kept.pop() {
            if !connection.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, key: Destination, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= TARGETS_MAX {
            idle.retain(|_, kept| {
                kept.retain(|connection| !connection.is_closed());
                !kept.is_empty()
            });
        }
        if idle.len() < TARGETS_MAX || idle.contains_key(&key) {
            let kept = idle.entry(key).or_default();
            if kept.len() < IDLE_MAX {
                kept.push(connection);
            }
        }
    }
}

/// A new connection to `address`, which must prove to be `name`. The inner error is that of the network.
async fn connect(
    name: &str,
    address: &str,
    port: u16,
    authority: &[u8],
) -> Result<Result<Connection, String>, CallError> {
    let config = tls(authority)?;
    let connected = async {
        let stream = TcpStream::connect((address, port))
            .await
            .map_err(|error| format!("dial tcp {}: {error}", authority_text(address, port)))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        let stream = stream.map_err(|error| format!("tls: failed to verify certificate: {error}"))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a webhook ended");
            }
        });
        Ok(sender)
    };
    Ok(connected.await)
}

fn authority_text(address: &str, port: u16) -> String {
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{address}:{port}"),
    }
}

fn tls(authority: &[u8]) -> Result<Arc<ClientConfig>, CallError> {
    let failed = |error: &dyn std::fmt::Display| CallError::Authority(error.to_string());
    let mut roots = RootCertStore::empty();
    if authority.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    } else {
        for certificate in CertificateDer::pem_slice_iter(authority) {
            roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_is_its_ready_endpoints() {
        struct Case {
            name: &'static str,
            service: &'static str,
            port: i64,
            want: Result<Vec<(String, u16)>, String>,
        }
        let mut state = State::default();
        let mut put = |group: &str, plural: &str, object: Value| {
            let key = Key::new("ns", object.text(&["metadata", "name"]));
            state.insert_for_test(&Collection::new(group, plural), key, object);
        };
        let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"name": "https", "port": 443, "targetPort": 8443}]}});
        put("", "services", service("hook"));
        put("", "services", service("empty"));
        put(
            "discovery.k8s.io",
            "endpointslices",
            json!({
                "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
                "ports": [{"name": "metrics", "port": 9000}, {"name": "https", "port": 8443}],
                "endpoints": [
                    {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                    {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                ],
            }),
        );
        let cases = [
            Case { name: "ready", service: "hook", port: 443, want: Ok(vec![("10.0.0.1".to_owned(), 8443)]) },
            Case {
                name: "no port",
                service: "hook",
                port: 80,
                want: Err("no service port 80 found for service \"hook\"".to_owned()),
            },
            Case {
                name: "no endpoint",
                service: "empty",
                port: 443,
                want: Err("no endpoints available for service \"empty\"".to_owned()),
            },
            Case {
                name: "no service",
                service: "absent",
                port: 443,
                want: Err("service \"absent\" not found".to_owned()),
            },
        ];
        for case in cases {
            assert_eq!(endpoints(&state, "ns", case.service, case.port), case.want, "{}", case.name);
        }
    }
}
