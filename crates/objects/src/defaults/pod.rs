//! Defaults of pods and pod templates.

use serde_json::{Value, json};

use crate::document::Document;

/// Permissions of files in volumes, 0644.
const FILE_MODE: i64 = 420;

/// Defaults of the pod spec at `path`, if there is one.
pub(super) fn spec(object: &mut Value, path: &[&str]) {
    let Some(spec) = object.at_mut(path).filter(|spec| spec.is_object()) else { return };
    spec.put_default(&["restartPolicy"], "Always");
    spec.put_default(&["terminationGracePeriodSeconds"], 30);
    spec.put_default(&["dnsPolicy"], "ClusterFirst");
    spec.put_default(&["schedulerName"], "default-scheduler");
    spec.put_default(&["securityContext"], json!({}));
    account_aliases(spec);
    let host_network = spec.is_true(&["hostNetwork"]);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in spec.list_mut(&[list]) {
            self::container(container, host_network && list != "ephemeralContainers");
        }
    }
    for volume in spec.list_mut(&["volumes"]) {
        self::volume(volume);
    }
}

/// The account goes by two names, one of them deprecated.
fn account_aliases(spec: &mut Value) {
    let (name, alias) = (spec.text(&["serviceAccountName"]), spec.text(&["serviceAccount"]));
    match (name, alias) {
        ("", "") => {}
        ("", alias) => {
            let alias = alias.to_owned();
            spec.put(&["serviceAccountName"], alias);
        }
        (name, _) => {
            let name = name.to_owned();
            spec.put(&["serviceAccount"], name);
        }
    }
}

/// What pods get and templates do not.
pub(super) fn only_pods(pod: &mut Value) {
    if !pod.at(&["spec"]).is_object() {
        return;
    }
    pod.put_default(&["spec", "enableServiceLinks"], true);
    pod.put_default(&["spec", "preemptionPolicy"], "PreemptLowerPriority");
    pod.put_default(&["spec", "priority"], 0);
    for list in ["containers", "initContainers"] {
        for container in pod.list_mut(&["spec", list]) {
            let limits = container.at(&["resources", "limits"]).as_object().cloned().unwrap_or_default();
            for (name, limit) in limits {
                container.put_default(&["resources", "requests", &name], limit);
            }
        }
    }
}

fn container(container: &mut Value, host_network: bool) {
    container.put_default(&["resources"], json!({}));
    container.put_default(&["terminationMessagePath"], "/dev/termination-log");
    container.put_default(&["terminationMessagePolicy"], "File");
    let policy = if is_latest(container.text(&["image"])) { "Always" } else { "IfNotPresent" };
    container.put_default(&["imagePullPolicy"], policy);
    for port in container.list_mut(&["ports"]) {
        port.put_default(&["protocol"], "TCP");
        let number = port.int(&["containerPort"]).filter(|number| *number != 0 && host_network);
        if let Some(number) = number {
            port.put_default(&["hostPort"], number);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.at_mut(&[name]) {
            self::probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(get) = container.at_mut(&["lifecycle", hook, "httpGet"]) {
            http_get(get);
        }
    }
    for variable in container.list_mut(&["env"]) {
        if variable.has(&["valueFrom", "fieldRef"]) {
            variable.put_default(&["valueFrom", "fieldRef", "apiVersion"], "v1");
        }
    }
}

/// Whether an image reference names no tag, or `latest`. A digest pins it.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    matches!(last.split_once(':'), None | Some((_, "latest")))
}

fn probe(probe: &mut Value) {
    probe.put_default(&["timeoutSeconds"], 1);
    probe.put_default(&["periodSeconds"], 10);
    probe.put_default(&["successThreshold"], 1);
    probe.put_default(&["failureThreshold"], 3);
    if let Some(get) = probe.at_mut(&["httpGet"]) {
        http_get(get);
    }
    if probe.has(&["grpc"]) {
        probe.put_default(&["grpc", "service"], "");
    }
}

fn http_get(get: &mut Value) {
    get.put_default(&["path"], "/");
    get.put_default(&["scheme"], "HTTP");
}

fn volume(volume: &mut Value) {
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if volume.at(&[source]).is_object() {
            volume.put_default(&[source, "defaultMode"], FILE_MODE);
        }
    }
    if volume.at(&["hostPath"]).is_object() {
        volume.put_default(&["hostPath", "type"], "");
    }
    for item in volume.list_mut(&["downwardAPI", "items"]) {
        field_ref(item);
    }
    for source in volume.list_mut(&["projected", "sources"]) {
        if source.at(&["serviceAccountToken"]).is_object() {
            source.put_default(&["serviceAccountToken", "expirationSeconds"], 3600);
        }
        for item in source.list_mut(&["downwardAPI", "items"]) {
            field_ref(item);
        }
    }
}

fn field_ref(item: &mut Value) {
    if item.has(&["fieldRef"]) {
        item.put_default(&["fieldRef", "apiVersion"], "v1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_pod_becomes_complete() {
        let mut pod = json!({"spec": {
            "containers": [{
                "name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
                "readinessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": "1"}},
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            }],
            "volumes": [
                {"name": "a", "configMap": {"name": "x"}},
                {"name": "b", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
            ],
        }});
        spec(&mut pod, &["spec"]);
        only_pods(&mut pod);
        assert_eq!(
            pod["spec"],
            json!({
                "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
                "schedulerName": "default-scheduler", "securityContext": {}, "enableServiceLinks": true,
                "preemptionPolicy": "PreemptLowerPriority", "priority": 0,
                "containers": [{
                    "name": "c", "image": "nginx", "imagePullPolicy": "Always",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                    "env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }],
                "volumes": [
                    {"name": "a", "configMap": {"name": "x", "defaultMode": 420}},
                    {"name": "b", "projected": {"defaultMode": 420,
                        "sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]}},
                ],
            })
        );
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        let cases = [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1", false),
            ("host:5000/nginx", true),
            ("host:5000/nginx:1", false),
            ("nginx@sha256:0", false),
        ];
        for (image, want) in cases {
            assert_eq!(is_latest(image), want, "{image}");
        }
    }
}
