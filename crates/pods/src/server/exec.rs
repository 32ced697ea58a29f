//! exec and attach: the standard streams of a process over channels.
//!
//! The process has the pipes or the terminal directly; this side only moves bytes between them and the client, and ends with one Status
//! on the error channel.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::{Request, Response};
use hyper::body::Incoming;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message as Frame;

use super::channels::{self, CLOSE, Channels, ERROR, RESIZE, STDERR, STDIN, STDOUT};
use super::{Body, Refused, end_of};
use crate::agent::{ContainerView, LivePod};
use crate::logs::{self, LogQuery};
use crate::protocol::{ExecPlan, How};
use crate::sandbox::{self, ExecSession, SandboxError};

/// Pieces of standard input that wait for a process that does not read.
const INPUT_MAX: usize = 16;
/// How long output is read after the process ended, for the case that something it started keeps the pipe open.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// Bytes read at once.
const CHUNK_BYTES: usize = 32 << 10;

/// What the client asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Streams {
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    /// Both namings: of the kubelet API (`input`) and of the API server (`stdin`).
    fn parse(parameters: &[(String, String)]) -> Self {
        let mut streams = Self::default();
        for (name, value) in parameters {
            let flag = matches!(value.as_str(), "1" | "true");
            match name.as_str() {
                "command" => streams.command.push(value.clone()),
                "input" | "stdin" => streams.stdin = flag,
                "output" | "stdout" => streams.stdout = flag,
                "error" | "stderr" => streams.stderr = flag,
                "tty" => streams.tty = flag,
                _ => {}
            }
        }
        streams
    }
}

/// `GET /exec/…`.
pub(super) fn exec(
    request: Request<Incoming>,
    pod: &LivePod,
    container: &str,
    parameters: &[(String, String)],
) -> Result<Response<Body>, Refused> {
    let streams = Streams::parse(parameters);
    if streams.command.is_empty() {
        return Err(Refused::new(
            http::StatusCode::BAD_REQUEST,
            "you must specify at least 1 command for the container",
        ));
    }
    let (response, _, connection) = channels::accept(request, channels::CHANNELS)?;
    let (socket, container) = (pod.paths.socket.clone(), container.to_owned());
    tokio::spawn(async move {
        let Some(mut connection) = connection.await else { return };
        match start(&socket, container, &streams).await {
            Ok((session, process)) => Session::new(connection, process).run(session).await,
            Err(error) => {
                let how = How::NotStarted { message: error.to_string() };
                let _ = connection.send(channels::frame(ERROR, &status_of(&how))).await;
                let _ = connection.send(channels::normal_end()).await;
                let _ = connection.close(None).await;
            }
        }
    });
    Ok(response)
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
    streams: &Streams,
) -> Result<(ExecSession, Process), SandboxError> {
    let failed = |source: io::Error| SandboxError::Socket { path: socket.to_owned(), source };
    let mut plan = ExecPlan {
        container,
        argv: streams.command.clone(),
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

/// `GET /attach/…`: output is what the log gets from now on, input goes to the container's own.
pub(super) async fn attach(
    request: Request<Incoming>,
    pod: &LivePod,
    container: &str,
    view: &ContainerView,
    parameters: &[(String, String)],
) -> Result<Response<Body>, Refused> {
    let streams = Streams::parse(parameters);
    let input = sandbox::attach(&pod.paths.socket, container)
        .await
        .map_err(|error| Refused::new(http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let (response, _, connection) = channels::accept(request, channels::CHANNELS)?;
    let (path, over) = (pod.paths.log(container, view.attempt), end_of(pod, container, view.attempt));
    let tty = view.tty;
    tokio::spawn(async move {
        let Some(connection) = connection.await else { return };
        let terminal = if tty { input.as_ref().and_then(|fd| fd.try_clone().ok()) } else { None };
        let stdin = input.filter(|_| streams.stdin).and_then(|fd| Pipe::new(fd).ok());
        let process = Process { stdin, stdout: None, stderr: None, terminal };
        Session::new(connection, process).follow(path, over).await;
    });
    Ok(response)
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

async fn read_from(pipe: &mut Option<Pipe>) -> Option<Vec<u8>> {
    match pipe {
        Some(open) => open.read().await,
        None => std::future::pending().await,
    }
}

/// One client and one process.
struct Session {
    sink: SplitSink<Channels, Frame>,
    source: SplitStream<Channels>,
    process: Process,
    input: Option<mpsc::Sender<Bytes>>,
    /// Input that found the queue full; nothing more is read from the client until it went in.
    held: Option<Bytes>,
}

impl Session {
    fn new(connection: Channels, mut process: Process) -> Self {
        let (sink, source) = connection.split();
        let input = process.stdin.take().map(|stdin| {
            let (sender, mut receiver) = mpsc::channel::<Bytes>(INPUT_MAX);
            tokio::spawn(async move {
                while let Some(bytes) = receiver.recv().await {
                    if stdin.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            });
            sender
        });
        Self { sink, source, process, input, held: None }
    }

    /// Tells the client that the streams are open: an empty message, as the API server of Kubernetes sends it.
    async fn greet(&mut self) -> bool {
        self.sink.send(channels::frame(STDOUT, b"")).await.is_ok()
    }

    async fn run(mut self, mut session: ExecSession) {
        if !self.greet().await {
            return;
        }
        let mut ended = None;
        let drain = tokio::time::sleep(Duration::from_secs(365 * 24 * 3600));
        tokio::pin!(drain);
        loop {
            if ended.is_some() && self.process.stdout.is_none() && self.process.stderr.is_none() {
                break;
            }
            tokio::select! {
                bytes = read_from(&mut self.process.stdout) => match bytes {
                    Some(bytes) => if self.sink.send(channels::frame(STDOUT, &bytes)).await.is_err() { return },
                    None => self.process.stdout = None,
                },
                bytes = read_from(&mut self.process.stderr) => match bytes {
                    Some(bytes) => if self.sink.send(channels::frame(STDERR, &bytes)).await.is_err() { return },
                    None => self.process.stderr = None,
                },
                how = session.wait(), if ended.is_none() => {
                    ended = Some(how);
                    drain.as_mut().reset(tokio::time::Instant::now() + DRAIN_MAX);
                }
                () = &mut drain, if ended.is_some() => break,
                open = take_input(&mut self.source, &mut self.input, &mut self.held, &self.process.terminal) => if !open { return },
            }
        }
        let how = ended.unwrap_or(How::Code(0));
        let _ = self.sink.send(channels::frame(ERROR, &status_of(&how))).await;
        let _ = self.sink.send(channels::normal_end()).await;
        let _ = self.sink.close().await;
    }

    /// Sends what a log gets until the container has ended.
    async fn follow(mut self, path: std::path::PathBuf, over: watch::Receiver<bool>) {
        let (pieces, mut receiver) = mpsc::channel(INPUT_MAX);
        let query = LogQuery { follow: true, tail_lines: Some(0), ..LogQuery::default() };
        tokio::spawn(logs::stream(path, query, over, pieces));
        if !self.greet().await {
            return;
        }
        loop {
            tokio::select! {
                piece = receiver.recv() => match piece {
                    Some(bytes) => if self.sink.send(channels::frame(STDOUT, &bytes)).await.is_err() { return },
                    None => break,
                },
                open = take_input(&mut self.source, &mut self.input, &mut self.held, &self.process.terminal) => if !open { return },
            }
        }
        let _ = self.sink.send(channels::frame(ERROR, &status_of(&How::Code(0)))).await;
        let _ = self.sink.send(channels::normal_end()).await;
        let _ = self.sink.close().await;
    }
}

/// One message of the client (or room for one that waits); false when the client is gone.
async fn take_input(
    source: &mut SplitStream<Channels>,
    input: &mut Option<mpsc::Sender<Bytes>>,
    held: &mut Option<Bytes>,
    terminal: &Option<OwnedFd>,
) -> bool {
    if held.is_some() {
        let Some(queue) = input.clone() else {
            *held = None;
            return true;
        };
        let permit = queue.reserve().await;
        match (permit, held.take()) {
            (Ok(permit), Some(bytes)) => permit.send(bytes),
            // The process closed its input: the rest has no reader.
            _ => *input = None,
        }
        return true;
    }
    let bytes = match source.next().await {
        Some(Ok(Frame::Binary(bytes))) => bytes,
        Some(Ok(Frame::Text(text))) => Bytes::copy_from_slice(text.as_bytes()),
        Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => return true,
        Some(Ok(Frame::Close(_)) | Err(_)) | None => return false,
    };
    match bytes.split_first() {
        Some((&STDIN, data)) if !data.is_empty() => *held = Some(bytes.slice_ref(data)),
        Some((&RESIZE, data)) => {
            if let (Some(terminal), Some((columns, rows))) = (terminal, parse_size(data)) {
                let _ = crate::sys::resize_terminal(terminal, columns, rows);
            }
        }
        Some((&CLOSE, [STDIN])) => *input = None,
        _ => {}
    }
    true
}

fn parse_size(data: &[u8]) -> Option<(u16, u16)> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u16,
        height: u16,
    }
    serde_json::from_slice::<Size>(data).ok().map(|size| (size.width, size.height))
}

/// The Status object that ends a session.
fn status_of(how: &How) -> Vec<u8> {
    let status = match how {
        How::Code(0) => serde_json::json!({"metadata": {}, "status": "Success"}),
        How::Code(_) | How::Signal(_) => {
            let code = how.exit_code();
            serde_json::json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}
            })
        }
        How::NotStarted { message } => serde_json::json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: {message}"),
            "details": {"causes": [{"message": message}]}
        }),
    };
    status.to_string().into_bytes()
}
