//! Who answers for a Service: EndpointSlices, the older Endpoints objects, and slices that mirror hand-made Endpoints.
//!
//! - `desired`: the endpoints that pods make, grouped by what they resolve the Service's ports to.
//! - `slices`: the fewest writes from the slices that are there to the endpoints that should be.
//! - `legacy`: the same as an `Endpoints` object.
//! - `mirror`: hand-made `Endpoints` as slices.

use fairway_kit::watch::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::metadata::{StringMap, is_deleting, label, owner_reference};
use crate::plan::{Deletion, Plan, Write};
use crate::world::{Kind, World};

mod desired;
mod legacy;
mod mirror;
mod slices;

pub use mirror::reconcile as reconcile_mirror;

/// Names the Service that a slice belongs to.
pub(crate) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Names who writes a slice: no one touches another's.
pub(crate) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Our name in [`MANAGED_BY_LABEL`]; the same as that of the controller that we take the place of, so that either adopts the
/// other's slices.
const SLICE_CONTROLLER: &str = "endpointslice-controller.k8s.io";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// When the change that a slice tells happened: the node agent measures its delay from here.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Brings slices and Endpoints of one Service in line with its pods.
pub fn reconcile(world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
    let Some(service) = world.services.get(key) else {
        // The slices go with their owner; the Endpoints object has none.
        let orphan = world.endpoints.get(key).filter(|endpoints| legacy::is_ours(endpoints));
        let delete = |endpoints| Write::Delete(Deletion::of(Kind::Endpoints, endpoints));
        return Plan::writes(orphan.map(|endpoints| delete(&**endpoints)).into_iter().collect());
    };
    if !selects_pods(service) || is_deleting(&service.metadata) {
        return Plan::nothing();
    }
    let groups = desired::groups(service, world);
    let present: Vec<_> = world
        .slices_of(key)
        .filter(|slice| belongs(slice, &key.name, SLICE_CONTROLLER) && !is_deleting(&slice.metadata))
        .cloned()
        .collect();
    let frame = slices::Frame {
        name: key.name.to_string(),
        namespace: service.metadata.namespace.clone(),
        labels: slice_labels(service, SLICE_CONTROLLER),
        owner: owner_reference(&**service),
        endpoints_max: slices::ENDPOINTS_MAX,
        placeholders: desired::families(service).into_iter().map(desired::Family::as_str).collect(),
    };
    let mut writes = slices::reconcile(&frame, groups, &present, now);
    writes.extend(legacy::reconcile(service, world, now));
    Plan::writes(writes)
}

/// Whether the pods of the cluster decide who answers.
pub fn selects_pods(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    let has_selector = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    has_selector && spec.type_.as_deref() != Some("ExternalName")
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

fn belongs(slice: &EndpointSlice, service: &str, controller: &str) -> bool {
    label(&slice.metadata, SERVICE_NAME_LABEL) == Some(service)
        && label(&slice.metadata, MANAGED_BY_LABEL) == Some(controller)
}

/// The Service's own labels and those that mark a slice.
fn slice_labels(service: &Service, controller: &str) -> StringMap {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME_LABEL.to_owned(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY_LABEL.to_owned(), controller.to_owned());
    labels
}

#[cfg(test)]
mod tests;
