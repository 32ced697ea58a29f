//! exec and attach: the standard streams of a process for a client.
//!
//! The process has the pipes or the terminal directly; this side only moves bytes between them and the client, and ends with how it
//! ended. Output, input and the end are tasks of their own: none waits for another.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::remote::{self, Event, Reader, STDERR, STDIN, STDOUT, Wanted, Writer};
use super::{Body, Refused, end_of, upgrade};
use crate::agent::{ContainerView, LivePod};
use crate::logs::{self, LogQuery};
use crate::protocol::{ExecPlan, How, Request as Ask};
use crate::sandbox::{self, ExecSession, SandboxError};

/// Pieces of standard input that wait for a process that does not read.
const INPUT_MAX: usize = 16;
/// How long nothing may come after the process ended, when something that it started keeps the pipe open.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// Bytes read at once.
const CHUNK_BYTES: usize = 32 << 10;

/// The parameters of a request, in both namings: of the kubelet API (`input`) and of the API server (`stdin`).
fn wanted(parameters: &[(String, String)]) -> Wanted {
    let mut wanted = Wanted::default();
    for (name, value) in parameters {
        let flag = matches!(value.as_str(), "1" | "true");
        match name.as_str() {
            "input" | "stdin" => wanted.stdin = flag,
            "output" | "stdout" => wanted.stdout = flag,
            "error" | "stderr" => wanted.stderr = flag,
            "tty" => wanted.tty = flag,
            _ => {}
        }
    }
    wanted
}

/// `/exec/…`.
pub(super) fn exec(
    request: Request<Incoming>,
    pod: &LivePod,
    container: &str,
    parameters: &[(String, String)],
) -> Result<Response<Body>, Refused> {
    let words = parameters.iter().filter(|(name, _)| name == "command");
    let command: Vec<String> = words.map(|(_, word)| word.clone()).collect();
    if command.is_empty() {
        return Err(Refused::new(
            http::StatusCode::BAD_REQUEST,
            "you must specify at least 1 command for the container",
        ));
    }
    let wanted = wanted(parameters);
    let (answer, agreed) = upgrade::accept(request, remote::CHANNELS, remote::STREAMS)?;
    let (socket, container) = (pod.paths.socket.clone(), container.to_owned());
    tokio::spawn(async move {
        let Some((reader, writer)) = remote::connect(agreed, wanted).await else { return };
        match start(&socket, container, command, wanted).await {
            Ok((session, process)) => run(session, process, reader, writer).await,
            Err(error) => writer.finish(&How::NotStarted { message: error.to_string() }, reader).await,
        }
    });
    Ok(answer)
}

/// This side of a process's streams.
#[derive(Debug, Default)]
struct Process {
    stdin: Option<Pipe>,
    stdout: Option<Pipe>,
    stderr: Option<Pipe>,
    /// For its size.
    terminal: Option<OwnedFd>,
}

async fn start(
    socket: &std::path::Path,
    container: String,
    argv: Vec<String>,
    streams: Wanted,
) -> Result<(ExecSession, Process), SandboxError> {
    let failed = |source: io::Error| SandboxError::Socket { path: socket.to_owned(), source };
    let mut plan = ExecPlan {
        container,
        argv,
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr && !streams.tty,
    };
    if streams.tty {
        plan.stdin = true;
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let session = ExecSession::start(socket, plan, &[theirs.as_fd()]).await?;
        drop(theirs);
        // Without a terminal the process did not start: its end says why.
        let Ok(terminal) = sandbox::receive_terminal(&ours).await else {
            return Ok((session, Process::default()));
        };
        return Ok((session, Process::of_terminal(terminal, streams.stdin).map_err(failed)?));
    }
    let mut process = Process::default();
    let mut theirs = Vec::new();
    for (wanted, stream) in [(streams.stdin, STDIN), (streams.stdout, STDOUT), (streams.stderr, STDERR)] {
        if !wanted {
            continue;
        }
        let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed(errno.into()))?;
        match stream {
            STDIN => {
                process.stdin = Some(Pipe::new(write).map_err(failed)?);
                theirs.push(read);
            }
            STDOUT => {
                process.stdout = Some(Pipe::new(read).map_err(failed)?);
                theirs.push(write);
            }
            _ => {
                process.stderr = Some(Pipe::new(read).map_err(failed)?);
                theirs.push(write);
            }
        }
    }
    let fds: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
    let session = ExecSession::start(socket, plan, &fds).await?;
    Ok((session, process))
}

impl Process {
    fn of_terminal(terminal: OwnedFd, stdin: bool) -> io::Result<Self> {
        let stdin = if stdin { Some(Pipe::new(terminal.try_clone()?)?) } else { None };
        Ok(Self {
            stdin,
            stdout: Some(Pipe::new(terminal.try_clone()?)?),
            stderr: None,
            terminal: Some(terminal),
        })
    }
}

/// `/attach/…`: output is what the log gets, input goes to the container's own.
pub(super) async fn attach(
    request: Request<Incoming>,
    pod: &LivePod,
    container: &str,
    view: &ContainerView,
    parameters: &[(String, String)],
) -> Result<Response<Body>, Refused> {
    let wanted = Wanted { tty: view.tty, ..wanted(parameters) };
    let socket = pod.paths.socket.clone();
    let input = match sandbox::attach(&socket, container).await {
        Ok(input) => input,
        // It ended meanwhile, or before.
        Err(_) if view.stdin_once => None,
        Err(SandboxError::Refused(message)) => {
            return Err(Refused::new(http::StatusCode::BAD_REQUEST, message));
        }
        Err(error) => {
            return Err(Refused::new(http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()));
        }
    };
    let (answer, agreed) = upgrade::accept(request, remote::CHANNELS, remote::STREAMS)?;
    let close_input = view.stdin_once.then(|| (socket, Ask::CloseInput { container: container.to_owned() }));
    let output = LogOutput {
        path: pod.paths.log(container, view.attempt),
        over: end_of(pod, container, view.attempt),
        // Who gives a container its only input has started it for that, as `kubectl run -i` does: it sees the output from the start,
        // however late it comes.
        from_start: view.stdin_once,
    };
    tokio::spawn(async move {
        let Some((reader, writer)) = remote::connect(agreed, wanted).await else { return };
        let terminal = if wanted.tty { input.as_ref().and_then(|fd| fd.try_clone().ok()) } else { None };
        let stdin = input.filter(|_| wanted.stdin).and_then(|fd| Pipe::new(fd).ok());
        let input = Input::new(stdin, terminal, close_input);
        follow(output, wanted, input, reader, writer).await;
    });
    Ok(answer)
}

/// A non-blocking descriptor.
#[derive(Debug)]
struct Pipe(AsyncFd<OwnedFd>);

impl Pipe {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self(crate::sys::watch(fd)?))
    }

    /// The next bytes; `None` at the end, also of a terminal (EIO).
    async fn read(&self) -> Option<Vec<u8>> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = self
            .0
            .async_io(tokio::io::Interest::READABLE, |fd| Ok(nix::unistd::read(fd, &mut chunk)?))
            .await
            .ok()?;
        chunk.truncate(read);
        (read > 0).then_some(chunk)
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self
                .0
                .async_io(tokio::io::Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, bytes)?))
                .await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Where a client's input goes.
struct Input {
    queue: Option<mpsc::Sender<Bytes>>,
    /// For its size.
    terminal: Option<OwnedFd>,
    /// Input that found the queue full; nothing more is read from the client until it went in.
    held: Option<Bytes>,
}

impl Input {
    /// `close`: what PID 1 is told after the last byte, when the container is to see an end.
    fn new(stdin: Option<Pipe>, terminal: Option<OwnedFd>, close: Option<(PathBuf, Ask)>) -> Self {
        let queue = stdin.map(|stdin| {
            let (sender, mut receiver) = mpsc::channel::<Bytes>(INPUT_MAX);
            tokio::spawn(async move {
                while let Some(bytes) = receiver.recv().await {
                    if stdin.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                drop(stdin);
                if let Some((socket, request)) = close
                    && let Err(error) = sandbox::command(&socket, &request).await
                {
                    tracing::debug!(%error, "a container does not see the end of its input");
                }
            });
            sender
        });
        Self { queue, terminal, held: None }
    }

    /// One event of the client, or room for input that waits; false when the client is gone. Nothing is lost when it is given up.
    async fn step(&mut self, reader: &mut Reader) -> bool {
        if self.held.is_some() {
            let Some(queue) = self.queue.clone() else {
                self.held = None;
                return true;
            };
            match (queue.reserve().await, self.held.take()) {
                (Ok(permit), Some(bytes)) => permit.send(bytes),
                // The process closed its input: the rest has no reader.
                _ => self.queue = None,
            }
            return true;
        }
        match reader.next().await {
            Some(Event::Input(bytes)) => self.held = Some(bytes),
            Some(Event::InputEnd) => self.queue = None,
            Some(Event::Resize { columns, rows }) => {
                if let Some(terminal) = &self.terminal {
                    let _ = crate::sys::resize_terminal(terminal, columns, rows);
                }
            }
            None => return false,
        }
        true
    }
}

/// One client and one process; when the client goes before the process ends, the process goes, too.
async fn run(mut session: ExecSession, process: Process, mut reader: Reader, writer: Writer) {
    if writer.greet().await.is_err() {
        return;
    }
    let (ended, end) = watch::channel(false);
    let mut outputs = JoinSet::new();
    for (pipe, channel) in [(process.stdout, STDOUT), (process.stderr, STDERR)] {
        if let Some(pipe) = pipe {
            outputs.spawn(copy(pipe, channel, writer.clone(), end.clone()));
        }
    }
    let mut input = Input::new(process.stdin, process.terminal, None);
    let mut how = None;
    while how.is_none() || !outputs.is_empty() {
        tokio::select! {
            code = session.wait(), if how.is_none() => {
                how = Some(code);
                ended.send_replace(true);
            }
            Some(_) = outputs.join_next() => {}
            open = input.step(&mut reader) => if !open { return },
        }
    }
    writer.finish(&how.unwrap_or(How::Code(0)), reader).await;
}

/// Sends what a pipe has until its end. After the process ended, somebody else may hold the pipe: then until nothing comes.
async fn copy(pipe: Pipe, channel: u8, writer: Writer, mut ended: watch::Receiver<bool>) {
    loop {
        let silence = async {
            let _ = ended.wait_for(|ended| *ended).await;
            tokio::time::sleep(DRAIN_MAX).await;
        };
        let bytes = tokio::select! {
            biased;
            bytes = pipe.read() => bytes,
            () = silence => None,
        };
        let Some(bytes) = bytes else { return };
        if writer.send(channel, &bytes).await.is_err() {
            return;
        }
    }
}

/// A container's output for those who attach.
struct LogOutput {
    path: PathBuf,
    over: watch::Receiver<bool>,
    from_start: bool,
}

/// Sends what a log gets until the container has ended.
async fn follow(output: LogOutput, wanted: Wanted, mut input: Input, mut reader: Reader, writer: Writer) {
    if writer.greet().await.is_err() {
        return;
    }
    let stderr = wanted.stderr && !wanted.tty;
    let mut outputs = JoinSet::new();
    for (wanted, channel, stream) in [(wanted.stdout, STDOUT, "stdout"), (stderr, STDERR, "stderr")] {
        if !wanted {
            continue;
        }
        let (pieces, mut receiver) = mpsc::channel::<Bytes>(INPUT_MAX);
        let tail_lines = if output.from_start { None } else { Some(0) };
        let query = LogQuery { follow: true, tail_lines, stream: Some(stream), ..LogQuery::default() };
        tokio::spawn(logs::stream(output.path.clone(), query, output.over.clone(), pieces));
        let writer = writer.clone();
        outputs.spawn(async move {
            while let Some(bytes) = receiver.recv().await {
                if writer.send(channel, &bytes).await.is_err() {
                    return;
                }
            }
        });
    }
    let mut over = output.over;
    let mut ended = false;
    while !ended || !outputs.is_empty() {
        tokio::select! {
            _ = over.wait_for(|over| *over), if !ended => ended = true,
            Some(_) = outputs.join_next() => {}
            open = input.step(&mut reader) => if !open { return },
        }
    }
    writer.finish(&How::Code(0), reader).await;
}
