//! Recorded steps in words.

use fairway_dns::zone;
use fairway_model::connect::Masquerade;
use fairway_model::http::{self, HostLost, RouteLost};
use fairway_model::select::{self, HintsIgnored};
use fairway_model::{Affinity, Condition, FrontendKind, LeftOut, PortEndpoint, Refusal, connect};

use crate::explain::{Line, Mark};

fn line(mark: Mark, text: impl Into<String>) -> Line {
    Line { mark, text: text.into() }
}

pub(crate) fn refusal(refusal: Refusal) -> String {
    let why = match refusal {
        Refusal::NoEndpoints => "the Service has no endpoint that serves",
        Refusal::NoneOnThisNode => "the traffic policy is Local and no endpoint is on this node",
        Refusal::UnusedPort => "the Service has no such port",
        Refusal::UnallocatedAddress => "no Service has this address of the service range",
        Refusal::SourceRange => "loadBalancerSourceRanges does not let this source in",
    };
    let how = if refusal.is_rejected() {
        "rejected at once"
    } else {
        "dropped (the client waits until it gives up)"
    };
    format!("{how}: {why}")
}

pub(crate) fn masquerade(why: Masquerade) -> &'static str {
    match why {
        Masquerade::ExternalTraffic => "external traffic under policy Cluster",
        Masquerade::OffClusterSource => {
            "the source is outside the pod ranges, so replies have to come back through the node"
        }
        Masquerade::Hairpin => "the endpoint is the client itself",
    }
}

/// What decides among the endpoints that serve.
pub(crate) fn affinity(affinity: Affinity) -> Option<Line> {
    match affinity {
        Affinity::None => None,
        Affinity::ClientIp { timeout_s } => Some(line(
            Mark::Note,
            format!(
                "sessionAffinity is ClientIP: this client stays with the endpoint of its last connection, if that is less than {timeout_s} s ago and the endpoint still serves"
            ),
        )),
    }
}

fn kind(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "a cluster IP",
        FrontendKind::LoadBalancer => "a load-balancer address",
        FrontendKind::ExternalIp => "an external IP",
        FrontendKind::NodePort => "a node port",
    }
}

pub(crate) fn connect_step(step: &connect::Step) -> Option<Line> {
    Some(match step {
        connect::Step::FrontendMatched(frontend, claim) => line(
            Mark::Taken,
            format!(
                "{} of Service {} (port {}/{})",
                kind(claim.kind),
                claim.service,
                frontend.port,
                frontend.protocol
            ),
        ),
        connect::Step::NoFrontend => line(Mark::Note, "no Service has this address and port"),
        connect::Step::ShortCircuit => line(
            Mark::Note,
            "externalTrafficPolicy is Local, but traffic from inside the cluster may go to every endpoint",
        ),
        connect::Step::Endpoint(step) => return select_step(step),
    })
}

fn select_step(step: &select::Step) -> Option<Line> {
    Some(match step {
        select::Step::Taken(one) => line(Mark::Taken, describe(one)),
        select::Step::LeftOut(one, why) => line(Mark::Lost, format!("{}: {}", describe(one), left_out(why))),
        select::Step::FellBackToDraining => {
            line(Mark::Note, "nothing is ready: endpoints that are being deleted but still serve are used")
        }
        select::Step::HintsIgnored(HintsIgnored::SomeEndpointHasNone) => {
            line(Mark::Note, "topology hints are ignored: some endpoint has none")
        }
        select::Step::HintsIgnored(HintsIgnored::NoneForThisNode) => {
            line(Mark::Note, "topology hints are ignored: none is for this node or its zone")
        }
    })
}

fn left_out(why: &LeftOut) -> String {
    match why {
        LeftOut::NotReady => "not ready".into(),
        LeftOut::Terminating => "being deleted, serves no longer".into(),
        LeftOut::DrainingWhileOthersAreReady => "being deleted, and others are ready".into(),
        LeftOut::OtherNode { node } => format!("not on {node}, and the traffic policy is Local"),
        LeftOut::HintedElsewhere => "topology hints keep this node's traffic elsewhere".into(),
        LeftOut::OtherFamily => "of the other IP family".into(),
    }
}

fn describe(one: &PortEndpoint) -> String {
    let node = one.endpoint.node.as_ref().map_or(String::new(), |node| format!(" on {node}"));
    match &one.endpoint.pod {
        Some(pod) => format!("{} (pod {}{node})", one.socket(), pod.name),
        None => format!("{}{node}", one.socket()),
    }
}

/// An endpoint of a gateway backend.
pub(crate) fn endpoint(one: &PortEndpoint, taken: bool) -> Line {
    if taken {
        return line(Mark::Taken, describe(one));
    }
    line(Mark::Lost, format!("{}: {}", describe(one), condition(one.endpoint.condition)))
}

fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::Ready => "ready",
        Condition::Draining => "being deleted, and others are ready",
        Condition::Terminating => "being deleted, serves no longer",
        Condition::NotReady => "not ready",
    }
}

pub(crate) fn zone_step(step: &zone::Step) -> Option<Line> {
    Some(match step {
        zone::Step::NotInZone => return None,
        zone::Step::NoNamespace(name) => line(Mark::Note, format!("  there is no namespace {name}")),
        zone::Step::NoService(key) => line(Mark::Note, format!("  there is no Service {key}")),
        zone::Step::Service(key) => line(Mark::Note, format!("  Service {key}")),
        zone::Step::Alias(key, _) => line(Mark::Note, format!("  Service {key} is of type ExternalName")),
        zone::Step::Published(_) => return None,
        zone::Step::LeftOut(address, left_out) => {
            line(Mark::Lost, format!("  {address}: {}", condition(*left_out)))
        }
        zone::Step::NothingBelow(key) => {
            line(Mark::Note, format!("  Service {key} has no such port or hostname"))
        }
        zone::Step::NoRecordOfType => return None,
        zone::Step::NoSuchForm => line(Mark::Note, "  no name of this form is ever made"),
    })
}

pub(crate) fn route_step(step: &http::Step) -> Line {
    match step {
        http::Step::HostMatched(pattern) => line(Mark::Taken, format!("host {pattern}")),
        http::Step::HostLost(pattern, HostLost::OtherName) => {
            line(Mark::Lost, format!("host {pattern}: another name"))
        }
        http::Step::HostLost(pattern, HostLost::LessSpecific { than }) => {
            line(Mark::Lost, format!("host {pattern}: less specific than {than}"))
        }
        http::Step::NoHost => line(Mark::Note, "no rule is for this host"),
        http::Step::RuleMatched(origin, path) => line(Mark::Taken, format!("{path} ({origin})")),
        http::Step::RuleLost(origin, path, RouteLost::PathDiffers) => {
            line(Mark::Lost, format!("{path} ({origin}): the path is another"))
        }
        http::Step::RuleLost(origin, path, RouteLost::WeakerPath { than }) => {
            line(Mark::Lost, format!("{path} ({origin}): matches, but {than} is stronger"))
        }
        http::Step::RuleLost(origin, path, RouteLost::Shadowed { by }) => {
            line(Mark::Lost, format!("{path} ({origin}): {by} is older and has the same path"))
        }
        http::Step::RuleShadowed(origin, by) => {
            line(Mark::Lost, format!("{origin}: never used, {by} is older and has the same path"))
        }
        http::Step::NoRule => line(Mark::Note, "no path of this host matches"),
    }
}
