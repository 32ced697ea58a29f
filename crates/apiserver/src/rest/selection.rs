//! Which objects of a collection a list or watch is about.

use std::sync::Arc;

use fairway_objects::registry::Resource;
use fairway_objects::selector::{FieldSelector, LabelSelector};
use fairway_objects::status::Status;

use crate::http::query::ListOptions;
use crate::store::{Collection, Index, Key, Object, Objects, State};

/// The label that ties EndpointSlices to a Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A namespace, a name, labels and fields; all must match.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    namespaced: bool,
    namespace: String,
    name: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Reads the selectors of `options`.
    pub(crate) fn parse(resource: &Resource, namespace: &str, options: &ListOptions) -> Result<Self, Status> {
        let fields = FieldSelector::parse(resource, &options.field_selector)?;
        Ok(Self {
            namespaced: resource.is_namespaced(),
            namespace: namespace.to_owned(),
            name: fields.exact("metadata.name").map(str::to_owned),
            labels: LabelSelector::parse(&options.label_selector)?,
            fields,
        })
    }

    /// Only the object of this name.
    pub(crate) fn named(self, name: Option<&str>) -> Self {
        match name {
            Some(name) => Self { name: Some(name.to_owned()), ..self },
            None => self,
        }
    }

    /// What the keys of all matching objects begin with.
    pub(crate) fn prefix(&self) -> String {
        if self.namespace.is_empty() { String::new() } else { format!("{}/", self.namespace) }
    }

    /// True when nothing but the namespace selects.
    pub(crate) fn is_everything(&self) -> bool {
        self.name.is_none() && self.labels.is_empty() && self.fields.is_empty()
    }

    /// The objects of a collection without those that an index, or the name, already rules out.
    pub(crate) fn narrow(&self, state: &State, collection: &Collection) -> Objects {
        if let Some(name) = &self.name
            && (!self.namespaced || !self.namespace.is_empty())
        {
            let key = Key::new(&self.namespace, name);
            let found = state.object(collection, &key).map(Arc::clone);
            return found.map(|object| (key, object)).into_iter().collect();
        }
        if let (Some(node), "pods") = (self.fields.exact("spec.nodeName"), collection.as_str())
            && !node.is_empty()
        {
            return state.objects_by(collection, Index::NodeName, node);
        }
        if let (Some(service), "endpointslices.discovery.k8s.io") =
            (self.labels.exact(SERVICE_NAME), collection.as_str())
            && !self.namespace.is_empty()
        {
            return state.objects_by(
                collection,
                Index::ServiceName,
                &format!("{}/{service}", self.namespace),
            );
        }
        state.objects(collection)
    }

    /// True when the object under `key` is selected; for one look at many objects.
    pub(crate) fn matches(&self, key: &Key, object: &Object) -> bool {
        self.has_key(key)
            && (self.labels.is_empty() || self.labels.matches(&object.labels()))
            && (self.fields.is_empty() || self.fields.matches(&object.document()))
    }

    /// The same, for an object that many watchers look at: its tree is read once for all of them.
    pub(crate) fn selects(&self, key: &Key, object: &Object) -> bool {
        self.has_key(key)
            && (self.labels.is_empty() || self.labels.matches_object(object.value()))
            && (self.fields.is_empty() || self.fields.matches(object.value()))
    }

    fn has_key(&self, key: &Key) -> bool {
        (self.namespace.is_empty() || key.namespace() == self.namespace)
            && self.name.as_ref().is_none_or(|name| key.name() == name)
    }
}
