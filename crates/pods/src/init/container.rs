//! One container as PID 1 keeps it, from its start to what is remembered of its end.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::launch;
use super::log::{LogFile, Splitter, forget_old};
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
    /// Its mount namespace: how its processes are told from those of other containers. It is held open, because the kernel gives the
    /// number of one that is gone to the next.
    namespace: Option<File>,
    /// What the kernel counted in its group before it started.
    oom_kills_before: u64,
}

/// A stream on its way to the log.
pub(super) struct Output {
    pub fd: OwnedFd,
    pub open: bool,
    splitter: Splitter,
}

fn inode(file: &File) -> Option<u64> {
    file.metadata().ok().map(|meta| meta.ino())
}

impl Container {
    pub(super) fn start(plan: ContainerPlan, previous: Option<Exit>, directory: &Path) -> Self {
        forget_old(&plan.log, plan.attempt);
        let log = LogFile::open(&plan.log)
            .inspect_err(
                |error| tracing::warn!(container = plan.name, %error, "no log is kept of this attempt"),
            )
            .ok();
        let started_us = Timestamp::now().as_microsecond();
        let state = RecordState::Running { started_us, mounts: None };
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
            oom_kills_before: 0,
        };
        if let Some(group) = &container.plan.cgroup {
            if let Err(error) = group.prepare() {
                tracing::warn!(container = container.plan.name, %error, "its resource limits are not enforced");
                container.plan.cgroup = None;
            } else {
                container.oom_kills_before = group.oom_kills();
            }
        }
        match launch::start(&container.plan, directory) {
            Ok(launched) => {
                let eager = launched.terminal.is_some();
                container.pid = Some(launched.pid);
                container.namespace = File::open(format!("/proc/{}/ns/mnt", launched.pid)).ok();
                let mounts = container.namespace.as_ref().and_then(inode);
                container.record.state = RecordState::Running { started_us, mounts };
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
                    RecordState::Exited(Exit { started_us, finished_us: started_us, how, oom: false });
            }
        }
        container
    }

    /// The main process is gone: what it left behind goes too, and its output is complete before the end is told.
    pub(super) fn ended(&mut self, how: How) {
        let RecordState::Running { started_us, .. } = self.record.state else { return };
        self.kill_leftovers();
        self.namespace = None;
        self.pid = None;
        self.kill_at = None;
        for index in 0..self.outputs.len() {
            self.copy_output(index, READS_AT_THE_END_MAX);
        }
        (self.stdin, self.terminal) = (None, None);
        let finished_us = Timestamp::now().as_microsecond();
        let oom = self.plan.cgroup.as_ref().is_some_and(|group| group.oom_kills() > self.oom_kills_before);
        if let Some(group) = &self.plan.cgroup {
            group.remove();
        }
        self.record.state = RecordState::Exited(Exit { started_us, finished_us, how, oom });
    }

    /// Ends every process that is still in the container: it has the container's mount namespace.
    fn kill_leftovers(&self) {
        let Some(own) = self.namespace.as_ref().and_then(inode) else { return };
        let Ok(processes) = std::fs::read_dir("/proc") else { return };
        for entry in processes.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if std::fs::metadata(entry.path().join("ns/mnt")).is_ok_and(|meta| meta.ino() == own) {
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
