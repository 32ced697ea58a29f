//! From the slices that are there to the endpoints that should be, by the fewest writes.
//!
//! Each watcher of slices (every node) pays for every write, so a pod that changes touches one slice, and slices are not
//! rebalanced for their own sake.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::TRIGGER_TIME;
use super::desired::{GroupKey, Groups, ResolvedPort};
use crate::metadata::StringMap;
use crate::plan::{Deletion, Write};
use crate::world::Kind;

/// Endpoints in a slice made from pods.
pub(super) const ENDPOINTS_MAX: usize = 100;

/// What all slices of one owner have in common.
#[derive(Debug)]
pub(super) struct Frame {
    /// Names start with it.
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) labels: StringMap,
    pub(super) owner: OwnerReference,
    pub(super) endpoints_max: usize,
    /// Families that show one empty slice when there is nothing to put into one.
    pub(super) placeholders: Vec<&'static str>,
}

/// One slice on its way from `before` to what is written.
#[derive(Debug)]
struct Draft {
    before: Option<Arc<EndpointSlice>>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

/// What an endpoint is recognised by: its address and who stands behind it.
type Identity = (Vec<String>, Option<String>);

fn identity(endpoint: &Endpoint) -> Identity {
    (
        endpoint.addresses.clone(),
        endpoint.target_ref.as_ref().and_then(|target| target.uid.clone().or(target.name.clone())),
    )
}

/// The writes that lead from `present` to `groups`.
pub(super) fn reconcile(
    frame: &Frame,
    mut groups: Groups,
    present: &[Arc<EndpointSlice>],
    now: Timestamp,
) -> Vec<Write> {
    for family in &frame.placeholders {
        if !groups.keys().any(|key| key.family == *family) {
            groups.insert(GroupKey { family, ports: Vec::new() }, Vec::new());
        }
    }
    let mut by_group: BTreeMap<GroupKey, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    let mut spare: Vec<Arc<EndpointSlice>> = Vec::new();
    for slice in present {
        let key = groups.keys().find(|key| is_of(slice, key)).cloned();
        match key {
            Some(key) => by_group.entry(key).or_default().push(slice.clone()),
            None => spare.push(slice.clone()),
        }
    }
    let mut drafts: Vec<(GroupKey, Draft)> = Vec::new();
    for (key, endpoints) in groups {
        let slices = by_group.remove(&key).unwrap_or_default();
        // A group without endpoints shows exactly one slice, any other none that is empty.
        let mut empty_left = usize::from(endpoints.is_empty());
        for draft in fit(frame.endpoints_max, endpoints, slices) {
            if draft.endpoints.is_empty() && empty_left == 0 {
                spare.extend(draft.before);
                continue;
            }
            empty_left = empty_left.saturating_sub(1);
            drafts.push((key.clone(), draft));
        }
        if empty_left > 0 {
            drafts.push((key, Draft { before: None, endpoints: Vec::new(), changed: true }));
        }
    }
    // What nobody needs any more is made over before something new is made: one write instead of two. Only within a family.
    for (key, draft) in &mut drafts {
        let reusable =
            spare.iter().position(|slice| draft.before.is_none() && slice.address_type == key.family);
        if let Some(at) = reusable {
            draft.before = Some(spare.swap_remove(at));
            draft.changed = true;
        }
    }
    let mut writes: Vec<Write> = Vec::new();
    for (key, draft) in drafts {
        writes.extend(write(frame, key, draft, now));
    }
    writes.extend(spare.iter().map(|slice| Write::Delete(Deletion::of(Kind::EndpointSlice, &**slice))));
    writes
}

fn is_of(slice: &EndpointSlice, key: &GroupKey) -> bool {
    let mut ports: Vec<ResolvedPort> = slice.ports.iter().flatten().map(ResolvedPort::from).collect();
    ports.sort();
    slice.address_type == key.family && ports == key.ports
}

/// Puts `endpoints` into `slices`: known ones stay where they are, new ones fill slices that change anyway, then the fullest
/// slice that takes all of the rest, then new slices.
fn fit(endpoints_max: usize, endpoints: Vec<Endpoint>, slices: Vec<Arc<EndpointSlice>>) -> Vec<Draft> {
    let mut wanted: BTreeMap<Identity, Endpoint> =
        endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut drafts: Vec<Draft> = slices
        .into_iter()
        .map(|slice| {
            let before = slice.endpoints.as_deref().unwrap_or(&[]);
            let endpoints: Vec<Endpoint> =
                before.iter().filter_map(|old| wanted.remove(&identity(old))).collect();
            let changed = endpoints != before;
            Draft { before: Some(slice), endpoints, changed }
        })
        .collect();
    let mut rest: Vec<Endpoint> = wanted.into_values().collect();
    for draft in drafts.iter_mut().filter(|draft| draft.changed) {
        let room = endpoints_max.saturating_sub(draft.endpoints.len()).min(rest.len());
        draft.endpoints.extend(rest.drain(..room));
    }
    while !rest.is_empty() {
        let count = rest.len().min(endpoints_max);
        let part: Vec<Endpoint> = rest.drain(..count).collect();
        let fitting = drafts
            .iter_mut()
            .filter(|draft| !draft.changed && draft.endpoints.len() + count <= endpoints_max)
            .max_by_key(|draft| draft.endpoints.len());
        match fitting {
            Some(draft) => {
                draft.endpoints.extend(part);
                draft.changed = true;
            }
            None => drafts.push(Draft { before: None, endpoints: part, changed: true }),
        }
    }
    drafts
}

fn write(frame: &Frame, key: GroupKey, draft: Draft, now: Timestamp) -> Option<Write> {
    let ports: Vec<EndpointPort> = key.ports.into_iter().map(EndpointPort::from).collect();
    let Some(before) = draft.before else {
        let slice = EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", frame.name)),
                namespace: frame.namespace.clone(),
                labels: Some(frame.labels.clone()),
                annotations: trigger_time(&[], &draft.endpoints, now),
                owner_references: Some(vec![frame.owner.clone()]),
                ..ObjectMeta::default()
            },
            address_type: key.family.to_owned(),
            endpoints: Some(draft.endpoints),
            ports: Some(ports),
        };
        return Some(Write::Create(slice.into()));
    };
    if !draft.changed && before.metadata.labels.as_ref() == Some(&frame.labels) {
        return None;
    }
    let mut slice = (*before).clone();
    slice.metadata.labels = Some(frame.labels.clone());
    if let Some(time) = trigger_time(before.endpoints.as_deref().unwrap_or(&[]), &draft.endpoints, now) {
        slice.metadata.annotations.get_or_insert_default().extend(time);
    }
    slice.ports = Some(ports);
    slice.endpoints = Some(draft.endpoints);
    Some(Write::Replace(slice.into()))
}

/// The annotation for a slice whose endpoints changed. The change is as old as the pod event that this pass reacts to, and
/// pass and event are milliseconds apart, while the times in a pod's conditions have whole seconds: now is the closer answer.
fn trigger_time(before: &[Endpoint], after: &[Endpoint], now: Timestamp) -> Option<StringMap> {
    (before != after).then(|| StringMap::from([(TRIGGER_TIME.to_owned(), now.to_string())]))
}
