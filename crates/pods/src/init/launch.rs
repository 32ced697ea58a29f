//! Starting processes: the child's side after the fork, and what the parent keeps of it.
//!
//! The parent waits for the child to execute its program: the set-up takes a few milliseconds and is limited by [`SETUP_MAX`].

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};

use super::log::Stream;
use super::{identity, root};
use crate::protocol::{ContainerPlan, ExecPlan};
use crate::sys::{self, Forked};

/// How long a child may take to reach its program.
const SETUP_MAX: Duration = Duration::from_secs(20);
/// Bytes of a child's failure message.
const MESSAGE_BYTES_MAX: u64 = 4096;
/// Where programs are looked up when the environment has no PATH.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A started container.
pub(super) struct Launched {
    pub pid: Pid,
    /// The write end of its standard input, when the container has one that is not a terminal.
    pub stdin: Option<OwnedFd>,
    /// The master side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// What it writes.
    pub outputs: Vec<(Stream, OwnedFd)>,
}

/// A process's standard streams on the child's side.
enum Stdio {
    Given {
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    },
    /// A new terminal; its master side is sent over the socket.
    Terminal(OwnedFd),
}

/// Starts a container. The error is the reason in words.
pub(super) fn start(plan: &ContainerPlan, directory: &Path) -> Result<Launched, String> {
    start_inner(plan, directory).map_err(|error| error.to_string())
}

fn start_inner(plan: &ContainerPlan, directory: &Path) -> io::Result<Launched> {
    let staging = directory.join("root");
    std::fs::create_dir_all(&staging)?;
    let mut launched = Launched { pid: Pid::from_raw(0), stdin: None, terminal: None, outputs: Vec::new() };
    let mut master = None;
    let stdio = if plan.tty {
        let (ours, theirs) = UnixStream::pair()?;
        master = Some(ours);
        Stdio::Terminal(theirs.into())
    } else {
        let (stdout_read, stdout) = pipe2(OFlag::O_CLOEXEC)?;
        let (stderr_read, stderr) = pipe2(OFlag::O_CLOEXEC)?;
        launched.outputs = vec![(Stream::Stdout, stdout_read), (Stream::Stderr, stderr_read)];
        let stdin = if plan.stdin {
            let (stdin, stdin_write) = pipe2(OFlag::O_CLOEXEC)?;
            launched.stdin = Some(stdin_write);
            Some(stdin)
        } else {
            None
        };
        Stdio::Given { stdin, stdout: Some(stdout), stderr: Some(stderr) }
    };
    launched.pid = launch(stdio, |stdio| run_container(plan, &staging, stdio))?;
    if let Some(socket) = master {
        let terminal = receive_fd(&socket)?;
        launched.outputs = vec![(Stream::Stdout, terminal.try_clone()?)];
        launched.terminal = Some(terminal);
    }
    for (_, output) in &launched.outputs {
        fcntl(output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    Ok(launched)
}

/// Starts a process beside the container's own process `pid`, with the descriptors that came with the request.
pub(super) fn exec(
    plan: &ExecPlan,
    container: &ContainerPlan,
    pid: Pid,
    fds: Vec<OwnedFd>,
) -> Result<Pid, String> {
    exec_inner(plan, container, pid, fds).map_err(|error| error.to_string())
}

fn exec_inner(plan: &ExecPlan, container: &ContainerPlan, pid: Pid, fds: Vec<OwnedFd>) -> io::Result<Pid> {
    let namespace =
        open(Path::new(&format!("/proc/{pid}/ns/mnt")), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut fds = fds.into_iter();
    let missing =
        || io::Error::new(io::ErrorKind::InvalidInput, "the descriptors of the request do not match it");
    let mut take = |wanted: bool| wanted.then(|| fds.next().ok_or_else(missing)).transpose();
    let stdio = if plan.tty {
        Stdio::Terminal(take(true)?.ok_or_else(missing)?)
    } else {
        Stdio::Given { stdin: take(plan.stdin)?, stdout: take(plan.stdout)?, stderr: take(plan.stderr)? }
    };
    launch(stdio, |stdio| run_exec(plan, container, &namespace, stdio))
}

/// Forks; `child` runs in the child and returns only when it failed to execute a program.
fn launch(stdio: Stdio, child: impl FnOnce(Stdio) -> Result<Never, String>) -> io::Result<Pid> {
    let (mut failure, report) = UnixStream::pair()?;
    match sys::fork()? {
        Forked::Child => {
            drop(failure);
            let message = match child(stdio) {
                Ok(never) => match never {},
                Err(message) => message,
            };
            let _ = (&report).write_all(message.as_bytes());
            sys::exit_now(127)
        }
        Forked::Parent(pid) => {
            drop((report, stdio));
            match read_failure(&mut failure) {
                Ok(message) if message.is_empty() => Ok(pid),
                outcome => {
                    // It failed or hangs in the set-up: either way it never ran the program.
                    let _ = kill(pid, Signal::SIGKILL);
                    let _ = waitpid(pid, None);
                    Err(outcome.map_or_else(|error| error, io::Error::other))
                }
            }
        }
    }
}

/// The child's message; empty when its end was closed by executing the program.
fn read_failure(failure: &mut UnixStream) -> io::Result<String> {
    let started = Instant::now();
    let mut text = Vec::new();
    loop {
        let left = SETUP_MAX.saturating_sub(started.elapsed());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(failure.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "its set-up did not end (a mount that hangs?)",
                ));
            }
            Ok(_) => {}
            Err(nix::Error::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let mut chunk = [0; 512];
        match failure.read(&mut chunk)? {
            0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
            read => text.extend(chunk.iter().take(read)),
        }
        if text.len() as u64 > MESSAGE_BYTES_MAX {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
}

/// Nothing: the type of a call that does not return when it succeeds.
enum Never {}

fn run_container(plan: &ContainerPlan, staging: &Path, stdio: Stdio) -> Result<Never, String> {
    prepare_child().map_err(|error| format!("cannot prepare the process: {error}"))?;
    join_group(plan)?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("cannot make a mount namespace: {error}"))?;
    root::enter(plan, staging).map_err(|error| error.to_string())?;
    run_program(plan, &plan.argv, stdio)
}

fn run_exec(
    plan: &ExecPlan,
    container: &ContainerPlan,
    namespace: &OwnedFd,
    stdio: Stdio,
) -> Result<Never, String> {
    prepare_child().map_err(|error| format!("cannot prepare the process: {error}"))?;
    join_group(container)?;
    setns(namespace, CloneFlags::CLONE_NEWNS)
        .map_err(|error| format!("cannot enter the container: {error}"))?;
    run_program(container, &plan.argv, stdio)
}

/// While the machine's control groups are still in sight.
fn join_group(plan: &ContainerPlan) -> Result<(), String> {
    let joined = plan.cgroup.as_ref().map_or(Ok(()), |group| group.join());
    joined.map_err(|error| format!("cannot enter the container's control group: {error}"))
}

/// Undoes what PID 1 set for itself and is inherited.
fn prepare_child() -> io::Result<()> {
    nix::unistd::setsid()?;
    sys::restore_sigpipe()?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    Ok(())
}

/// The last part, inside the container's root.
fn run_program(plan: &ContainerPlan, argv: &[String], stdio: Stdio) -> Result<Never, String> {
    let user = identity::of_this_root(&plan.user).map_err(|error| error.to_string())?;
    let terminal = matches!(stdio, Stdio::Terminal(_));
    connect(stdio, user.uid).map_err(|error| format!("cannot connect standard streams: {error}"))?;
    nix::unistd::chdir(plan.working_dir.as_str())
        .map_err(|error| format!("cannot change to the working directory {}: {error}", plan.working_dir))?;
    let mut env = plan.env.clone();
    for (name, value) in [("PATH", PATH_DEFAULT), ("HOME", user.home.as_str())] {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.to_owned(), value.to_owned()));
        }
    }
    if terminal && !env.iter().any(|(known, _)| known == "TERM") {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    identity::assume(&user, plan.privileges)
        .map_err(|error| format!("cannot become user {}: {error}", user.uid))?;
    execute(argv, &env)
}

fn connect(stdio: Stdio, uid: u32) -> io::Result<()> {
    match stdio {
        Stdio::Given { stdin, stdout, stderr } => {
            let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
            let streams = [&stdin, &stdout, &stderr];
            for (number, given) in (0..).zip(streams) {
                let fd = given.as_ref().map_or(null.as_fd(), AsFd::as_fd);
                // The parent may have set O_NONBLOCK on its own end only; a pipe's two ends have flags of their own.
                sys::become_fd(fd, number)?;
            }
            Ok(())
        }
        Stdio::Terminal(socket) => {
            let master = nix::pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
            nix::pty::grantpt(&master)?;
            nix::pty::unlockpt(&master)?;
            let name = nix::pty::ptsname_r(&master)?;
            let slave =
                open(name.as_str(), OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())?;
            nix::unistd::fchown(&slave, Some(nix::unistd::Uid::from_raw(uid)), None)?;
            send_fd(socket.as_fd(), b"terminal\n", master.as_fd())?;
            sys::control_terminal(slave.as_fd())?;
            (0..=2).try_for_each(|number| sys::become_fd(slave.as_fd(), number))
        }
    }
}

fn execute(argv: &[String], env: &[(String, String)]) -> Result<Never, String> {
    let program = argv.first().map(String::as_str).unwrap_or_default();
    let text = |text: &str| {
        CString::new(text).map_err(|_| format!("a zero byte in an argument or variable of {program:?}"))
    };
    let arguments = argv.iter().map(|argument| text(argument)).collect::<Result<Vec<_>, _>>()?;
    let variables =
        env.iter().map(|(name, value)| text(&format!("{name}={value}"))).collect::<Result<Vec<_>, _>>()?;
    let path = env.iter().find(|(name, _)| name == "PATH").map_or(PATH_DEFAULT, |(_, value)| value.as_str());
    let mut worst = nix::Error::ENOENT;
    for candidate in candidates(program, path) {
        match nix::unistd::execve(&text(&candidate)?, &arguments, &variables) {
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {}
            Err(errno) => worst = errno,
            Ok(never) => match never {},
        }
    }
    Err(match worst {
        nix::Error::ENOENT if program.contains('/') => {
            format!("exec: {program:?}: no such file or directory")
        }
        nix::Error::ENOENT => format!("exec: {program:?}: executable file not found in $PATH"),
        errno => format!("exec: {program:?}: {}", errno.desc().to_lowercase()),
    })
}

fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.is_empty() {
        return Vec::new();
    }
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    path.split(':')
        .filter(|directory| !directory.is_empty())
        .map(|directory| format!("{directory}/{program}"))
        .collect()
}

/// Sends bytes with one descriptor.
pub(super) fn send_fd(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    let parts = [io::IoSlice::new(bytes)];
    let fds = [fd.as_raw_fd()];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &parts,
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// The descriptor that the child sent before it executed its program.
fn receive_fd(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut bytes = [0; 64];
    let (_, mut fds) = receive(socket.as_fd(), &mut bytes)?;
    fds.pop().ok_or_else(|| io::Error::other("no terminal came from the process"))
}

/// Bytes and the descriptors beside them.
pub(crate) fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; 4]);
    let mut parts = [io::IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            fds.extend(numbers.into_iter().map(sys::own));
        }
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_up_like_a_shell_does() {
        assert_eq!(candidates("sh", "/usr/bin::/bin"), ["/usr/bin/sh", "/bin/sh"]);
        assert_eq!(candidates("./run", "/bin"), ["./run"]);
        assert!(candidates("", "/bin").is_empty());
    }
}
