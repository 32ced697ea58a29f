//! One container as PID 1 keeps it, from its start to what is remembered of its end.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::launch;
use super::log::{LogFile, Splitter};
use crate::protocol::{ContainerPlan, ContainerRecord, Exit, How, RecordState};

/// Reads of one stream of a container that ended: its pipe holds no more than 64 KiB, but a process that escaped may go on writing.
const READS_AT_THE_END_MAX: usize = 256;

/// A container that runs or ran.
pub(super) struct Container {
    pub plan: ContainerPlan,
    pub record: ContainerRecord,
    /// While it runs.
    pub pid: Option<Pid>,
    pub stdin: Option<OwnedFd>,
    pub terminal: Option<OwnedFd>,
    pub outputs: Vec<Output>,
    pub kill_at: Option<Instant>,
    log: Option<LogFile>,
    /// What its mount namespace is called below /proc: how its processes are told from those of other containers.
    namespace: Option<PathBuf>,
}

/// A stream on its way to the log.
pub(super) struct Output {
    pub fd: OwnedFd,
    pub open: bool,
    splitter: Splitter,
}

impl Container {
    pub(super) fn start(plan: ContainerPlan, previous: Option<Exit>, directory: &Path) -> Self {
        let log = LogFile::open(&plan.log)
            .inspect_err(
                |error| tracing::warn!(container = plan.name, %error, "no log is kept of this attempt"),
            )
            .ok();
        let started_us = Timestamp::now().as_microsecond();
        let state = RecordState::Running { started_us };
        let record = ContainerRecord { name: plan.name.clone(), attempt: plan.attempt, state, previous };
        let mut container = Self {
            plan,
            record,
            pid: None,
            stdin: None,
            terminal: None,
            outputs: Vec::new(),
            log,
            kill_at: None,
            namespace: None,
        };
        match launch::start(&container.plan, directory) {
            Ok(launched) => {
                let eager = launched.terminal.is_some();
                container.pid = Some(launched.pid);
                container.namespace = std::fs::read_link(format!("/proc/{}/ns/mnt", launched.pid)).ok();
                (container.stdin, container.terminal) = (launched.stdin, launched.terminal);
                container.outputs = launched
                    .outputs
                    .into_iter()
                    .map(|(stream, fd)| Output { splitter: Splitter::new(stream, eager), fd, open: true })
                    .collect();
            }
            Err(message) => {
                let how = How::NotStarted { message };
                container.record.state =
                    RecordState::Exited(Exit { started_us, finished_us: started_us, how });
            }
        }
        container
    }

    /// The main process is gone: what it left behind goes too, and its output is complete before the end is told.
    pub(super) fn ended(&mut self, how: How) {
        let RecordState::Running { started_us } = self.record.state else { return };
        self.kill_leftovers();
        self.pid = None;
        self.kill_at = None;
        for index in 0..self.outputs.len() {
            self.copy_output(index, READS_AT_THE_END_MAX);
        }
        (self.stdin, self.terminal) = (None, None);
        let finished_us = Timestamp::now().as_microsecond();
        self.record.state = RecordState::Exited(Exit { started_us, finished_us, how });
    }

    /// Ends every process that is still in the container: it has the container's mount namespace.
    fn kill_leftovers(&self) {
        let Some(own) = &self.namespace else { return };
        let Ok(processes) = std::fs::read_dir("/proc") else { return };
        for entry in processes.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if std::fs::read_link(entry.path().join("ns/mnt")).is_ok_and(|namespace| &namespace == own) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    pub(super) fn stop(&mut self, signal: i32, kill_after: Duration) {
        if self.pid.is_none() {
            return;
        }
        self.signal(signal);
        let at = Instant::now() + kill_after;
        // A later, longer wish does not lengthen an earlier one.
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
    }

    pub(super) fn signal(&self, signal: i32) {
        if let (Some(pid), Ok(signal)) = (self.pid, Signal::try_from(signal)) {
            let _ = kill(pid, signal);
        }
    }

    /// Moves what one stream has to the log.
    pub(super) fn copy_output(&mut self, index: usize, reads_max: usize) {
        let Some(output) = self.outputs.get_mut(index) else { return };
        let (mut buffer, mut entries) = ([0; 16 << 10], Vec::new());
        for _ in 0..reads_max {
            match nix::unistd::read(&output.fd, &mut buffer) {
                Ok(read) if read > 0 => {
                    output.splitter.push(
                        buffer.get(..read).unwrap_or_default(),
                        Timestamp::now(),
                        &mut entries,
                    );
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                // The end: a pipe without writers, or (EIO) a terminal that nobody has open.
                Ok(_) | Err(_) => {
                    output.open = false;
                    output.splitter.finish(Timestamp::now(), &mut entries);
                    break;
                }
            }
        }
        let Some(log) = &mut self.log else { return };
        if let Err(error) = log.append(&entries) {
            tracing::warn!(container = self.plan.name, %error, "the log cannot be written; no more is kept of this attempt");
            self.log = None;
        }
    }
}
