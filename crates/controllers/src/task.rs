//! Which work there is, and which change brings which work about.

use fairway_kit::watch::ObjectKey;
use ipnet::Ipv4Net;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::metadata::{controller_key, controller_of, is_deleting, key, label, name_of, namespace_of};
use crate::plan::Plan;
use crate::selector::{matches, matches_pairs};
use crate::world::{Change, Delta, World, in_namespace};
use crate::{
    deployment, endpoints, ingress_status, load_balancer, node_lifecycle, pod, pod_gc, replica_set,
    scheduler, stateful_set,
};

/// How much of a cluster is run from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duties {
    /// Everything: there is no other controller manager and no other scheduler.
    #[default]
    WholeCluster,
    /// Only what Kubernetes itself leaves to add-ons: addresses of load balancers and Ingresses.
    AddOns,
}

/// What the pure controllers have to know besides the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What is done from here, and what another does.
    pub duties: Duties,
    /// Addresses for Services of type LoadBalancer; without one they get none from here.
    pub load_balancer_pool: Option<Ipv4Net>,
    /// The Service through which Ingresses are reached.
    pub gateway_service: ObjectKey,
}

/// One unit of work: at most one of each runs at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// All pods without a node.
    Schedule,
    /// The pods of one ReplicaSet.
    ReplicaSet(ObjectKey),
    /// The ReplicaSets of one Deployment.
    Deployment(ObjectKey),
    /// The pods of one StatefulSet.
    StatefulSet(ObjectKey),
    /// Slices and Endpoints of one Service.
    Endpoints(ObjectKey),
    /// Slices of one hand-made Endpoints object.
    Mirror(ObjectKey),
    /// The addresses of all load balancers.
    LoadBalancers,
    /// The status of one Ingress.
    IngressStatus(ObjectKey),
    /// The health of one node.
    Node(String),
    /// Pods of nodes that are gone.
    PodGc,
    /// The end of one namespace. It asks the API server what is left, so [`Task::reconcile`] has nothing to say about it.
    Namespace(String),
}

impl Task {
    /// Whether it is done from here.
    pub fn is_part_of(&self, duties: Duties) -> bool {
        match self {
            Self::LoadBalancers | Self::IngressStatus(_) => true,
            Self::Schedule
            | Self::ReplicaSet(_)
            | Self::Deployment(_)
            | Self::StatefulSet(_)
            | Self::Endpoints(_)
            | Self::Mirror(_)
            | Self::Node(_)
            | Self::PodGc
            | Self::Namespace(_) => duties == Duties::WholeCluster,
        }
    }

    /// Who does it, as events name it.
    pub fn component(&self) -> &'static str {
        match self {
            Self::Schedule => "default-scheduler",
            Self::ReplicaSet(_) => "replicaset-controller",
            Self::Deployment(_) => "deployment-controller",
            Self::StatefulSet(_) => "statefulset-controller",
            Self::Endpoints(_) => "endpoint-slice-controller",
            Self::Mirror(_) => "endpoint-slice-mirroring-controller",
            Self::LoadBalancers => "load-balancer-controller",
            Self::IngressStatus(_) => "ingress-status-controller",
            Self::Node(_) => "node-controller",
            Self::PodGc => "pod-garbage-collector",
            Self::Namespace(_) => "namespace-controller",
        }
    }

    /// What has to be written now.
    pub fn reconcile(&self, world: &World, settings: &Settings, now: Timestamp) -> Plan {
        match self {
            Self::ReplicaSet(key) | Self::Deployment(key) | Self::StatefulSet(key)
                if is_ending(world, &key.namespace) =>
            {
                // Nothing may be created there any more, and everything there is being deleted.
                Plan::nothing()
            }
            Self::Schedule => scheduler::reconcile(world, now),
            Self::ReplicaSet(key) => replica_set::reconcile(world, key, now),
            Self::Deployment(key) => deployment::reconcile(world, key, now),
            Self::StatefulSet(key) => stateful_set::reconcile(world, key, now),
            Self::Endpoints(key) => endpoints::reconcile(world, key, now),
            Self::Mirror(key) => endpoints::reconcile_mirror(world, key, now),
            Self::LoadBalancers => load_balancer::reconcile(world, settings.load_balancer_pool),
            Self::IngressStatus(key) => ingress_status::reconcile(world, key, &settings.gateway_service),
            Self::Node(name) => node_lifecycle::reconcile(world, name, now),
            Self::PodGc => pod_gc::reconcile(world, now),
            Self::Namespace(_) => Plan::nothing(),
        }
    }
}

/// Whether the namespace is being deleted.
pub fn is_ending(world: &World, namespace: &str) -> bool {
    world
        .namespaces
        .get(&ObjectKey::new("", namespace))
        .is_some_and(|namespace| is_deleting(&namespace.metadata))
}

/// The work that a change brings about.
pub fn affected(world: &World, settings: &Settings, change: &Change) -> Vec<Task> {
    let mut tasks = Vec::new();
    match change {
        Change::Pod(delta) => pod_changed(world, delta, &mut tasks),
        Change::Node(delta) => node_changed(world, delta, &mut tasks),
        Change::Service(delta) => service_changed(world, settings, delta, &mut tasks),
        Change::Lease(delta) => {
            let leases = delta
                .latest()
                .filter(|lease| namespace_of(&lease.metadata) == node_lifecycle::LEASE_NAMESPACE);
            tasks.extend(leases.map(|lease| Task::Node(name_of(&lease.metadata).to_owned())));
        }
        Change::Endpoints(delta) => {
            if let Some(endpoints) = delta.latest() {
                tasks.extend([Task::Endpoints(key(endpoints)), Task::Mirror(key(endpoints))]);
            }
        }
        Change::EndpointSlice(delta) => {
            for slice in delta.sides() {
                let service = label(&slice.metadata, endpoints::SERVICE_NAME_LABEL);
                let service = service.map(|service| ObjectKey::new(namespace_of(&slice.metadata), service));
                tasks.extend(
                    service.into_iter().flat_map(|key| [Task::Endpoints(key.clone()), Task::Mirror(key)]),
                );
            }
        }
        Change::Deployment(delta) => tasks.extend(delta.latest().map(|object| Task::Deployment(key(object)))),
        Change::StatefulSet(delta) => {
            tasks.extend(delta.latest().map(|object| Task::StatefulSet(key(object))))
        }
        Change::ReplicaSet(delta) => {
            tasks.extend(delta.latest().map(|object| Task::ReplicaSet(key(object))));
            for set in delta.sides() {
                owner(world, &set.metadata, &mut tasks);
            }
        }
        Change::ControllerRevision(delta) => {
            for revision in delta.sides() {
                owner(world, &revision.metadata, &mut tasks);
            }
        }
        Change::Namespace(delta) => {
            let ending = delta.new.as_deref().filter(|namespace| is_deleting(&namespace.metadata));
            tasks.extend(ending.map(|namespace| Task::Namespace(name_of(&namespace.metadata).to_owned())));
        }
        Change::Ingress(delta) => {
            tasks.extend(delta.new.as_deref().map(|object| Task::IngressStatus(key(object))))
        }
        Change::IngressClass(_) => tasks.extend(world.ingresses.keys().cloned().map(Task::IngressStatus)),
    }
    tasks
}

/// The managing owner, or without one whoever might adopt the object.
fn owner(world: &World, meta: &ObjectMeta, tasks: &mut Vec<Task>) {
    if controller_of(meta).is_some() {
        tasks.extend(controller_key(meta, "ReplicaSet").map(Task::ReplicaSet));
        tasks.extend(controller_key(meta, "Deployment").map(Task::Deployment));
        tasks.extend(controller_key(meta, "StatefulSet").map(Task::StatefulSet));
        return;
    }
    let (namespace, labels) = (namespace_of(meta), meta.labels.as_ref());
    if labels.is_none_or(|labels| labels.is_empty()) {
        return;
    }
    for set in in_namespace(&world.replica_sets, namespace) {
        if set.spec.as_ref().is_some_and(|spec| matches(&spec.selector, labels)) {
            tasks.push(Task::ReplicaSet(key(&**set)));
        }
    }
    for set in in_namespace(&world.stateful_sets, namespace) {
        if set.spec.as_ref().is_some_and(|spec| matches(&spec.selector, labels)) {
            tasks.push(Task::StatefulSet(key(&**set)));
        }
    }
    for deployment in in_namespace(&world.deployments, namespace) {
        if deployment.spec.as_ref().is_some_and(|spec| matches(&spec.selector, labels)) {
            tasks.push(Task::Deployment(key(&**deployment)));
        }
    }
}

fn pod_changed(world: &World, delta: &Delta<Pod>, tasks: &mut Vec<Task>) {
    for pod in delta.sides() {
        owner(world, &pod.metadata, tasks);
    }
    if delta.new.is_none()
        && let Some(pod) = &delta.old
    {
        // A Recreate rollout waits for the very end of the old pods, which their ReplicaSet's status does not show.
        let set = controller_key(&pod.metadata, "ReplicaSet").and_then(|set| world.replica_sets.get(&set));
        tasks.extend(set.and_then(|set| controller_key(&set.metadata, "Deployment")).map(Task::Deployment));
    }
    if let Some(latest) = delta.latest() {
        for service in in_namespace(&world.services, namespace_of(&latest.metadata))
            .filter(|service| endpoints::selects_pods(service))
        {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let selected =
                |pod: &Pod| selector.is_some_and(|pairs| matches_pairs(pairs, pod.metadata.labels.as_ref()));
            if delta.sides().any(selected) {
                tasks.push(Task::Endpoints(key(&**service)));
            }
        }
    }
    let waits = delta.new.as_deref().is_some_and(scheduler::concerns);
    let left_a_node = delta.old.as_deref().and_then(pod::node_name).is_some()
        && delta.new.as_deref().is_none_or(|pod| pod::is_terminal(pod) || is_deleting(&pod.metadata));
    if waits || (left_a_node && world.pods.values().any(|pod| scheduler::concerns(pod))) {
        tasks.push(Task::Schedule);
    }
    if let Some(node) = delta.new.as_deref().and_then(pod::node_name) {
        match world.nodes.get(&ObjectKey::new("", node)) {
            None => tasks.push(Task::PodGc),
            Some(found) if is_tainted(found) => tasks.push(Task::Node(node.to_owned())),
            Some(_) => {}
        }
    }
}

fn is_tainted(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).is_some_and(|taints| !taints.is_empty())
}

fn node_changed(world: &World, delta: &Delta<Node>, tasks: &mut Vec<Task>) {
    let Some(node) = delta.latest() else { return };
    let name = name_of(&node.metadata);
    tasks.extend([Task::Node(name.to_owned()), Task::Schedule]);
    if delta.new.is_none() || delta.old.is_none() {
        tasks.push(Task::PodGc);
    }
    // The zone is part of every endpoint on the node.
    let labels = |node: &std::sync::Arc<Node>| node.metadata.labels.clone();
    if delta.old.as_ref().map(labels) != delta.new.as_ref().map(labels) {
        for service in world.services.values().filter(|service| endpoints::selects_pods(service)) {
            tasks.push(Task::Endpoints(key(&**service)));
        }
    }
}

fn service_changed(world: &World, settings: &Settings, delta: &Delta<Service>, tasks: &mut Vec<Task>) {
    let Some(service) = delta.latest() else { return };
    let key = key(service);
    if delta.sides().any(load_balancer::concerns) {
        tasks.push(Task::LoadBalancers);
    }
    if key == settings.gateway_service {
        tasks.extend(world.ingresses.keys().cloned().map(Task::IngressStatus));
    }
    tasks.extend([Task::Endpoints(key.clone()), Task::Mirror(key)]);
}
