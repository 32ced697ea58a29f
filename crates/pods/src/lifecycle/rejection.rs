//! Why a pod fails as a whole: what this node refuses to run, and what it stops.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PodSpec, Sysctl};

use super::policy::later;
use super::{Observed, PodFailure};

/// Sysctls below these belong to namespaces that a pod has for itself; all others would change the machine.
const NAMESPACED: [&str; 5] = ["net.", "kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];

/// `activeDeadlineSeconds`.
pub(crate) fn deadline(spec: &PodSpec, observed: &Observed) -> Option<Timestamp> {
    Some(later(observed.start_time, SignedDuration::from_secs(spec.active_deadline_seconds?)))
}

/// Why the pod failed: refused, stopped by this node, or past its deadline.
pub(crate) fn failure(spec: &PodSpec, observed: &Observed, now: Timestamp) -> Option<PodFailure> {
    if let Some(failure) = rejection(spec).or_else(|| observed.failure.clone()) {
        return Some(failure);
    }
    deadline(spec, observed).filter(|at| *at <= now)?;
    let message = "Pod was active on the node longer than the specified deadline".to_owned();
    Some(PodFailure { reason: "DeadlineExceeded".to_owned(), message })
}

/// Why this node does not run such a pod at all. A pod that is refused fails; nothing of it is started.
pub(crate) fn rejection(spec: &PodSpec) -> Option<PodFailure> {
    let own_network = spec.host_network != Some(true);
    let mut asked = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    let forbidden = asked.find(|sysctl| !is_own(sysctl, own_network))?;
    let message = format!("forbidden sysctl: {:?} not allowlisted", dotted(&forbidden.name));
    Some(PodFailure { reason: "SysctlForbidden".to_owned(), message })
}

fn is_own(sysctl: &Sysctl, own_network: bool) -> bool {
    let name = dotted(&sysctl.name);
    (own_network || !name.starts_with("net."))
        && NAMESPACED.iter().any(|prefix| name.starts_with(prefix))
        && !name.split('.').any(str::is_empty)
}

/// `net/ipv4/x` and `net.ipv4.x` are the same.
fn dotted(name: &str) -> String {
    name.replace('/', ".")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sysctls_of_the_machine_are_refused() {
        struct Case {
            name: &'static str,
            host_network: bool,
            allowed: bool,
        }
        let cases = [
            Case { name: "net.ipv4.ip_local_port_range", host_network: false, allowed: true },
            Case { name: "net/ipv4/tcp_syncookies", host_network: false, allowed: true },
            Case { name: "net.ipv4.tcp_syncookies", host_network: true, allowed: false },
            Case { name: "kernel.shmmax", host_network: true, allowed: true },
            Case { name: "kernel.panic", host_network: false, allowed: false },
            Case { name: "vm.overcommit_memory", host_network: false, allowed: false },
            Case { name: "net..ipv4", host_network: false, allowed: false },
        ];
        for case in cases {
            let spec: PodSpec =
                serde_json::from_value(json!({"containers": [], "hostNetwork": case.host_network,
                "securityContext": {"sysctls": [{"name": case.name, "value": "1"}]}}))
                .unwrap();
            let got = rejection(&spec);
            assert_eq!(got.is_none(), case.allowed, "{}: {got:?}", case.name);
        }
    }
}
