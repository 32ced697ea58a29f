//! Keeps the roles running: starts them, starts the dead again, stops them in order, and writes down who they are.
//!
//! A role dies with its supervisor (the kernel sees to it), pods do not: they are found again by name and mark. The kernel ties that
//! promise to the thread that spawned the child, so a supervisor lives on a current-thread runtime on the main thread.

mod restart;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fairway_kit::{Shutdown, Trigger, shutdown};
use fairway_netns::Netns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use self::restart::Restarts;
use crate::error::Error;
use crate::files;
use crate::log::{RotatingLog, tail};
use crate::process::MARK;
use crate::progress::{EventKind, Reporter};
use crate::role::{Role, RunningRole, StopPhase};
use crate::settings::Settings;
use crate::sys;

/// A role that ends this often before the cluster is ready will not come up.
const START_FAILURES_MAX: u32 = 5;

/// The kept roles.
#[derive(Debug)]
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    triggers: Vec<(StopPhase, Trigger)>,
    failures: mpsc::UnboundedReceiver<Error>,
    failed: mpsc::UnboundedSender<Error>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    reporter: Reporter,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    pids: BTreeMap<String, RunningRole>,
    /// Once the cluster was ready no exit ends the supervisor any more.
    ready: bool,
}

impl Supervisor {
    /// Without roles yet.
    pub(crate) fn new(settings: &Settings, reporter: &Reporter) -> Result<Self, Error> {
        files::create_directory(&settings.directories.logs())?;
        let mut running = Running::default();
        let own = RunningRole { role: "supervisor".into(), name: String::new(), pid: std::process::id() };
        running.pids.insert("supervisor".into(), own);
        let shared =
            Shared { settings: settings.clone(), reporter: reporter.clone(), running: Mutex::new(running) };
        shared.save()?;
        let (failed, failures) = mpsc::unbounded_channel();
        Ok(Self { shared: Arc::new(shared), triggers: Vec::new(), failures, failed })
    }

    /// Starts a role and keeps it running.
    pub(crate) fn keep(&mut self, role: Role) {
        let (trigger, stop) = shutdown::channel();
        self.triggers.push((role.phase, trigger));
        tokio::spawn(keep(self.shared.clone(), role, stop, self.failed.clone()));
    }

    /// Ready when a role turns out not to come up.
    pub(crate) async fn failure(&mut self) -> Error {
        match self.failures.recv().await {
            Some(error) => error,
            // `self.failed` is never dropped before `self.failures`.
            None => std::future::pending().await,
        }
    }

    /// From now on roles are started again whatever happens.
    pub(crate) fn ready(&self) {
        self.shared.running().ready = true;
    }

    /// Stops the roles phase by phase, each within its grace; what is left then is killed.
    pub(crate) async fn stop(self, grace: impl Fn(StopPhase) -> Duration) {
        let mut triggers = self.triggers;
        triggers.sort_by_key(|(phase, _)| *phase);
        for phase in [StopPhase::Controller, StopPhase::Node, StopPhase::ApiServer] {
            let members = triggers.extract_if(.., |(member, _)| *member == phase);
            futures::future::join_all(members.map(|(_, trigger)| trigger.stop(grace(phase)))).await;
        }
        for role in self.shared.running().pids.values().filter(|role| role.role != "supervisor") {
            tracing::info!(
                role = role.role,
                name = role.name,
                pid = role.pid,
                "did not stop in its time: killed"
            );
            signal(role.pid, Signal::SIGKILL);
        }
    }
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_pid(&self, role: &Role, pid: Option<u32>) {
        let mut running = self.running();
        match pid {
            Some(pid) => {
                let name = role.name.clone().unwrap_or_default();
                running.pids.insert(role.label(), RunningRole { role: role.role.to_owned(), name, pid });
            }
            None => {
                running.pids.remove(&role.label());
            }
        }
        drop(running);
        // For others to read; the supervisor itself does not depend on it.
        if let Err(error) = self.save() {
            tracing::warn!(%error, "tools that look for processes will not find them");
        }
    }

    fn save(&self) -> Result<(), files::FileError> {
        let roles: Vec<RunningRole> = self.running().pids.values().cloned().collect();
        files::write_json(&self.settings.directories.processes_file(), &roles, 0o644)
    }

    fn log_path(&self, role: &Role) -> PathBuf {
        self.settings.directories.logs().join(format!("{}.log", role.label()))
    }
}

/// One role's life until it is told to stop.
async fn keep(shared: Arc<Shared>, role: Role, stop: Shutdown, failed: mpsc::UnboundedSender<Error>) {
    let _hold = stop.hold();
    let mut restarts = Restarts::default();
    while !stop.is_requested() {
        let started = Instant::now();
        let reason = match spawn(&shared, &role) {
            Ok(mut child) => {
                shared.set_pid(&role, child.id());
                let exit = run(&mut child, &stop).await;
                shared.set_pid(&role, None);
                describe(exit)
            }
            Err(source) => source.to_string(),
        };
        if stop.is_requested() {
            return;
        }
        let wait = restarts.after_exit(started.elapsed());
        if restarts.in_a_row() >= START_FAILURES_MAX && !shared.running().ready {
            let log_end = tail(&shared.log_path(&role));
            let error = Error::RoleFailed { role: role.label(), times: restarts.in_a_row(), reason, log_end };
            // Nobody listens any more when the supervisor is already on its way out.
            let _ = failed.send(error);
            return;
        }
        let after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        shared.reporter.report(EventKind::Restarted { role: role.label(), reason, after_ms });
        stop.unless_requested(tokio::time::sleep(wait)).await;
    }
}

/// Waits for the exit; a stop asks for it.
async fn run(child: &mut Child, stop: &Shutdown) -> io::Result<ExitStatus> {
    if let Some(exit) = stop.unless_requested(child.wait()).await {
        return exit;
    }
    if let Some(pid) = child.id() {
        signal(pid, Signal::SIGTERM);
    }
    child.wait().await
}

fn spawn(shared: &Shared, role: &Role) -> Result<Child, Error> {
    let failed = |source| Error::Spawn { role: role.label(), source };
    let mut command = Command::new(&role.program);
    command.args(&role.arguments).env(MARK, shared.settings.name.as_str()).stdin(Stdio::null());
    if let Some(netns) = &role.netns {
        Netns::open(netns)?.enter_on_spawn(command.as_std_mut());
    }
    sys::die_with_parent(command.as_std_mut());
    // Ctrl-C in the terminal is for the supervisor, which stops the roles in order.
    command.process_group(0);
    let output = collect_output(&shared.log_path(role)).map_err(failed)?;
    command.stdout(output.try_clone().map_err(failed)?).stderr(output);
    command.spawn().map_err(failed)
}

/// A pipe whose other end is copied into the log until all who write to it are gone.
fn collect_output(path: &Path) -> io::Result<OwnedFd> {
    let mut log = RotatingLog::open(path)?;
    let (reader, writer) = io::pipe()?;
    let mut reader = pipe::Receiver::from_owned_fd(reader.into())?;
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            // A full disk costs log lines; a role that could not write would stand still.
            let _ = log.append(buffer.get(..length).unwrap_or_default());
        }
    });
    Ok(writer.into())
}

fn signal(pid: u32, signal: Signal) {
    // A process that is gone already needs no signal.
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn describe(exit: io::Result<ExitStatus>) -> String {
    match exit {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

/// A process that goes on without this one's terminal, with its standard output as a pipe and its standard error in a file.
pub(crate) fn detached(program: &Path, arguments: &[OsString], log: &Path) -> io::Result<Command> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(File::options().create(true).append(true).open(log)?);
    sys::leave_session(command.as_std_mut());
    Ok(command)
}
