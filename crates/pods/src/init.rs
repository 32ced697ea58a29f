//! `fairway pod`: PID 1 of a pod.
//!
//! One thread and a poll loop, so that it may fork at any time and costs next to nothing beside the pod. It outlives the node agent: the
//! agent asks for things over a unix socket ([`crate::protocol`]) and may come and go, while containers run on, output is captured and
//! exits are remembered here. When it dies, the kernel ends every process of the pod with it.
//!
//! It is started as an ordinary child of the agent: that process enters the namespaces and forks PID 1, tells its number on standard
//! output and ends.

mod connection;
mod container;
mod identity;
pub(crate) mod launch;
pub(crate) mod log;
mod root;
mod serve;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;

use crate::protocol::PodSetup;
use crate::sys::{self, Forked};

/// What PID 1 writes to standard output when it listens.
pub(crate) const READY: &str = "ready";
/// In front of the reason when it does not.
pub(crate) const FAILED: &str = "failed: ";

/// Bytes of a set-up that are read.
const SETUP_BYTES_MAX: u64 = 1 << 20;

/// The hidden subcommand `fairway pod`. The binary calls it first of all, before it starts any thread. The set-up comes on
/// standard input; `args` is only there for people who look at the process list (namespace/name of the pod).
///
/// Not for use by hand: it needs a network namespace made by the node agent.
pub fn pod_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let shown = args.into_iter().last().unwrap_or_default();
    match start(&shown) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("{FAILED}{error}"));
            ExitCode::FAILURE
        }
    }
}

/// Why PID 1 could not come up.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error("the set-up on standard input: {0}")]
    Input(io::Error),
    #[error("the set-up on standard input is not one: {0}")]
    Decode(#[from] serde_json::Error),
    #[error("cannot {action}: {source}")]
    System { action: &'static str, source: io::Error },
}

fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> SetupError {
    move |source| SetupError::System { action, source: source.into() }
}

fn start(shown: &std::ffi::OsStr) -> Result<ExitCode, SetupError> {
    let mut text = Vec::new();
    io::stdin().lock().take(SETUP_BYTES_MAX).read_to_end(&mut text).map_err(SetupError::Input)?;
    let setup: PodSetup = serde_json::from_slice(&text)?;
    if let Some(path) = &setup.netns {
        let netns = std::fs::File::open(path).map_err(system("open the pod's network namespace"))?;
        setns(netns, CloneFlags::CLONE_NEWNET).map_err(system("enter the pod's network namespace"))?;
    }
    let own = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    unshare(own).map_err(system("make the pod's namespaces"))?;
    match sys::fork().map_err(system("fork PID 1 of the pod"))? {
        Forked::Parent(pid) => {
            say(&format!("pid {pid}"));
            Ok(ExitCode::SUCCESS)
        }
        Forked::Child => {
            tracing::debug!(pod = ?shown, "PID 1 of a pod");
            be_pid_1(&setup)
        }
    }
}

fn be_pid_1(setup: &PodSetup) -> Result<ExitCode, SetupError> {
    // Its own session: a Ctrl-C at the terminal of `fairway up` is not for pods.
    nix::unistd::setsid().map_err(system("start a session"))?;
    // Slave, not private: a namespace name that is removed from /run/netns must not stay pinned by this copy of the mount.
    let whole = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, whole, None::<&str>)
        .map_err(system("separate the pod's mounts"))?;
    let proc_flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), proc_flags, None::<&str>).map_err(system("mount /proc"))?;
    nix::unistd::sethostname(&setup.hostname).map_err(system("set the pod's host name"))?;
    for (key, value) in &setup.sysctls {
        write_sysctl(key, value).map_err(system("set a sysctl of the pod"))?;
    }
    for volume in &setup.memory_volumes {
        mount_memory(&volume.path, volume.bytes_max).map_err(system("mount a volume in memory"))?;
    }
    let signals = serve::block_signals().map_err(system("block signals"))?;
    // A socket file of an earlier PID 1 of this pod would make bind fail; nobody listens on it any more.
    let _ = std::fs::remove_file(&setup.socket);
    let listener = UnixListener::bind(&setup.socket).map_err(system("listen on the control socket"))?;
    redirect_output(&setup.directory).map_err(system("redirect standard streams"))?;
    let mut pod =
        serve::Pod::new(setup.directory.clone(), signals, listener).map_err(system("prepare polling"))?;
    Ok(pod.run())
}

fn mount_memory(path: &Path, bytes_max: u64) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    let options = format!("size={bytes_max},mode=1777");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))?)
}

/// The agent passes only keys that belong to the pod's own namespaces.
fn write_sysctl(key: &str, value: &str) -> io::Result<()> {
    let relative = crate::beneath::rooted(Path::new(&key.replace('.', "/")))?;
    let path = Path::new("/proc/sys").join(relative.strip_prefix("/").unwrap_or(&relative));
    std::fs::write(path, value)
}

/// Tells the agent that the socket is there, then lets go of the agent's pipes: it may end while this process lives on.
fn redirect_output(directory: &Path) -> io::Result<()> {
    say(READY);
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("init.log"))?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&log)?;
    Ok(())
}

/// One line to the agent. When nobody reads any more there is nobody to tell.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
