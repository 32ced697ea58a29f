//! ServiceCIDR: ranges that Services take their addresses from. The API server allocates; here it is said that a range is ready, and
//! one that is to go is kept while a Service has an address of it that no other range covers.

use std::net::IpAddr;

use fairway_kit::watch::ObjectKey;
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{ServiceCIDR, ServiceCIDRStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};

use crate::metadata::{is_deleting, name_of, seconds};
use crate::plan::{Plan, Write};
use crate::task::Task;
use crate::world::World;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

/// Holds, releases and reports one range.
pub fn reconcile(world: &World, name: &str, now: Timestamp) -> Plan {
    let Some(range) = world.service_ranges.get(&ObjectKey::new("", name)) else { return Plan::nothing() };
    let held = range.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    if !is_deleting(&range.metadata) {
        if !held {
            let mut range = (**range).clone();
            range.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
            return Plan::writes(vec![Write::Replace(range.into())]);
        }
        return Plan::writes(report(range, true, now).into_iter().collect());
    }
    if is_needed(world, range) {
        return Plan::writes(report(range, false, now).into_iter().collect());
    }
    if !held {
        return Plan::nothing();
    }
    let mut range = (**range).clone();
    let others =
        range.metadata.finalizers.take().into_iter().flatten().filter(|finalizer| finalizer != FINALIZER);
    range.metadata.finalizers = Some(others.collect::<Vec<_>>()).filter(|others| !others.is_empty());
    Plan::writes(vec![Write::Replace(range.into())])
}

/// Work on every range that `concerns`.
pub(crate) fn all(world: &World, concerns: fn(&ObjectMeta) -> bool, tasks: &mut Vec<Task>) {
    let ranges = world.service_ranges.values().filter(|range| concerns(&range.metadata));
    tasks.extend(ranges.map(|range| Task::ServiceRange(name_of(&range.metadata).to_owned())));
}

fn networks(range: &ServiceCIDR) -> impl Iterator<Item = IpNet> {
    let listed = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    listed.filter_map(|network| network.parse().ok())
}

/// Whether an address is in use that only this range covers.
fn is_needed(world: &World, range: &ServiceCIDR) -> bool {
    let own: Vec<IpNet> = networks(range).collect();
    let others: Vec<IpNet> = world
        .service_ranges
        .values()
        .filter(|other| other.metadata.name != range.metadata.name && !is_deleting(&other.metadata))
        .flat_map(|other| networks(other))
        .collect();
    let used = world.service_addresses.keys().filter_map(|key| key.name.parse::<IpAddr>().ok());
    let covers =
        |networks: &[IpNet], address: &IpAddr| networks.iter().any(|network| network.contains(address));
    used.into_iter().any(|address| covers(&own, &address) && !covers(&others, &address))
}

fn report(range: &ServiceCIDR, ready: bool, now: Timestamp) -> Option<Write> {
    let (status, reason, message) = if ready {
        ("True", "", "Kubernetes Service CIDR is ready")
    } else {
        (
            "False",
            "Terminating",
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
        )
    };
    let mut conditions = range.status.clone().and_then(|status| status.conditions).unwrap_or_default();
    if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == status) {
        return None;
    }
    conditions.retain(|condition| condition.type_ != "Ready");
    conditions.push(Condition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: seconds(now),
        observed_generation: None,
    });
    let status = ServiceCIDRStatus { conditions: Some(conditions) };
    Some(Write::ReplaceStatus(ServiceCIDR { status: Some(status), ..range.clone() }.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::Deletion;
    use crate::simulation::Cluster;
    use crate::world::{IPAddress, Kind};

    fn delete(cluster: &mut Cluster, kind: Kind, name: &str) {
        let key = ObjectKey::new("", name);
        cluster.apply(Write::Delete(Deletion { kind, key, uid: None, grace_period_seconds: None })).unwrap();
        cluster.settle();
    }

    fn state(cluster: &Cluster, name: &str) -> Option<String> {
        let range = cluster.world.service_ranges.get(&ObjectKey::new("", name))?;
        let condition = range.status.as_ref()?.conditions.as_ref()?.first()?;
        Some(format!("{}={}{}", condition.type_, condition.status, condition.reason))
    }

    #[test]
    fn a_range_goes_when_its_last_address_went_or_another_covers_it() {
        for cover in [false, true] {
            let mut cluster = Cluster::with_nodes(0);
            cluster.create::<ServiceCIDR>(
                json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/16"]}}),
            );
            cluster.create::<IPAddress>(json!({"metadata": {"name": "10.97.0.5"}, "spec": {"parentRef": {"resource": "services", "name": "x"}}}));
            cluster.settle();
            assert_eq!(state(&cluster, "more").as_deref(), Some("Ready=True"));
            delete(&mut cluster, Kind::ServiceCIDR, "more");
            assert_eq!(state(&cluster, "more").as_deref(), Some("Ready=FalseTerminating"));
            if cover {
                cluster.create::<ServiceCIDR>(
                    json!({"metadata": {"name": "wide"}, "spec": {"cidrs": ["10.97.0.0/20"]}}),
                );
                cluster.settle();
            } else {
                delete(&mut cluster, Kind::IPAddress, "10.97.0.5");
            }
            assert_eq!(state(&cluster, "more"), None, "{cover}");
        }
    }
}
