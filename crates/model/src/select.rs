//! Which endpoints of a Service port may get a connection.

use std::sync::Arc;

use crate::network::Node;
use crate::service::{Condition, Endpoint, PortEndpoint, TrafficPolicy};
use crate::trace::Trace;

/// Why an endpoint does not get the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It is not ready.
    NotReady,
    /// It is being deleted and serves no longer.
    Terminating,
    /// It is being deleted; it would still serve, but others are ready.
    DrainingWhileOthersAreReady,
    /// The traffic policy is Local and it runs elsewhere.
    OtherNode {
        /// The policy's node.
        node: crate::NodeName,
    },
    /// Topology hints send this node's traffic elsewhere.
    HintedElsewhere,
    /// Its address is of the other family.
    OtherFamily,
}

/// A step of [`select`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The endpoint may get the connection.
    Taken(PortEndpoint),
    /// It may not.
    LeftOut(PortEndpoint, LeftOut),
    /// Nothing is ready: endpoints that are terminating but still serve are used (KEP-1669).
    FellBackToDraining,
    /// Topology hints are ignored, for this reason.
    HintsIgnored(HintsIgnored),
}

/// Why hints do not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintsIgnored {
    /// Some endpoint of the set has none.
    SomeEndpointHasNone,
    /// None names this node or its zone.
    NoneForThisNode,
}

/// The endpoints that may get a connection. Which of them does is the caller's random choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection<'a> {
    /// At least one, in the order of the port's list.
    Endpoints(Vec<&'a PortEndpoint>),
    /// None, and what that means.
    Empty(Empty),
}

/// Why there is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Empty {
    /// No endpoint serves anywhere: connections are rejected at once.
    NoEndpoints,
    /// Endpoints serve, but none on this node and the policy is Local: connections are dropped.
    NoneOnThisNode,
}

/// Selects for traffic that is at `node` under `policy`. `family_of` gives the family wanted (any address of it).
///
/// Order, as kube-proxy has it: policy first, then readiness with the terminating fallback inside the policy's set, then hints (which
/// only apply to policy Cluster). Services spec "Which endpoints may receive a connection".
pub fn select<'a>(
    endpoints: &'a [PortEndpoint],
    policy: TrafficPolicy,
    node: &Node,
    family_of: std::net::IpAddr,
    trace: &mut impl Trace<Step>,
) -> Selection<'a> {
    let of_family = |one: &&PortEndpoint| one.endpoint.address.is_ipv4() == family_of.is_ipv4();
    let local = |one: &&PortEndpoint| {
        policy == TrafficPolicy::Cluster || one.endpoint.node.as_ref() == Some(&node.name)
    };
    let usable = |wanted: Condition| {
        endpoints
            .iter()
            .filter(move |one| of_family(one) && local(one) && one.endpoint.condition == wanted)
            .collect::<Vec<_>>()
    };
    let mut taken = usable(Condition::Ready);
    let drained = taken.is_empty();
    if drained {
        taken = usable(Condition::Draining);
        if !taken.is_empty() {
            trace.record(|| Step::FellBackToDraining);
        }
    }
    let hinted = match policy {
        TrafficPolicy::Cluster => apply_hints(&mut taken, node, trace),
        TrafficPolicy::Local => false,
    };
    if trace_records(trace) {
        for one in endpoints {
            let left_out = if taken.iter().any(|kept| std::ptr::eq(*kept, one)) {
                None
            } else if !of_family(&one) {
                Some(LeftOut::OtherFamily)
            } else if !local(&one) {
                Some(LeftOut::OtherNode { node: node.name.clone() })
            } else {
                Some(match one.endpoint.condition {
                    Condition::NotReady => LeftOut::NotReady,
                    Condition::Terminating => LeftOut::Terminating,
                    Condition::Draining if !drained => LeftOut::DrainingWhileOthersAreReady,
                    Condition::Draining | Condition::Ready => {
                        debug_assert!(hinted, "only hints leave out what is usable");
                        LeftOut::HintedElsewhere
                    }
                })
            };
            trace.record(|| match left_out {
                None => Step::Taken(one.clone()),
                Some(reason) => Step::LeftOut(one.clone(), reason),
            });
        }
    }
    if !taken.is_empty() {
        return Selection::Endpoints(taken);
    }
    let serves =
        |one: &PortEndpoint| matches!(one.endpoint.condition, Condition::Ready | Condition::Draining);
    match policy {
        TrafficPolicy::Local if endpoints.iter().any(|one| of_family(&one) && serves(one)) => {
            Selection::Empty(Empty::NoneOnThisNode)
        }
        TrafficPolicy::Local | TrafficPolicy::Cluster => Selection::Empty(Empty::NoEndpoints),
    }
}

/// `T::RECORDS` without naming the anonymous type.
fn trace_records<S, T: Trace<S>>(_: &T) -> bool {
    T::RECORDS
}

/// Keeps only endpoints hinted for this node, or else for its zone; all of them when hints cannot be honoured (KEP-2433, KEP-3015).
/// True when some were taken away.
fn apply_hints(taken: &mut Vec<&PortEndpoint>, node: &Node, trace: &mut impl Trace<Step>) -> bool {
    let for_node = |one: &Endpoint| one.hint_nodes.contains(&node.name);
    let for_zone = |one: &Endpoint| node.zone.as_ref().is_some_and(|zone| one.hint_zones.contains(zone));
    let any_hint =
        taken.iter().any(|one| !one.endpoint.hint_nodes.is_empty() || !one.endpoint.hint_zones.is_empty());
    if !any_hint {
        return false;
    }
    let mut ignored = HintsIgnored::SomeEndpointHasNone;
    if taken.iter().all(|one| !one.endpoint.hint_nodes.is_empty()) {
        if taken.iter().any(|one| for_node(&one.endpoint)) {
            return retain(taken, for_node);
        }
        ignored = HintsIgnored::NoneForThisNode;
    }
    if taken.iter().all(|one| !one.endpoint.hint_zones.is_empty()) {
        if taken.iter().any(|one| for_zone(&one.endpoint)) {
            return retain(taken, for_zone);
        }
        ignored = HintsIgnored::NoneForThisNode;
    }
    trace.record(|| Step::HintsIgnored(ignored));
    false
}

/// Keeps what `wanted` says; true when something was taken away.
fn retain(taken: &mut Vec<&PortEndpoint>, wanted: impl Fn(&Endpoint) -> bool) -> bool {
    let before = taken.len();
    taken.retain(|one| wanted(&one.endpoint));
    taken.len() < before
}

/// The endpoints that an in-cluster proxy may send a request to: ready ones, or else draining ones, wherever they run.
pub fn select_anywhere(endpoints: &[PortEndpoint]) -> impl Iterator<Item = &PortEndpoint> {
    let any_ready = endpoints.iter().any(|one| one.endpoint.condition == Condition::Ready);
    let wanted = if any_ready { Condition::Ready } else { Condition::Draining };
    endpoints.iter().filter(move |one| one.endpoint.condition == wanted)
}

/// The addresses DNS shows for a headless Service: ready ones only (publishNotReadyAddresses arrives here as ready).
pub fn published(endpoints: &[Arc<Endpoint>]) -> impl Iterator<Item = &Arc<Endpoint>> {
    endpoints.iter().filter(|one| one.condition == Condition::Ready)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::service::PortNumber;
    use crate::trace::NoTrace;

    fn endpoint(
        last: u8,
        condition: Condition,
        node: &str,
        zone_hint: &str,
        node_hint: &str,
    ) -> PortEndpoint {
        let hint = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        PortEndpoint {
            endpoint: Arc::new(Endpoint {
                address: IpAddr::from([10, 244, 1, last]),
                condition,
                node: Some(node.into()),
                zone: None,
                hostname: None,
                pod: None,
                hint_zones: hint(zone_hint).iter().map(|zone| zone.as_str().into()).collect(),
                hint_nodes: hint(node_hint).iter().map(|node| node.as_str().into()).collect(),
            }),
            port: PortNumber::new(80).unwrap(),
        }
    }

    fn node(zone: Option<&str>) -> Node {
        Node {
            name: "n1".into(),
            addresses: vec![],
            pod_ranges: vec![],
            zone: zone.map(Into::into),
            ready: true,
        }
    }

    struct Case {
        name: &'static str,
        given: Vec<PortEndpoint>,
        policy: TrafficPolicy,
        zone: Option<&'static str>,
        want: Result<&'static [u8], Empty>,
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn selection_follows_policy_then_readiness_then_hints() {
        use Condition::{Draining, NotReady, Ready, Terminating};
        use TrafficPolicy::{Cluster, Local};
        let plain = |last, condition, node| endpoint(last, condition, node, "", "");
        let cases = [
            Case { name: "none", given: vec![], policy: Cluster, zone: None, want: Err(Empty::NoEndpoints) },
            Case {
                name: "ready before draining",
                given: vec![plain(1, Ready, "n1"), plain(2, Draining, "n1"), plain(3, NotReady, "n1")],
                policy: Cluster,
                zone: None,
                want: Ok(&[1]),
            },
            Case {
                name: "draining when nothing is ready",
                given: vec![plain(1, Terminating, "n1"), plain(2, Draining, "n2"), plain(3, NotReady, "n1")],
                policy: Cluster,
                zone: None,
                want: Ok(&[2]),
            },
            Case {
                name: "only local under Local, with its own fallback",
                given: vec![plain(1, Ready, "n2"), plain(2, Draining, "n1")],
                policy: Local,
                zone: None,
                want: Ok(&[2]),
            },
            Case {
                name: "Local without local",
                given: vec![plain(1, Ready, "n2")],
                policy: Local,
                zone: None,
                want: Err(Empty::NoneOnThisNode),
            },
            Case {
                name: "Local and nothing serves anywhere",
                given: vec![plain(1, NotReady, "n2")],
                policy: Local,
                zone: None,
                want: Err(Empty::NoEndpoints),
            },
            Case {
                name: "zone hints",
                given: vec![endpoint(1, Ready, "n2", "a", ""), endpoint(2, Ready, "n3", "b", "")],
                policy: Cluster,
                zone: Some("b"),
                want: Ok(&[2]),
            },
            Case {
                name: "zone hints need every endpoint to have one",
                given: vec![
                    endpoint(1, Ready, "n2", "a", ""),
                    endpoint(2, Ready, "n3", "b", ""),
                    plain(3, Ready, "n1"),
                ],
                policy: Cluster,
                zone: Some("b"),
                want: Ok(&[1, 2, 3]),
            },
            Case {
                name: "zone hints for other zones only are ignored",
                given: vec![endpoint(1, Ready, "n2", "a", "")],
                policy: Cluster,
                zone: Some("c"),
                want: Ok(&[1]),
            },
            Case {
                name: "node hints are preferred over zone hints",
                given: vec![endpoint(1, Ready, "n2", "b", "n2"), endpoint(2, Ready, "n1", "b", "n1")],
                policy: Cluster,
                zone: Some("b"),
                want: Ok(&[2]),
            },
            Case {
                name: "hints do not matter under Local",
                given: vec![endpoint(1, Ready, "n1", "a", ""), endpoint(2, Ready, "n1", "b", "")],
                policy: Local,
                zone: Some("b"),
                want: Ok(&[1, 2]),
            },
        ];
        for case in cases {
            let node = node(case.zone);
            let family = IpAddr::from([0, 0, 0, 0]);
            let got = select(&case.given, case.policy, &node, family, &mut NoTrace);
            let got = match &got {
                Selection::Endpoints(some) => Ok(some.iter().map(|one| last_octet(one)).collect::<Vec<_>>()),
                Selection::Empty(why) => Err(*why),
            };
            assert_eq!(got, case.want.map(<[u8]>::to_vec), "{}", case.name);
            let mut steps = Vec::new();
            select(&case.given, case.policy, &node, family, &mut steps);
            let taken = steps.iter().filter_map(|step| match step {
                Step::Taken(one) => Some(last_octet(one)),
                _ => None,
            });
            assert_eq!(
                taken.collect::<Vec<_>>(),
                case.want.map_or(vec![], <[u8]>::to_vec),
                "trace of {}",
                case.name
            );
            let told = steps.iter().filter(|step| matches!(step, Step::Taken(_) | Step::LeftOut(..))).count();
            assert_eq!(told, case.given.len(), "every endpoint is accounted for: {}", case.name);
        }
    }

    fn last_octet(one: &PortEndpoint) -> u8 {
        match one.endpoint.address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        }
    }

    #[test]
    fn the_other_family_is_left_out() {
        let given = [endpoint(1, Condition::Ready, "n1", "", "")];
        let mut steps = Vec::new();
        let got = select(&given, TrafficPolicy::Cluster, &node(None), "::".parse().unwrap(), &mut steps);
        assert_eq!(got, Selection::Empty(Empty::NoEndpoints));
        assert_eq!(steps, [Step::LeftOut(given[0].clone(), LeftOut::OtherFamily)]);
    }
}
