//! The agent's side of a pod: starting its PID 1, and talking to it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::process::Command;

use crate::init::{FAILED, READY};
use crate::protocol::{ContainerRecord, ExecPlan, How, LINE_BYTES_MAX, Message, PodSetup, Request};

/// How long PID 1 may take to listen.
const START_MAX: Duration = Duration::from_secs(20);
/// How long a command may take to be answered; starting a container is the longest.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Something between the agent and PID 1 of a pod went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error("cannot run {executable}: {source}")]
    Spawn { executable: PathBuf, source: io::Error },
    #[error("the pod's first process did not start: {0}")]
    Start(String),
    #[error("the pod's first process did not answer in time")]
    Timeout,
    #[error("the pod's control socket {path}: {source}")]
    Socket { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Refused(String),
    #[error("an unexpected answer from the pod's first process")]
    Unexpected,
}

/// Starts PID 1 of a pod and waits until it listens. `label` is shown in the process list.
pub(crate) async fn launch(
    executable: &Path,
    cluster: &str,
    label: &str,
    setup: &PodSetup,
) -> Result<(), SandboxError> {
    tokio::time::timeout(START_MAX, launch_inner(executable, cluster, label, setup))
        .await
        .unwrap_or(Err(SandboxError::Timeout))
}

async fn launch_inner(
    executable: &Path,
    cluster: &str,
    label: &str,
    setup: &PodSetup,
) -> Result<(), SandboxError> {
    let spawn = |source| SandboxError::Spawn { executable: executable.to_owned(), source };
    let mut child = Command::new(executable)
        .args(["pod", label])
        .env_clear()
        // What is found with this mark and without a supervisor is a leftover.
        .env("FAIRWAY_CLUSTER", cluster)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(spawn)?;
    let text = serde_json::to_vec(setup).map_err(|error| spawn(error.into()))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(&text).await.map_err(spawn)?;
    }
    let output =
        child.stdout.take().ok_or_else(|| SandboxError::Start("it has no standard output".into()))?;
    let mut lines = BufReader::new(output.take(64 << 10)).lines();
    let outcome = loop {
        match lines.next_line().await.map_err(spawn)? {
            Some(line) if line == READY => break Ok(()),
            Some(line) => {
                // Anything else is the number of PID 1, which the socket tells more reliably.
                if let Some(reason) = line.strip_prefix(FAILED) {
                    break Err(SandboxError::Start(reason.to_owned()));
                }
            }
            None => break Err(SandboxError::Start("it ended without a word".into())),
        }
    };
    // The process that entered the namespaces ends by itself once PID 1 is forked.
    let _ = child.wait().await;
    outcome
}

/// A connection to PID 1.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connects; an error means that there is no PID 1 (any more).
    pub(crate) async fn connect(path: &Path) -> Result<Self, SandboxError> {
        let failed = |source| SandboxError::Socket { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).await.map_err(failed)?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// The number of PID 1 in this machine's PID namespace.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.stream.get_ref().peer_cred().ok().and_then(|credentials| credentials.pid())
    }

    async fn send(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
        let path = self.path.clone();
        let failed = |source| SandboxError::Socket { path, source };
        let mut line = serde_json::to_vec(request).map_err(|_| SandboxError::Unexpected)?;
        line.push(b'\n');
        let numbers: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { [].as_slice() } else { control.as_slice() };
        let stream = self.stream.get_mut();
        let number = stream.as_raw_fd();
        let send = || {
            let parts = [io::IoSlice::new(&line)];
            Ok(sendmsg::<()>(number, &parts, control, MsgFlags::MSG_NOSIGNAL, None)?)
        };
        let sent = async {
            let sent = stream.async_io(Interest::WRITABLE, send).await?;
            stream.write_all(line.get(sent..).unwrap_or_default()).await
        };
        sent.await.map_err(failed)
    }

    /// The next message; `None` when PID 1 is gone.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line).await.ok()?;
        if read == 0 { None } else { serde_json::from_slice(&line).ok() }
    }

    /// Asks for the state and its changes, which [`Control::next`] then gives.
    pub(crate) async fn subscribe(&mut self) -> Result<Vec<ContainerRecord>, SandboxError> {
        self.send(&Request::Subscribe, &[]).await?;
        match tokio::time::timeout(ANSWER_MAX, self.next()).await {
            Ok(Some(Message::Snapshot { containers })) => Ok(containers),
            Ok(_) => Err(SandboxError::Unexpected),
            Err(_) => Err(SandboxError::Timeout),
        }
    }
}

/// One command and its answer.
pub(crate) async fn command(socket: &Path, request: &Request) -> Result<(), SandboxError> {
    let mut control = Control::connect(socket).await?;
    control.send(request, &[]).await?;
    match tokio::time::timeout(ANSWER_MAX, control.next()).await {
        Ok(Some(Message::Done)) => Ok(()),
        Ok(Some(Message::Failed { message })) => Err(SandboxError::Refused(message)),
        Ok(_) => Err(SandboxError::Unexpected),
        Err(_) => Err(SandboxError::Timeout),
    }
}

/// A process in a container; dropping it ends the process.
#[derive(Debug)]
pub(crate) struct ExecSession(Control);

impl ExecSession {
    /// Starts it with these descriptors (see [`Request::Exec`]).
    pub(crate) async fn start(
        socket: &Path,
        plan: ExecPlan,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Self, SandboxError> {
        let mut control = Control::connect(socket).await?;
        control.send(&Request::Exec(plan), fds).await?;
        Ok(Self(control))
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> How {
        match self.0.next().await {
            Some(Message::ExecExited { how }) => how,
            Some(Message::Failed { message }) => How::NotStarted { message },
            _ => How::NotStarted { message: "the pod is gone".into() },
        }
    }
}

/// The write end of a container's standard input or the master side of its terminal; `None` when it has neither.
pub(crate) async fn attach(socket: &Path, container: &str) -> Result<Option<OwnedFd>, SandboxError> {
    let failed = |source| SandboxError::Socket { path: socket.to_owned(), source };
    let mut control = Control::connect(socket).await?;
    control.send(&Request::Attach { container: container.to_owned() }, &[]).await?;
    let stream = control.stream.get_ref();
    let mut bytes = [0; 16 << 10];
    let receive = || crate::init::launch::receive(std::os::fd::AsFd::as_fd(stream), &mut bytes);
    let (read, mut fds) = stream.async_io(Interest::READABLE, receive).await.map_err(failed)?;
    match serde_json::from_slice(bytes.get(..read).unwrap_or_default()) {
        Ok(Message::Done) => Ok(fds.pop()),
        Ok(Message::Failed { message }) => Err(SandboxError::Refused(message)),
        _ => Err(SandboxError::Unexpected),
    }
}

/// The terminal that a process started with `tty` sends over its socket.
pub(crate) async fn receive_terminal(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut bytes = [0; 64];
    let receive = || crate::init::launch::receive(std::os::fd::AsFd::as_fd(socket), &mut bytes);
    let (_, mut fds) = socket.async_io(Interest::READABLE, receive).await?;
    fds.pop().ok_or_else(|| io::Error::other("the process sent no terminal"))
}

/// Ends PID 1, and the kernel with it all processes of the pod; waits until it is gone. Fine when there is none.
pub(crate) async fn kill(socket: &Path) {
    let Ok(mut control) = Control::connect(socket).await else { return };
    if let Some(pid) = control.pid() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        // The end of the connection comes with the end of the process; one that hangs in the kernel is not waited for.
        let gone = async { while control.next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(5), gone).await;
    }
}
