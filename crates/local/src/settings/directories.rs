//! Where the files of a cluster are.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ClusterName;

/// Where clusters keep their files; each cluster has a directory of its name in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// What survives: `/var/lib/fairway` unless moved.
    pub state: PathBuf,
    /// What goes with the processes: `/run/fairway` unless moved.
    pub run: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { state: "/var/lib/fairway".into(), run: "/run/fairway".into() }
    }
}

/// The directories of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directories {
    /// `cluster.json`, `pki/`, `store/`, `images/`, `kubeconfig`, `nodes/`.
    pub state: PathBuf,
    /// `supervisor.lock`, `processes.json`, `logs/`, `nodes/`, `pods/`.
    pub run: PathBuf,
}

impl Directories {
    /// Those of the cluster of that name.
    pub fn new(roots: &Roots, name: &ClusterName) -> Self {
        Self { state: roots.state.join(name.as_str()), run: roots.run.join(name.as_str()) }
    }
    /// The saved [`Settings`].
    pub fn settings_file(&self) -> PathBuf {
        self.state.join("cluster.json")
    }
    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }
    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.state.join("pki")
    }
    /// One log file a role.
    pub fn logs(&self) -> PathBuf {
        self.run.join("logs")
    }
    /// The running roles.
    pub fn processes_file(&self) -> PathBuf {
        self.run.join("processes.json")
    }
    /// Held by the supervisor.
    pub fn lock_file(&self) -> PathBuf {
        self.run.join("supervisor.lock")
    }
}
