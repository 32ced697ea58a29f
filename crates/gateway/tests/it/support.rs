//! Worlds: a namespace, a gateway, endpoints, clients.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fairway_gateway::{Compiler, Config, Gateway, Inputs, Limits};
use fairway_kit::ClientSource;
use fairway_kit::watch::ObjectKey;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Nothing here takes longer unless it is broken.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Runs a test in a fresh network namespace, on its own thread; the namespace goes away with it.
pub(crate) fn world<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        enter_namespace();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), test()).await.expect("in time")
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn enter_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root, for a network namespace");
    ip(&["link", "set", "lo", "up"]);
    ip(&["route", "add", "local", "10.244.0.0/16", "dev", "lo"]);
}

pub(crate) fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("the tool `ip` (Debian: iproute2)");
    assert!(status.success(), "ip {arguments:?}");
}

/// The objects of a test.
#[derive(Default)]
pub(crate) struct Cluster {
    pub(crate) inputs: Inputs,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let mut cluster = Self::default();
        let class = json!({"metadata": {"name": "fairway"}, "spec": {"controller": "fairway.dev/ingress"}});
        let class = Arc::new(serde_json::from_value(class).unwrap());
        cluster.inputs.classes.insert(ObjectKey::new("", "fairway"), class);
        cluster
    }

    /// An Ingress named like its host ("" is any) with paths to port 80 of Services.
    pub(crate) fn ingress(mut self, host: &str, paths: &[(&str, &str)]) -> Self {
        self.put_ingress(host, paths, None);
        self
    }

    pub(crate) fn put_ingress(&mut self, host: &str, paths: &[(&str, &str)], secret: Option<&str>) {
        let paths: Vec<Value> = paths
            .iter()
            .map(|(path, service)| {
                json!({"path": path, "pathType": "Prefix",
                    "backend": {"service": {"name": service, "port": {"number": 80}}}})
            })
            .collect();
        let name = if host.is_empty() { "any" } else { host };
        let mut value = json!({"metadata": {"namespace": "ns", "name": name},
            "spec": {"ingressClassName": "fairway", "rules": [{"host": host, "http": {"paths": paths}}]}});
        if let Some(secret) = secret {
            value["spec"]["tls"] = json!([{"hosts": [host], "secretName": secret}]);
        }
        let object = Arc::new(serde_json::from_value(value).unwrap());
        self.inputs.ingresses.insert(ObjectKey::new("ns", name), object);
    }

    /// A Service with these endpoints.
    pub(crate) fn service(mut self, name: &str, endpoints: &[SocketAddr]) -> Self {
        self.put_service(name, None);
        self.put_endpoints(name, endpoints);
        self
    }

    pub(crate) fn put_service(&mut self, name: &str, app_protocol: Option<&str>) {
        let value = json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"clusterIP": "10.96.0.9",
            "ports": [{"port": 80, "appProtocol": app_protocol}]}});
        let object = Arc::new(serde_json::from_value(value).unwrap());
        self.inputs.services.insert(ObjectKey::new("ns", name), object);
    }

    pub(crate) fn put_endpoints(&mut self, service: &str, endpoints: &[SocketAddr]) {
        for (index, endpoint) in endpoints.iter().enumerate() {
            self.inputs.slices.insert(key(service, index), Arc::new(slice(service, index, *endpoint)));
        }
        for index in endpoints.len()..32 {
            self.inputs.slices.remove(&key(service, index));
        }
    }
}

fn key(service: &str, index: usize) -> ObjectKey {
    ObjectKey::new("ns", &format!("{service}-{index}"))
}

fn slice(
    service: &str,
    index: usize,
    endpoint: SocketAddr,
) -> k8s_openapi::api::discovery::v1::EndpointSlice {
    let value = json!({"metadata": {"namespace": "ns", "name": format!("{service}-{index}"),
        "labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4",
        "ports": [{"port": endpoint.port()}], "endpoints": [{"addresses": [endpoint.ip().to_string()]}]});
    serde_json::from_value(value).unwrap()
}

/// A running gateway with its compiler.
pub(crate) struct Fixture {
    pub(crate) gateway: Gateway,
    pub(crate) compiler: Compiler,
    pub(crate) cluster: Cluster,
}

pub(crate) fn config(limits: Limits) -> Config {
    let mut config = Config::new(ClientSource::InCluster);
    config.http = "10.244.0.1:0".parse().unwrap();
    config.https = "10.244.0.1:0".parse().unwrap();
    config.admin = "10.244.0.1:10254".parse().unwrap();
    config.workers = NonZeroUsize::new(2).unwrap();
    config.limits = limits;
    config
}

impl Fixture {
    pub(crate) fn start(cluster: Cluster) -> Self {
        Self::with_limits(cluster, Limits::default())
    }

    pub(crate) fn with_limits(cluster: Cluster, limits: Limits) -> Self {
        let gateway = Gateway::start(&config(limits)).unwrap();
        let compiler = gateway.compiler();
        let mut fixture = Self { gateway, compiler, cluster };
        fixture.publish();
        fixture
    }

    pub(crate) fn publish(&mut self) {
        self.gateway.publish(self.compiler.update(self.cluster.inputs.clone()));
    }

    /// Sends bytes on a new connection and reads until the gateway closes it.
    pub(crate) async fn raw(&self, request: &str) -> String {
        raw(self.gateway.http(), request).await
    }

    /// GET on a new connection.
    pub(crate) async fn get(&self, host: &str, path: &str) -> Reply {
        let mut client = Client::http1(self.gateway.http()).await;
        client.get(host, path).await
    }

    pub(crate) fn metrics(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.gateway.register_metrics(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }
}

pub(crate) async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The gateway may answer and close before it has read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut reply = Vec::new();
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut reply)).await.expect("closed in time");
    String::from_utf8_lossy(&reply).into_owned()
}

/// What a client got.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The endpoint that answered.
    pub(crate) fn from(&self) -> String {
        self.header("x-endpoint")
    }

    pub(crate) fn header(&self, name: &str) -> String {
        self.headers.get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned())
    }

    /// What the endpoint saw.
    pub(crate) fn seen(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no echo but {self:?}"))
    }
}

/// One connection to the gateway.
pub(crate) enum Client {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub(crate) async fn http1(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::Http1(sender)
    }

    pub(crate) async fn http2(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        Self::Http2(sender)
    }

    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Reply {
        self.try_get(host, path).await.unwrap()
    }

    pub(crate) async fn try_get(&mut self, host: &str, path: &str) -> hyper::Result<Reply> {
        let mut request = Request::builder();
        request = match self {
            Self::Http1(_) => request.uri(path).header("host", host),
            Self::Http2(_) => request.uri(format!("http://{host}{path}")),
        };
        self.send(request.body(Full::default()).unwrap()).await
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Reply> {
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (parts, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned();
        Ok(Reply { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
    }
}

pub(crate) type EndpointBody = BoxBody<Bytes, Infallible>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> EndpointBody {
    Full::new(bytes.into()).boxed()
}

/// An HTTP endpoint (HTTP/1.1 and h2c) that tells what it saw and counts its connections.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Endpoint {
    pub(crate) async fn echo(address: &str) -> Self {
        let address_text = address.to_owned();
        Self::serve(address, move |request| echo(request, address_text.clone())).await
    }

    pub(crate) async fn serve<H, F>(address: &str, handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Response<EndpointBody>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let handler = handler.clone();
                let service = service_fn(move |request| {
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                open.spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, connections, task }
    }

    /// Like a killed process: the socket and all connections are gone.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Answers with what it saw as JSON; `?status=`, `?bytes=` choose.
async fn echo(request: Request<Incoming>, name: String) -> Response<EndpointBody> {
    let (parts, body) = request.into_parts();
    let body = match body.collect().await {
        Ok(body) => body,
        Err(_) => return Response::builder().status(400).body(full("broken")).unwrap(),
    };
    let trailers: Option<BTreeMap<String, String>> = body.trailers().map(texts);
    let seen = json!({
        "method": parts.method.as_str(),
        "uri": parts.uri.to_string(),
        "version": format!("{:?}", parts.version),
        "headers": texts(&parts.headers),
        "body": String::from_utf8_lossy(&body.to_bytes()),
        "trailers": trailers,
    });
    let query = parts.uri.query().unwrap_or_default();
    let asked = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let status: u16 = asked("status").map_or(200, |text| text.parse().unwrap());
    let body = match asked("bytes") {
        Some(count) => vec![b'x'; count.parse().unwrap()],
        None if matches!(status, 204 | 304) => Vec::new(),
        None => serde_json::to_vec(&seen).unwrap(),
    };
    let response = Response::builder().status(status).header("x-endpoint", name).header("server", "hidden");
    response.body(full(body)).unwrap()
}

fn texts(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        texts
            .entry(name.to_string())
            .and_modify(|known| {
                known.push('|');
                known.push_str(&value);
            })
            .or_insert_with(|| value.to_string());
    }
    texts
}

/// An endpoint that speaks bytes: `talk` gets every accepted connection.
pub(crate) async fn raw_endpoint<F>(
    address: &str,
    talk: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(talk(stream));
        }
    });
    address
}

/// Reads one request head.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
