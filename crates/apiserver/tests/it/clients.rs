//! kube-rs: real watchers and a real controller, through cut connections, histories that are too short, and restarts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{self, finalizer};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::{self, DefaultBackoff, watcher};
use kube::runtime::{WatchStreamExt, reflector::Store};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::server::Running;

/// Long enough for back-offs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A way to the server that can be cut.
struct Gate {
    address: SocketAddr,
    server: Arc<Mutex<Option<SocketAddr>>>,
    cut: Arc<Mutex<CancellationToken>>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Gate {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (server, cut) =
            (Arc::new(Mutex::new(Some(server))), Arc::new(Mutex::new(CancellationToken::new())));
        let (to, token) = (Arc::clone(&server), Arc::clone(&cut));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                // Without a server a connection is taken and closed.
                let (to, token) = (*to.lock().unwrap(), token.lock().unwrap().clone());
                connections.spawn(async move {
                    let Some(to) = to else { return };
                    let Ok(mut server) = TcpStream::connect(to).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        () = token.cancelled() => {}
                    }
                });
            }
        });
        Self { address, server, cut, _task: tokio_util::task::AbortOnDropHandle::new(task) }
    }

    /// Ends every connection; new ones lead to `server`, or nowhere.
    fn cut(&self, server: Option<SocketAddr>) {
        *self.server.lock().unwrap() = server;
        std::mem::take(&mut *self.cut.lock().unwrap()).cancel();
    }

    async fn client(&self, server: &Running) -> Client {
        let mut config = Kubeconfig::read_from(server.kubeconfig()).unwrap();
        let cluster = config.clusters[0].cluster.as_mut().unwrap();
        cluster.server = Some(format!("https://{}", self.address));
        let config =
            kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"k": value}})).unwrap()
}

fn versions(objects: impl IntoIterator<Item = ConfigMap>) -> BTreeMap<String, String> {
    objects.into_iter().map(|map| (map.name_any(), map.resource_version().unwrap())).collect()
}

/// Waits until the reflected state is the server's.
async fn same(store: &Store<ConfigMap>, api: &Api<ConfigMap>, what: &str) {
    let compare = async {
        loop {
            let want = versions(api.list(&ListParams::default()).await.unwrap());
            let got = versions(store.state().iter().map(|map| map.as_ref().clone()));
            if got == want {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, compare).await.unwrap_or_else(|_| panic!("{what}: {:?}", store.state()));
}

async fn reflects(config: watcher::Config) {
    let mut server = Running::start().await;
    let gate = Gate::to(server.address).await;
    let watched: Api<ConfigMap> = Api::default_namespaced(gate.client(&server).await);
    let direct = Gate::to(server.address).await;
    let api: Api<ConfigMap> = Api::default_namespaced(direct.client(&server).await);
    let (store, writer) = reflector::store();
    let begins = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&begins);
    let events = reflector::reflector(writer, watcher(watched, config).backoff(DefaultBackoff::default()));
    let task = tokio::spawn(events.for_each(move |event| {
        if matches!(event, Ok(watcher::Event::Init)) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        std::future::ready(())
    }));

    for number in 0..20 {
        api.create(&PostParams::default(), &config_map(&format!("m{number}"), "1")).await.unwrap();
    }
    same(&store, &api, "at the beginning").await;

    gate.cut(Some(server.address));
    api.delete("m3", &DeleteParams::default()).await.unwrap();
    let change = Patch::Merge(json!({"data": {"k": "2"}}));
    api.patch("m4", &PatchParams::default(), &change).await.unwrap();
    same(&store, &api, "after a cut").await;

    // More changes than the server remembers: the watcher cannot go on where it was.
    let before = begins.load(Ordering::Relaxed);
    gate.cut(None);
    let long = "x".repeat(900_000);
    for number in 0..45 {
        let change = Patch::Merge(json!({"data": {"long": long, "k": number.to_string()}}));
        api.patch("m5", &PatchParams::default(), &change).await.unwrap();
    }
    api.delete("m6", &DeleteParams::default()).await.unwrap();
    gate.cut(Some(server.address));
    same(&store, &api, "after a history that was too short").await;
    assert!(begins.load(Ordering::Relaxed) > before, "it had to begin again");

    server.restart().await;
    for way in [&gate, &direct] {
        way.cut(Some(server.address));
    }
    let deleted = async {
        while let Err(error) = api.delete("m7", &DeleteParams::default()).await {
            assert!(!matches!(error, kube::Error::Api(_)), "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, deleted).await.unwrap();
    api.create(&PostParams::default(), &config_map("after", "1")).await.unwrap();
    same(&store, &api, "after a restart").await;
    assert!(store.get(&ObjectRef::new("m7").within("default")).is_none());
    task.abort();
}

#[tokio::test]
async fn a_watcher_that_lists_and_watches_misses_nothing() {
    reflects(watcher::Config::default().page_size(7)).await;
}

#[tokio::test]
async fn a_watcher_that_streams_its_list_misses_nothing() {
    reflects(watcher::Config::default().streaming_lists()).await;
}

/// Gives every parent a child by server-side apply, and takes note of parents that went.
async fn reconcile(
    parent: Arc<ConfigMap>,
    client: Arc<Client>,
) -> Result<Action, finalizer::Error<kube::Error>> {
    let api: Api<ConfigMap> = Api::namespaced(client.as_ref().clone(), "default");
    finalizer(&api, "example.test/child", parent, async |event| match event {
        finalizer::Event::Apply(parent) => {
            let owner = kube::Resource::controller_owner_ref(parent.as_ref(), &()).unwrap();
            let child = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": format!("{}-child", parent.name_any()), "ownerReferences": [owner]},
                "data": {"from": parent.data.as_ref().and_then(|data| data.get("k"))}
            });
            let params = PatchParams::apply("example-controller").force();
            api.patch(&format!("{}-child", parent.name_any()), &params, &Patch::Apply(child)).await?;
            Ok(Action::await_change())
        }
        finalizer::Event::Cleanup(parent) => {
            let note = config_map(&format!("{}-was-here", parent.name_any()), "1");
            match api.create(&PostParams::default(), &note).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                other => drop(other?),
            }
            Ok(Action::await_change())
        }
    })
    .await
}

#[tokio::test]
async fn a_controller_converges_through_everything() {
    let mut server = Running::start().await;
    let gate = Gate::to(server.address).await;
    let client = gate.client(&server).await;
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let parents = watcher::Config::default().labels("role=parent");
    let running = Controller::new(api.clone(), parents)
        .owns(api.clone(), watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(200)), Arc::new(client))
        .for_each(|outcome| {
            // Shown when the test fails.
            if let Err(error) = outcome {
                println!("{error:?}");
            }
            std::future::ready(())
        });
    let running = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(running));

    let until = async |what: &str, name: &str, wanted: &dyn Fn(Option<ConfigMap>) -> bool| {
        let seen = async {
            loop {
                // Errors are of the cuts.
                if let Ok(found) = api.get_opt(name).await
                    && wanted(found)
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("{what}"));
    };
    let says = |value: &'static str| {
        move |map: Option<ConfigMap>| {
            map.and_then(|map| map.data)
                .is_some_and(|data| data.get("from").is_some_and(|from| from == value))
        }
    };
    let mut parent = config_map("p", "one");
    parent.labels_mut().insert("role".to_owned(), "parent".to_owned());
    api.create(&PostParams::default(), &parent).await.unwrap();
    until("the child comes", "p-child", &says("one")).await;

    gate.cut(Some(server.address));
    let change = async |value: &str| {
        let patch = Patch::Merge(json!({"data": {"k": value}}));
        while api.patch("p", &PatchParams::default(), &patch).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    change("two").await;
    until("the child follows after a cut", "p-child", &says("two")).await;

    let foreign = Patch::Merge(json!({"data": {"from": "foreign", "own": "kept"}}));
    api.patch("p-child", &PatchParams::default(), &foreign).await.unwrap();
    until("the controller takes its field back", "p-child", &says("two")).await;
    let child = api.get("p-child").await.unwrap();
    assert_eq!(child.data.as_ref().unwrap()["own"], "kept", "and leaves the other's alone");
    let managers: Vec<_> = child
        .managed_fields()
        .iter()
        .filter_map(|entry| Some((entry.manager.as_deref()?, entry.operation.as_deref()?)))
        .collect();
    assert!(managers.contains(&("example-controller", "Apply")), "{managers:?}");

    server.restart().await;
    gate.cut(Some(server.address));
    change("three").await;
    until("the child follows after a restart", "p-child", &says("three")).await;

    while api.delete("p", &DeleteParams::default()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("the parent goes when its finalizer is done", "p", &|map| map.is_none()).await;
    until("which left a note", "p-was-here", &|map| map.is_some()).await;
    drop(running);
}
