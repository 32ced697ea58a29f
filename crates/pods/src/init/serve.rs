//! The poll loop of PID 1: signals, commands, output, and deadlines of containers that were told to stop.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::connection::Connection;
use super::container::Container;
use super::launch;
use crate::protocol::{ContainerPlan, ExecPlan, How, Message, RecordState, Request};

/// Connections at the same time; more are closed at once.
const CONNECTIONS_MAX: usize = 256;
/// Reads of one stream before the others have a turn.
const READS_IN_A_ROW_MAX: usize = 16;

/// What PID 1 knows.
pub(super) struct Pod {
    directory: PathBuf,
    signals: SignalFd,
    listener: UnixListener,
    connections: BTreeMap<u64, Connection>,
    connection_next: u64,
    containers: BTreeMap<String, Container>,
}

/// What a descriptor in the poll set belongs to.
#[derive(Clone)]
enum Source {
    Signals,
    Listener,
    Connection(u64),
    Output(String, usize),
}

/// Blocks the signals that are read from a descriptor instead.
pub(super) fn block_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        mask.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

impl Pod {
    pub(super) fn new(directory: PathBuf, signals: SignalFd, listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (connections, containers) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { directory, signals, listener, connections, connection_next: 0, containers })
    }

    /// Serves until SIGTERM; the kernel ends all other processes of the pod with this one.
    pub(super) fn run(&mut self) -> ExitCode {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(%error, "polling failed; the pod ends");
                    return ExitCode::FAILURE;
                }
            };
            for (source, events) in ready {
                match source {
                    Source::Signals => {
                        if self.take_signals() {
                            return ExitCode::SUCCESS;
                        }
                    }
                    Source::Listener => self.accept(),
                    Source::Connection(id) => self.serve_connection(id, events),
                    Source::Output(name, index) => {
                        if let Some(container) = self.containers.get_mut(&name) {
                            container.copy_output(index, READS_IN_A_ROW_MAX);
                        }
                    }
                }
            }
            self.kill_overdue();
            for container in self.containers.values_mut() {
                container.outputs.retain(|output| output.open);
            }
        }
    }

    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = vec![Source::Signals, Source::Listener];
        let readable = PollFlags::POLLIN;
        let mut fds =
            vec![PollFd::new(self.signals.as_fd(), readable), PollFd::new(self.listener.as_fd(), readable)];
        for (id, connection) in &self.connections {
            let writable = if connection.has_output() { PollFlags::POLLOUT } else { PollFlags::empty() };
            fds.push(PollFd::new(connection.as_fd(), readable | writable));
            sources.push(Source::Connection(*id));
        }
        for (name, container) in &self.containers {
            for (index, output) in container.outputs.iter().enumerate() {
                fds.push(PollFd::new(output.fd.as_fd(), readable));
                sources.push(Source::Output(name.clone(), index));
            }
        }
        let deadline = self.containers.values().filter_map(|container| container.kill_at).min();
        let timeout = match deadline {
            None => PollTimeout::NONE,
            // One millisecond more: the time-out is rounded down.
            Some(at) => {
                PollTimeout::try_from(at.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
                    .unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let events = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(sources.into_iter().zip(events).filter(|(_, events)| !events.is_empty()).collect())
    }

    /// True when the pod is to end.
    fn take_signals(&mut self) -> bool {
        let mut end = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            end |= signal.ssi_signo != Signal::SIGCHLD as u32;
        }
        self.reap();
        end
    }

    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.exited(pid, How::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.exited(pid, How::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn exited(&mut self, pid: Pid, how: How) {
        if let Some(connection) =
            self.connections.values_mut().find(|connection| connection.exec == Some(pid))
        {
            connection.exec = None;
            connection.send(&Message::ExecExited { how });
            return;
        }
        let Some(container) = self.containers.values_mut().find(|container| container.pid == Some(pid))
        else {
            return;
        };
        container.ended(how);
        let record = container.record.clone();
        self.publish(&Message::Changed(record));
    }

    fn publish(&mut self, message: &Message) {
        for connection in self.connections.values_mut().filter(|connection| connection.subscribed) {
            connection.send(message);
        }
    }

    fn kill_overdue(&mut self) {
        let now = Instant::now();
        for container in self.containers.values_mut() {
            if container.kill_at.is_some_and(|at| at <= now) {
                container.kill_at = None;
                container.signal(Signal::SIGKILL as i32);
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.connections.len() >= CONNECTIONS_MAX || stream.set_nonblocking(true).is_err() {
                continue;
            }
            self.connections.insert(self.connection_next, Connection::new(stream));
            self.connection_next += 1;
        }
    }

    fn serve_connection(&mut self, id: u64, events: PollFlags) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mut open = true;
        if events.contains(PollFlags::POLLOUT) {
            open = connection.flush();
        }
        if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            open &= connection.fill();
        }
        while let Some(request) = self.connections.get_mut(&id).and_then(Connection::next_request) {
            match request {
                Ok(request) => self.carry_out(id, request),
                Err(message) => self.answer(id, &Message::Failed { message }),
            }
        }
        if !open || self.connections.get(&id).is_some_and(Connection::is_stuck) {
            self.close(id);
        }
    }

    fn close(&mut self, id: u64) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if let Some(pid) = connection.exec {
            // The process leads a session of its own, so its group is everything it did not detach.
            let _ = nix::sys::signal::killpg(pid, Signal::SIGKILL);
        }
    }

    fn answer(&mut self, id: u64, message: &Message) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.send(message);
        }
    }

    fn carry_out(&mut self, id: u64, request: Request) {
        match request {
            Request::Subscribe => {
                let containers = self.containers.values().map(|container| container.record.clone()).collect();
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.subscribed = true;
                    connection.send(&Message::Snapshot { containers });
                }
            }
            Request::Start(plan) => {
                let answer = self.start(*plan);
                self.answer(id, &answer);
            }
            Request::Stop { container, signal, kill_after_ms } => {
                if let Some(container) = self.containers.get_mut(&container) {
                    container.stop(signal, Duration::from_millis(kill_after_ms));
                }
                self.answer(id, &Message::Done);
            }
            Request::Exec(plan) => self.exec(id, &plan),
            Request::Attach { container } => self.attach(id, &container),
            Request::CloseInput { container } => {
                if let Some(container) = self.containers.get_mut(&container) {
                    container.stdin = None;
                }
                self.answer(id, &Message::Done);
            }
        }
    }

    fn start(&mut self, plan: ContainerPlan) -> Message {
        let earlier = self.containers.remove(&plan.name);
        if let Some(running) = earlier.as_ref().filter(|container| container.pid.is_some()) {
            let message =
                format!("container {:?} runs already (attempt {})", plan.name, running.record.attempt);
            self.containers.extend(earlier.map(|container| (container.plan.name.clone(), container)));
            return Message::Failed { message };
        }
        let previous = earlier.and_then(|container| match container.record.state {
            RecordState::Exited(exit) => Some(exit),
            RecordState::Running { .. } => None,
        });
        let container = Container::start(plan, previous, &self.directory);
        let record = container.record.clone();
        self.containers.insert(record.name.clone(), container);
        self.publish(&Message::Changed(record));
        Message::Done
    }

    fn exec(&mut self, id: u64, plan: &ExecPlan) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let fds = std::mem::take(&mut connection.fds);
        let running =
            self.containers.get(&plan.container).and_then(|container| Some((container, container.pid?)));
        let started = match running {
            None => Err(format!("container {:?} is not running", plan.container)),
            Some((container, pid)) => launch::exec(plan, &container.plan, pid, fds),
        };
        match started {
            Ok(pid) => connection.exec = Some(pid),
            Err(message) => connection.send(&Message::ExecExited { how: How::NotStarted { message } }),
        }
    }

    fn attach(&mut self, id: u64, name: &str) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(container) = self.containers.get(name).filter(|container| container.pid.is_some()) else {
            return connection
                .send(&Message::Failed { message: format!("container {name:?} is not running") });
        };
        match container.terminal.as_ref().or(container.stdin.as_ref()) {
            None => connection.send(&Message::Done),
            Some(fd) => connection.send_with(&Message::Done, fd),
        }
    }
}
