//! Hand-made `Endpoints` of Services without selector, copied into slices: what serves traffic reads slices only.

use std::collections::BTreeMap;

use fairway_kit::watch::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions};

use super::desired::{Family, GroupKey, Groups, ResolvedPort};
use super::{MANAGED_BY_LABEL, SERVICE_NAME_LABEL, belongs, selects_pods, slices};
use crate::metadata::{is_deleting, label, owner_reference};
use crate::plan::{Deletion, Plan, Write};
use crate::world::{Kind, World};

const MIRROR_CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses taken over from one Endpoints object, and from each of its subsets into one slice.
const ADDRESSES_MAX: usize = 1000;

/// Brings the mirrored slices of one Endpoints object in line with it.
pub fn reconcile(world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
    let present: Vec<_> = world
        .slices_of(key)
        .filter(|slice| belongs(slice, &key.name, MIRROR_CONTROLLER) && !is_deleting(&slice.metadata))
        .cloned()
        .collect();
    let service = world.services.get(key);
    let source = world.endpoints.get(key).filter(|endpoints| is_mirrored(endpoints));
    let (Some(endpoints), Some(_)) = (source, service.filter(|service| !selects_pods(service))) else {
        let delete = |slice: &std::sync::Arc<_>| Write::Delete(Deletion::of(Kind::EndpointSlice, &**slice));
        return Plan::writes(present.iter().map(delete).collect());
    };
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME_LABEL.to_owned(), key.name.to_string());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MIRROR_CONTROLLER.to_owned());
    let frame = slices::Frame {
        name: key.name.to_string(),
        namespace: endpoints.metadata.namespace.clone(),
        labels,
        owner: owner_reference(&**endpoints),
        endpoints_max: ADDRESSES_MAX,
        placeholders: Vec::new(),
    };
    Plan::writes(slices::reconcile(&frame, groups(endpoints), &present, now))
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let is_lock =
        meta.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(LEADER_ANNOTATION));
    !is_deleting(meta) && !is_lock && label(meta, SKIP_MIRROR_LABEL) != Some("true")
}

fn groups(endpoints: &Endpoints) -> Groups {
    let mut groups: BTreeMap<GroupKey, Vec<Endpoint>> = BTreeMap::new();
    let mut left = ADDRESSES_MAX;
    for subset in endpoints.subsets.iter().flatten() {
        let mut ports: Vec<ResolvedPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| ResolvedPort {
                name: port.name.clone().unwrap_or_default(),
                port: Some(port.port),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        ports.sort();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let others = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(others) {
            let Some(family) = Family::of(&address.ip).filter(|_| left > 0) else { continue };
            left -= 1;
            let key = GroupKey { family: family.as_str(), ports: ports.clone() };
            groups.entry(key).or_default().push(endpoint(address, ready));
        }
    }
    groups
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}
