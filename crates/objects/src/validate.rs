//! Validation of built-in kinds: all errors of an object, in the order of the wire.
//!
//! Objects come decoded, prepared and with defaults, so that types are right and absence is zero. What the server
//! allocates ([`crate::allocate`]) may still be missing.

use serde_json::Value;

use crate::custom::definition;
use crate::document::{self, Document};
use crate::field::{FieldError, Path};
use crate::names;
use crate::registry::{BuiltinKind, Resource};
use crate::scale;

mod admission;
mod batch;
mod config;
mod container;
mod endpoints;
mod ephemeral;
mod ingress;
mod metadata;
mod pod;
mod policy;
mod quota;
mod rbac;
mod schedule;
mod service;
mod service_range;
mod storage;
mod volume;
mod workload;

/// What is wrong, in order.
type Errors = Vec<FieldError>;

const SPEC: Path<'_> = Path::new("spec");
const IMMUTABLE: &str = "field is immutable";

/// What is wrong with a new object. The object is decoded, prepared and has defaults.
pub fn create(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    if !resource.is_stored() {
        return errors;
    }
    metadata::object(resource, object, &mut errors);
    if let Some(custom) = resource.custom() {
        errors.extend(custom.validate(object, None));
        errors.extend(scale::check(custom, object));
        return errors;
    }
    match resource.builtin {
        Some(BuiltinKind::Ingress) => ingress::create(object, &mut errors),
        Some(BuiltinKind::Pod) => pod::create(object, &mut errors),
        _ => {}
    }
    content(resource, object, &mut errors);
    errors
}

/// What is wrong with `new` in place of `old`. `subresource` is `""` for the object itself.
pub fn update(resource: &Resource, subresource: &str, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    metadata::update(resource, new, old, &mut errors);
    if let Some(custom) = resource.custom() {
        errors.extend(custom.validate(new, Some(old)));
        errors.extend(scale::check(custom, new));
        return errors;
    }
    if subresource == "status" {
        match resource.builtin {
            Some(BuiltinKind::Service) => service::status(new, &mut errors),
            Some(BuiltinKind::ResourceQuota) => quota::quota_status(new, &mut errors),
            Some(BuiltinKind::PodDisruptionBudget) => quota::budget_status(new, &mut errors),
            _ => {}
        }
        return errors;
    }
    match resource.builtin {
        Some(BuiltinKind::Service) => service::update(new, old, &mut errors),
        Some(BuiltinKind::Pod) => {
            // What a running pod has was valid when it began.
            pod::update_part(subresource, new, old, &mut errors);
            return errors;
        }
        Some(BuiltinKind::IngressClass) => ingress::update_class(new, old, &mut errors),
        Some(BuiltinKind::EndpointSlice) => endpoints::update_slice(new, old, &mut errors),
        Some(BuiltinKind::ConfigMap | BuiltinKind::Secret) => config::update(new, old, &mut errors),
        Some(BuiltinKind::Deployment | BuiltinKind::ReplicaSet | BuiltinKind::DaemonSet) => {
            workload::keep_selector(new, old, &mut errors);
        }
        Some(BuiltinKind::CustomResourceDefinition) => {
            errors.extend(definition::check_update(new, old));
            return errors;
        }
        Some(BuiltinKind::StatefulSet) => workload::update_stateful_set(new, old, &mut errors),
        Some(BuiltinKind::Job) => batch::update_job(new, old, &mut errors),
        Some(BuiltinKind::RoleBinding | BuiltinKind::ClusterRoleBinding) => {
            rbac::update_binding(new, old, &mut errors);
        }
        Some(BuiltinKind::ResourceQuota) => quota::update_quota(new, old, &mut errors),
        Some(BuiltinKind::PriorityClass) => quota::update_priority_class(new, old, &mut errors),
        Some(BuiltinKind::PersistentVolumeClaim) => storage::update_claim(new, old, &mut errors),
        Some(BuiltinKind::StorageClass) => storage::update_class(new, old, &mut errors),
        Some(BuiltinKind::ServiceCIDR) => service_range::update_service_cidr(new, old, &mut errors),
        Some(BuiltinKind::IPAddress) => service_range::update_ip_address(new, old, &mut errors),
        Some(BuiltinKind::ControllerRevision) if new.at(&["data"]) != old.at(&["data"]) => {
            errors.push(FieldError::invalid(&Path::new("data"), new.at(&["data"]).clone(), IMMUTABLE));
        }
        _ => {}
    }
    content(resource, new, &mut errors);
    errors
}

/// Everything but metadata and transitions.
fn content(resource: &Resource, object: &Value, errors: &mut Errors) {
    match resource.builtin {
        Some(BuiltinKind::Service) => service::service(object, errors),
        Some(BuiltinKind::Ingress) => ingress::ingress(object, errors),
        Some(BuiltinKind::IngressClass) => ingress::class(object, errors),
        Some(BuiltinKind::NetworkPolicy) => policy::network_policy(object, errors),
        Some(BuiltinKind::EndpointSlice) => endpoints::slice(object, errors),
        Some(BuiltinKind::Endpoints) => endpoints::endpoints(object, errors),
        Some(BuiltinKind::Pod) => pod::spec(object.at(&["spec"]), &SPEC, errors),
        Some(BuiltinKind::Deployment) => workload::deployment(object, errors),
        Some(BuiltinKind::ReplicaSet) => workload::replica_set(object, errors),
        Some(BuiltinKind::StatefulSet) => workload::stateful_set(object, errors),
        Some(BuiltinKind::DaemonSet) => workload::daemon_set(object, errors),
        Some(BuiltinKind::ControllerRevision) => {
            at_least(object, &["revision"], &Path::new("revision"), 0, errors);
        }
        Some(BuiltinKind::CustomResourceDefinition) => errors.extend(definition::check(object)),
        Some(BuiltinKind::ConfigMap) => config::config_map(object, errors),
        Some(BuiltinKind::Secret) => config::secret(object, errors),
        Some(BuiltinKind::Lease) => config::lease(object, errors),
        Some(BuiltinKind::Event) => config::event(object, errors),
        Some(BuiltinKind::ReplicationController) => workload::replication_controller(object, errors),
        Some(BuiltinKind::PodTemplate) => {
            pod::template(object.at(&["template"]), &Path::new("template"), errors);
        }
        Some(BuiltinKind::Job) => batch::job(object, errors),
        Some(BuiltinKind::CronJob) => batch::cron_job(object, errors),
        Some(BuiltinKind::Role) => rbac::role(object, true, errors),
        Some(BuiltinKind::ClusterRole) => rbac::role(object, false, errors),
        Some(BuiltinKind::RoleBinding) => rbac::binding(object, true, errors),
        Some(BuiltinKind::ClusterRoleBinding) => rbac::binding(object, false, errors),
        Some(BuiltinKind::MutatingWebhookConfiguration | BuiltinKind::ValidatingWebhookConfiguration) => {
            admission::webhooks(object, errors)
        }
        Some(BuiltinKind::ValidatingAdmissionPolicy) => admission::policy(object, errors),
        Some(BuiltinKind::ValidatingAdmissionPolicyBinding) => admission::binding(object, errors),
        Some(BuiltinKind::LimitRange) => quota::limit_range(object, errors),
        Some(BuiltinKind::ResourceQuota) => quota::resource_quota(object, errors),
        Some(BuiltinKind::PodDisruptionBudget) => quota::disruption_budget(object, errors),
        Some(BuiltinKind::PriorityClass) => quota::priority_class(object, errors),
        Some(BuiltinKind::PersistentVolumeClaim) => storage::claim(object, errors),
        Some(BuiltinKind::StorageClass) => storage::class(object, errors),
        Some(BuiltinKind::ServiceCIDR) => service_range::service_cidr(object, errors),
        Some(BuiltinKind::IPAddress) => service_range::ip_address(object, errors),
        Some(
            BuiltinKind::Binding
            | BuiltinKind::LocalSubjectAccessReview
            | BuiltinKind::Namespace
            | BuiltinKind::Node
            | BuiltinKind::SelfSubjectAccessReview
            | BuiltinKind::SelfSubjectReview
            | BuiltinKind::SelfSubjectRulesReview
            | BuiltinKind::ServiceAccount
            | BuiltinKind::SubjectAccessReview
            | BuiltinKind::TokenReview,
        )
        | None => {}
    }
}

/// Adds each message about a value as an error.
fn invalid_all(path: &Path<'_>, value: &str, messages: Vec<String>, errors: &mut Errors) {
    errors.extend(messages.iter().map(|message| FieldError::invalid(path, value, message)));
}

/// A number that has a least value.
fn at_least(object: &Value, field: &[&str], path: &Path<'_>, least: i64, errors: &mut Errors) {
    if let Some(value) = object.int(field).filter(|value| *value < least) {
        let message = match least {
            0 => "must be greater than or equal to 0".to_owned(),
            1 => "must be greater than 0".to_owned(),
            least => format!("must be greater than or equal to {least}"),
        };
        errors.push(FieldError::invalid(path, value, &message));
    }
}

/// A port number.
fn port_number(port: i64, path: &Path<'_>, errors: &mut Errors) {
    errors.extend(names::port_number(port).iter().map(|message| FieldError::invalid(path, port, message)));
}

/// A port by number or by name.
fn port_reference(port: &Value, path: &Path<'_>, errors: &mut Errors) {
    match (port.as_i64(), port.as_str()) {
        (Some(number), _) => port_number(number, path, errors),
        (None, Some(name)) => invalid_all(path, name, names::port_name(name), errors),
        (None, None) => {}
    }
}

/// One of a list of texts; `""` is required instead.
fn one_of(value: &str, supported: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !supported.contains(&value) {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}

/// A map of labels.
fn labels(map: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (key, value) in map.as_object().into_iter().flatten() {
        invalid_all(path, key, names::qualified_name(key), errors);
        let value = value.as_str().unwrap_or_default();
        invalid_all(path, value, names::label_value(value), errors);
    }
}

/// A `LabelSelector` object.
fn label_selector(selector: &Value, path: &Path<'_>, errors: &mut Errors) {
    labels(selector.at(&["matchLabels"]), &path.field("matchLabels"), errors);
    let expressions = path.field("matchExpressions");
    for (index, expression) in selector.list(&["matchExpressions"]).iter().enumerate() {
        let path = expressions.index(index);
        let values = !expression.list(&["values"]).is_empty();
        match expression.text(&["operator"]) {
            "In" | "NotIn" if !values => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(&path.field("values"), detail));
            }
            "Exists" | "DoesNotExist" if values => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(&path.field("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(FieldError::invalid(
                    &path.field("operator"),
                    other,
                    "not a valid selector operator",
                ));
            }
        }
        let key = expression.text(&["key"]);
        invalid_all(&path.field("key"), key, names::qualified_name(key), errors);
        for (index, value) in expression.list(&["values"]).iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            invalid_all(&path.field("values").index(index), value, names::label_value(value), errors);
        }
    }
}

/// An address that Services and endpoints may have.
fn routable_ip(ip: &str, path: &Path<'_>, errors: &mut Errors) {
    use std::net::IpAddr;
    let address = match names::ip(ip) {
        Ok(address) => address,
        Err(message) => {
            errors.push(FieldError::invalid(path, ip, &message));
            return;
        }
    };
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), matches!(v4.octets(), [224, 0, 0, _])),
        IpAddr::V6(v6) => {
            (v6.is_unicast_link_local(), v6.segments().first().is_some_and(|s| s & 0xff0f == 0xff02))
        }
    };
    let faults = [
        (address.is_unspecified(), format!("may not be unspecified ({ip})")),
        (address.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (
            link_local_multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
        ),
    ];
    let found = faults.iter().filter(|(faulty, _)| *faulty);
    errors.extend(found.map(|(_, message)| FieldError::invalid(path, ip, message)));
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::Value;

    use super::*;
    use crate::decode::{self, FieldValidation};
    use crate::registry::Registry;
    use crate::{defaults, strategy};

    pub(crate) fn resource(group: &str, kind: &str) -> &'static Resource {
        Registry::builtin().kind(group, "v1", kind).unwrap()
    }

    /// The errors of a new object named `x` that goes the way of a request.
    pub(crate) fn errors(group: &str, kind: &str, mut object: Value) -> Vec<String> {
        let resource = resource(group, kind);
        object.put_default(&["metadata", "name"], "x");
        let mut object = decode::normalize(&resource.object, object, FieldValidation::Strict).unwrap().object;
        let now = jiff::Timestamp::UNIX_EPOCH;
        let creation = strategy::Creation { namespace: "ns", uid: "u", now, random: 1 };
        strategy::prepare_for_create(resource, &mut object, &creation);
        defaults::apply(resource, &mut object);
        create(resource, &object).iter().map(FieldError::to_string).collect()
    }

    /// The errors of an update of an object named `x`.
    pub(crate) fn update_errors(group: &str, kind: &str, new: Value, old: Value) -> Vec<String> {
        let resource = resource(group, kind);
        let complete = |mut object: Value| {
            object.put_default(&["metadata", "name"], "x");
            object.put_default(&["metadata", "namespace"], "ns");
            let mut object =
                decode::normalize(&resource.object, object, FieldValidation::Strict).unwrap().object;
            defaults::apply(resource, &mut object);
            object
        };
        let (mut new, old) = (complete(new), complete(old));
        strategy::prepare_for_update(resource, "", &mut new, &old);
        defaults::apply(resource, &mut new);
        update(resource, "", &new, &old).iter().map(FieldError::to_string).collect()
    }
}
