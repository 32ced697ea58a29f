//! What a failed pod means for its Job: `podFailurePolicy`, limits, and how long to wait before the next attempt.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::metadata::{after_seconds, name_of, namespace_of};
use crate::pod;

/// First wait before a failed pod is replaced; doubles with every failure in a row.
const BACKOFF_SECONDS: i64 = 10;
/// Longest wait.
const BACKOFF_SECONDS_MAX: i64 = 600;

/// What a failure asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The Job fails; why.
    FailJob(String),
    /// The index fails, without another attempt.
    FailIndex,
    /// Not a failure of the program: it counts towards no limit.
    Ignore,
    /// Counts towards the limits.
    Count,
}

/// The action of the first rule that matches a failed pod.
pub(super) fn action(spec: &JobSpec, pod: &Pod) -> Action {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    for (index, rule) in rules.enumerate() {
        let Some(what) = matched(rule, pod) else { continue };
        return match rule.action.as_str() {
            "FailJob" => Action::FailJob(format!("{what} matching FailJob rule at index {index}")),
            "FailIndex" => Action::FailIndex,
            "Ignore" => Action::Ignore,
            _ => Action::Count,
        };
    }
    Action::Count
}

/// What of the pod the rule means.
fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let key = format!("{}/{}", namespace_of(&pod.metadata), name_of(&pod.metadata));
    if let Some(codes) = &rule.on_exit_codes {
        let (container, code) = failed_containers(pod).find(|(name, code)| is_meant(codes, name, *code))?;
        return Some(format!("Container {container} for pod {key} failed with exit code {code}"));
    }
    let patterns = rule.on_pod_conditions.iter().flatten();
    for pattern in patterns {
        let wanted = pattern.status.as_deref().unwrap_or("True");
        if pod::condition(pod, &pattern.type_).is_some_and(|condition| condition.status == wanted) {
            return Some(format!("Pod {key} has condition {}", pattern.type_));
        }
    }
    None
}

fn is_meant(codes: &PodFailurePolicyOnExitCodesRequirement, container: &str, code: i32) -> bool {
    let named = codes.container_name.as_deref().is_none_or(|name| name == container);
    named
        && match codes.operator.as_str() {
            "In" => codes.values.contains(&code),
            "NotIn" => !codes.values.contains(&code),
            _ => false,
        }
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    containers.into_iter().flatten().chain(init.into_iter().flatten())
}

/// Name and exit code of the containers that failed.
fn failed_containers(pod: &Pod) -> impl Iterator<Item = (&str, i32)> {
    containers(pod).filter_map(|container| {
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        (code != 0).then_some((container.name.as_str(), code))
    })
}

/// Restarts of all containers of these pods together.
pub(super) fn restarts(pods: &[&Pod]) -> i64 {
    pods.iter().flat_map(|pod| containers(pod)).map(|container| i64::from(container.restart_count)).sum()
}

/// When the last container of a pod ended; the best that is known otherwise.
fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let ends = containers(pod)
        .filter_map(|container| Some(container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0));
    let unready = pod::ready_since(pod).filter(|_| !pod::is_ready(pod));
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    ends.max().or(unready).or(created)
}

/// When the next pod may be made, after these pods ended: the wait doubles with every failure since the last success.
pub(super) fn next_attempt<'a>(ended: impl Iterator<Item = &'a Pod> + Clone) -> Option<Timestamp> {
    let times = |phase: &'static str| {
        let ended = ended.clone().filter(move |pod| pod::phase(pod) == phase);
        ended.filter_map(finished_at)
    };
    let success = times("Succeeded").max();
    let failures = || times("Failed").filter(move |time| success.is_none_or(|success| *time > success));
    let count = u32::try_from(failures().count()).unwrap_or(u32::MAX);
    let last = failures().max()?;
    let wait = BACKOFF_SECONDS.saturating_mul(1 << count.saturating_sub(1).min(16));
    Some(after_seconds(last, wait.min(BACKOFF_SECONDS_MAX)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn failed(code: i32, at: &str) -> Pod {
        let terminated = json!({"exitCode": code, "finishedAt": at});
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "p"}, "status": {"phase": phase,
            "conditions": [{"type": "DisruptionTarget", "status": "True"}],
            "containerStatuses": [{"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 2, "state": {"terminated": terminated}}]}}))
        .unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        struct Case {
            name: &'static str,
            rules: Value,
            want: Action,
        }
        let code = |action: &str, operator: &str, values: Value| json!({"action": action, "onExitCodes": {"operator": operator, "values": values}});
        let fail = "Container main for pod ns/p failed with exit code 42 matching FailJob rule at index 0";
        for case in [
            Case { name: "no rule", rules: json!([]), want: Action::Count },
            Case {
                name: "exit code",
                rules: json!([code("FailJob", "In", json!([42]))]),
                want: Action::FailJob(fail.to_owned()),
            },
            Case {
                name: "another exit code",
                rules: json!([code("FailJob", "In", json!([1]))]),
                want: Action::Count,
            },
            Case {
                name: "not in",
                rules: json!([code("Ignore", "NotIn", json!([1]))]),
                want: Action::Ignore,
            },
            Case {
                name: "another container",
                rules: json!([{"action": "FailJob", "onExitCodes": {"containerName": "side", "operator": "In", "values": [42]}}]),
                want: Action::Count,
            },
            Case {
                name: "order",
                rules: json!([code("FailIndex", "In", json!([42])), code("Ignore", "In", json!([42]))]),
                want: Action::FailIndex,
            },
            Case {
                name: "condition",
                rules: json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]),
                want: Action::Ignore,
            },
            Case {
                name: "condition of another status",
                rules: json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "False"}]}]),
                want: Action::Count,
            },
        ] {
            let spec = json!({"template": {}, "podFailurePolicy": {"rules": case.rules}});
            let spec: JobSpec = serde_json::from_value(spec).unwrap();
            assert_eq!(action(&spec, &failed(42, "2026-01-01T00:00:00Z")), case.want, "{}", case.name);
        }
    }

    #[test]
    fn waits_double_with_failures_in_a_row() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let (first, second, success) = (
            failed(1, "2026-01-01T00:00:00Z"),
            failed(1, "2026-01-01T00:00:30Z"),
            failed(0, "2026-01-01T00:00:10Z"),
        );
        assert_eq!(next_attempt([].into_iter()), None);
        assert_eq!(next_attempt([&first].into_iter()), Some(at("2026-01-01T00:00:10Z")));
        assert_eq!(next_attempt([&first, &second].into_iter()), Some(at("2026-01-01T00:00:50Z")));
        assert_eq!(next_attempt([&first, &success, &second].into_iter()), Some(at("2026-01-01T00:00:40Z")));
        assert_eq!(next_attempt([&first, &success].into_iter()), None);
        let many = vec![&second; 30];
        assert_eq!(next_attempt(many.into_iter()), Some(at("2026-01-01T00:10:30Z")));
    }
}
