//! Pods and the specs of their templates.

use serde_json::Value;

use super::{Errors, SPEC, at_least, container, document, ephemeral, invalid_all, labels, one_of, volume};
use crate::document::Document;
use crate::field::{FieldError, Path};
use crate::names;

const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARS_MAX: usize = 2048;

/// A pod spec.
pub(super) fn spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut pod = container::Pod {
        volumes: volume::volumes(spec, &path.field("volumes"), errors),
        host_network: spec.is_true(&["hostNetwork"]),
        ..container::Pod::default()
    };
    let containers = path.field("containers");
    if spec.list(&["containers"]).is_empty() {
        errors.push(FieldError::required(&containers, ""));
    }
    for (index, item) in spec.list(&["containers"]).iter().enumerate() {
        container::container(item, false, &mut pod, &containers.index(index), errors);
    }
    let containers = path.field("initContainers");
    for (index, item) in spec.list(&["initContainers"]).iter().enumerate() {
        container::container(item, true, &mut pod, &containers.index(index), errors);
    }
    ephemeral::containers(spec, &mut pod, path, errors);
    one_of(spec.text(&["restartPolicy"]), RESTART_POLICIES, &path.field("restartPolicy"), errors);
    dns(spec, path, errors);
    labels(spec.at(&["nodeSelector"]), &path.field("nodeSelector"), errors);
    for (field, form) in [
        ("serviceAccountName", names::dns_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
    ] {
        let value = spec.text(&[field]);
        if !value.is_empty() {
            invalid_all(&path.field(field), value, form(value), errors);
        }
    }
    let deadline = spec.int(&["activeDeadlineSeconds"]);
    if let Some(deadline) = deadline.filter(|deadline| !(1..=i64::from(i32::MAX)).contains(deadline)) {
        let detail = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(&path.field("activeDeadlineSeconds"), deadline, detail));
    }
    at_least(
        spec,
        &["terminationGracePeriodSeconds"],
        &path.field("terminationGracePeriodSeconds"),
        0,
        errors,
    );
    host_aliases(spec, path, errors);
    tolerations(spec, path, errors);
}

/// A new pod.
pub(super) fn create(pod: &Value, errors: &mut Errors) {
    if !pod.list(&["spec", "ephemeralContainers"]).is_empty() {
        errors.push(FieldError::forbidden(&SPEC.field("ephemeralContainers"), "cannot be set on create"));
    }
}

/// The template of pods.
pub(super) fn template(template: &Value, path: &Path<'_>, errors: &mut Errors) {
    labels(template.at(&["metadata", "labels"]), &path.field("labels"), errors);
    let spec_path = path.field("spec");
    spec(template.at(&["spec"]), &spec_path, errors);
    if !template.list(&["spec", "ephemeralContainers"]).is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(&spec_path.field("ephemeralContainers"), detail));
    }
}

fn dns(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let policy = spec.text(&["dnsPolicy"]);
    one_of(policy, DNS_POLICIES, &path.field("dnsPolicy"), errors);
    let config = path.field("dnsConfig");
    let servers = spec.list(&["dnsConfig", "nameservers"]);
    let servers_path = config.field("nameservers");
    if policy == "None" && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(&servers_path, detail));
    }
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(FieldError::invalid(&servers_path, servers.to_vec(), &detail));
    }
    for (index, server) in servers.iter().enumerate() {
        let server = server.as_str().unwrap_or_default();
        if let Err(message) = names::ip(server) {
            errors.push(FieldError::invalid(&servers_path.index(index), server, &message));
        }
    }
    let searches = spec.list(&["dnsConfig", "searches"]);
    let searches_path = config.field("searches");
    if searches.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.push(FieldError::invalid(&searches_path, searches.to_vec(), &detail));
    }
    let chars = searches.iter().filter_map(Value::as_str).map(|search| search.len() + 1).sum::<usize>();
    if chars > SEARCH_CHARS_MAX + 1 {
        let detail = format!(
            "must not have more than {SEARCH_CHARS_MAX} characters (including spaces) in the search list"
        );
        errors.push(FieldError::invalid(&searches_path, searches.to_vec(), &detail));
    }
    for (index, search) in searches.iter().enumerate() {
        let search = search.as_str().unwrap_or_default();
        let name = search.strip_suffix('.').unwrap_or(search);
        // Underscores are common in internal domains.
        if !name.is_empty() {
            let messages = names::dns_subdomain(name.replace('_', "-").trim_matches('-'));
            invalid_all(&searches_path.index(index), search, messages, errors);
        }
    }
    let options = config.field("options");
    for (index, option) in spec.list(&["dnsConfig", "options"]).iter().enumerate() {
        if option.text(&["name"]).is_empty() {
            errors.push(FieldError::required(&options.index(index), "must not be empty"));
        }
    }
}

fn host_aliases(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let list = path.field("hostAliases");
    for (index, alias) in spec.list(&["hostAliases"]).iter().enumerate() {
        let path = list.index(index);
        let ip = alias.text(&["ip"]);
        if let Err(message) = names::ip(ip) {
            errors.push(FieldError::invalid(&path.field("ip"), ip, &message));
        }
        for host in alias.list(&["hostnames"]).iter().filter_map(Value::as_str) {
            invalid_all(&path.field("hostnames"), host, names::dns_subdomain(host), errors);
        }
    }
}

fn tolerations(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let list = path.field("tolerations");
    for (index, toleration) in spec.list(&["tolerations"]).iter().enumerate() {
        let path = list.index(index);
        let (key, operator) = (toleration.text(&["key"]), toleration.text(&["operator"]));
        if !key.is_empty() {
            invalid_all(&path.field("key"), key, names::qualified_name(key), errors);
        } else if operator != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&path.field("operator"), operator, detail));
        }
        if toleration.has(&["tolerationSeconds"]) && toleration.text(&["effect"]) != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&path.field("effect"), toleration.text(&["effect"]), detail));
        }
        let effect = toleration.text(&["effect"]);
        if !effect.is_empty() {
            let supported = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
            one_of(effect, &supported, &path.field("effect"), errors);
        }
    }
}

const FIXED: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// A change of a part of a pod.
pub(super) fn update_part(part: &str, new: &Value, old: &Value, errors: &mut Errors) {
    match part {
        "ephemeralcontainers" => {
            let names = ["containers", "initContainers"];
            let names = names.iter().flat_map(|list| new.list(&["spec", list]));
            let volumes = new.list(&["spec", "volumes"]).iter();
            let mut pod = container::Pod {
                names: names.map(|container| container.text(&["name"])).collect(),
                volumes: volumes.map(|volume| volume.text(&["name"])).collect(),
                ..container::Pod::default()
            };
            ephemeral::containers(new.at(&["spec"]), &mut pod, &SPEC, errors);
            ephemeral::update(new, old, errors);
        }
        "resize" => ephemeral::resize(new, old, errors),
        _ => update(new, old, errors),
    }
}

/// A running pod changes little: images, a shorter deadline, more tolerations, opened scheduling gates.
fn update(new: &Value, old: &Value, errors: &mut Errors) {
    for list in ["containers", "initContainers"] {
        if new.list(&["spec", list]).len() != old.list(&["spec", list]).len() {
            errors.push(FieldError::forbidden(
                &SPEC.field(list),
                "pod updates may not add or remove containers",
            ));
            return;
        }
    }
    for list in ["containers", "initContainers"] {
        let path = SPEC.field(list);
        for (index, container) in new.list(&["spec", list]).iter().enumerate() {
            if container.text(&["image"]).is_empty() {
                errors.push(FieldError::required(&path.index(index).field("image"), ""));
            }
        }
    }
    deadline(new, old, errors);
    tolerations_grow(new, old, errors);
    gates_shrink(new, old, errors);
    let mut munged = new.clone();
    for list in ["containers", "initContainers"] {
        let images = old.list(&["spec", list]).iter().map(|container| container.at(&["image"]).clone());
        for (container, image) in munged.list_mut(&["spec", list]).iter_mut().zip(images) {
            container.put(&["image"], image);
        }
    }
    let was_negative = old.int(&["spec", "terminationGracePeriodSeconds"]).is_some_and(|grace| grace < 0);
    let mut free = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    if was_negative && new.int(&["spec", "terminationGracePeriodSeconds"]) == Some(1) {
        free.push("terminationGracePeriodSeconds");
    }
    if document::is_terminating(old) || !old.list(&["spec", "schedulingGates"]).is_empty() {
        free.extend(["nodeSelector", "affinity"]);
    }
    for field in free {
        munged.take_at(&["spec", field]);
        if old.has(&["spec", field]) {
            munged.put(&["spec", field], old.at(&["spec", field]).clone());
        }
    }
    if munged.at(&["spec"]) != old.at(&["spec"]) {
        let changed = changes("spec", munged.at(&["spec"]), old.at(&["spec"])).join("\n");
        errors.push(FieldError::forbidden(&SPEC, &format!("{FIXED}\n{changed}")));
    }
}

fn deadline(new: &Value, old: &Value, errors: &mut Errors) {
    let path = SPEC.field("activeDeadlineSeconds");
    let field = ["spec", "activeDeadlineSeconds"];
    match (new.int(&field), old.int(&field)) {
        (Some(new), Some(old)) if new > old => {
            errors.push(FieldError::invalid(&path, new, "must be less than or equal to previous value"));
        }
        (None, Some(_)) => {
            errors.push(FieldError::invalid(
                &path,
                Value::Null,
                "must not update from a positive integer to nil value",
            ));
        }
        _ => {}
    }
}

fn tolerations_grow(new: &Value, old: &Value, errors: &mut Errors) {
    let kept = new.list(&["spec", "tolerations"]);
    if old.list(&["spec", "tolerations"]).iter().any(|toleration| !kept.contains(toleration)) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        let same_but_seconds = |old: &Value| {
            let strip = |toleration: &Value| {
                let mut toleration = toleration.clone();
                toleration.take_at(&["tolerationSeconds"]);
                toleration
            };
            kept.iter().any(|new| strip(new) == strip(old))
        };
        if !old.list(&["spec", "tolerations"]).iter().all(same_but_seconds) {
            errors.push(FieldError::forbidden(&SPEC.field("tolerations"), detail));
        }
    }
}

fn gates_shrink(new: &Value, old: &Value, errors: &mut Errors) {
    let had = old.list(&["spec", "schedulingGates"]);
    let path = SPEC.field("schedulingGates");
    for (index, gate) in new.list(&["spec", "schedulingGates"]).iter().enumerate() {
        if !had.contains(gate) {
            let detail = "only deletion is allowed, but found new scheduling gate";
            let detail = format!("{detail} '{}'", gate.text(&["name"]));
            errors.push(FieldError::forbidden(&path.index(index), &detail));
        }
    }
}

/// The paths where two documents differ, a few of them.
pub(super) fn changes(path: &str, new: &Value, old: &Value) -> Vec<String> {
    const CHANGES_MAX: usize = 20;
    let mut found = match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            let names: std::collections::BTreeSet<&String> = new.keys().chain(old.keys()).collect();
            let value =
                |object: &document::Object, name: &String| object.get(name).cloned().unwrap_or(Value::Null);
            names
                .into_iter()
                .flat_map(|name| changes(&format!("{path}.{name}"), &value(new, name), &value(old, name)))
                .collect()
        }
        (Value::Array(new), Value::Array(old)) if new.len() == old.len() => {
            let pairs = new.iter().zip(old).enumerate();
            pairs.flat_map(|(index, (new, old))| changes(&format!("{path}[{index}]"), new, old)).collect()
        }
        (new, old) if new == old => Vec::new(),
        (new, old) => vec![format!("  {path}: {old} -> {new}")],
    };
    found.truncate(CHANGES_MAX);
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{errors, update_errors};

    fn with(more: Value) -> Value {
        let mut pod = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
        json_patch::merge(&mut pod, &json!({"spec": more}));
        pod
    }

    fn with_container(more: Value) -> Value {
        let mut container = json!({"name": "c", "image": "i"});
        json_patch::merge(&mut container, &more);
        json!({"spec": {"containers": [container]}})
    }

    #[test]
    fn pods_are_refused_in_the_words_of_the_wire() {
        let c = "spec.containers[0]";
        let cases: [(Value, Vec<String>); 16] = [
            (with(json!({})), vec![]),
            (with(json!({"containers": []})), vec!["spec.containers: Required value".to_owned()]),
            (with_container(json!({"image": null})), vec![format!("{c}.image: Required value")]),
            (
                with(json!({"initContainers": [{"name": "c", "image": "i"}]})),
                vec!["spec.initContainers[0].name: Duplicate value: \"c\"".to_owned()],
            ),
            (
                with_container(json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]})),
                vec![format!("{c}.volumeMounts[0].name: Not found: \"v\"")],
            ),
            (
                with(json!({"volumes": [{"name": "v"}, {"name": "v", "emptyDir": {}}]})),
                vec![
                    "spec.volumes[0]: Required value: must specify a volume type".to_owned(),
                    "spec.volumes[1].name: Duplicate value: \"v\"".to_owned(),
                ],
            ),
            (
                with_container(json!({"ports": [{"containerPort": 70000}]})),
                vec![format!(
                    "{c}.ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"
                )],
            ),
            (
                with_container(json!({"ports": [{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]})),
                vec![format!("{c}.ports[1].hostPort: Duplicate value: \"TCP//5\"")],
            ),
            (
                with_container(json!({"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {
                    "fieldPath": "metadata.name"}}}]})),
                vec![format!(
                    "{c}.env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"
                )],
            ),
            (
                with_container(json!({"livenessProbe": {}})),
                vec![format!("{c}.livenessProbe: Required value: must specify a handler type")],
            ),
            (
                with_container(json!({"livenessProbe": {"tcpSocket": {"port": 80}, "successThreshold": 2}})),
                vec![format!("{c}.livenessProbe.successThreshold: Invalid value: 2: must be 1")],
            ),
            (
                with_container(json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}})),
                vec![format!(
                    "{c}.resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"
                )],
            ),
            (
                with(json!({"dnsPolicy": "None"})),
                vec!["spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when \
                      `dnsPolicy` is None"
                    .to_owned()],
            ),
            (
                with(json!({"restartPolicy": "Sometimes"})),
                vec!["spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \
                      \"OnFailure\""
                    .to_owned()],
            ),
            (
                with(json!({"activeDeadlineSeconds": 0})),
                vec!["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"
                    .to_owned()],
            ),
            (
                with(json!({"hostAliases": [{"ip": "x"}]})),
                vec!["spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or \
                      2001:db8::ffff)"
                    .to_owned()],
            ),
        ];
        for (pod, want) in cases {
            assert_eq!(errors("", "Pod", pod.clone()), want, "{pod}");
        }
    }

    #[test]
    fn a_running_pod_changes_little() {
        let old = with(json!({"nodeName": "n"}));
        let image = json!({"spec": {"nodeName": "n", "containers": [{"name": "c", "image": "j:1",
            "imagePullPolicy": "Always"}]}});
        assert_eq!(update_errors("", "Pod", image, old.clone()), Vec::<String>::new());
        let moved = update_errors("", "Pod", with(json!({"nodeName": "m"})), old.clone());
        assert_eq!(moved.len(), 1);
        assert!(
            moved[0].starts_with(
                "spec: Forbidden: pod updates may not change fields other than `spec.containers"
            )
        );
        assert!(moved[0].ends_with("\n  spec.nodeName: \"n\" -> \"m\""), "{}", moved[0]);
        let more = json!({"nodeName": "n", "containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]});
        assert_eq!(
            update_errors("", "Pod", with(more), old),
            ["spec.containers: Forbidden: pod updates may not add or remove containers"]
        );
    }
}
