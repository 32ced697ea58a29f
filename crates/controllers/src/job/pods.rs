//! The pods of a Job: which index each has, and how a new one is made.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use crate::metadata::{annotation, name_of, owner_reference};
use crate::pod;

use super::FINALIZER;
use super::failure::{Action, action};

/// Annotation and label with the pod's completion index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the index failed before this pod.
const FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often it failed before this pod in a way that does not count.
const IGNORED_FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// The pod's completion index.
pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    annotation(&pod.metadata, INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// How often the pod's index failed before it.
pub(super) fn failure_count(pod: &Pod) -> i32 {
    annotation(&pod.metadata, FAILURE_COUNT).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn ignored_failure_count(pod: &Pod) -> i32 {
    annotation(&pod.metadata, IGNORED_FAILURE_COUNT).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A pod for this index (`None`: any), after `previous` failed.
pub(super) fn new_pod(job: &Job, spec: &JobSpec, index: Option<i32>, previous: Option<&Pod>) -> Pod {
    let mut pod = pod::from_template(&spec.template, job.metadata.namespace.clone(), owner_reference(job));
    let name = name_of(&job.metadata);
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
    pod.metadata.generate_name = Some(format!("{name}-"));
    let Some(index) = index else { return pod };
    pod.metadata.generate_name = Some(format!("{name}-{index}-"));
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if spec.backoff_limit_per_index.is_some() {
        let ignored = previous.is_some_and(|previous| action(spec, previous) == Action::Ignore);
        let counted = previous.is_some() && !ignored;
        let failures = previous.map_or(0, failure_count).saturating_add(i32::from(counted));
        let ignored_failures = previous.map_or(0, ignored_failure_count).saturating_add(i32::from(ignored));
        annotations.insert(FAILURE_COUNT.to_owned(), failures.to_string());
        if ignored_failures > 0 {
            annotations.insert(IGNORED_FAILURE_COUNT.to_owned(), ignored_failures.to_string());
        }
    }
    if let Some(spec) = pod.spec.as_mut() {
        spec.hostname = Some(format!("{name}-{index}"));
        spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(tell_index);
    }
    pod
}

/// The variable goes first: others may refer to it.
fn tell_index(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    let variable = EnvVar { name: INDEX_VARIABLE.to_owned(), value: None, value_from: Some(source) };
    variables.insert(0, variable);
}

/// The pod without the finalizer of its Job.
pub(super) fn released(pod: &Pod) -> Pod {
    let mut pod = pod.clone();
    let others: Vec<_> =
        pod.metadata.finalizers.take().into_iter().flatten().filter(|name| name != FINALIZER).collect();
    pod.metadata.finalizers = Some(others).filter(|others| !others.is_empty());
    pod
}
