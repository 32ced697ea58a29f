//! Defaults of built-in kinds.

use serde_json::{Value, json};

use crate::custom::{definition, shape};
use crate::document::Document;
use crate::registry::{BuiltinKind, Resource};

mod admission;
mod pod;
mod service;

/// Fills in what the object leaves to the server. Idempotent; also for objects read from an older store.
pub fn apply(resource: &Resource, object: &mut Value) {
    if let Some(custom) = resource.custom() {
        return shape::complete(&custom.tree, object);
    }
    match resource.builtin {
        Some(BuiltinKind::Pod) => {
            pod::spec(object, &["spec"]);
            pod::only_pods(object);
        }
        Some(BuiltinKind::Service) => service::service(object),
        Some(BuiltinKind::Endpoints) => endpoints(object),
        Some(BuiltinKind::EndpointSlice) => endpoint_slice(object),
        Some(BuiltinKind::NetworkPolicy) => network_policy(object),
        Some(BuiltinKind::IngressClass) => ingress_class(object),
        Some(BuiltinKind::Secret) => object.put_default(&["type"], "Opaque"),
        Some(BuiltinKind::Deployment) => deployment(object),
        Some(BuiltinKind::ReplicaSet) => replica_set(object),
        Some(BuiltinKind::ReplicationController) => replication_controller(object),
        Some(BuiltinKind::StatefulSet) => stateful_set(object),
        Some(BuiltinKind::DaemonSet) => daemon_set(object),
        Some(BuiltinKind::CustomResourceDefinition) => definition::complete(object),
        Some(BuiltinKind::Job) => job(object),
        Some(BuiltinKind::CronJob) => cron_job(object),
        Some(BuiltinKind::PodTemplate) => pod::spec(object, &["template", "spec"]),
        Some(BuiltinKind::LimitRange) => limit_range(object),
        Some(BuiltinKind::PersistentVolumeClaim) => {
            object.put_default(&["spec", "volumeMode"], "Filesystem");
            object.put_default(&["status", "phase"], "Pending");
        }
        Some(BuiltinKind::PriorityClass) => {
            object.put_default(&["preemptionPolicy"], "PreemptLowerPriority");
        }
        Some(BuiltinKind::StorageClass) => {
            object.put_default(&["reclaimPolicy"], "Delete");
            object.put_default(&["volumeBindingMode"], "Immediate");
        }
        Some(BuiltinKind::RoleBinding | BuiltinKind::ClusterRoleBinding) => role_binding(object),
        Some(BuiltinKind::MutatingWebhookConfiguration | BuiltinKind::ValidatingWebhookConfiguration) => {
            let mutating = resource.builtin == Some(BuiltinKind::MutatingWebhookConfiguration);
            admission::webhooks(object, mutating);
        }
        Some(BuiltinKind::ValidatingAdmissionPolicy) => admission::policy(object),
        Some(BuiltinKind::ValidatingAdmissionPolicyBinding) => {
            admission::match_resources(object, &["spec", "matchResources"]);
        }
        Some(
            BuiltinKind::Binding
            | BuiltinKind::ClusterRole
            | BuiltinKind::ConfigMap
            | BuiltinKind::ControllerRevision
            | BuiltinKind::Event
            | BuiltinKind::IPAddress
            | BuiltinKind::Ingress
            | BuiltinKind::Lease
            | BuiltinKind::LocalSubjectAccessReview
            | BuiltinKind::Namespace
            | BuiltinKind::Node
            | BuiltinKind::PodDisruptionBudget
            | BuiltinKind::ResourceQuota
            | BuiltinKind::Role
            | BuiltinKind::SelfSubjectAccessReview
            | BuiltinKind::SelfSubjectReview
            | BuiltinKind::SelfSubjectRulesReview
            | BuiltinKind::ServiceAccount
            | BuiltinKind::ServiceCIDR
            | BuiltinKind::SubjectAccessReview
            | BuiltinKind::TokenReview,
        )
        | None => {}
    }
}

fn endpoints(object: &mut Value) {
    for subset in object.list_mut(&["subsets"]) {
        for port in subset.list_mut(&["ports"]) {
            port.put_default(&["protocol"], "TCP");
        }
    }
}

fn endpoint_slice(object: &mut Value) {
    for port in object.list_mut(&["ports"]) {
        port.put_default(&["name"], "");
        port.put_default(&["protocol"], "TCP");
    }
    for endpoint in object.list_mut(&["endpoints"]) {
        endpoint.put_default(&["conditions"], json!({}));
    }
}

fn network_policy(object: &mut Value) {
    for direction in ["ingress", "egress"] {
        for rule in object.list_mut(&["spec", direction]) {
            for port in rule.list_mut(&["ports"]) {
                port.put_default(&["protocol"], "TCP");
            }
        }
    }
    if object.list(&["spec", "policyTypes"]).is_empty() {
        let egress = !object.list(&["spec", "egress"]).is_empty();
        let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        object.put(&["spec", "policyTypes"], types);
    }
}

fn ingress_class(object: &mut Value) {
    if object.has(&["spec", "parameters"]) {
        object.put_default(&["spec", "parameters", "scope"], "Cluster");
    }
}

fn deployment(object: &mut Value) {
    object.put_default(&["spec", "replicas"], 1);
    object.put_default(&["spec", "revisionHistoryLimit"], 10);
    object.put_default(&["spec", "progressDeadlineSeconds"], 600);
    object.put_default(&["spec", "strategy", "type"], "RollingUpdate");
    if object.text(&["spec", "strategy", "type"]) == "RollingUpdate" {
        object.put_default(&["spec", "strategy", "rollingUpdate", "maxUnavailable"], "25%");
        object.put_default(&["spec", "strategy", "rollingUpdate", "maxSurge"], "25%");
    }
    pod::spec(object, &["spec", "template", "spec"]);
}

fn replica_set(object: &mut Value) {
    object.put_default(&["spec", "replicas"], 1);
    pod::spec(object, &["spec", "template", "spec"]);
}

fn replication_controller(object: &mut Value) {
    object.put_default(&["spec", "replicas"], 1);
    let labels = object.at(&["spec", "template", "metadata", "labels"]).clone();
    if !labels.is_null() {
        object.put_default(&["spec", "selector"], labels.clone());
        object.put_default(&["metadata", "labels"], labels);
    }
    pod::spec(object, &["spec", "template", "spec"]);
}

fn stateful_set(object: &mut Value) {
    object.put_default(&["spec", "podManagementPolicy"], "OrderedReady");
    object.put_default(&["spec", "updateStrategy", "type"], "RollingUpdate");
    if object.text(&["spec", "updateStrategy", "type"]) == "RollingUpdate" {
        object.put_default(&["spec", "updateStrategy", "rollingUpdate", "partition"], 0);
    }
    object.put_default(&["spec", "persistentVolumeClaimRetentionPolicy", "whenDeleted"], "Retain");
    object.put_default(&["spec", "persistentVolumeClaimRetentionPolicy", "whenScaled"], "Retain");
    object.put_default(&["spec", "replicas"], 1);
    object.put_default(&["spec", "revisionHistoryLimit"], 10);
    for claim in object.list_mut(&["spec", "volumeClaimTemplates"]) {
        claim.put_default(&["spec", "volumeMode"], "Filesystem");
        claim.put_default(&["status", "phase"], "Pending");
    }
    pod::spec(object, &["spec", "template", "spec"]);
}

fn daemon_set(object: &mut Value) {
    object.put_default(&["spec", "updateStrategy", "type"], "RollingUpdate");
    if object.text(&["spec", "updateStrategy", "type"]) == "RollingUpdate" {
        object.put_default(&["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"], 1);
        object.put_default(&["spec", "updateStrategy", "rollingUpdate", "maxSurge"], 0);
    }
    object.put_default(&["spec", "revisionHistoryLimit"], 10);
    pod::spec(object, &["spec", "template", "spec"]);
}

fn job(object: &mut Value) {
    let labels = object.at(&["spec", "template", "metadata", "labels"]).clone();
    if !labels.is_null() {
        object.put_default(&["metadata", "labels"], labels);
    }
    job_spec(object, &["spec"]);
}

/// What a container may use is what it uses unless it says so; the least it may use is what it asks for.
fn limit_range(object: &mut Value) {
    for limit in object.list_mut(&["spec", "limits"]) {
        if limit.text(&["type"]) != "Container" {
            continue;
        }
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            let values = limit.map(&[from]).cloned().unwrap_or_default();
            for (name, value) in values {
                limit.put_default(&[to, &name], value);
            }
        }
    }
}

fn role_binding(object: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    if object.has(&["roleRef"]) {
        object.put_default(&["roleRef", "apiGroup"], GROUP);
    }
    for subject in object.list_mut(&["subjects"]) {
        if matches!(subject.text(&["kind"]), "User" | "Group") {
            subject.put_default(&["apiGroup"], GROUP);
        }
    }
}

fn job_spec(object: &mut Value, path: &[&str]) {
    let Some(spec) = object.at_mut(path) else { return };
    // A work queue has parallelism and no completions.
    if !spec.has(&["completions"]) && !spec.has(&["parallelism"]) {
        spec.put(&["completions"], 1);
    }
    spec.put_default(&["parallelism"], 1);
    // With a limit for each index there is none for all of them together.
    let together = if spec.has(&["backoffLimitPerIndex"]) { i32::MAX } else { 6 };
    spec.put_default(&["backoffLimit"], together);
    spec.put_default(&["completionMode"], "NonIndexed");
    spec.put_default(&["suspend"], false);
    let replace = if spec.has(&["podFailurePolicy"]) { "Failed" } else { "TerminatingOrFailed" };
    spec.put_default(&["podReplacementPolicy"], replace);
    for rule in spec.list_mut(&["podFailurePolicy", "rules"]) {
        for pattern in rule.list_mut(&["onPodConditions"]) {
            pattern.put_default(&["status"], "True");
        }
    }
    spec.put_default(&["manualSelector"], false);
    pod::spec(spec, &["template", "spec"]);
}

fn cron_job(object: &mut Value) {
    object.put_default(&["spec", "concurrencyPolicy"], "Allow");
    object.put_default(&["spec", "suspend"], false);
    object.put_default(&["spec", "successfulJobsHistoryLimit"], 3);
    object.put_default(&["spec", "failedJobsHistoryLimit"], 1);
    job_spec(object, &["spec", "jobTemplate", "spec"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    fn with_defaults(group: &str, plural: &str, object: Value) -> Value {
        let resource = Registry::builtin().resource(group, "v1", plural).unwrap();
        let mut once = object;
        apply(resource, &mut once);
        let mut twice = once.clone();
        apply(resource, &mut twice);
        assert_eq!(once, twice, "defaults are idempotent");
        once
    }

    #[test]
    fn a_deployment_rolls_by_quarters() {
        let object = with_defaults("apps", "deployments", json!({"spec": {"template": {"spec": {}}}}));
        let mut spec = object["spec"].clone();
        spec.take_at(&["template"]);
        assert_eq!(
            spec,
            json!({
                "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
            })
        );
        let recreate =
            with_defaults("apps", "deployments", json!({"spec": {"strategy": {"type": "Recreate"}}}));
        assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
    }

    #[test]
    fn slices_show_empty_conditions_and_names() {
        let object = with_defaults(
            "discovery.k8s.io",
            "endpointslices",
            json!({"ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]}),
        );
        assert_eq!(object["ports"], json!([{"name": "", "port": 80, "protocol": "TCP"}]));
        assert_eq!(object["endpoints"], json!([{"addresses": ["10.0.0.1"], "conditions": {}}]));
    }

    #[test]
    fn policy_types_follow_the_rules_given() {
        let types = |spec: Value| {
            let object = with_defaults("networking.k8s.io", "networkpolicies", json!({"spec": spec}));
            object["spec"]["policyTypes"].clone()
        };
        assert_eq!(types(json!({})), json!(["Ingress"]));
        assert_eq!(types(json!({"egress": [{}]})), json!(["Ingress", "Egress"]));
        assert_eq!(types(json!({"policyTypes": ["Egress"]})), json!(["Egress"]));
    }
}
