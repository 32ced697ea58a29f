//! ControllerRevisions: the templates that a StatefulSet or DaemonSet had, numbered, in the form that `kubectl rollout history|undo`
//! reads.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::metadata::{content_hash, name_of};
use crate::plan::{Deletion, Write};
use crate::world::{Kind, World};

/// The template that a pod or a revision is of.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";
const HASH_LABEL: &str = "controller.kubernetes.io/hash";
/// Revisions kept beside those in use when the owner does not say.
const HISTORY_LIMIT: i32 = 10;

/// Whose revisions.
#[derive(Debug)]
pub(crate) struct Owner<'a> {
    pub(crate) meta: &'a ObjectMeta,
    pub(crate) reference: OwnerReference,
    /// The present template.
    pub(crate) template: &'a PodTemplateSpec,
    /// `revisionHistoryLimit`.
    pub(crate) limit: Option<i32>,
    /// The revision that the owner's status calls current.
    pub(crate) reported: Option<&'a str>,
}

/// The revisions of one owner.
#[derive(Debug)]
pub(crate) struct History {
    /// The revision that was last rolled out everywhere.
    pub(crate) current: String,
    /// Template of `current`.
    pub(crate) current_template: PodTemplateSpec,
    /// Revision of the present template.
    pub(crate) update: String,
    /// The part of `update` that is a hash of the template.
    pub(crate) update_hash: String,
    /// All, lowest number first.
    all: Vec<Arc<ControllerRevision>>,
    limit: usize,
}

impl History {
    /// The history, or the writes that must come first: the revision of the present template has to exist and to have the
    /// highest number.
    pub(crate) fn of(owner: &Owner<'_>, world: &World) -> Result<Self, Vec<Write>> {
        let uid = owner.meta.uid.as_deref().unwrap_or_default();
        let mut all: Vec<Arc<ControllerRevision>> = world.managed(uid).cloned().collect();
        all.sort_by(|left: &Arc<ControllerRevision>, right| {
            (left.revision, name_of(&left.metadata)).cmp(&(right.revision, name_of(&right.metadata)))
        });
        let highest = all.last().map_or(0, |revision| revision.revision);
        let data = data(owner.template);
        let hash = content_hash(&data, 0);
        let name = format!("{}-{hash}", name_of(owner.meta));
        match all.iter().find(|revision| name_of(&revision.metadata) == name) {
            None => {
                return Err(vec![Write::Create(create(owner, name, hash, data, highest + 1).into())]);
            }
            // Back to an earlier template: it becomes the latest again.
            Some(found) if found.revision < highest => {
                return Err(vec![Write::Replace(
                    ControllerRevision { revision: highest + 1, ..(**found).clone() }.into(),
                )]);
            }
            Some(_) => {}
        }
        let current = all
            .iter()
            .find(|revision| Some(name_of(&revision.metadata)) == owner.reported)
            .and_then(|revision| Some((name_of(&revision.metadata).to_owned(), template(revision)?)));
        let (current, current_template) = current.unwrap_or_else(|| (name.clone(), owner.template.clone()));
        let limit = usize::try_from(owner.limit.unwrap_or(HISTORY_LIMIT)).unwrap_or(0);
        Ok(Self { current, current_template, update: name, update_hash: hash, all, limit })
    }

    /// Deletes the oldest revisions beyond the limit, except for those for which `is_live` says that a pod has them.
    pub(crate) fn prune(&self, is_live: impl Fn(&ControllerRevision) -> bool) -> Vec<Write> {
        let kept: BTreeSet<&str> = [&*self.current, &*self.update].into();
        let idle: Vec<_> = self
            .all
            .iter()
            .filter(|revision| !kept.contains(name_of(&revision.metadata)) && !is_live(revision))
            .collect();
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

fn create(owner: &Owner<'_>, name: String, hash: String, data: Value, number: i64) -> ControllerRevision {
    let template = owner.template.metadata.clone().unwrap_or_default();
    let mut labels = template.labels.unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    labels.insert(REVISION_LABEL.to_owned(), hash);
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: owner.meta.namespace.clone(),
            labels: Some(labels),
            annotations: owner.meta.annotations.clone(),
            owner_references: Some(vec![owner.reference.clone()]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    }
}
