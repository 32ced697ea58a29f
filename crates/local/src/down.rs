//! `fairway down`: stops a cluster, running or crashed, from its name alone.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::error::Error;
use crate::files::failed;
use crate::leftovers::{Report, RunDirectory, clean};
use crate::lock::{Locked, SupervisorLock};
use crate::preflight::Problem;
use crate::process::Process;
use crate::settings::{ClusterName, Directories, Roots};

/// A supervisor stops its roles one phase after the other; this is longer than all of their graces.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What becomes of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The next `up` brings the same objects back.
    Keep,
    /// Objects, certificates and images are forgotten.
    Purge,
}

/// What `down` did.
#[derive(Debug)]
pub struct Stopped {
    /// The supervisor that was running.
    pub supervisor: Option<u32>,
    /// What had to be removed besides (a running supervisor removes its own).
    pub leftovers: Report,
    /// Whether there was a state directory that was forgotten.
    pub purged: bool,
}

/// Stops the cluster and removes what is left of it. Stopping what does not run is no error.
pub fn down(name: &ClusterName, roots: &Roots, state: State) -> Result<Stopped, Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::Preflight(vec![Problem::NotRoot]));
    }
    let directories = Directories::new(roots, name);
    let supervisor = SupervisorLock::holder(&directories.lock_file());
    if let Some(process) = supervisor.and_then(Process::open) {
        stop(name, &process)?;
    }
    let lock = match SupervisorLock::try_take(&directories.lock_file())? {
        Locked::Mine(lock) => lock,
        Locked::By(pid) => return Err(Error::StillRunning { name: name.clone(), pid }),
    };
    let leftovers = clean(name, &directories, RunDirectory::Remove)?;
    let purged = state == State::Purge && directories.state.exists();
    if purged {
        std::fs::remove_dir_all(&directories.state).map_err(failed("remove", &directories.state))?;
    }
    drop(lock);
    // Only an empty directory goes: anything else was not ours.
    let _ = std::fs::remove_dir(&directories.run);
    Ok(Stopped { supervisor, leftovers, purged })
}

/// Asks, then kills.
fn stop(name: &ClusterName, process: &Process) -> Result<(), Error> {
    let signal = |signal| {
        process.signal(signal).map_err(|source| Error::System { action: "signal the supervisor", source })
    };
    signal(Signal::SIGTERM)?;
    if process.wait(STOP_LIMIT) {
        return Ok(());
    }
    signal(Signal::SIGKILL)?;
    if process.wait(KILL_LIMIT) {
        Ok(())
    } else {
        Err(Error::StillRunning { name: name.clone(), pid: process.pid })
    }
}
