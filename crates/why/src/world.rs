//! The listed objects of a cluster as the model sees them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_dns::zone::{Settings as ZoneSettings, Zone};
use fairway_ingest::{Diagnostic, ingress, node, service};
use fairway_model::http::Routes;
use fairway_model::{Cluster, Frontends, Network, NodeName, PodKey, ServiceKey};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;

/// What was listed, all of one moment.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the kinds speak for themselves")]
pub struct Objects {
    pub services: Vec<core::Service>,
    pub slices: Vec<discovery::EndpointSlice>,
    pub nodes: Vec<core::Node>,
    pub pods: Vec<core::Pod>,
    pub namespaces: Vec<core::Namespace>,
    pub ingresses: Vec<networking::Ingress>,
    pub ingress_classes: Vec<networking::IngressClass>,
}

/// What is configured rather than listed.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The ranges and the domain.
    pub cluster: Cluster,
    /// The zone.
    pub zone: ZoneSettings,
    /// The Service whose pods are the gateway.
    pub gateway: ServiceKey,
    /// The address that clients outside are taken to have.
    pub outside: IpAddr,
}

/// A pod, as far as asking goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Its address, once it has one.
    pub address: Option<IpAddr>,
    /// Where it runs.
    pub node: Option<NodeName>,
    /// It has the node's network.
    pub host_network: bool,
    /// It asks cluster DNS (`dnsPolicy` ClusterFirst).
    pub cluster_dns: bool,
}

/// Everything that decides a request.
#[derive(Debug)]
pub struct World {
    /// Services, endpoints, nodes.
    pub network: Network,
    /// Who owns which address.
    pub frontends: Frontends,
    /// Names.
    pub zone: Zone,
    /// The gateway's routes.
    pub routes: Routes,
    /// Pods that may ask.
    pub pods: BTreeMap<PodKey, PodFacts>,
    /// What is configured.
    pub setting: Setting,
    /// What is wrong with objects.
    pub diagnostics: Vec<Diagnostic>,
}

impl World {
    /// Reads the objects through the same ingest as every component.
    pub fn new(objects: &Objects, setting: Setting) -> Self {
        let mut diagnostics = Vec::new();
        let mut network = Network { cluster: setting.cluster.clone(), ..Network::default() };
        let mut slices: BTreeMap<ServiceKey, Vec<&discovery::EndpointSlice>> = BTreeMap::new();
        for slice in &objects.slices {
            if let Some(owner) = service::owner_of(slice) {
                slices.entry(owner).or_default().push(slice);
            }
        }
        let mut zone = Zone::new(setting.zone.clone());
        zone.set_namespaces(
            objects.namespaces.iter().filter_map(|namespace| namespace.metadata.name.as_deref()),
        );
        for object in &objects.services {
            let meta = &object.metadata;
            let key =
                ServiceKey::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
            let of_service = slices.get(&key).into_iter().flatten().copied();
            if let Some(service) = service::service(object, of_service, &mut diagnostics) {
                // A Service without a possible name is reached by address only; the zone then has nothing of it.
                let _ = zone.insert(&service);
                network.services.insert(key, Arc::new(service));
            }
        }
        for node in objects.nodes.iter().filter_map(node::node) {
            network.nodes.insert(node.name.clone(), Arc::new(node));
        }
        let classes = ingress::classes(&objects.ingress_classes);
        let routes = ingress::ingest(&objects.ingresses, &classes, &mut diagnostics).build();
        let pods = objects.pods.iter().filter_map(pod_facts).collect();
        Self { frontends: Frontends::build(&network), network, zone, routes, pods, setting, diagnostics }
    }
}

fn pod_facts(object: &core::Pod) -> Option<(PodKey, PodFacts)> {
    let pod = node::pod(object)?;
    let spec = object.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let cluster_dns = policy == "ClusterFirstWithHostNet" || (policy == "ClusterFirst" && !host_network);
    Some((
        pod.key,
        PodFacts { address: pod.addresses.first().copied(), node: pod.node, host_network, cluster_dns },
    ))
}
