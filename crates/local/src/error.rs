//! What ends a command, and what the user can do.

use std::path::PathBuf;
use std::time::Duration;

use crate::files::FileError;
use crate::pki::PkiError;
use crate::preflight::Problem;
use crate::settings::{ClusterName, SettingsError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The flags make no cluster.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Something stands in the way; nothing was touched.
    #[error("{}", list(.0))]
    Preflight(Vec<Problem>),
    /// A file of the cluster.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A namespace, link, address or route.
    #[error(transparent)]
    Network(#[from] fairway_netns::Error),
    /// The host's nft table.
    #[error(
        "nft table {table} in the host: cannot {action}: {reason}; pods have no way out of the cluster without it"
    )]
    Table {
        /// Its name.
        table: String,
        /// What was tried.
        action: &'static str,
        /// Why not.
        reason: String,
    },
    /// A system call on processes or threads.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A role could not be started.
    #[error("cannot start {role}: {source}")]
    Spawn {
        /// Which role.
        role: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A role ends again and again before the cluster is ready.
    #[error("{role} ended {times} times while starting ({reason}){}", tail(.log_end))]
    RoleFailed {
        /// Which role.
        role: String,
        /// How often.
        times: u32,
        /// How it ended last.
        reason: String,
        /// The end of its log.
        log_end: String,
    },
    /// No client for the API server.
    #[error(transparent)]
    Client(#[from] fairway_kit::ClientError),
    /// The API server refused one of our own objects.
    #[error("cannot create {object}: {}", fairway_kit::reason(source.as_ref()))]
    Object {
        /// Kind, namespace and name.
        object: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// An embedded manifest does not parse: a mistake in this program.
    #[error("embedded manifest {manifest}: {reason}")]
    Manifest {
        /// Which file.
        manifest: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Something never became ready.
    #[error("after {} s still waiting for: {}{}", limit.as_secs(), waiting_for.join(", "), tail(.log_end))]
    NotReady {
        /// How long was waited.
        limit: Duration,
        /// What is missing.
        waiting_for: Vec<String>,
        /// The ends of the logs.
        log_end: String,
    },
    /// Ctrl-C or SIGTERM before the cluster was ready.
    #[error("stopped before the cluster was ready")]
    Interrupted,
    /// A detached supervisor ended without a word.
    #[error("the supervisor in the background ended ({reason}); its log is {log}")]
    Detached {
        /// How it ended.
        reason: String,
        /// Where to look.
        log: PathBuf,
    },
    /// The supervisor in the background said why it could not start.
    #[error("{}", .0.join("\n"))]
    Reported(Vec<String>),
    /// A supervisor does not stop.
    #[error(
        "cluster {name} is still run by process {pid}, which does not stop; end it with kill -9 {pid} and try again"
    )]
    StillRunning {
        /// The cluster.
        name: ClusterName,
        /// The supervisor.
        pid: u32,
    },
    /// Some leftovers could not be removed; the rest was.
    #[error("cluster {name}: could not remove everything:\n{}", reasons.join("\n"))]
    Leftovers {
        /// The cluster.
        name: ClusterName,
        /// One a leftover.
        reasons: Vec<String>,
    },
}

impl Error {
    /// One line a problem, for a list.
    pub fn problems(&self) -> Vec<String> {
        match self {
            Self::Preflight(problems) => problems.iter().map(ToString::to_string).collect(),
            Self::Reported(problems) => problems.clone(),
            other => vec![other.to_string()],
        }
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn tail(log_end: &str) -> String {
    if log_end.is_empty() { String::new() } else { format!("; the end of its log:\n{log_end}") }
}
