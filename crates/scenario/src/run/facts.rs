//! What may explain a failure: pods that are not well, Services and their endpoints, warnings, last words. Never an error itself.

use kube::Api;
use kube::api::LogParams;
use serde_json::Value;

use super::cluster::Cluster;
use super::conditions::ready_addresses;
use super::objects::{is_ready, name_of};

/// Lines of facts below a failure.
const LINES_MAX: usize = 40;
/// Log lines of a pod that is not well.
const LOG_LINES: i64 = 5;
/// Pods whose logs are shown.
const LOGS_MAX: usize = 3;
/// Warnings that are shown, the newest.
const WARNINGS_MAX: usize = 5;

/// The facts of a scenario's namespace.
pub(super) async fn gather(cluster: &Cluster, namespace: &str) -> Vec<String> {
    let mut facts = Vec::new();
    let pods = cluster.list("pod", namespace, "").await.unwrap_or_default();
    facts.extend(pods.iter().map(describe_pod));
    for service in cluster.list("service", namespace, "").await.unwrap_or_default() {
        let name = name_of(&service).to_owned();
        let label = format!("kubernetes.io/service-name={name}");
        let slices = cluster.list("endpointslice", namespace, &label).await.unwrap_or_default();
        facts.push(describe_service(&service, &ready_addresses(&slices)));
    }
    let events = cluster.list("event", namespace, "").await.unwrap_or_default();
    facts.extend(warnings(&events));
    let unwell: Vec<_> = pods.iter().filter(|pod| !is_ready(pod)).take(LOGS_MAX).map(name_of).collect();
    for name in unwell {
        facts.extend(last_words(cluster, namespace, name).await);
    }
    facts.truncate(LINES_MAX);
    facts
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or("-")
}

fn describe_pod(pod: &Value) -> String {
    let ready = if is_ready(pod) { "ready" } else { "NOT READY" };
    let statuses = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
    let statuses = statuses.map(Vec::as_slice).unwrap_or_default();
    let restarts: i64 = statuses.iter().filter_map(|status| status.get("restartCount")?.as_i64()).sum();
    let waiting: String = statuses
        .iter()
        .filter_map(|status| {
            let state = status.pointer("/state/waiting").or_else(|| status.pointer("/state/terminated"))?;
            Some(format!(
                ", {} {}",
                state.get("reason")?.as_str()?,
                text(state, "/message").trim_matches('-')
            ))
        })
        .collect();
    let going = if pod.pointer("/metadata/deletionTimestamp").is_some() { ", terminating" } else { "" };
    let restarted = if restarts > 0 { format!(", {restarts} restarts") } else { String::new() };
    format!(
        "pod {}: {}, {ready}, {} on {}{restarted}{going}{waiting}",
        name_of(pod),
        text(pod, "/status/phase"),
        text(pod, "/status/podIP"),
        text(pod, "/spec/nodeName"),
    )
    .trim_end()
    .to_owned()
}

fn describe_service(service: &Value, ready: &[String]) -> String {
    let endpoints = if ready.is_empty() { "no ready endpoint".to_owned() } else { ready.join(", ") };
    let outside = service.pointer("/status/loadBalancer/ingress/0/ip").and_then(Value::as_str);
    let outside = outside.map(|ip| format!(", outside {ip}")).unwrap_or_default();
    format!(
        "service {}: {} {}{outside}, endpoints: {endpoints}",
        name_of(service),
        text(service, "/spec/type"),
        text(service, "/spec/clusterIP"),
    )
}

fn warnings(events: &[Value]) -> Vec<String> {
    let mut warnings: Vec<_> = events.iter().filter(|event| text(event, "/type") == "Warning").collect();
    warnings.sort_by_key(|event| text(event, "/lastTimestamp").to_owned());
    let newest = warnings.len().saturating_sub(WARNINGS_MAX);
    let describe = |event: &&Value| {
        format!(
            "warning {}/{}: {}: {}",
            text(event, "/involvedObject/kind").to_ascii_lowercase(),
            text(event, "/involvedObject/name"),
            text(event, "/reason"),
            text(event, "/message"),
        )
    };
    warnings.get(newest..).unwrap_or_default().iter().map(describe).collect()
}

async fn last_words(cluster: &Cluster, namespace: &str, pod: &str) -> Vec<String> {
    let api: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let params = LogParams { tail_lines: Some(LOG_LINES), ..LogParams::default() };
    let log = tokio::time::timeout(std::time::Duration::from_secs(2), api.logs(pod, &params)).await;
    let log = log.ok().and_then(Result::ok).unwrap_or_default();
    log.lines().map(|line| format!("{pod} wrote: {line}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_is_not_well_says_why() {
        let pod = json!({
            "metadata": {"name": "web-1"},
            "spec": {"nodeName": "node-1"},
            "status": {
                "phase": "Pending",
                "containerStatuses": [{"restartCount": 2, "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}],
            },
        });
        assert_eq!(
            describe_pod(&pod),
            "pod web-1: Pending, NOT READY, - on node-1, 2 restarts, ImagePullBackOff no such image"
        );
    }

    #[test]
    fn a_service_says_where_it_leads() {
        let service =
            json!({"metadata": {"name": "web"}, "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.7"}});
        assert_eq!(
            describe_service(&service, &[]),
            "service web: ClusterIP 10.96.0.7, endpoints: no ready endpoint"
        );
    }

    #[test]
    fn only_the_newest_warnings_are_shown() {
        let event = |at: u32| {
            json!({
                "type": "Warning",
                "lastTimestamp": format!("2000-01-01T00:00:{at:02}Z"),
                "reason": "R",
                "message": at.to_string(),
                "involvedObject": {"kind": "Pod", "name": "a"},
            })
        };
        let events: Vec<_> = (0..8).rev().map(event).chain([json!({"type": "Normal"})]).collect();
        let shown = warnings(&events);
        assert_eq!(shown.len(), WARNINGS_MAX);
        assert_eq!(shown.last().unwrap(), "warning pod/a: R: 7");
    }
}
