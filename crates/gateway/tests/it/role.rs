//! The role as a whole, against a small API server: first table, changes, the API server gone, shutdown.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fairway_gateway::{Config, Limits};
use fairway_kit::ClientSource;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

use crate::support::{Client, Endpoint, config, eventually, world};

/// Lists, watches and events, as far as the gateway needs them.
struct Api {
    address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    /// Objects by collection path.
    objects: Mutex<BTreeMap<&'static str, Vec<Value>>>,
    changes: broadcast::Sender<(&'static str, Value)>,
    events: Mutex<Vec<Value>>,
}

const INGRESSES: &str = "/apis/networking.k8s.io/v1/ingresses";
const CLASSES: &str = "/apis/networking.k8s.io/v1/ingressclasses";
const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const SECRETS: &str = "/api/v1/namespaces/ns/secrets";

impl Api {
    async fn start(objects: BTreeMap<&'static str, Vec<Value>>) -> Self {
        let listener = TcpListener::bind("10.244.9.9:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            objects: Mutex::new(objects),
            changes: broadcast::channel(64).0,
            events: Mutex::default(),
        });
        let shared = state.clone();
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                let service = service_fn(move |request| answer(state.clone(), request));
                open.spawn(async move {
                    let http1 = hyper::server::conn::http1::Builder::new();
                    let _ = http1.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, state, task }
    }

    fn put(&self, collection: &'static str, object: Value) {
        let event = json!({"type": "MODIFIED", "object": object});
        let _ = self.state.changes.send((collection, event));
    }

    fn reasons(&self) -> Vec<String> {
        let events = self.state.events.lock().unwrap();
        events.iter().map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    }
}

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let (parts, body) = request.into_parts();
    if parts.method == "POST" {
        let event: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
        state.events.lock().unwrap().push(event.clone());
        let body = Full::new(Bytes::from(event.to_string())).boxed();
        return Ok(Response::builder().status(201).body(body).unwrap());
    }
    let known =
        [INGRESSES, CLASSES, SERVICES, SLICES, SECRETS].into_iter().find(|one| *one == parts.uri.path());
    let Some(collection) = known else {
        return Ok(Response::builder().status(404).body(Full::default().boxed()).unwrap());
    };
    if parts.uri.query().unwrap_or_default().contains("watch=true") {
        let changes = state.changes.subscribe();
        let lines = futures::stream::unfold(changes, move |mut changes| async move {
            loop {
                let (of, event) = changes.recv().await.ok()?;
                if of == collection {
                    return Some((Ok(Frame::data(Bytes::from(format!("{event}\n")))), changes));
                }
            }
        });
        return Ok(Response::new(StreamBody::new(lines).boxed()));
    }
    let items = state.objects.lock().unwrap().get(collection).cloned().unwrap_or_default();
    let list =
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
    Ok(Response::new(Full::new(Bytes::from(list.to_string())).boxed()))
}

fn slice(address: SocketAddr) -> Value {
    json!({"metadata": {"namespace": "ns", "name": "web-1", "resourceVersion": "2",
        "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"port": address.port()}], "endpoints": [{"addresses": [address.ip().to_string()]}]})
}

fn objects(endpoint: SocketAddr) -> BTreeMap<&'static str, Vec<Value>> {
    let backend = |name: &str| json!({"service": {"name": name, "port": {"number": 80}}});
    let meta = |name: &str| json!({"namespace": "ns", "name": name, "resourceVersion": "1"});
    let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend("web")},
        {"path": "/gone", "pathType": "Prefix", "backend": backend("gone")}]);
    let tls = json!([{"hosts": ["secure"], "secretName": "missing"}]);
    BTreeMap::from([
        (
            INGRESSES,
            vec![json!({"metadata": meta("shop"), "spec": {"ingressClassName": "fairway", "tls": tls,
            "rules": [{"host": "h", "http": {"paths": paths}}]}})],
        ),
        (
            CLASSES,
            vec![json!({"metadata": {"name": "fairway", "resourceVersion": "1"},
            "spec": {"controller": "fairway.dev/ingress"}})],
        ),
        (
            SERVICES,
            vec![
                json!({"metadata": meta("web"), "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}}),
            ],
        ),
        (SLICES, vec![slice(endpoint)]),
    ])
}

fn role(api: SocketAddr, directory: &std::path::Path) -> Config {
    let kubeconfig = directory.join("kubeconfig");
    let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{api}")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    let mut config = config(Limits::default());
    config.client = ClientSource::Kubeconfig(kubeconfig);
    config.http = "10.244.0.1:8080".parse().unwrap();
    config.https = "10.244.0.1:8443".parse().unwrap();
    config.lame_duck = Duration::from_millis(300);
    config
}

#[test]
fn the_role_follows_the_api_survives_its_loss_and_leaves_in_order() {
    world(|| async {
        let one = Endpoint::echo("10.244.1.2:8080").await;
        let two = Endpoint::echo("10.244.1.3:8080").await;
        let api = Api::start(objects(one.address)).await;
        let directory = tempfile::tempdir().unwrap();
        let config = role(api.address, directory.path());
        let (http, admin) = (config.http, config.admin);
        let (trigger, shutdown) = fairway_kit::shutdown::channel();
        let role = tokio::spawn(fairway_gateway::run(config, shutdown));
        let ready = async || {
            if tokio::net::TcpStream::connect(admin).await.is_err() {
                return false;
            }
            Client::http1(admin).await.get("admin", "/readyz").await.status == 200
        };
        eventually("ready", ready).await;
        let mut client = Client::http1(http).await;
        assert_eq!(client.get("h", "/").await.from(), "10.244.1.2:8080");

        api.put(SLICES, slice(two.address));
        eventually("the change arrives", async || client.get("h", "/").await.from() == "10.244.1.3:8080")
            .await;
        eventually("both problems are told", async || api.reasons().len() >= 2).await;
        let mut reasons = api.reasons();
        reasons.sort();
        assert_eq!(reasons, ["CertificateUnusable", "ServiceNotFound"]);

        api.task.abort();
        let _ = api.task.await;
        assert_eq!(client.get("h", "/").await.from(), "10.244.1.3:8080", "the last table stays in force");
        let metrics = Client::http1(admin).await.get("admin", "/metrics").await.text();
        assert!(metrics.contains("nginx_ingress_controller_requests{"), "{metrics}");

        let stopping = tokio::spawn(trigger.stop(Duration::from_secs(10)));
        eventually("not ready any more", async || !ready().await).await;
        assert_eq!(client.get("h", "/").await.header("connection"), "close", "lame duck");
        assert!(stopping.await.unwrap());
        role.await.unwrap().unwrap();
    });
}
