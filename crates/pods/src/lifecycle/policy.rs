//! When a container is started again: policies, rules by exit code, and delays.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, PodSpec};

use super::Ended;

/// First delay between two starts of a container that ends by itself; it doubles with every start.
const CRASH_DELAY_FIRST: SignedDuration = SignedDuration::from_secs(10);
/// The longest delay, for crashes and image pulls.
const DELAY_MAX: SignedDuration = SignedDuration::from_mins(5);
/// A container that ran this long starts with no delay again.
const CRASH_FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// Whether a run was long enough to forget the crashes before it.
pub(super) fn ran_long(ended: &Ended) -> bool {
    ended.finished_at.duration_since(ended.started_at) >= CRASH_FORGOTTEN_AFTER
}

/// No delay before the first restart, then 10 s, doubled up to five minutes.
pub(crate) fn crash_delay(crashes: u32) -> SignedDuration {
    match crashes {
        0 => SignedDuration::ZERO,
        n => doubled(CRASH_DELAY_FIRST, n - 1),
    }
}

/// The delay after that many failed image look-ups in a row.
pub(crate) fn pull_delay(failures: u32) -> SignedDuration {
    doubled(CRASH_DELAY_FIRST, failures.saturating_sub(1))
}

/// The delay after that many failed attempts in a row to make a pod's surroundings or a container's configuration. What is missing
/// usually ends it earlier, by appearing.
pub(crate) fn setup_delay(failures: u32) -> SignedDuration {
    doubled(SignedDuration::from_secs(1), failures.saturating_sub(1)).min(SignedDuration::from_secs(30))
}

fn doubled(first: SignedDuration, times: u32) -> SignedDuration {
    first.checked_mul(1 << times.min(10)).map_or(DELAY_MAX, |delay| delay.min(DELAY_MAX))
}

/// A time that much later; the end of time when there is none.
pub(crate) fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Which of a pod's three lists a container is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Runs once before the others, one at a time.
    Init,
    /// An init container that keeps running beside the others (KEP-753).
    Sidecar,
    /// The pod proper.
    Main,
    /// Added to a running pod for a look at it (KEP-277); never started again, counts for nothing.
    Ephemeral,
}

impl Part {
    /// Of an init container.
    pub(crate) fn of_init(container: &Container) -> Self {
        if container.restart_policy.as_deref() == Some("Always") { Self::Sidecar } else { Self::Init }
    }

    /// The list's name in the object.
    pub(crate) fn field(self) -> &'static str {
        match self {
            Self::Init | Self::Sidecar => "initContainers",
            Self::Main => "containers",
            Self::Ephemeral => "ephemeralContainers",
        }
    }
}

/// `restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            Some("Always") => Some(Self::Always),
            Some("OnFailure") => Some(Self::OnFailure),
            Some("Never") => Some(Self::Never),
            _ => None,
        }
    }

    fn covers(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// The policy of a pod.
pub(crate) fn restart_policy(spec: &PodSpec) -> RestartPolicy {
    RestartPolicy::parse(spec.restart_policy.as_deref()).unwrap_or(RestartPolicy::Always)
}

/// Whether a container that ended like this is started again: its own rules first (KEP-5307), then its own policy, then the pod's.
pub(crate) fn restarts(spec: &PodSpec, part: Part, container: &Container, exit_code: i32) -> bool {
    if part == Part::Ephemeral {
        return false;
    }
    let mut rules = container.restart_policy_rules.iter().flatten();
    if rules.any(|rule| rule.action == "Restart" && applies(rule, exit_code)) {
        return true;
    }
    let own = RestartPolicy::parse(container.restart_policy.as_deref());
    let policy = match (part, own.unwrap_or_else(|| restart_policy(spec))) {
        // An init container that succeeded is not started again.
        (Part::Init, RestartPolicy::Always) => RestartPolicy::OnFailure,
        (_, policy) => policy,
    };
    policy.covers(exit_code)
}

fn applies(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    rule.exit_codes.as_ref().is_some_and(|codes| {
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    })
}

/// The init containers.
pub(crate) fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// The init containers that are sidecars.
pub(crate) fn sidecars(spec: &PodSpec) -> impl DoubleEndedIterator<Item = &Container> {
    init_containers(spec).iter().filter(|container| Part::of_init(container) == Part::Sidecar)
}

/// Names of the ephemeral containers.
pub(crate) fn ephemeral_names(spec: &PodSpec) -> impl Iterator<Item = &str> {
    spec.ephemeral_containers.iter().flatten().map(|container| container.name.as_str())
}

/// A container of the pod by name, as the kind of object that all three lists have in common.
pub(crate) fn find(spec: &PodSpec, name: &str) -> Option<(Part, Container)> {
    let named = |container: &&Container| container.name == name;
    if let Some(found) = spec.containers.iter().find(named) {
        return Some((Part::Main, found.clone()));
    }
    if let Some(found) = init_containers(spec).iter().find(named) {
        return Some((Part::of_init(found), found.clone()));
    }
    let found = spec.ephemeral_containers.iter().flatten().find(|container| container.name == name)?;
    Some((Part::Ephemeral, common(found)))
}

/// What an ephemeral container has in common with the others. Its target needs nothing: all containers of a pod share a PID namespace.
pub(crate) fn common(container: &EphemeralContainer) -> Container {
    let given = container.clone();
    Container {
        name: given.name,
        args: given.args,
        command: given.command,
        env: given.env,
        env_from: given.env_from,
        image: given.image,
        image_pull_policy: given.image_pull_policy,
        resources: given.resources,
        security_context: given.security_context,
        stdin: given.stdin,
        stdin_once: given.stdin_once,
        termination_message_path: given.termination_message_path,
        termination_message_policy: given.termination_message_policy,
        tty: given.tty,
        volume_mounts: given.volume_mounts,
        working_dir: given.working_dir,
        ..Container::default()
    }
}
