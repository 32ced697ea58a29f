//! The processes of a cluster as data.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::settings::Settings;

/// When a role is stopped; the smaller first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopPhase {
    /// Would replace the pods that are being stopped.
    Controller,
    /// Stops its pods; tells the API server about it.
    Node,
    /// Last: the others talk to it.
    ApiServer,
}

/// One process that is kept running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// `apiserver`, `controller` or `node`.
    pub role: &'static str,
    /// Which one, for roles that run more than once.
    pub name: Option<String>,
    /// When it is stopped.
    pub phase: StopPhase,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The network namespace that it runs in; `None`: the host's.
    pub netns: Option<String>,
}

impl Role {
    /// `<role>` or `<role>-<name>`: for messages and the name of the log.
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("{}-{name}", self.role),
            None => self.role.to_owned(),
        }
    }
}

/// The roles of a cluster: `<executable> apiserver|controller|node --settings <cluster.json> [--name <node>]`.
pub fn roles(settings: &Settings, executable: &Path) -> Vec<Role> {
    let role = |role: &'static str, phase, name: Option<String>, netns| {
        let mut arguments: Vec<OsString> =
            vec![role.into(), "--settings".into(), settings.directories.settings_file().into()];
        if let Some(name) = &name {
            arguments.extend(["--name".into(), name.into()]);
        }
        Role { role, name, phase, program: executable.to_owned(), arguments, netns }
    };
    let mut all = vec![
        role("apiserver", StopPhase::ApiServer, None, None),
        role("controller", StopPhase::Controller, None, None),
    ];
    all.extend(
        settings
            .nodes()
            .into_iter()
            .map(|node| role("node", StopPhase::Node, Some(node.name), Some(node.netns))),
    );
    all
}

/// A running process, as in `processes.json`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunningRole {
    /// `supervisor`, `apiserver`, `controller` or `node`.
    pub role: String,
    /// Which one; empty for roles that run once.
    pub name: String,
    /// Its process number.
    pub pid: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{ClusterName, Flags, Roots};

    #[test]
    fn the_table_has_one_api_server_one_controller_and_every_node_in_its_namespace() {
        let name = ClusterName::parse("dev").unwrap();
        let settings = Settings::resolve(&name, &Roots::default(), &Flags::default(), None).unwrap();
        let shown: Vec<String> = roles(&settings, Path::new("/fairway"))
            .iter()
            .map(|role| {
                let arguments: Vec<_> =
                    role.arguments.iter().map(|argument| argument.to_string_lossy()).collect();
                format!(
                    "{} [{}] {}",
                    role.label(),
                    role.netns.as_deref().unwrap_or("host"),
                    arguments.join(" ")
                )
            })
            .collect();
        let file = "--settings /var/lib/fairway/dev/cluster.json";
        let want = [
            format!("apiserver [host] apiserver {file}"),
            format!("controller [host] controller {file}"),
            format!("node-node-1 [fw-dev-node-1] node {file} --name node-1"),
            format!("node-node-2 [fw-dev-node-2] node {file} --name node-2"),
        ];
        assert_eq!(shown, want);
    }
}
