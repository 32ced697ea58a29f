//! A Service with its EndpointSlices.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_model::{
    Affinity, Condition, Endpoint, NodeName, PodKey, PortEndpoint, PortNumber, Protocol, Service, ServiceKey,
    ServiceKind, ServicePort, TrafficPolicy, VirtualIps,
};
use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::{Diagnostic, Findings, Problem, created_s};

/// The label that ties an EndpointSlice to its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Source ranges may also stand in this annotation, comma-separated; the field wins.
const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// `sessionAffinityConfig.clientIP.timeoutSeconds` when absent.
const AFFINITY_DEFAULT_S: u32 = 10_800;

/// The Service an EndpointSlice belongs to, by its label.
pub fn owner_of(slice: &discovery::EndpointSlice) -> Option<ServiceKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(ServiceKey::new(slice.metadata.namespace.as_deref()?, name))
}

/// The model of a Service. `slices` are those that [`owner_of`] gives this Service, in any order. `None` for an object without a
/// name (never from an API server).
pub fn service<'a>(
    object: &core::Service,
    slices: impl IntoIterator<Item = &'a discovery::EndpointSlice>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Service> {
    let key = ServiceKey::new(object.metadata.namespace.as_deref()?, object.metadata.name.as_deref()?);
    let spec = object.spec.as_ref()?;
    let mut findings = Findings::of("Service", &object.metadata, diagnostics);
    let kind = kind(object, spec, &mut findings);
    let mut ports = ports(spec, &mut findings);
    let mut endpoints = BTreeMap::new();
    for slice in slices {
        add_slice(slice, &mut ports, &mut endpoints, diagnostics);
    }
    for port in &mut ports {
        port.endpoints.sort();
        // The same address may be in two slices for a moment while it moves between them.
        port.endpoints.dedup_by(|a, b| a.endpoint.address == b.endpoint.address && a.port == b.port);
    }
    Some(Service {
        key,
        created_s: created_s(&object.metadata),
        kind,
        ports,
        endpoints: endpoints.into_values().collect(),
    })
}

fn kind(object: &core::Service, spec: &core::ServiceSpec, findings: &mut Findings<'_>) -> ServiceKind {
    let service_type = spec.type_.as_deref().unwrap_or("ClusterIP");
    if service_type == "ExternalName" {
        let name = spec.external_name.as_deref().unwrap_or("").trim_end_matches('.');
        if name.is_empty() {
            findings.add("spec.externalName".into(), Problem::NoExternalName);
        }
        return ServiceKind::ExternalName(name.to_ascii_lowercase().into());
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        return ServiceKind::Headless;
    }
    let cluster_ips = match &spec.cluster_ips {
        Some(ips) if !ips.is_empty() => ips.clone(),
        _ => spec.cluster_ip.iter().cloned().collect(),
    };
    ServiceKind::Virtual(VirtualIps {
        cluster_ips: addresses("spec.clusterIPs", cluster_ips.iter().filter(|ip| !ip.is_empty()), findings),
        external_ips: addresses("spec.externalIPs", spec.external_ips.iter().flatten(), findings),
        load_balancer: if service_type == "LoadBalancer" {
            load_balancer_ips(object, findings)
        } else {
            Vec::new()
        },
        source_ranges: if service_type == "LoadBalancer" {
            source_ranges(object, spec, findings)
        } else {
            Vec::new()
        },
        internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        external_policy: policy(spec.external_traffic_policy.as_deref()),
        affinity: affinity(spec),
    })
}

fn policy(text: Option<&str>) -> TrafficPolicy {
    if text == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

fn affinity(spec: &core::ServiceSpec) -> Affinity {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return Affinity::None;
    }
    let configured =
        spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    Affinity::ClientIp {
        timeout_s: configured.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(AFFINITY_DEFAULT_S),
    }
}

fn load_balancer_ips(object: &core::Service, findings: &mut Findings<'_>) -> Vec<IpAddr> {
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let vips = status.into_iter().flatten().filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let vips: Vec<String> = vips.filter_map(|ingress| ingress.ip.clone()).collect();
    addresses("status.loadBalancer.ingress", &vips, findings)
}

fn source_ranges(
    object: &core::Service,
    spec: &core::ServiceSpec,
    findings: &mut Findings<'_>,
) -> Vec<IpNet> {
    let annotated = object.metadata.annotations.as_ref().and_then(|all| all.get(SOURCE_RANGES_ANNOTATION));
    let (field, texts): (String, Vec<&str>) = match (&spec.load_balancer_source_ranges, annotated) {
        (Some(ranges), _) if !ranges.is_empty() => {
            ("spec.loadBalancerSourceRanges".into(), ranges.iter().map(String::as_str).collect())
        }
        (_, Some(text)) => {
            (format!("metadata.annotations[{SOURCE_RANGES_ANNOTATION}]"), text.split(',').collect())
        }
        _ => return Vec::new(),
    };
    let mut ranges = Vec::new();
    for text in texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        match text.parse::<IpNet>() {
            Ok(range) => ranges.push(range.trunc()),
            Err(_) => findings.add(field.clone(), Problem::NotARange(text.to_owned())),
        }
    }
    if ranges.is_empty() && !texts.is_empty() {
        // Fail closed: a limit was meant, so an unreadable one must not open the address to everyone.
        ranges.extend("255.255.255.255/32".parse::<IpNet>());
    }
    ranges
}

fn addresses<'a>(
    field: &str,
    texts: impl IntoIterator<Item = &'a String>,
    findings: &mut Findings<'_>,
) -> Vec<IpAddr> {
    let mut parsed = Vec::new();
    for (index, text) in texts.into_iter().enumerate() {
        match text.parse::<IpAddr>() {
            Ok(address) if is_usable(address) => parsed.push(address),
            Ok(_) => findings.add(format!("{field}[{index}]"), Problem::UnusableAddress(text.clone())),
            Err(_) => findings.add(format!("{field}[{index}]"), Problem::NotAnAddress(text.clone())),
        }
    }
    parsed
}

/// Loopback, link-local, multicast and unspecified addresses are never programmed (Services spec, "Bad input").
fn is_usable(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_multicast() || address.is_unspecified() || link_local)
}

fn protocol(text: Option<&str>) -> Result<Protocol, Problem> {
    match text.unwrap_or("TCP") {
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        "SCTP" => Ok(Protocol::Sctp),
        other => Err(Problem::UnknownProtocol(other.to_owned())),
    }
}

fn ports(spec: &core::ServiceSpec, findings: &mut Findings<'_>) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let field = format!("spec.ports[{index}]");
        let number = PortNumber::new(port.port.into()).ok_or(Problem::NotAPort(port.port.into()));
        match protocol(port.protocol.as_deref()).and_then(|protocol| Ok((protocol, number?))) {
            Ok((protocol, number)) => ports.push(ServicePort {
                name: port.name.as_deref().unwrap_or("").into(),
                protocol,
                port: number,
                node_port: port.node_port.and_then(|number| PortNumber::new(number.into())),
                target: match &port.target_port {
                    Some(IntOrString::String(name)) => name.as_str().into(),
                    Some(IntOrString::Int(number)) => number.to_string().into(),
                    None => port.port.to_string().into(),
                },
                app_protocol: port.app_protocol.as_deref().map(Into::into),
                endpoints: Vec::new(),
            }),
            Err(problem) => findings.add(field, problem),
        }
    }
    ports
}

/// Adds the endpoints of one slice to the ports they serve, and every address once to `all`.
fn add_slice(
    slice: &discovery::EndpointSlice,
    ports: &mut [ServicePort],
    all: &mut BTreeMap<IpAddr, Arc<Endpoint>>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    if slice.address_type == "FQDN" {
        return;
    }
    let mut findings = Findings::of("EndpointSlice", &slice.metadata, diagnostics);
    for (index, entry) in slice.endpoints.iter().flatten().enumerate() {
        // Only the first address counts: all addresses of an entry are the same endpoint (EndpointSlice API).
        let Some(text) = entry.addresses.first() else { continue };
        let field = || format!("endpoints[{index}].addresses[0]");
        let address = match text.parse::<IpAddr>() {
            Ok(address) if is_usable(address) => address,
            Ok(_) => {
                findings.add(field(), Problem::UnusableAddress(text.clone()));
                continue;
            }
            Err(_) => {
                findings.add(field(), Problem::NotAnAddress(text.clone()));
                continue;
            }
        };
        let endpoint = Arc::new(endpoint(address, entry, slice.metadata.namespace.as_deref().unwrap_or("")));
        for slice_port in slice.ports.iter().flatten() {
            let name = slice_port.name.as_deref().unwrap_or("");
            let matching = ports.iter_mut().filter(|port| {
                *port.name == *name && protocol(slice_port.protocol.as_deref()) == Ok(port.protocol)
            });
            for port in matching {
                match slice_port.port.map(i64::from) {
                    Some(number) => match PortNumber::new(number) {
                        Some(number) => {
                            port.endpoints.push(PortEndpoint { endpoint: endpoint.clone(), port: number })
                        }
                        None => findings.add(format!("ports[{name}].port"), Problem::NotAPort(number)),
                    },
                    // A nil port means all ports: the Service's own number.
                    None => port.endpoints.push(PortEndpoint { endpoint: endpoint.clone(), port: port.port }),
                }
            }
        }
        // While an address moves between slices both entries exist; the better condition is the newer truth for names.
        let known = all.entry(address).or_insert_with(|| endpoint.clone());
        if endpoint.condition < known.condition {
            *known = endpoint;
        }
    }
}

fn endpoint(address: IpAddr, entry: &discovery::Endpoint, namespace: &str) -> Endpoint {
    let conditions = entry.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let terminating = conditions.terminating.unwrap_or(false);
    let condition = match (ready, terminating) {
        (true, _) => Condition::Ready,
        (false, true) if conditions.serving.unwrap_or(ready) => Condition::Draining,
        (false, true) => Condition::Terminating,
        (false, false) => Condition::NotReady,
    };
    let pod = entry.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let hints = entry.hints.clone().unwrap_or_default();
    Endpoint {
        address,
        condition,
        node: entry.node_name.as_deref().map(NodeName::from),
        zone: entry.zone.as_deref().map(Into::into),
        hostname: entry.hostname.as_deref().filter(|name| !name.is_empty()).map(Into::into),
        pod: pod.and_then(|target| {
            Some(PodKey::new(target.namespace.as_deref().unwrap_or(namespace), target.name.as_deref()?))
        }),
        hint_zones: hints.for_zones.iter().flatten().map(|zone| zone.name.as_str().into()).collect(),
        hint_nodes: hints.for_nodes.iter().flatten().map(|node| node.name.as_str().into()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(service_yaml: serde_json::Value, slices: Vec<serde_json::Value>) -> (Service, Vec<String>) {
        let object: core::Service = serde_json::from_value(service_yaml).unwrap();
        let slices: Vec<discovery::EndpointSlice> =
            slices.into_iter().map(|slice| serde_json::from_value(slice).unwrap()).collect();
        let mut diagnostics = Vec::new();
        let service = service(&object, &slices, &mut diagnostics).unwrap();
        (service, diagnostics.iter().map(ToString::to_string).collect())
    }

    fn web(spec: serde_json::Value) -> serde_json::Value {
        serde_json::json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": spec})
    }

    #[test]
    fn endpoints_meet_their_port_by_name_in_every_condition() {
        let spec = serde_json::json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [
            {"name": "http", "port": 80, "targetPort": "web"}, {"name": "dns", "protocol": "UDP", "port": 53}]});
        let slice = serde_json::json!({"addressType": "IPv4", "metadata": {"namespace": "ns", "name": "web-1"},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
            "endpoints": [
                {"addresses": ["10.244.1.2"], "nodeName": "n1", "targetRef": {"kind": "Pod", "name": "web-0", "namespace": "ns"}},
                {"addresses": ["10.244.1.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.244.1.4"], "conditions": {"ready": false, "serving": false, "terminating": true}},
                {"addresses": ["10.244.1.5"], "conditions": {"ready": false}}]});
        let (service, diagnostics) = given(web(spec), vec![slice]);
        assert_eq!(diagnostics, Vec::<String>::new());
        let sockets: Vec<String> = service
            .ports
            .iter()
            .flat_map(|port| &port.endpoints)
            .map(|one| one.socket().to_string())
            .collect();
        assert_eq!(sockets[..2], ["10.244.1.2:8080", "10.244.1.3:8080"]);
        assert_eq!(sockets[4], "10.244.1.2:5353");
        let conditions: Vec<Condition> = service.endpoints.iter().map(|one| one.condition).collect();
        assert_eq!(
            conditions,
            [Condition::Ready, Condition::Draining, Condition::Terminating, Condition::NotReady]
        );
        assert_eq!(service.endpoints[0].pod, Some(PodKey::new("ns", "web-0")));
    }

    #[test]
    fn an_address_that_is_in_two_slices_is_one_endpoint() {
        let spec = serde_json::json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]});
        let slice = |ready: bool| {
            serde_json::json!({"addressType": "IPv4", "metadata": {"namespace": "ns", "name": "x"}, "ports": [{"port": 80}],
                "endpoints": [{"addresses": ["10.244.1.2"], "conditions": {"ready": ready}}]})
        };
        let (service, _) = given(web(spec), vec![slice(false), slice(true)]);
        assert_eq!(service.ports[0].endpoints.len(), 1);
        assert_eq!(service.ports[0].endpoints[0].endpoint.condition, Condition::Ready);
        assert_eq!(service.endpoints.len(), 1);
    }

    #[test]
    fn what_is_broken_is_named_and_the_rest_is_used() {
        let spec = serde_json::json!({"type": "LoadBalancer", "clusterIP": "10.96.0.9", "externalIPs": ["x", "127.0.0.1", "192.0.2.8"],
            "loadBalancerSourceRanges": ["10.0.0.0/8", "nonsense"], "ports": [{"port": 80}, {"port": 0, "name": "zero"}]});
        let slice = serde_json::json!({"addressType": "IPv4", "metadata": {"namespace": "ns", "name": "web-1"}, "ports": [{"port": 80}],
            "endpoints": [{"addresses": ["169.254.0.1"]}, {"addresses": ["10.244.1.2"]}]});
        let (service, diagnostics) = given(web(spec), vec![slice]);
        let ips = service.virtual_ips().unwrap();
        assert_eq!(ips.external_ips, ["192.0.2.8".parse::<IpAddr>().unwrap()]);
        assert_eq!(ips.source_ranges.len(), 1);
        assert_eq!(service.ports.len(), 1);
        assert_eq!(service.ports[0].endpoints.len(), 1);
        assert_eq!(diagnostics.len(), 5, "{diagnostics:#?}");
        assert!(
            diagnostics[0].starts_with("Service ns/web: spec.externalIPs[0]: \"x\" is not an IP address"),
            "{}",
            diagnostics[0]
        );
    }

    #[test]
    fn unreadable_source_ranges_let_nobody_in() {
        let spec = serde_json::json!({"type": "LoadBalancer", "clusterIP": "10.96.0.9", "loadBalancerSourceRanges": ["nonsense"], "ports": [{"port": 80}]});
        let (service, _) = given(web(spec), vec![]);
        assert_eq!(service.virtual_ips().unwrap().source_ranges.len(), 1);
    }

    #[test]
    fn kinds_are_told_apart() {
        let (headless, _) = given(web(serde_json::json!({"clusterIP": "None"})), vec![]);
        assert_eq!(headless.kind, ServiceKind::Headless);
        let (external, _) = given(
            web(serde_json::json!({"type": "ExternalName", "externalName": "Api.Example.COM."})),
            vec![],
        );
        assert_eq!(external.kind, ServiceKind::ExternalName("api.example.com".into()));
    }
}
