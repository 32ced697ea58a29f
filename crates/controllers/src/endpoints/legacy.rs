//! The `Endpoints` object of a Service: deprecated, but `kubectl get endpoints` and older clients read it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::desired::{self, ResolvedPort};
use super::{HEADLESS_LABEL, TRIGGER_TIME, is_headless};
use crate::metadata::{StringMap, is_deleting, key, label};
use crate::plan::Write;
use crate::pod;
use crate::world::World;

/// Addresses in one object; the rest is left out and that is said in an annotation.
const ADDRESSES_MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";

/// Whether this object was made here; one made by hand is never deleted.
pub(super) fn is_ours(endpoints: &Endpoints) -> bool {
    label(&endpoints.metadata, MANAGED_BY_LABEL) == Some(CONTROLLER)
}

/// The write, if the object says something else.
pub(super) fn reconcile(service: &Service, world: &World, now: Timestamp) -> Option<Write> {
    let (subsets, truncated) = subsets(service, world);
    let subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    let labels = labels(service);
    let present = world.endpoints.get(&key(service));
    let Some(present) = present else {
        let mut annotations = StringMap::from([(TRIGGER_TIME.to_owned(), now.to_string())]);
        mark_truncated(&mut annotations, truncated);
        let metadata = ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        };
        return Some(Write::Create(Endpoints { metadata, subsets }.into()));
    };
    let was_truncated = present.metadata.annotations.iter().flatten().any(|(name, _)| name == OVER_CAPACITY);
    let before = present.subsets.clone().filter(|subsets| !subsets.is_empty());
    if before == subsets && present.metadata.labels.as_ref() == Some(&labels) && truncated == was_truncated {
        return None;
    }
    let mut endpoints = (**present).clone();
    let annotations = endpoints.metadata.annotations.get_or_insert_default();
    annotations.insert(TRIGGER_TIME.to_owned(), now.to_string());
    mark_truncated(annotations, truncated);
    endpoints.metadata.labels = Some(labels);
    endpoints.subsets = subsets;
    Some(Write::Replace(endpoints.into()))
}

fn mark_truncated(annotations: &mut StringMap, truncated: bool) {
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
}

fn labels(service: &Service) -> StringMap {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY_LABEL.to_owned(), CONTROLLER.to_owned());
    labels
}

/// Addresses with the same ports together, ready and others apart. Ready ones survive a truncation first.
fn subsets(service: &Service, world: &World) -> (Vec<EndpointSubset>, bool) {
    let publish = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let family = desired::families(service).into_iter().next();
    let mut members: Vec<(bool, &str, &Pod)> = desired::pods(service, world)
        .filter(|pod| publish || !is_deleting(&pod.metadata))
        .filter_map(|pod| {
            let (_, address) = desired::addresses(pod).find(|(found, _)| Some(*found) == family)?;
            Some((!(publish || pod::is_ready(pod)), address, pod))
        })
        .collect();
    members.sort_by_key(|(unready, address, _)| (*unready, *address));
    let truncated = members.len() > ADDRESSES_MAX;
    members.truncate(ADDRESSES_MAX);
    let mut by_ports: BTreeMap<Vec<ResolvedPort>, [Vec<EndpointAddress>; 2]> = BTreeMap::new();
    for (unready, address, pod) in members {
        let ports = desired::ports(service, pod);
        // Without a port there is nothing to connect to, except where the name alone is the service.
        if ports.is_empty() && !is_headless(service) {
            continue;
        }
        let [ready, not_ready] = by_ports.entry(ports).or_default();
        let side = if unready { not_ready } else { ready };
        side.push(EndpointAddress {
            ip: address.to_owned(),
            hostname: desired::hostname(service, pod),
            node_name: pod::node_name(pod).map(str::to_owned),
            target_ref: Some(pod::target_reference(pod)),
        });
    }
    let some = |addresses: Vec<EndpointAddress>| Some(addresses).filter(|addresses| !addresses.is_empty());
    let subsets = by_ports.into_iter().map(|(ports, [ready, not_ready])| EndpointSubset {
        addresses: some(ready),
        not_ready_addresses: some(not_ready),
        ports: Some(ports.into_iter().filter_map(legacy_port).collect())
            .filter(|ports: &Vec<_>| !ports.is_empty()),
    });
    (subsets.collect(), truncated)
}

fn legacy_port(port: ResolvedPort) -> Option<EndpointPort> {
    Some(EndpointPort {
        name: Some(port.name).filter(|name| !name.is_empty()),
        port: port.port?,
        protocol: Some(port.protocol),
        app_protocol: port.app_protocol,
    })
}
