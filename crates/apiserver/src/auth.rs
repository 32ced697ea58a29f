//! Who is asking, and whether they may.

pub mod authorize;
pub mod bootstrap;
pub mod certificate;
mod guard;
pub mod rbac;
pub mod token;

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Everyone who has proved something.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everyone else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// May do everything.
pub const MASTERS: &str = "system:masters";

/// Who is asking.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// Unique id; "" when there is none.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// More, such as the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Who shows neither certificate nor token.
    pub fn anonymous() -> Self {
        let groups = vec![UNAUTHENTICATED.to_owned()];
        Self { name: "system:anonymous".to_owned(), groups, ..Self::default() }
    }

    /// True when the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|known| known == group)
    }

    /// The namespace and name of a service account.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix("system:serviceaccount:")?.split_once(':')
    }

    /// `UserInfo` of reviews.
    pub fn to_json(&self) -> Value {
        let mut user = json!({"username": self.name, "groups": self.groups});
        if let Some(members) = user.as_object_mut() {
            if !self.uid.is_empty() {
                members.insert("uid".to_owned(), json!(self.uid));
            }
            if !self.extra.is_empty() {
                members.insert("extra".to_owned(), json!(self.extra));
            }
        }
        user
    }
}
