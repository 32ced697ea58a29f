//! A cluster of a test's own: server, controllers, simulated nodes.

use std::fmt::Debug;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use fairway_apiserver::{Server, TlsFiles};
use fairway_controllers::{Config, Duties, Settings};
use fairway_kit::watch::ObjectKey;
use fairway_kit::{ClientSource, Trigger, shutdown};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::{WatchStreamExt, wait, watcher};
use kube::{Client, Resource};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};

/// Long enough for a busy machine, short enough to fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// See the module. Everything ends when it is dropped.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    directory: TempDir,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    address: SocketAddr,
    controllers: Option<(Trigger, JoinHandle<()>)>,
    kubelets: Vec<AbortHandle>,
}

impl Cluster {
    /// Server, controllers, and two nodes `n1` and `n2`.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("fw-controllers-").tempdir().unwrap();
        write_certificates(directory.path());
        let any = "127.0.0.1:0".parse().unwrap();
        let (address, server) = launch(directory.path(), any).await;
        write_kubeconfig(directory.path(), address);
        let client = fairway_kit::connect(&source(directory.path()), "controllers-test").await.unwrap();
        let mut cluster = Self {
            client,
            directory,
            server: Some(server),
            address,
            controllers: None,
            kubelets: Vec::new(),
        };
        for name in ["n1", "n2"] {
            cluster.add_node(name).await;
        }
        cluster.kubelets.push(tokio::spawn(kubelets(cluster.client.clone())).abort_handle());
        cluster.start_controllers().await;
        cluster
    }

    async fn add_node(&self, name: &str) {
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{name}")}}});
        let api: Api<Node> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": seconds(Timestamp::now())}]}});
        api.patch_status(name, &PatchParams::default(), &Patch::Strategic(ready)).await.unwrap();
        self.renew_lease(name, Timestamp::now()).await;
    }

    /// The node's sign of life.
    pub(crate) async fn renew_lease(&self, name: &str, at: Timestamp) {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": name, "renewTime": format!("{}.000000Z", at.strftime("%Y-%m-%dT%H:%M:%S"))}});
        let api: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        if api.get_opt(name).await.unwrap().is_some() {
            api.patch(name, &PatchParams::default(), &Patch::Merge(lease)).await.unwrap();
        } else {
            api.create(&PostParams::default(), &serde_json::from_value(lease).unwrap()).await.unwrap();
        }
    }

    pub(crate) async fn start_controllers(&mut self) {
        let (trigger, requested) = shutdown::channel();
        let config = Config {
            client: source(self.directory.path()),
            settings: Settings {
                duties: Duties::WholeCluster,
                load_balancer_pool: "10.200.0.128/30".parse().ok(),
                gateway_service: ObjectKey::new("fairway-system", "fairway-gateway"),
            },
            readiness: Default::default(),
        };
        let readiness = config.readiness.clone();
        let task = tokio::spawn(async move { fairway_controllers::run(config, requested).await.unwrap() });
        patiently("controllers are ready", async {
            while !readiness.is_ready() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        self.controllers = Some((trigger, task));
    }

    pub(crate) async fn stop_controllers(&mut self) {
        let (trigger, task) = self.controllers.take().unwrap();
        trigger.stop(PATIENCE).await;
        patiently("controllers stop", task).await.unwrap();
    }

    pub(crate) async fn stop_server(&mut self) {
        let (stop, task) = self.server.take().unwrap();
        stop.send(()).unwrap();
        patiently("the server stops", task).await.unwrap();
    }

    pub(crate) async fn start_server(&mut self) {
        self.server = Some(launch(self.directory.path(), self.address).await.1);
    }

    /// kubectl's standard output; it must succeed.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> String {
        let output = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(self.directory.path().join("kubeconfig"))
            .arg("--cache-dir")
            .arg(self.directory.path().join("cache"))
            .args(arguments)
            .kill_on_drop(true)
            .output();
        let output = patiently("kubectl", output).await.expect("kubectl is installed");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// `kubectl apply` of these manifests.
    pub(crate) async fn apply(&self, manifests: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": manifests});
        let file = tempfile::NamedTempFile::new_in(self.directory.path()).unwrap();
        std::fs::write(file.path(), list.to_string()).unwrap();
        // The server decodes strictly anyway; fetching its schemas takes longer than these tests.
        self.kubectl(&["apply", "--validate=false", "-f", file.path().to_str().unwrap()]).await;
    }

    /// Access to the kind in namespace `default`.
    pub(crate) fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Waits until the object is as wanted, and returns it.
    pub(crate) async fn until<K>(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&K) -> bool + Send + Sync,
    ) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Send
            + Sync
            + DeserializeOwned
            + 'static,
    {
        let met = |object: Option<&K>| object.is_some_and(&wanted);
        let found =
            patiently(&format!("{name}: {what}"), wait::await_condition(self.api::<K>(), name, met)).await;
        found.unwrap().unwrap()
    }

    /// Waits until all objects of the kind in `default` together are as wanted.
    pub(crate) async fn until_all<K>(&self, what: &str, wanted: impl Fn(&[K]) -> bool) -> Vec<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Send
            + Sync
            + DeserializeOwned
            + 'static,
    {
        let api = self.api::<K>();
        let mut changes = pin!(watcher(api.clone(), watcher::Config::default()).default_backoff());
        patiently(what, async {
            loop {
                changes.next().await;
                let items = api.list(&ListParams::default()).await.unwrap().items;
                if wanted(&items) {
                    return items;
                }
            }
        })
        .await
    }

    /// Waits for an event with this reason about an object of this name.
    pub(crate) async fn event(&self, name: &str, reason: &str) -> Event {
        let about = |event: &Event| {
            event.involved_object.name.as_deref() == Some(name) && event.reason.as_deref() == Some(reason)
        };
        let events = self
            .until_all(&format!("event {reason} about {name}"), |events: &[Event]| events.iter().any(about))
            .await;
        events.into_iter().find(about).unwrap()
    }

    /// Names of the pods in `default`.
    pub(crate) async fn pods(&self) -> Vec<Pod> {
        self.api::<Pod>().list(&ListParams::default()).await.unwrap().items
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kubelets.iter().for_each(AbortHandle::abort);
    }
}

/// The future's result, or a failure that says what was waited for.
pub(crate) async fn patiently<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {PATIENCE:?} in vain: {what}"),
    }
}

fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn source(directory: &Path) -> ClientSource {
    ClientSource::Kubeconfig(directory.join("kubeconfig"))
}

async fn launch(directory: &Path, listen: SocketAddr) -> (SocketAddr, (oneshot::Sender<()>, JoinHandle<()>)) {
    let config = fairway_apiserver::Config {
        state_dir: directory.join("store"),
        run_dir: directory.join("run"),
        listen: vec![listen],
        advertise: listen,
        service_range: "10.96.0.0/16".parse().unwrap(),
        node_port_range: 30000..=32767,
        tls: TlsFiles {
            certificate: directory.join("server.crt"),
            key: directory.join("server.key"),
            client_authority: directory.join("ca.crt"),
        },
        service_account_key: directory.join("sa.key"),
        definitions: Vec::new(),
    };
    let server = Server::bind(config).await.unwrap();
    let address = server.addresses()[0];
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(server.serve(async move {
        let _ = stopped.await;
    }));
    (address, (stop, task))
}

fn write_certificates(directory: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "fairway-ca");
    let key = KeyPair::generate().unwrap();
    std::fs::write(directory.join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(directory.join("sa.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for (name, groups) in [("server", vec![]), ("admin", vec!["system:masters"])] {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        groups.iter().for_each(|group| params.distinguished_name.push(DnType::OrganizationName, *group));
        let key = KeyPair::generate().unwrap();
        let file = |extension: &str| -> PathBuf { directory.join(format!("{name}.{extension}")) };
        std::fs::write(file("crt"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        std::fs::write(file("key"), key.serialize_pem()).unwrap();
    }
}

fn write_kubeconfig(directory: &Path, address: SocketAddr) {
    let file = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "t",
        "clusters": [{"name": "t", "cluster": {"server": format!("https://{address}"), "certificate-authority": file("ca.crt")}}],
        "users": [{"name": "t", "user": {"client-certificate": file("admin.crt"), "client-key": file("admin.key")}}],
        "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
    });
    std::fs::write(directory.join("kubeconfig"), config.to_string()).unwrap();
}

/// What the nodes do: a bound pod runs and is ready unless its image is `broken`; a deleted one ends at once.
async fn kubelets(client: Client) {
    let all: Api<Pod> = Api::all(client.clone());
    let mut pods = pin!(watcher(all, watcher::Config::default()).default_backoff().applied_objects());
    let mut made = 0u32;
    while let Some(pod) = pods.next().await {
        let Ok(pod) = pod else { continue };
        let spec = pod.spec.clone().unwrap_or_default();
        let Some(node) = spec.node_name else { continue };
        let (name, namespace) = (pod.metadata.name.clone().unwrap(), pod.metadata.namespace.clone().unwrap());
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        if pod.metadata.deletion_timestamp.is_some() {
            let preconditions = Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
            let params = DeleteParams { grace_period_seconds: Some(0), preconditions, ..Default::default() };
            until_answered(|| api.delete(&name, &params)).await;
        } else if pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).is_none() {
            made += 1;
            let address = format!("10.244.{}.{}", node.trim_start_matches('n'), made % 250 + 1);
            let ready = if spec.containers[0].image.as_deref() == Some("broken") { "False" } else { "True" };
            let condition =
                json!({"type": "Ready", "status": ready, "lastTransitionTime": seconds(Timestamp::now())});
            let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [condition]});
            let (params, patch) = (PatchParams::default(), Patch::Strategic(json!({"status": status})));
            until_answered(|| api.patch_status(&name, &params, &patch)).await;
        }
    }
}

/// Repeats a request until the server answers, whatever it answers: nodes outlive an API server that is away.
async fn until_answered<T, F: Future<Output = kube::Result<T>>>(request: impl Fn() -> F) {
    while let Err(error) = request().await
        && !matches!(error, kube::Error::Api(_))
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A Deployment of pods with label `app: NAME`.
pub(crate) fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name, image)},
    })
}

/// A pod template with label `app: NAME` and port `http` 8080.
pub(crate) fn template(name: &str, image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]},
    })
}

/// How many pods have which image.
pub(crate) fn images(pods: &[Pod]) -> Vec<(String, usize)> {
    let mut images = std::collections::BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        *images.entry(pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap()).or_insert(0) += 1;
    }
    images.into_iter().collect()
}
