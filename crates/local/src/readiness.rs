//! When a cluster is up: the API answers, every node and every system pod is ready, the gateway has its address.
//!
//! Objects of an earlier run say "ready" until someone corrects them, so only what happened after this start counts.

use std::collections::BTreeMap;
use std::time::Duration;

use fairway_kit::{ClientSource, Shutdown, Snapshot, connect, shutdown, watch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};

use crate::error::Error;
use crate::manifests::{self, GATEWAY_SERVICE, NAME_LABEL, SYSTEM_SELECTOR};
use crate::progress::Reporter;
use crate::settings::Settings;

/// Between two looks at a server that does not listen yet: a socket that is not there tells nobody when it will be.
const API_RETRY: Duration = Duration::from_millis(5);
/// No answer to `/readyz` within this is taken for none.
const API_ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// What is still missing, kept up to date for whoever gives up waiting.
pub(crate) type Missing = tokio::sync::watch::Sender<Vec<String>>;

/// Waits for everything; returns the gateway's address.
pub(crate) async fn wait(
    settings: &Settings,
    started: Timestamp,
    reporter: &Reporter,
    missing: &Missing,
) -> Result<String, Error> {
    missing.send_replace(vec!["the API server to answer".to_owned()]);
    let client = connect(&ClientSource::Kubeconfig(settings.directories.kubeconfig()), "fairway-up").await?;
    wait_for_api(&client).await;
    reporter.done(format!("API server answers on https://{}", settings.api_address()));

    // The watches end with this function.
    let (trigger, shutdown) = shutdown::channel();
    let address = wait_for_objects(settings, started, reporter, missing, &client, &shutdown).await;
    trigger.stop(Duration::ZERO).await;
    address
}

async fn wait_for_objects(
    settings: &Settings,
    started: Timestamp,
    reporter: &Reporter,
    missing: &Missing,
    client: &Client,
    shutdown: &Shutdown,
) -> Result<String, Error> {
    let system = || watcher::Config::default().labels(SYSTEM_SELECTOR);
    let services = Api::<Service>::namespaced(client.clone(), GATEWAY_SERVICE.0);
    let mut nodes =
        watch::watch(Api::<Node>::all(client.clone()), watcher::Config::default(), shutdown.clone());
    let mut pods = watch::watch(Api::<Pod>::all(client.clone()), system(), shutdown.clone());
    let mut services = watch::watch(services, system(), shutdown.clone());

    let applied = manifests::apply(client, manifests::system_objects(settings)?).await?;
    let wanted = wanted_pods(&applied);
    let mut steps = Steps::default();
    loop {
        let unready_nodes = missing_nodes(settings, &nodes.snapshot(), started);
        let unready_pods = missing_pods(&wanted, &pods.snapshot(), started);
        let address = gateway_address(&services.snapshot());
        steps.tell(reporter, unready_nodes.is_empty(), "nodes are ready");
        steps.tell(reporter, unready_pods.is_empty(), "system pods are ready");
        match address {
            Some(address) if unready_nodes.is_empty() && unready_pods.is_empty() => return Ok(address),
            address => {
                let unaddressed = address.is_none().then(|| "an address for the gateway".to_owned());
                missing
                    .send_replace(unready_nodes.into_iter().chain(unready_pods).chain(unaddressed).collect());
            }
        }
        tokio::select! {
            () = nodes.changed() => {}
            () = pods.changed() => {}
            () = services.changed() => {}
        }
    }
}

/// Says each step once.
#[derive(Default)]
struct Steps(Vec<&'static str>);

impl Steps {
    fn tell(&mut self, reporter: &Reporter, done: bool, step: &'static str) {
        if done && !self.0.contains(&step) {
            self.0.push(step);
            reporter.done(step);
        }
    }
}

/// Ready when the server says that it is.
async fn wait_for_api(client: &Client) {
    while !answers(client).await {
        tokio::time::sleep(API_RETRY).await;
    }
}

/// Whether `/readyz` says 200.
pub(crate) async fn answers(client: &Client) -> bool {
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else { return false };
    matches!(tokio::time::timeout(API_ANSWER_LIMIT, client.request_text(request)).await, Ok(Ok(_)))
}

/// How many ready pods each system Deployment must have.
fn wanted_pods(objects: &[DynamicObject]) -> BTreeMap<String, usize> {
    let replicas = |object: &DynamicObject| {
        let count = object.data.pointer("/spec/replicas")?.as_u64()?;
        Some((object.name_any(), usize::try_from(count).ok()?))
    };
    objects.iter().filter_map(replicas).collect()
}

fn missing_nodes(settings: &Settings, nodes: &Snapshot<Node>, started: Timestamp) -> Vec<String> {
    let is_ready = |name: &str| nodes.find("", name).is_some_and(|node| node_is_ready(node, started));
    let planned = settings.nodes().into_iter();
    planned.filter(|node| !is_ready(&node.name)).map(|node| format!("node {}", node.name)).collect()
}

/// Ready by a heartbeat of this run.
pub(crate) fn node_is_ready(node: &Node, started: Timestamp) -> bool {
    let conditions = node.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    conditions.filter(|condition| condition.type_ == "Ready" && condition.status == "True").any(|condition| {
        condition.last_heartbeat_time.as_ref().is_some_and(|beat| beat.0.as_second() >= started.as_second())
    })
}

fn missing_pods(wanted: &BTreeMap<String, usize>, pods: &Snapshot<Pod>, started: Timestamp) -> Vec<String> {
    let ready_of = |name: &str| {
        let of_deployment =
            |pod: &&std::sync::Arc<Pod>| pod.labels().get(NAME_LABEL).is_some_and(|label| label == name);
        pods.objects.values().filter(of_deployment).filter(|pod| pod_is_ready(pod, started)).count()
    };
    let short = wanted
        .iter()
        .map(|(name, count)| (name, *count, ready_of(name)))
        .filter(|(_, count, ready)| ready < count);
    short.map(|(name, count, ready)| format!("pods of {name} ({ready} of {count} ready)")).collect()
}

/// Ready, with containers that were started in this run.
pub(crate) fn pod_is_ready(pod: &Pod, started: Timestamp) -> bool {
    let Some(status) = &pod.status else { return false };
    let conditions = status.conditions.iter().flatten();
    let ready =
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let mut containers = status.container_statuses.iter().flatten();
    let fresh = containers.all(|container| {
        let running = container.state.as_ref().and_then(|state| state.running.as_ref());
        let since = running.and_then(|running| running.started_at.as_ref());
        since.is_some_and(|since| since.0.as_second() >= started.as_second())
    });
    ready && fresh && pod.metadata.deletion_timestamp.is_none()
}

fn gateway_address(services: &Snapshot<Service>) -> Option<String> {
    let (namespace, name) = GATEWAY_SERVICE;
    address_of(services.find(namespace, name)?)
}

/// The first load-balancer address of a Service.
pub(crate) fn address_of(service: &Service) -> Option<String> {
    let balancer = service.status.as_ref()?.load_balancer.as_ref()?;
    balancer.ingress.as_ref()?.iter().find_map(|ingress| ingress.ip.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const START: &str = "2026-01-02T03:04:05.9Z";

    #[test]
    fn a_node_is_ready_only_by_a_heartbeat_of_this_run() {
        struct Case {
            name: &'static str,
            status: &'static str,
            heartbeat: &'static str,
            want: bool,
        }
        let cases = [
            Case { name: "before this run", status: "True", heartbeat: "2026-01-02T03:04:04Z", want: false },
            Case {
                name: "in the second of the start",
                status: "True",
                heartbeat: "2026-01-02T03:04:05Z",
                want: true,
            },
            Case { name: "later", status: "True", heartbeat: "2026-01-02T03:05:00Z", want: true },
            Case { name: "not ready", status: "False", heartbeat: "2026-01-02T03:05:00Z", want: false },
        ];
        for case in cases {
            let condition =
                json!({"type": "Ready", "status": case.status, "lastHeartbeatTime": case.heartbeat});
            let node: Node = serde_json::from_value(
                json!({"metadata": {"name": "node-1"}, "status": {"conditions": [condition]}}),
            )
            .unwrap();
            assert_eq!(node_is_ready(&node, START.parse().unwrap()), case.want, "{}", case.name);
        }
        assert!(!node_is_ready(&Node::default(), START.parse().unwrap()));
    }

    #[test]
    fn a_pod_is_ready_only_with_containers_of_this_run() {
        struct Case {
            name: &'static str,
            ready: &'static str,
            started: &'static str,
            deleted: bool,
            want: bool,
        }
        let late = "2026-01-02T03:04:06Z";
        let cases = [
            Case { name: "ready", ready: "True", started: late, deleted: false, want: true },
            Case {
                name: "status of the last run",
                ready: "True",
                started: "2026-01-02T03:00:00Z",
                deleted: false,
                want: false,
            },
            Case { name: "not ready", ready: "False", started: late, deleted: false, want: false },
            Case { name: "going", ready: "True", started: late, deleted: true, want: false },
        ];
        for case in cases {
            let mut pod = json!({
                "metadata": {"name": "p", "namespace": "kube-system", "labels": {NAME_LABEL: "fairway-dns"}},
                "status": {
                    "conditions": [{"type": "Ready", "status": case.ready}],
                    "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                        "state": {"running": {"startedAt": case.started}}}],
                },
            });
            if case.deleted {
                pod["metadata"]["deletionTimestamp"] = json!(late);
            }
            let pod: Pod = serde_json::from_value(pod).unwrap();
            assert_eq!(pod_is_ready(&pod, START.parse().unwrap()), case.want, "{}", case.name);
        }
    }
}
