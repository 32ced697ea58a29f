//! Addresses for Services of type LoadBalancer, from one pool.
//!
//! There is no allocation table: who has what is read from the Services themselves, so a restart forgets nothing and a deleted
//! Service frees its address. All are decided in one pass, so that no address is given twice.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service, ServiceStatus};

use crate::metadata::{age, namespace_of};
use crate::plan::{Notice, Plan, Severity, Write};
use crate::world::World;

/// Gives every LoadBalancer Service without a class its address, and takes back what no longer belongs to one.
pub fn reconcile(world: &World, pool: Option<Ipv4Net>) -> Plan {
    let Some(pool) = pool else { return Plan::nothing() };
    let mut claimants: Vec<&Arc<Service>> =
        world.services.values().filter(|service| wants_address(service)).collect();
    // The older Service keeps what two of them claim.
    claimants.sort_by_key(|service| (age(&service.metadata), namespace_of(&service.metadata)));
    let mut taken: BTreeMap<Ipv4Addr, &Service> = BTreeMap::new();
    let mut plan = Plan::nothing();
    let mut without: Vec<&Service> = Vec::new();
    for service in &claimants {
        match kept(service, pool).filter(|address| !taken.contains_key(address)) {
            Some(address) => _ = taken.insert(address, service),
            None => without.push(service),
        }
    }
    for service in without {
        match choose(service, pool, &taken) {
            Ok(address) => {
                taken.insert(address, service);
                let message = format!("Assigned IP [\"{address}\"]");
                plan.notices.push(Notice::new(service, Severity::Normal, "IPAllocated", message));
            }
            Err(refusal) => {
                let message = refusal.to_string();
                plan.notices.push(Notice::new(service, Severity::Warning, "AllocationFailed", message));
            }
        }
    }
    let address_of: BTreeMap<_, _> =
        taken.iter().map(|(address, service)| (service.metadata.uid.as_deref(), *address)).collect();
    for service in world.services.values() {
        let address = address_of.get(&service.metadata.uid.as_deref()).copied();
        if wants_address(service) || holds_stale(service, pool) {
            plan.writes.extend(write(service, address));
        }
    }
    plan
}

/// Whether a change of this Service concerns [`reconcile`].
pub fn concerns(service: &Service) -> bool {
    wants_address(service) || ingress(service).next().is_some()
}

fn wants_address(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
}

/// An address of ours on a Service that is no longer a load balancer. One with a class belongs to another controller.
fn holds_stale(service: &Service, pool: Ipv4Net) -> bool {
    let is_other = service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
    !is_other && ingress(service).any(|entry| address(entry).is_some_and(|address| pool.contains(&address)))
}

fn ingress(service: &Service) -> impl Iterator<Item = &LoadBalancerIngress> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten())
}

fn address(entry: &LoadBalancerIngress) -> Option<Ipv4Addr> {
    entry.ip.as_deref()?.parse().ok()
}

/// The address that the Service has and may keep.
fn kept(service: &Service, pool: Ipv4Net) -> Option<Ipv4Addr> {
    let present = ingress(service).find_map(address).filter(|address| pool.contains(address))?;
    match requested(service) {
        None => Some(present),
        Some(requested) => (requested.parse() == Ok(present)).then_some(present),
    }
}

fn requested(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    spec.load_balancer_ip.as_deref().filter(|address| !address.is_empty())
}

/// Why a Service gets no address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum Refusal {
    #[error(
        "no address is left in the pool {pool}: the Service stays without one until another is deleted; enlarge --load-balancer-pool"
    )]
    Exhausted { pool: Ipv4Net },
    #[error(
        "spec.loadBalancerIP {requested} is not an IPv4 address of the pool {pool}: the Service gets no address"
    )]
    Outside { requested: String, pool: Ipv4Net },
    #[error(
        "spec.loadBalancerIP {requested} is in use by Service {holder}: the Service gets no address until that one is deleted"
    )]
    InUse { requested: Ipv4Addr, holder: String },
}

fn choose(
    service: &Service,
    pool: Ipv4Net,
    taken: &BTreeMap<Ipv4Addr, &Service>,
) -> Result<Ipv4Addr, Refusal> {
    let Some(requested) = requested(service) else {
        let free = usable(pool).find(|address| !taken.contains_key(address));
        return free.ok_or(Refusal::Exhausted { pool });
    };
    let outside = || Refusal::Outside { requested: requested.to_owned(), pool };
    let address: Ipv4Addr = requested.parse().map_err(|_| outside())?;
    if !pool.contains(&address) {
        return Err(outside());
    }
    match taken.get(&address) {
        None => Ok(address),
        Some(holder) => Err(Refusal::InUse {
            requested: address,
            holder: fairway_kit::watch::key_of(*holder).to_string(),
        }),
    }
}

/// The pool is a part of a network, so its first address is an address like any other; the last one may be the network's
/// broadcast address and is left out.
fn usable(pool: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    let last = pool.broadcast();
    let single = pool.prefix_len() == 32;
    let (first, last) = (u32::from(pool.network()), u32::from(last).saturating_sub(u32::from(!single)));
    (first..=last).map(Ipv4Addr::from)
}

fn write(service: &Service, address: Option<Ipv4Addr>) -> Option<Write> {
    let wanted: Vec<LoadBalancerIngress> = address
        .map(|address| LoadBalancerIngress {
            ip: Some(address.to_string()),
            ip_mode: Some("VIP".to_owned()),
            ..LoadBalancerIngress::default()
        })
        .into_iter()
        .collect();
    if ingress(service).eq(&wanted) {
        return None;
    }
    let ingress = Some(wanted).filter(|wanted| !wanted.is_empty());
    let old = service.status.clone().unwrap_or_default();
    let status = ServiceStatus { load_balancer: Some(LoadBalancerStatus { ingress }), ..old };
    Some(Write::ReplaceStatus(Service { status: Some(status), ..service.clone() }.into()))
}

#[cfg(test)]
mod tests {
    use fairway_kit::watch::ObjectKey;
    use serde_json::{Value, json};

    use super::*;
    use crate::world::Object;

    /// A Service: name, type, requested address, address held, class.
    type Given<'a> = (&'a str, &'a str, Option<&'a str>, Option<&'a str>, Option<&'a str>);

    /// The oldest first.
    fn world(services: &[Given<'_>]) -> World {
        let mut world = World::default();
        for (at, (name, type_, requested, held, class)) in services.iter().enumerate() {
            let ingress: Vec<Value> = held.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
            let service: Service = serde_json::from_value(json!({
                "metadata": {"namespace": "ns", "name": name, "uid": name, "creationTimestamp": format!("2026-01-01T00:00:{at:02}Z")},
                "spec": {"type": type_, "loadBalancerIP": requested, "loadBalancerClass": class},
                "status": {"loadBalancer": {"ingress": ingress}},
            }))
            .unwrap();
            world.services.insert(ObjectKey::new("ns", name), Arc::new(service));
        }
        world
    }

    fn written(plan: &Plan) -> Vec<String> {
        let line = |write: &Write| match write {
            Write::ReplaceStatus(Object::Service(service)) => {
                let address = ingress(service).next().and_then(|entry| entry.ip.clone());
                format!("{} {}", service.metadata.name.as_deref().unwrap(), address.as_deref().unwrap_or("-"))
            }
            other => panic!("{other:?}"),
        };
        plan.writes.iter().map(line).collect()
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn allocation() {
        struct Case<'a> {
            name: &'a str,
            given: &'a [Given<'a>],
            want: &'a [&'a str],
            reasons: &'a [&'a str],
        }
        let lb = "LoadBalancer";
        for case in [
            Case {
                name: "lowest free, oldest first",
                given: &[("b", lb, None, None, None), ("a", lb, None, None, None)],
                want: &["a 10.0.0.1", "b 10.0.0.0"],
                reasons: &["IPAllocated", "IPAllocated"],
            },
            Case {
                name: "what one has, it keeps",
                given: &[("a", lb, None, None, None), ("b", lb, None, Some("10.0.0.0"), None)],
                want: &["a 10.0.0.1"],
                reasons: &["IPAllocated"],
            },
            Case {
                name: "nothing to do",
                given: &[("a", lb, None, Some("10.0.0.2"), None)],
                want: &[],
                reasons: &[],
            },
            Case {
                name: "requested",
                given: &[("a", lb, Some("10.0.0.2"), None, None)],
                want: &["a 10.0.0.2"],
                reasons: &["IPAllocated"],
            },
            Case {
                name: "moves when another is requested",
                given: &[("a", lb, Some("10.0.0.2"), Some("10.0.0.0"), None)],
                want: &["a 10.0.0.2"],
                reasons: &["IPAllocated"],
            },
            Case {
                name: "requested outside the pool",
                given: &[("a", lb, Some("10.9.0.2"), Some("10.0.0.0"), None)],
                want: &["a -"],
                reasons: &["AllocationFailed"],
            },
            Case {
                name: "requested but in use",
                given: &[("a", lb, None, Some("10.0.0.1"), None), ("b", lb, Some("10.0.0.1"), None, None)],
                want: &[],
                reasons: &["AllocationFailed"],
            },
            Case {
                name: "two hold the same: the older keeps it",
                given: &[("a", lb, None, Some("10.0.0.1"), None), ("b", lb, None, Some("10.0.0.1"), None)],
                want: &["b 10.0.0.0"],
                reasons: &["IPAllocated"],
            },
            Case {
                name: "released with the type",
                given: &[("a", "ClusterIP", None, Some("10.0.0.1"), None)],
                want: &["a -"],
                reasons: &[],
            },
            Case {
                name: "another controller's class is left alone",
                given: &[
                    ("a", lb, None, Some("10.0.0.1"), Some("other")),
                    ("b", lb, None, None, Some("other")),
                ],
                want: &[],
                reasons: &[],
            },
            Case {
                name: "exhausted",
                given: &[
                    ("a", lb, None, None, None),
                    ("b", lb, None, None, None),
                    ("c", lb, None, None, None),
                    ("d", lb, None, None, None),
                ],
                want: &["a 10.0.0.0", "b 10.0.0.1", "c 10.0.0.2"],
                reasons: &["IPAllocated", "IPAllocated", "IPAllocated", "AllocationFailed"],
            },
        ] {
            let plan = reconcile(&world(case.given), "10.0.0.0/30".parse().ok());
            assert_eq!(written(&plan), case.want, "{}", case.name);
            let reasons: Vec<_> = plan.notices.iter().map(|notice| notice.reason).collect();
            assert_eq!(reasons, case.reasons, "{}", case.name);
        }
    }

    #[test]
    fn without_a_pool_nothing_is_touched() {
        assert_eq!(reconcile(&world(&[("a", "LoadBalancer", None, None, None)]), None), Plan::nothing());
    }
}
