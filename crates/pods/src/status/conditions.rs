//! The pod's conditions: what is true of it as a whole, and since when.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec, PodStatus};

use super::seconds;
use crate::lifecycle::{
    InitProgress, Observed, Part, Sandbox, State, init_containers, init_progress, sidecars, was_touched,
};

/// A condition as decided, before transition times.
struct Decided {
    type_: &'static str,
    /// `None`: true; otherwise false with a reason and a message.
    obstacle: Option<(&'static str, Option<String>)>,
    /// A reason beside "true".
    reason: Option<&'static str>,
}

/// The conditions that this node decides, and the scheduler's as it is. `previous` is the status published before: transition times are
/// kept while a condition holds. Those of readiness gates belong to others and are left out.
pub(super) fn conditions(
    pod: &Pod,
    spec: &PodSpec,
    observed: &Observed,
    previous: &PodStatus,
    phase: &str,
    now: Timestamp,
) -> Vec<PodCondition> {
    let known = previous.conditions.as_deref().unwrap_or_default();
    let over = match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };
    let initialized = match init_progress(spec, observed) {
        InitProgress::Done => None,
        // A pod whose first process was killed prepares itself again; that it was ready once stays true.
        InitProgress::Running if was_touched(spec, observed) => None,
        InitProgress::Running | InitProgress::Failed => {
            let waiting = init_containers(spec).iter().filter(|container| !passed(container, observed));
            Some(("ContainersNotInitialized", Some(names("containers with incomplete status", waiting))))
        }
    };
    let unready: Vec<&Container> = spec
        .containers
        .iter()
        .chain(sidecars(spec))
        .filter(|container| {
            !observed
                .containers
                .get(&container.name)
                .is_some_and(|seen| seen.started && seen.ready && seen.is_alive())
        })
        .collect();
    let containers_ready = over.map(|reason| (reason, None)).or_else(|| {
        (!unready.is_empty()).then(|| {
            ("ContainersNotReady", Some(names("containers with unready status", unready.into_iter())))
        })
    });
    let gates_closed = || {
        let closed = closed_gates(spec, found(pod));
        (!closed.is_empty()).then(|| ("ReadinessGatesNotReady", Some(closed.join(", "))))
    };
    let sandbox = (observed.sandbox != Sandbox::Ready).then_some(("", None));
    let decided = [
        Decided { type_: "PodReadyToStartContainers", obstacle: sandbox, reason: None },
        Decided {
            type_: "Initialized",
            obstacle: initialized,
            reason: over.filter(|_| phase == "Succeeded"),
        },
        Decided { type_: "Ready", obstacle: containers_ready.clone().or_else(gates_closed), reason: None },
        Decided { type_: "ContainersReady", obstacle: containers_ready, reason: None },
    ];
    let mut all: Vec<PodCondition> =
        decided.into_iter().map(|decided| decided.condition(pod, known, now)).collect();
    let scheduled = known.iter().chain(found(pod)).find(|it| it.type_ == "PodScheduled").cloned();
    all.push(scheduled.unwrap_or_else(|| {
        Decided { type_: "PodScheduled", obstacle: None, reason: None }.condition(pod, known, now)
    }));
    all
}

fn found(pod: &Pod) -> &[PodCondition] {
    pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

/// What keeps each readiness gate shut (KEP-580).
fn closed_gates(spec: &PodSpec, conditions: &[PodCondition]) -> Vec<String> {
    let shut = |type_: &str| match conditions.iter().find(|condition| condition.type_ == type_) {
        None => Some(format!("corresponding condition of pod readiness gate {type_:?} does not exist.")),
        Some(condition) if condition.status == "True" => None,
        Some(condition) => Some(format!(
            "the status of pod readiness gate {type_:?} is not \"True\", but {}",
            condition.status
        )),
    };
    spec.readiness_gates.iter().flatten().filter_map(|gate| shut(&gate.condition_type)).collect()
}

fn passed(container: &Container, observed: &Observed) -> bool {
    let Some(seen) = observed.containers.get(&container.name) else { return false };
    match (&seen.state, Part::of_init(container)) {
        (State::Ended(ended), part) => ended.exit_code == 0 && part == Part::Init,
        (_, part) => part == Part::Sidecar && seen.started,
    }
}

fn names<'a>(text: &str, containers: impl Iterator<Item = &'a Container>) -> String {
    let names: Vec<&str> = containers.map(|container| container.name.as_str()).collect();
    format!("{text}: [{}]", names.join(" "))
}

impl Decided {
    fn condition(self, pod: &Pod, known: &[PodCondition], now: Timestamp) -> PodCondition {
        let status = if self.obstacle.is_none() { "True" } else { "False" };
        let before =
            known.iter().find(|condition| condition.type_ == self.type_ && condition.status == status);
        let (reason, message) = match self.obstacle {
            None => (self.reason.unwrap_or_default(), None),
            Some((reason, message)) => (reason, message),
        };
        PodCondition {
            type_: self.type_.to_owned(),
            status: status.to_owned(),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            message,
            last_transition_time: before
                .and_then(|before| before.last_transition_time.clone())
                .or(Some(seconds(now))),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        }
    }
}
