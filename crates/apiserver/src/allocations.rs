//! Which addresses and node ports Services hold: derived from the stored Services with every change, so it can neither leak nor need
//! repair. Whether a new Service may have one is decided by `objects`, inside the writer.
//!
//! Every cluster address of a Service has an IPAddress object, written and removed in the transaction of the Service itself.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fairway_objects::allocate::{self, Ranges, Used};
use fairway_objects::document::{self, Document};
use fairway_objects::status::Status;
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::store::{Collection, Key, Object, State, Txn};

/// What is taken. Cloning is a few pointers.
#[derive(Clone, Debug, Default)]
pub struct Allocations(Used);

impl Allocations {
    /// What Services use.
    pub fn used(&self) -> &Used {
        &self.0
    }

    /// Follows a change of an object; other kinds than Services are ignored.
    pub(crate) fn replace(&mut self, collection: &Collection, old: Option<&Object>, new: Option<&Object>) {
        if collection.as_str() != "services" {
            return;
        }
        let used = &mut self.0;
        if let Some(old) = old {
            used.remove(&old.document());
        }
        if let Some(new) = new {
            used.add(&new.document());
        }
    }
}

const NETWORKING: &str = "networking.k8s.io";

/// Gives a Service its addresses and ports: from the range of the cluster, or else from those that ServiceCIDRs add.
pub(crate) fn allocate(
    service: &mut Value,
    old: Option<&Value>,
    ranges: &Ranges,
    state: &State,
    random: u64,
) -> Result<(), Status> {
    let used = state.allocations().used();
    let refused = match allocate::service(service, old, ranges, used, random) {
        Ok(()) => return Ok(()),
        Err(refused) => refused,
    };
    let asked: Option<IpAddr> = match service.text(&["spec", "clusterIP"]) {
        "" => service
            .list(&["spec", "clusterIPs"])
            .first()
            .and_then(Value::as_str)
            .unwrap_or_default()
            .parse()
            .ok(),
        address => address.parse().ok(),
    };
    for range in added_ranges(state, ranges.service) {
        if asked.is_some_and(|asked| !range.contains(&asked)) {
            continue;
        }
        let added = Ranges { service: range, ..ranges.clone() };
        let outcome = allocate::service(service, old, &added, used, random);
        if outcome.is_ok() || asked.is_some() {
            return outcome;
        }
    }
    Err(refused)
}

/// Ranges of ServiceCIDRs beside the cluster's own, without those that are being deleted.
fn added_ranges(state: &State, own: IpNet) -> Vec<IpNet> {
    let objects = state.objects(&Collection::new(NETWORKING, "servicecidrs"));
    let active = objects.values().filter(|object| !document::is_terminating(object.value()));
    let ranges = active.flat_map(|object| object.value().list(&["spec", "cidrs"]).to_vec());
    let ranges = ranges.filter_map(|range| range.as_str()?.parse::<IpNet>().ok());
    let same_family = |range: &IpNet| range.addr().is_ipv4() == own.addr().is_ipv4();
    ranges.filter(|range| *range != own && same_family(range)).collect()
}

fn addresses(service: Option<&Value>) -> BTreeSet<String> {
    let listed = service.into_iter().flat_map(|service| service.list(&["spec", "clusterIPs"]));
    let listed = listed.filter_map(Value::as_str);
    listed.filter(|address| address.parse::<std::net::IpAddr>().is_ok()).map(str::to_owned).collect()
}

/// After a change of a Service: IPAddress objects for what it got, none for what it gave back.
pub(crate) fn follow(txn: &mut Txn, key: &Key, old: Option<&Value>, new: Option<&Value>) {
    let (before, after) = (addresses(old), addresses(new));
    let collection = Collection::new(NETWORKING, "ipaddresses");
    for address in before.difference(&after) {
        txn.remove(&collection, &Key::new("", address));
    }
    for address in &after {
        let place = Key::new("", address);
        if txn.state().object(&collection, &place).is_none() {
            let object = ip_address(address, key, txn.now_ms());
            txn.put(&collection, &place, object);
        }
    }
}

fn ip_address(address: &str, service: &Key, now_ms: u64) -> Value {
    let now = Timestamp::from_millisecond(i64::try_from(now_ms).unwrap_or(0)).unwrap_or_default();
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address, "uid": crate::random_uid().to_string(),
            "creationTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family,
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": service.namespace(), "name": service.name()}},
    })
}
