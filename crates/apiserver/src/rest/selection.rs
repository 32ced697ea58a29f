//! Which objects of a collection a list or watch is about.

use fairway_objects::registry::Resource;
use fairway_objects::selector::{FieldSelector, LabelSelector};
use fairway_objects::status::Status;
use serde_json::Value;

use crate::http::query::ListOptions;
use crate::store::Key;

/// A namespace, a name, labels and fields; all must match.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    namespace: String,
    name: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Reads the selectors of `options`.
    pub(crate) fn parse(resource: &Resource, namespace: &str, options: &ListOptions) -> Result<Self, Status> {
        Ok(Self {
            namespace: namespace.to_owned(),
            name: None,
            labels: LabelSelector::parse(&options.label_selector)?,
            fields: FieldSelector::parse(resource, &options.field_selector)?,
        })
    }

    /// Only the object of this name.
    pub(crate) fn named(mut self, name: Option<&str>) -> Self {
        self.name = name.map(str::to_owned);
        self
    }

    /// What the keys of all matching objects begin with.
    pub(crate) fn prefix(&self) -> String {
        if self.namespace.is_empty() { String::new() } else { format!("{}/", self.namespace) }
    }

    /// True when nothing but the namespace selects.
    pub(crate) fn is_everything(&self) -> bool {
        self.name.is_none() && self.labels.is_empty() && self.fields.is_empty()
    }

    /// True when the object under `key` is selected.
    pub(crate) fn matches(&self, key: &Key, object: &Value) -> bool {
        (self.namespace.is_empty() || key.namespace() == self.namespace)
            && self.name.as_ref().is_none_or(|name| key.name() == name)
            && (self.labels.is_empty() || self.labels.matches_object(object))
            && (self.fields.is_empty() || self.fields.matches(object))
    }
}
