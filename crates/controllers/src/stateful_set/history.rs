//! ControllerRevisions: the templates that a StatefulSet had, numbered, in the form that `kubectl rollout history|undo` reads.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use super::{namespace, revision};
use crate::metadata::{content_hash, is_controlled_by, name_of, owner_reference};
use crate::plan::{Deletion, Write};
use crate::world::{Kind, World, in_namespace};

const HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// The revisions of one set.
#[derive(Debug)]
pub(super) struct History {
    /// Revision that pods below the partition have.
    pub(super) current: String,
    /// Template of `current`.
    pub(super) current_template: PodTemplateSpec,
    /// Revision of the present template.
    pub(super) update: String,
    /// All, lowest number first.
    all: Vec<Arc<ControllerRevision>>,
    limit: usize,
}

impl History {
    /// The history, or the writes that must come first: the revision of the present template has to exist and to have the
    /// highest number.
    pub(super) fn of(set: &StatefulSet, world: &World) -> Result<Self, Vec<Write>> {
        let spec = set.spec.clone().unwrap_or_default();
        let mut all: Vec<Arc<ControllerRevision>> = in_namespace(&world.controller_revisions, namespace(set))
            .filter(|revision| is_controlled_by(&revision.metadata, set.metadata.uid.as_deref()))
            .cloned()
            .collect();
        all.sort_by(|left, right| {
            (left.revision, name_of(&left.metadata)).cmp(&(right.revision, name_of(&right.metadata)))
        });
        let highest = all.last().map_or(0, |revision| revision.revision);
        let data = data(&spec.template);
        let hash = content_hash(&data, 0);
        let name = format!("{}-{hash}", name_of(&set.metadata));
        match all.iter().find(|revision| name_of(&revision.metadata) == name) {
            None => return Err(vec![Write::Create(create(set, name, hash, data, highest + 1).into())]),
            // Back to an earlier template: it becomes the latest again.
            Some(found) if found.revision < highest => {
                return Err(vec![Write::Replace(
                    ControllerRevision { revision: highest + 1, ..(**found).clone() }.into(),
                )]);
            }
            Some(_) => {}
        }
        let reported = set.status.as_ref().and_then(|status| status.current_revision.clone());
        let current = all
            .iter()
            .find(|revision| Some(name_of(&revision.metadata)) == reported.as_deref())
            .and_then(|revision| Some((name_of(&revision.metadata).to_owned(), template(revision)?)));
        let (current, current_template) = current.unwrap_or_else(|| (name.clone(), spec.template.clone()));
        let limit = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        Ok(Self { current, current_template, update: name, all, limit })
    }

    /// Deletes the oldest revisions that no pod has, beyond `revisionHistoryLimit`.
    pub(super) fn prune(&self, pods: &[Arc<Pod>]) -> Vec<Write> {
        let live: BTreeSet<&str> =
            pods.iter().filter_map(|pod| revision(pod)).chain([&*self.current, &*self.update]).collect();
        let idle: Vec<_> =
            self.all.iter().filter(|revision| !live.contains(name_of(&revision.metadata))).collect();
        let surplus = idle.len().saturating_sub(self.limit);
        idle.into_iter()
            .take(surplus)
            .map(|revision| Write::Delete(Deletion::of(Kind::ControllerRevision, &**revision)))
            .collect()
    }
}

/// A strategic merge patch that sets the template: what `kubectl rollout undo` sends.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".to_owned(), json!("replace"));
    }
    json!({"spec": {"template": template}})
}

fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let RawExtension(data) = revision.data.as_ref()?;
    serde_json::from_value(data.pointer("/spec/template")?.clone()).ok()
}

fn create(set: &StatefulSet, name: String, hash: String, data: Value, number: i64) -> ControllerRevision {
    let template = set.spec.as_ref().and_then(|spec| spec.template.metadata.clone()).unwrap_or_default();
    let mut labels = template.labels.unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash);
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: set.metadata.annotations.clone(),
            owner_references: Some(vec![owner_reference(set)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    }
}
