//! Who answers: the facts about this pod that a client wants to see in an answer.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Where the namespace of a pod is found when the manifest does not pass it as a variable.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Who answered. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `POD_NAME`, or else the host name: a pod's host name is its name.
    pub pod: String,
    /// `POD_NAMESPACE`, or else the service account's file, or else the first search domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `NODE_NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// `POD_IP`, or else the address that the client reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
}

/// What the process finds around itself; a value so that the rule below is a function.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Looks up an environment variable.
    pub variables: std::collections::BTreeMap<String, String>,
    /// The host name.
    pub hostname: String,
    /// Content of the service account's namespace file.
    pub namespace_file: Option<String>,
    /// Content of /etc/resolv.conf.
    pub resolv_conf: Option<String>,
}

impl Surroundings {
    /// Reads them. What cannot be read is absent.
    pub fn read() -> Self {
        let variables = ["POD_NAME", "POD_NAMESPACE", "NODE_NAME", "POD_IP", "HOSTNAME"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
            .collect();
        let read = |path: &str| std::fs::read_to_string(path).ok();
        Self {
            variables,
            hostname: read("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
            namespace_file: read(NAMESPACE_FILE),
            resolv_conf: read("/etc/resolv.conf"),
        }
    }
}

impl Identity {
    /// The rule: variables that the manifest passes win, then what the pod's files say.
    pub fn of(surroundings: &Surroundings) -> Self {
        let variable =
            |name: &str| surroundings.variables.get(name).filter(|value| !value.is_empty()).cloned();
        let from_file = || surroundings.namespace_file.as_deref().map(|text| text.trim().to_owned());
        let from_search = || {
            let search =
                surroundings.resolv_conf.as_deref()?.lines().find_map(|line| line.strip_prefix("search "))?;
            let (namespace, rest) = search.split_whitespace().next()?.split_once('.')?;
            rest.starts_with("svc.").then(|| namespace.to_owned())
        };
        Self {
            pod: variable("POD_NAME").unwrap_or_else(|| surroundings.hostname.clone()),
            namespace: variable("POD_NAMESPACE").or_else(from_file).or_else(from_search),
            node: variable("NODE_NAME"),
            ip: variable("POD_IP").and_then(|text| text.parse().ok()),
        }
    }

    /// The same, with the address that the client reached where the manifest says none.
    pub fn reached_at(&self, address: IpAddr) -> Self {
        Self { ip: self.ip.or(Some(address.to_canonical())), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_win_over_files() {
        let mut around = Surroundings {
            hostname: "web-1".into(),
            resolv_conf: Some(
                "nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local\n".into(),
            ),
            ..Surroundings::default()
        };
        let found = Identity::of(&around);
        assert_eq!((found.pod.as_str(), found.namespace.as_deref(), found.ip), ("web-1", Some("shop"), None));
        around.namespace_file = Some("store\n".into());
        assert_eq!(Identity::of(&around).namespace.as_deref(), Some("store"));
        around.variables.insert("POD_NAMESPACE".into(), "given".into());
        around.variables.insert("POD_IP".into(), "10.244.0.7".into());
        let found = Identity::of(&around).reached_at(IpAddr::from([127, 0, 0, 1]));
        assert_eq!(
            (found.namespace.as_deref(), found.ip),
            (Some("given"), Some(IpAddr::from([10, 244, 0, 7])))
        );
    }

    #[test]
    fn a_search_list_of_the_host_names_no_namespace() {
        let around =
            Surroundings { resolv_conf: Some("search corp.example\n".into()), ..Surroundings::default() };
        assert_eq!(Identity::of(&around).namespace, None);
    }
}
