//! A cluster's name, and what of the kernel is called after it.

use std::fmt;

use fairway_netns::link_name;
use serde::{Deserialize, Serialize};

use super::SettingsError;

const NAME_BYTES_MAX: usize = 40;

/// The name of a local cluster: a DNS label of at most 40 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(String);

impl ClusterName {
    /// Checks a name.
    pub fn parse(name: &str) -> Result<Self, SettingsError> {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let good = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(inner)
            && !name.starts_with('-')
            && !name.ends_with('-');
        if good { Ok(Self(name.to_owned())) } else { Err(SettingsError::Name { name: name.to_owned() }) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bridge in the host.
    pub fn bridge(&self) -> String {
        link_name(&format!("fw-{self}"))
    }

    /// The nft table in the host.
    pub fn table(&self) -> String {
        format!("fairway-{self}")
    }

    /// Whether a network namespace is one of this cluster: `fw-<name>-node-<number>` or `fw-<name>-p-<8 hex digits>`, exactly, so that
    /// a cluster `a` never takes what belongs to a cluster `a-b`.
    pub fn owns_namespace(&self, namespace: &str) -> bool {
        let Some(rest) = namespace.strip_prefix("fw-").and_then(|rest| rest.strip_prefix(self.as_str()))
        else {
            return false;
        };
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let short_uid = |text: &str| text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        rest.strip_prefix("-node-").is_some_and(digits) || rest.strip_prefix("-p-").is_some_and(short_uid)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ClusterName {
    type Error = SettingsError;
    fn try_from(name: String) -> Result<Self, SettingsError> {
        Self::parse(&name)
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0
    }
}
