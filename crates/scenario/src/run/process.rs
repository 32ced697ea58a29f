//! Killing processes of a cluster: its roles through `processes.json`, its pods through their facts.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use super::cluster::Cluster;
use super::origin::{OriginError, PodFacts};
use crate::document::step::Victim;

/// A killed process is gone after this, or something is wrong with it.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// The environment variable that all processes of a cluster carry.
const MARK: &str = "FAIRWAY_CLUSTER";

/// Why nobody could be killed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KillError {
    #[error("{0}")]
    Origin(#[from] OriginError),
    #[error("{path}: {detail}")]
    List { path: PathBuf, detail: String },
    #[error("{what} is not running (not in {path})")]
    NotRunning { what: String, path: PathBuf },
    #[error("process {pid} is not one of the cluster {cluster}'s; nothing was killed")]
    Foreign { pid: u32, cluster: String },
    #[error("process {pid} cannot be killed: {errno}")]
    Refused { pid: u32, errno: Errno },
    #[error("process {pid} is still there {} s after SIGKILL", GONE_WITHIN.as_secs())]
    Undead { pid: u32 },
}

/// An entry of `processes.json`.
#[derive(Clone, Debug, Deserialize)]
struct Role {
    role: String,
    #[serde(default)]
    name: String,
    pid: u32,
}

/// SIGKILL, and wait until it is gone. What comes back in its place is the cluster's business.
pub(super) async fn end(cluster: &Cluster, victim: &Victim, home: &str) -> Result<(), KillError> {
    let pid = match victim {
        Victim::Pod(object) => {
            let pod = cluster.pod_of(object, home).await.map_err(OriginError::from)?;
            PodFacts::read(cluster, &pod)?.pid
        }
        Victim::Agent(node) => role(cluster, "node", node, victim)?,
        Victim::Server => role(cluster, "apiserver", "", victim)?,
        Victim::Controller => role(cluster, "controller", "", victim)?,
    };
    // The number may be another process's by now.
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mark = format!("{MARK}={}", cluster.name);
    if !environment.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes()) {
        return Err(KillError::Foreign { pid, cluster: cluster.name.clone() });
    }
    let number = i32::try_from(pid).map_err(|_| KillError::Refused { pid, errno: Errno::ESRCH })?;
    kill(Pid::from_raw(number), Signal::SIGKILL).map_err(|errno| KillError::Refused { pid, errno })?;
    let deadline = Instant::now() + GONE_WITHIN;
    while is_alive(pid) {
        if Instant::now() > deadline {
            return Err(KillError::Undead { pid });
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

fn role(cluster: &Cluster, role: &str, name: &str, victim: &Victim) -> Result<u32, KillError> {
    let path = cluster.run_dir.join("processes.json");
    let failed = |detail: String| KillError::List { path: path.clone(), detail };
    let text = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
    let roles: Vec<Role> = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
    let found = roles.iter().find(|entry| entry.role == role && (name.is_empty() || entry.name == name));
    found
        .map(|entry| entry.pid)
        .ok_or_else(|| KillError::NotRunning { what: victim.to_string(), path: path.clone() })
}

/// A zombie is gone: only its parent has not looked yet (proc_pid_stat(5): the state follows the name in parentheses).
fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_a_zombie_is_not() {
        assert!(is_alive(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        while is_alive(child.id()) {
            std::thread::yield_now();
        }
        assert!(child.wait().unwrap().success());
        assert!(!is_alive(child.id()));
    }
}
