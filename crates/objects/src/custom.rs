//! Custom resources: from a CustomResourceDefinition to kinds that go the way of all others.
//!
//! [`definition`] reads and checks the definition and gives a [`Resource`] a served version; what is special about such a resource is
//! its [`Custom`], which decoding, defaults, validation, tables and OpenAPI consult where a built-in kind has code:
//!
//! ```text
//! body ─► parse ─► metadata ─► shape::prune ─► shape::complete ─► check::value ─► check::duplicates ─► rules::check ─► store
//!                                                   ▲
//! store ─► storage version ─► version asked for ────┘
//! ```
//!
//! [`Resource`]: crate::registry::Resource

pub mod check;
pub mod columns;
pub mod definition;
pub mod format;
pub mod pattern;
pub mod publish;
pub mod rules;
pub mod shape;
pub mod structural;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use crate::document::Document;
use crate::field::{FieldError, FieldErrorKind, Path};
use crate::schema::Text;
use columns::{Column, JsonPath};
use structural::Node;

/// Why expressions were not looked at.
const NOT_CHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing errors to \
    complete validation";

/// What is special about one version of a custom kind.
#[derive(Debug)]
pub struct Custom {
    /// The object's tree.
    pub tree: Arc<Node>,
    /// Its printer columns, without the name.
    pub columns: Vec<Column>,
    /// Where `scale` finds its numbers.
    pub scale: Option<Scale>,
    /// Fields that selectors may name.
    pub selectable: Vec<(String, JsonPath)>,
    /// `apiVersion` of stored objects.
    pub storage_api_version: Text,
    /// `apiVersion` of this version.
    pub api_version: Text,
    /// What to tell whoever uses this version, when it is on its way out.
    pub deprecation: Option<String>,
    /// The definition this comes from: its uid and generation.
    pub definition: (String, i64),
    /// Objects that were stored after this revision have this version's shape.
    pub since: u64,
    has_rules: bool,
}

/// Where the `scale` subresource reads and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// The wanted number.
    pub spec_replicas: Vec<String>,
    /// The number there is.
    pub status_replicas: Vec<String>,
    /// The selector of the pods, as text.
    pub label_selector: Option<Vec<String>>,
}

impl Custom {
    /// Whether an object that was stored with this revision is shown as it is.
    pub fn shows_as_stored(&self, revision: u64) -> bool {
        revision > self.since && self.storage_api_version == self.api_version
    }

    /// A stored object as this version shows it: with its version, without fields that it does not know, with today's defaults.
    pub fn present(&self, object: &mut Value) {
        object.put(&["apiVersion"], &*self.api_version);
        shape::prune(&self.tree, object);
        shape::complete(&self.tree, object);
    }

    /// An object of this version as it is stored.
    pub fn to_stored(&self, object: &mut Value) {
        object.put(&["apiVersion"], &*self.storage_api_version);
    }

    /// What is wrong with an object, after decoding and defaults; `old` is what it replaces.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = check::value(&self.tree, object, old, &Path::ROOT);
        check::duplicates(&self.tree, object, old, &Path::ROOT, &mut errors);
        if self.has_rules {
            let blocking = |error: &FieldError| {
                use FieldErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
                matches!(error.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)
            };
            if errors.iter().any(blocking) {
                errors.push(FieldError::invalid(&Path::ROOT, Value::Null, NOT_CHECKED));
            } else {
                errors.extend(rules::check(&self.tree, object, old));
            }
        }
        errors
    }
}

impl Scale {
    /// A value at one of its paths.
    pub fn at<'a>(object: &'a Value, path: &[String]) -> &'a Value {
        object.at(&path.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Sets the wanted number.
    pub fn set_replicas(&self, object: &mut Value, replicas: i64) {
        let path: Vec<&str> = self.spec_replicas.iter().map(String::as_str).collect();
        object.put(&path, replicas);
    }
}

/// `group/version`
fn api_version(group: &str, version: &str) -> Text {
    Cow::Owned(format!("{group}/{version}"))
}
