//! What a user may be allowed: the question and the answer. Who decides is [`rbac`](super::rbac).

use std::sync::Arc;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// Something with objects.
    Resource(ResourceAction<'a>),
    /// A path that is no object.
    Path {
        /// The HTTP method in small letters.
        verb: &'a str,
        /// The path.
        path: &'a str,
    },
}

/// Something with objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResourceAction<'a> {
    /// `get`, `list`, `create` …
    pub verb: &'a str,
    /// "" for core.
    pub group: &'a str,
    /// Plural.
    pub resource: &'a str,
    /// "" for the object itself.
    pub subresource: &'a str,
    /// "" for the whole cluster.
    pub namespace: &'a str,
    /// "" for no certain object.
    pub name: &'a str,
}

/// The answer, with its reason either way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes. Who may do everything needs no reason.
    Allow(Option<Arc<str>>),
    /// No rule says yes; bindings of the user name these roles, which are not there.
    NoOpinion(Vec<Arc<str>>),
}

impl Decision {
    /// True for yes.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// Why; "" when there is nothing to say.
    pub fn reason(&self) -> String {
        match self {
            Self::Allow(reason) => reason.as_deref().unwrap_or_default().to_owned(),
            Self::NoOpinion(missing) => match missing.as_slice() {
                [] => String::new(),
                [one] => format!("RBAC: {one}"),
                several => format!("RBAC: [{}]", several.join(", ")),
            },
        }
    }
}
