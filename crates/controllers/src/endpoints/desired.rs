//! The endpoints that a Service's pods make.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::metadata::{is_deleting, label, name_of, namespace_of};
use crate::pod;
use crate::world::World;
use fairway_kit::watch::ObjectKey;

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// `addressType` of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// As in `addressType` and `ipFamilies`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// Of an address in text form, if it is one.
    pub(super) fn of(address: &str) -> Option<Self> {
        Some(match address.parse().ok()? {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        })
    }
}

/// What all endpoints of a slice share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupKey {
    /// `addressType`.
    pub(super) family: &'static str,
    /// The ports in the order of the Service.
    pub(super) ports: Vec<ResolvedPort>,
}

/// A Service port with the number that the pod gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ResolvedPort {
    /// "" when the Service has one port without a name.
    pub(super) name: String,
    /// The pod's port; absent only in slices made by hand, where it means "all".
    pub(super) port: Option<i32>,
    /// TCP, UDP or SCTP.
    pub(super) protocol: String,
    /// Copied from the Service.
    pub(super) app_protocol: Option<String>,
}

impl From<&EndpointPort> for ResolvedPort {
    fn from(port: &EndpointPort) -> Self {
        Self {
            name: port.name.clone().unwrap_or_default(),
            port: port.port,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            app_protocol: port.app_protocol.clone(),
        }
    }
}

impl From<ResolvedPort> for EndpointPort {
    fn from(port: ResolvedPort) -> Self {
        Self {
            name: Some(port.name),
            port: port.port,
            protocol: Some(port.protocol),
            app_protocol: port.app_protocol,
        }
    }
}

/// Endpoints by group.
pub(super) type Groups = BTreeMap<GroupKey, Vec<Endpoint>>;

/// The families that a Service has.
pub(super) fn families(service: &Service) -> Vec<Family> {
    let spec = service.spec.clone().unwrap_or_default();
    let named: Vec<Family> = spec
        .ip_families
        .iter()
        .flatten()
        .filter_map(|family| [Family::V4, Family::V6].into_iter().find(|known| known.as_str() == family))
        .collect();
    if !named.is_empty() {
        return named;
    }
    vec![spec.cluster_ip.as_deref().and_then(Family::of).unwrap_or(Family::V4)]
}

/// The pods that stand behind a Service, whatever their state: finished ones and those without an address do not.
pub(super) fn pods<'a>(service: &'a Service, world: &'a World) -> impl Iterator<Item = &'a Pod> {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let namespace = namespace_of(&service.metadata);
    let selected = selector.into_iter().flat_map(move |pairs| world.pods_labelled(namespace, pairs));
    selected.map(AsRef::as_ref).filter(|pod| !pod::is_terminal(pod) && addresses(pod).next().is_some())
}

/// All addresses of a pod that are addresses.
pub(super) fn addresses(pod: &Pod) -> impl Iterator<Item = (Family, &str)> {
    let status = pod.status.as_ref();
    let listed = status
        .and_then(|status| status.pod_ips.as_ref())
        .into_iter()
        .flatten()
        .map(|address| address.ip.as_str());
    let single = status.and_then(|status| status.pod_ip.as_deref());
    let single =
        single.filter(|_| status.is_none_or(|status| status.pod_ips.as_ref().is_none_or(Vec::is_empty)));
    listed.chain(single).filter_map(|address| Some((Family::of(address)?, address)))
}

/// All endpoints of a Service.
pub(super) fn groups(service: &Service, world: &World) -> Groups {
    let families = families(service);
    let mut groups = Groups::new();
    for pod in pods(service, world) {
        let node = pod::node_name(pod).and_then(|name| world.nodes.get(&ObjectKey::new("", name)));
        for family in &families {
            let Some((_, address)) = addresses(pod).find(|(found, _)| found == family) else { continue };
            let key = GroupKey { family: family.as_str(), ports: ports(service, pod) };
            groups.entry(key).or_default().push(endpoint(service, pod, address, node.map(AsRef::as_ref)));
        }
    }
    groups
}

/// Ports that this pod resolves; a named port that it does not have is left out for it.
pub(super) fn ports(service: &Service, pod: &Pod) -> Vec<ResolvedPort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut resolved: Vec<ResolvedPort> = ports
        .filter_map(|port| {
            Some(ResolvedPort {
                name: port.name.clone().unwrap_or_default(),
                port: Some(target_port(port, pod)?),
                protocol: protocol(port).to_owned(),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    resolved.sort();
    resolved
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            // A sidecar (restartable init container) serves like any other container.
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let ports =
                spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
            let mut same =
                ports.filter(|candidate| candidate.protocol.as_deref().unwrap_or("TCP") == protocol(port));
            same.find(|candidate| candidate.name.as_deref() == Some(name)).map(|found| found.container_port)
        }
    }
}

fn endpoint(service: &Service, pod: &Pod, address: &str, node: Option<&Node>) -> Endpoint {
    let spec = service.spec.clone().unwrap_or_default();
    let serving = pod::is_ready(pod);
    let terminating = is_deleting(&pod.metadata);
    let publish = spec.publish_not_ready_addresses == Some(true);
    let zone = node.and_then(|node| label(&node.metadata, ZONE_LABEL)).map(str::to_owned);
    let node_name = pod::node_name(pod).map(str::to_owned);
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        hints: hints(spec.traffic_distribution.as_deref(), zone.as_deref(), node_name.as_deref()),
        target_ref: Some(pod::target_reference(pod)),
        node_name,
        zone,
        deprecated_topology: None,
    }
}

/// The pod's name within the Service, when its subdomain is the Service.
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let same = spec.subdomain.as_deref() == Some(name_of(&service.metadata));
    spec.hostname.clone().filter(|hostname| same && !hostname.is_empty())
}

/// `trafficDistribution` (KEP-3015): an endpoint is meant for its own zone, or its own node.
fn hints(distribution: Option<&str>, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let for_zones = || zone.map(|name| vec![ForZone { name: name.to_owned() }]);
    let hints = match distribution? {
        "PreferSameZone" | "PreferClose" => EndpointHints { for_zones: for_zones(), for_nodes: None },
        "PreferSameNode" => EndpointHints {
            for_zones: for_zones(),
            for_nodes: node.map(|name| vec![ForNode { name: name.to_owned() }]),
        },
        _ => return None,
    };
    (hints.for_zones.is_some() || hints.for_nodes.is_some()).then_some(hints)
}
