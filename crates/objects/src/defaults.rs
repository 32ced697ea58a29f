//! Defaults of built-in kinds.

use serde_json::{Value, json};

use crate::document::Document;
use crate::registry::{BuiltinKind, Resource};

mod pod;
mod service;

/// Fills in what the object leaves to the server. Idempotent; also for objects read from an older store.
pub fn apply(resource: &Resource, object: &mut Value) {
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
        Some(BuiltinKind::Job) => job(object),
        Some(BuiltinKind::CronJob) => cron_job(object),
        Some(
            BuiltinKind::Binding
            | BuiltinKind::ClusterRole
            | BuiltinKind::ClusterRoleBinding
            | BuiltinKind::ConfigMap
            | BuiltinKind::ControllerRevision
            | BuiltinKind::CustomResourceDefinition
            | BuiltinKind::Event
            | BuiltinKind::IPAddress
            | BuiltinKind::Ingress
            | BuiltinKind::Lease
            | BuiltinKind::LimitRange
            | BuiltinKind::LocalSubjectAccessReview
            | BuiltinKind::MutatingWebhookConfiguration
            | BuiltinKind::Namespace
            | BuiltinKind::Node
            | BuiltinKind::PersistentVolumeClaim
            | BuiltinKind::PodDisruptionBudget
            | BuiltinKind::PodTemplate
            | BuiltinKind::PriorityClass
            | BuiltinKind::ResourceQuota
            | BuiltinKind::Role
            | BuiltinKind::RoleBinding
            | BuiltinKind::SelfSubjectAccessReview
            | BuiltinKind::SelfSubjectReview
            | BuiltinKind::SelfSubjectRulesReview
            | BuiltinKind::ServiceAccount
            | BuiltinKind::ServiceCIDR
            | BuiltinKind::StorageClass
            | BuiltinKind::SubjectAccessReview
            | BuiltinKind::TokenReview
            | BuiltinKind::ValidatingAdmissionPolicy
            | BuiltinKind::ValidatingAdmissionPolicyBinding
            | BuiltinKind::ValidatingWebhookConfiguration,
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
    job_spec(object, &["spec"]);
}

fn job_spec(object: &mut Value, path: &[&str]) {
    let Some(spec) = object.at_mut(path) else { return };
    // A work queue has parallelism and no completions.
    if !spec.has(&["completions"]) && !spec.has(&["parallelism"]) {
        spec.put(&["completions"], 1);
    }
    spec.put_default(&["parallelism"], 1);
    spec.put_default(&["backoffLimit"], 6);
    spec.put_default(&["completionMode"], "NonIndexed");
    spec.put_default(&["suspend"], false);
    spec.put_default(&["podReplacementPolicy"], "TerminatingOrFailed");
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
