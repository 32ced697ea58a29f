//! Which work there is, and which change brings which work about.

use fairway_kit::watch::ObjectKey;
use ipnet::Ipv4Net;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::index::Tag;
use crate::metadata::{controller_key, controller_of, is_deleting, key, label, name_of, namespace_of};
use crate::plan::{Plan, Write};
use crate::selector::{matches, matches_pairs};
use crate::world::{Change, Delta, EndpointSlice, Kind, World, in_namespace};
use crate::{
    cron_job, daemon_set, deployment, disruption, endpoints, ingress_status, job, load_balancer,
    namespace_defaults, node_lifecycle, pod, pod_gc, replica_set, scheduler, service_range, stateful_set,
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
    /// PEM of the authority that signed the API server's certificate, for the ConfigMap `kube-root-ca.crt` of every namespace.
    /// Without it [`crate::run`] takes that of the client.
    pub authority: Option<String>,
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
    /// The pods of one DaemonSet.
    DaemonSet(ObjectKey),
    /// The pods of one ReplicationController.
    ReplicationController(ObjectKey),
    /// The pods of one Job.
    Job(ObjectKey),
    /// The Jobs of one CronJob.
    CronJob(ObjectKey),
    /// The status of one PodDisruptionBudget.
    Disruption(ObjectKey),
    /// The account `default` of one namespace.
    Account(String),
    /// The ConfigMap `kube-root-ca.crt` of one namespace.
    Authority(String),
    /// One range of Service addresses.
    ServiceRange(String),
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
            | Self::DaemonSet(_)
            | Self::ReplicationController(_)
            | Self::Job(_)
            | Self::CronJob(_)
            | Self::Disruption(_)
            | Self::Account(_)
            | Self::Authority(_)
            | Self::ServiceRange(_)
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
            Self::DaemonSet(_) => "daemonset-controller",
            Self::ReplicationController(_) => "replication-controller",
            Self::Job(_) => "job-controller",
            Self::CronJob(_) => "cronjob-controller",
            Self::Disruption(_) => "controllermanager",
            Self::Account(_) => "serviceaccount-controller",
            Self::Authority(_) => "root-ca-certificate-publisher",
            Self::ServiceRange(_) => "service-cidr-controller",
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
            Self::ReplicaSet(key)
            | Self::Deployment(key)
            | Self::StatefulSet(key)
            | Self::DaemonSet(key)
            | Self::ReplicationController(key)
            | Self::CronJob(key)
                if is_ending(world, &key.namespace) =>
            {
                // Nothing may be created there any more, and everything there is being deleted.
                Plan::nothing()
            }
            // Its pods are not gone before it lets go of them.
            Self::Job(key) if is_ending(world, &key.namespace) => {
                let mut plan = job::reconcile(world, key, now);
                plan.writes.retain(|write| !matches!(write, Write::CreatePod { .. }));
                plan
            }
            Self::Schedule => scheduler::reconcile(world, now),
            Self::ReplicaSet(key) => replica_set::reconcile(world, key, now),
            Self::Deployment(key) => deployment::reconcile(world, key, now),
            Self::StatefulSet(key) => stateful_set::reconcile(world, key, now),
            Self::DaemonSet(key) => daemon_set::reconcile(world, key, now),
            Self::ReplicationController(key) => replica_set::reconcile_controller(world, key, now),
            Self::Job(key) => job::reconcile(world, key, now),
            Self::CronJob(key) => cron_job::reconcile(world, key, now),
            Self::Disruption(key) => disruption::reconcile(world, key, now),
            Self::Account(namespace) => namespace_defaults::reconcile_account(world, namespace),
            Self::Authority(namespace) => {
                namespace_defaults::reconcile_authority(world, namespace, settings.authority.as_deref())
            }
            Self::ServiceRange(name) => service_range::reconcile(world, name, now),
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
            let keys = delta.latest().map(key);
            tasks.extend(keys.into_iter().flat_map(|key| [Task::Endpoints(key.clone()), Task::Mirror(key)]));
        }
        Change::EndpointSlice(delta) => {
            delta.sides().for_each(|slice| slice_changed(slice, &mut tasks));
        }
        Change::Deployment(delta) => {
            tasks.extend(delta.latest().map(|object| Task::Deployment(key(object))));
            if let Some(deployment) = delta.latest() {
                budgets_of_scale(world, namespace_of(&deployment.metadata), &mut tasks);
            }
        }
        Change::StatefulSet(delta) => {
            tasks.extend(delta.latest().map(|object| Task::StatefulSet(key(object))));
        }
        Change::DaemonSet(delta) => tasks.extend(delta.latest().map(|object| Task::DaemonSet(key(object)))),
        Change::ReplicationController(delta) => {
            tasks.extend(delta.latest().map(|object| Task::ReplicationController(key(object))));
        }
        Change::Job(delta) => {
            tasks.extend(delta.latest().map(|object| Task::Job(key(object))));
            for job in delta.sides() {
                tasks.extend(controller_key(&job.metadata, "CronJob").map(Task::CronJob));
            }
        }
        Change::CronJob(delta) => tasks.extend(delta.latest().map(|object| Task::CronJob(key(object)))),
        Change::PodDisruptionBudget(delta) => {
            tasks.extend(delta.latest().map(|object| Task::Disruption(key(object))));
        }
        Change::ReplicaSet(delta) => {
            tasks.extend(delta.latest().map(|object| Task::ReplicaSet(key(object))));
            for set in delta.sides() {
                owner(world, Kind::ReplicaSet, &set.metadata, &mut tasks);
            }
        }
        Change::ControllerRevision(delta) => {
            for revision in delta.sides() {
                owner(world, Kind::ControllerRevision, &revision.metadata, &mut tasks);
            }
        }
        Change::ServiceAccount(delta) => {
            let gone = delta.old.as_deref().filter(|_| delta.new.is_none());
            tasks.extend(gone.map(|account| Task::Account(namespace_of(&account.metadata).to_owned())));
        }
        Change::ConfigMap(delta) => {
            let ours = delta.latest().filter(|map| name_of(&map.metadata) == namespace_defaults::AUTHORITY);
            tasks.extend(ours.map(|map| Task::Authority(namespace_of(&map.metadata).to_owned())));
        }
        Change::Namespace(delta) => {
            let ending = delta.new.as_deref().filter(|namespace| is_deleting(&namespace.metadata));
            tasks.extend(ending.map(|namespace| Task::Namespace(name_of(&namespace.metadata).to_owned())));
            if let (None, Some(new)) = (&delta.old, &delta.new) {
                let name = name_of(&new.metadata);
                tasks.extend([Task::Account(name.to_owned()), Task::Authority(name.to_owned())]);
            }
        }
        // A range that is to go may be waiting for an address, or for another range that covers its own.
        Change::ServiceCIDR(_) => service_range::all(world, |_| true, &mut tasks),
        Change::IPAddress(delta) => {
            if delta.new.is_none() {
                service_range::all(world, is_deleting, &mut tasks);
            }
        }
        Change::Ingress(delta) => {
            tasks.extend(delta.new.as_deref().map(|object| Task::IngressStatus(key(object))))
        }
        Change::IngressClass(_) => tasks.extend(world.ingresses.keys().cloned().map(Task::IngressStatus)),
    }
    tasks
}

fn slice_changed(slice: &EndpointSlice, tasks: &mut Vec<Task>) {
    let Some(service) = label(&slice.metadata, endpoints::SERVICE_NAME_LABEL) else { return };
    let service = ObjectKey::new(namespace_of(&slice.metadata), service);
    tasks.extend([Task::Endpoints(service.clone()), Task::Mirror(service)]);
}

/// Budgets that count by the size of controllers: it may have changed.
fn budgets_of_scale(world: &World, namespace: &str, tasks: &mut Vec<Task>) {
    let budgets = in_namespace(&world.disruption_budgets, namespace);
    tasks.extend(budgets.map(|budget| Task::Disruption(key(&**budget))));
}

/// The managing owner of an object of this kind, or without one whoever might adopt it.
fn owner(world: &World, kind: Kind, meta: &ObjectMeta, tasks: &mut Vec<Task>) {
    type Of = fn(ObjectKey) -> Task;
    const OWNERS: [(&str, Of); 6] = [
        ("ReplicaSet", Task::ReplicaSet),
        ("Deployment", Task::Deployment),
        ("StatefulSet", Task::StatefulSet),
        ("DaemonSet", Task::DaemonSet),
        ("ReplicationController", Task::ReplicationController),
        ("Job", Task::Job),
    ];
    if controller_of(meta).is_some() {
        tasks.extend(OWNERS.iter().filter_map(|(kind, task)| controller_key(meta, kind).map(task)));
        return;
    }
    let (namespace, labels) = (namespace_of(meta), meta.labels.as_ref());
    if labels.is_none_or(|labels| labels.is_empty()) {
        return;
    }
    macro_rules! adopters {
        ($($objects:ident $task:ident;)*) => {
            $(for object in in_namespace(&world.$objects, namespace) {
                if object.spec.as_ref().is_some_and(|spec| matches(&spec.selector, labels)) {
                    tasks.push(Task::$task(key(&**object)));
                }
            })*
        };
    }
    match kind {
        Kind::ReplicaSet => adopters! { deployments Deployment; },
        Kind::Pod => {
            adopters! { replica_sets ReplicaSet; stateful_sets StatefulSet; daemon_sets DaemonSet; }
            for controller in in_namespace(&world.replication_controllers, namespace) {
                let selector = controller.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                if selector.is_some_and(|pairs| !pairs.is_empty() && matches_pairs(pairs, labels)) {
                    tasks.push(Task::ReplicationController(key(&**controller)));
                }
            }
            for job in in_namespace(&world.jobs, namespace) {
                let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                if selector.is_some_and(|selector| matches(selector, labels)) {
                    tasks.push(Task::Job(key(&**job)));
                }
            }
        }
        _ => {}
    }
}

fn pod_changed(world: &World, delta: &Delta<Pod>, tasks: &mut Vec<Task>) {
    for pod in delta.sides() {
        owner(world, Kind::Pod, &pod.metadata, tasks);
        tasks.extend(disruption::concerned(world, pod).map(Task::Disruption));
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
    if waits || (makes_room(delta) && world.index.pods.lookup.count(&Tag::Waiting) > 0) {
        tasks.push(Task::Schedule);
    }
    let Some(pod) = delta.new.as_deref() else { return };
    if pod_gc::concerns(world, pod) {
        tasks.push(Task::PodGc);
    }
    let node = pod::node_name(pod).and_then(|node| world.nodes.get(&ObjectKey::new("", node)));
    if let Some(node) = node.filter(|node| is_tainted(node)) {
        tasks.push(Task::Node(name_of(&node.metadata).to_owned()));
    }
}

/// Whether a pod's change may be what a waiting pod waits for: it left its node, or it came to one where others want to be near it.
fn makes_room(delta: &Delta<Pod>) -> bool {
    let place = |pod: Option<&Pod>| {
        let pod = pod.filter(|pod| !pod::is_terminal(pod))?;
        let node = pod::node_name(pod)?.to_owned();
        Some((node, is_deleting(&pod.metadata), pod.metadata.labels.clone()))
    };
    place(delta.old.as_deref()) != place(delta.new.as_deref())
}

fn is_tainted(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).is_some_and(|taints| !taints.is_empty())
}

fn node_changed(world: &World, delta: &Delta<Node>, tasks: &mut Vec<Task>) {
    let Some(node) = delta.latest() else { return };
    let name = name_of(&node.metadata);
    tasks.push(Task::Node(name.to_owned()));
    if world.index.pods.lookup.count(&Tag::Waiting) > 0 {
        tasks.push(Task::Schedule);
    }
    if daemon_set::wants_look(delta) {
        tasks.extend(world.daemon_sets.keys().cloned().map(Task::DaemonSet));
    }
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
