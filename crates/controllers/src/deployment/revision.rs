//! Versions of a Deployment's template: the ReplicaSet of each, their numbers, and how many are kept.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::rolling::Bounds;
use super::{Rollout, replicas};
use crate::metadata::{
    StringMap, annotation, content_hash, is_deleting, name_of, namespace_of, owner_reference,
};
use crate::plan::{Deletion, Plan, Write};
use crate::world::{Kind, World};
use fairway_kit::watch::ObjectKey;

/// On a ReplicaSet: `spec.replicas` of the Deployment when it was sized.
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// On a ReplicaSet: `replicas + maxSurge` of the Deployment when it was sized.
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const HASH_LABEL: &str = "pod-template-hash";
/// Annotations of the Deployment that mean nothing on its ReplicaSets, or something else.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// The history annotation is cut from the front beyond this.
const REVISION_HISTORY_BYTES_MAX: usize = 2000;

/// Equal for templates that would make the same pods.
pub(super) fn template_identity(template: &PodTemplateSpec) -> String {
    content_hash(&without_hash(template), 0)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    template
}

fn hash(rollout: &Rollout<'_>) -> String {
    let collisions =
        rollout.deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    content_hash(&without_hash(&rollout.spec.template), collisions)
}

/// The name that the ReplicaSet of the present template gets.
pub(super) fn name(rollout: &Rollout<'_>) -> String {
    format!("{}-{}", name_of(&rollout.deployment.metadata), hash(rollout))
}

/// The name for a new ReplicaSet is taken by one of another template: count it, so that the next pass finds another name.
pub(super) fn collision(rollout: &Rollout<'_>, world: &World) -> Option<Plan> {
    if rollout.new.is_some() {
        return None;
    }
    let key = ObjectKey::new(namespace_of(&rollout.deployment.metadata), &name(rollout));
    let taken = world.replica_sets.get(&key)?;
    if is_deleting(&taken.metadata) {
        return Some(Plan::nothing());
    }
    let status = rollout.deployment.status.clone().unwrap_or_default();
    let collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
    let counted = Deployment {
        status: Some(DeploymentStatus { collision_count, ..status }),
        ..rollout.deployment.clone()
    };
    Some(Plan::writes(vec![Write::ReplaceStatus(counted.into())]))
}

/// The ReplicaSet of the present template.
pub(super) fn create(rollout: &Rollout<'_>, replicas: i32) -> Write {
    let deployment = rollout.deployment;
    let hash = hash(rollout);
    let mut template = rollout.spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = rollout.spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash);
    let mut metadata = ObjectMeta {
        name: Some(name(rollout)),
        namespace: deployment.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![owner_reference(deployment)]),
        ..ObjectMeta::default()
    };
    copy_annotations(&deployment.metadata, &mut metadata, next_revision(rollout));
    note_size(&mut metadata, rollout.bounds);
    let spec = ReplicaSetSpec {
        replicas: Some(replicas),
        min_ready_seconds: rollout.spec.min_ready_seconds,
        selector,
        template: Some(template),
    };
    Write::Create(ReplicaSet { metadata, spec: Some(spec), status: None }.into())
}

/// The number of the present template: one more than any other has.
fn next_revision(rollout: &Rollout<'_>) -> i64 {
    rollout.old.iter().map(|set| revision(&set.metadata)).max().unwrap_or(0).saturating_add(1)
}

fn revision(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Brings annotations and `minReadySeconds` of the new ReplicaSet up to date.
pub(super) fn annotate(rollout: &Rollout<'_>) -> Option<Write> {
    let mut set = (**rollout.new.as_ref()?).clone();
    let copied = copy_annotations(&rollout.deployment.metadata, &mut set.metadata, next_revision(rollout));
    let spec = set.spec.as_mut()?;
    // The API server drops the zero of a default.
    let same_wait = spec.min_ready_seconds.unwrap_or(0) == rollout.spec.min_ready_seconds.unwrap_or(0);
    spec.min_ready_seconds = rollout.spec.min_ready_seconds;
    (copied || !same_wait).then(|| Write::Replace(set.into()))
}

/// Gives the Deployment the number of its new ReplicaSet.
pub(super) fn annotate_deployment(rollout: &Rollout<'_>) -> Option<Write> {
    let number = annotation(&rollout.new.as_ref()?.metadata, REVISION)?;
    if annotation(&rollout.deployment.metadata, REVISION) == Some(number) {
        return None;
    }
    let mut deployment = rollout.deployment.clone();
    deployment.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), number.to_owned());
    Some(Write::Replace(deployment.into()))
}

/// True when something changed.
fn copy_annotations(from: &ObjectMeta, to: &mut ObjectMeta, next: i64) -> bool {
    let before = to.annotations.clone().unwrap_or_default();
    let mut annotations = before.clone();
    let copied = from.annotations.iter().flatten().filter(|(name, _)| !NOT_COPIED.contains(&name.as_str()));
    annotations.extend(copied.map(|(name, value)| (name.clone(), value.clone())));
    let present = revision(to);
    if present < next {
        annotations.insert(REVISION.to_owned(), next.to_string());
        if present > 0 {
            append_history(&mut annotations, present);
        }
    }
    let changed = annotations != before;
    if changed {
        to.annotations = Some(annotations);
    }
    changed
}

fn append_history(annotations: &mut StringMap, number: i64) {
    let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
    if !history.is_empty() {
        history.push(',');
    }
    history.push_str(&number.to_string());
    while history.len() > REVISION_HISTORY_BYTES_MAX {
        *history = history.split_once(',').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
    }
}

/// Notes for which Deployment size a ReplicaSet was sized; true when that changed.
pub(super) fn note_size(meta: &mut ObjectMeta, bounds: Bounds) -> bool {
    let annotations = meta.annotations.get_or_insert_default();
    let max = bounds.replicas.saturating_add(bounds.surge).to_string();
    let desired = annotations.insert(DESIRED_REPLICAS.to_owned(), bounds.replicas.to_string());
    let total = annotations.insert(MAX_REPLICAS.to_owned(), max.clone());
    desired.as_deref() != Some(bounds.replicas.to_string().as_str()) || total != Some(max)
}

/// Deletes the lowest-numbered idle ReplicaSets beyond `revisionHistoryLimit`.
pub(super) fn prune(rollout: &Rollout<'_>) -> Vec<Write> {
    let kept = usize::try_from(rollout.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let mut old: Vec<_> = rollout.old.iter().filter(|set| !is_deleting(&set.metadata)).collect();
    old.sort_by_key(|set| revision(&set.metadata));
    let surplus = old.len().saturating_sub(kept);
    old.into_iter()
        .take(surplus)
        .filter(|set| {
            let status = set.status.clone().unwrap_or_default();
            status.replicas == 0
                && replicas(set) == 0
                && status.observed_generation >= set.metadata.generation
        })
        .map(|set| Write::Delete(Deletion::of(Kind::ReplicaSet, &**set)))
        .collect()
}
