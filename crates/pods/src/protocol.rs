//! What a node agent and PID 1 of a pod say to each other: lines of JSON over a unix stream socket, descriptors beside them.
//!
//! A connection is for one purpose: [`Request::Subscribe`] (then [`Message::Snapshot`], then a [`Message::Changed`] a change, until the
//! pod is gone), [`Request::Exec`] (closing it kills the process), or commands, each answered by [`Message::Done`] or [`Message::Failed`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cgroup::CgroupPlan;

/// Bytes of one line, and so of one request.
pub(crate) const LINE_BYTES_MAX: usize = 4 << 20;

/// How PID 1 of a pod is started; JSON on its standard input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodSetup {
    /// Where it listens.
    pub socket: PathBuf,
    /// The network namespace to enter; none for host network (it stays in the node's).
    pub netns: Option<PathBuf>,
    /// For the UTS namespace.
    pub hostname: String,
    /// A directory of the pod's own, for mount points and its own log.
    pub directory: PathBuf,
    /// Directories that are memory: emptyDir volumes with `medium: Memory`.
    pub memory_volumes: Vec<MemoryVolume>,
    /// Network sysctls (`net.ipv4.…` as a path below /proc/sys, and the value).
    pub sysctls: Vec<(String, String)>,
}

/// A tmpfs that all containers of the pod share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemoryVolume {
    /// Where.
    pub path: PathBuf,
    /// Its limit.
    pub bytes_max: u64,
}

/// From the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Request {
    /// The state of all containers, and every change from then on.
    Subscribe,
    /// Starts a container that is not running.
    Start(Box<ContainerPlan>),
    /// Sends `signal`, and SIGKILL when the container is still there after `kill_after_ms`.
    Stop { container: String, signal: i32, kill_after_ms: u64 },
    /// Runs a process in a running container. Descriptors come with it: without a terminal those of stdin, stdout, stderr that are
    /// true, in that order; with one a socket over which the terminal's master side is sent back.
    Exec(ExecPlan),
    /// Asks for the write end of a container's standard input, or the master side of its terminal.
    Attach { container: String },
    /// Ends a container's standard input, once others that have it let go of it.
    CloseInput { container: String },
}

/// From PID 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(crate) enum Message {
    /// Every container that was ever started.
    Snapshot { containers: Vec<ContainerRecord> },
    /// One of them has a new state.
    Changed(ContainerRecord),
    /// The command was carried out; a descriptor is attached to the answer of [`Request::Attach`] when there is one.
    Done,
    /// The command was refused.
    Failed { message: String },
    /// The process of [`Request::Exec`] ended (or could not be started).
    ExecExited { how: How },
}

/// All that is needed to start one container, decided by the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerPlan {
    pub name: String,
    /// 0 for the first start: the restart count.
    pub attempt: u32,
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    pub root: RootPlan,
    pub mounts: Vec<MountPlan>,
    pub read_only_root: bool,
    pub user: UserPlan,
    pub privileges: Privileges,
    /// A pipe that attach can write to; otherwise standard input is /dev/null.
    pub stdin: bool,
    pub tty: bool,
    /// Where its output goes; rotated files get `.1` to `.4` appended.
    pub log: PathBuf,
    /// Its limits.
    pub cgroup: Option<CgroupPlan>,
}

/// Where a container's root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RootPlan {
    /// The programs of this machine, read-only, and our executable in /fairway/bin.
    Host {
        executable: PathBuf,
        /// /etc of this machine under a private writable layer, instead of a minimal one.
        host_etc: bool,
        /// More directories to show, read-only (where a host command outside /usr lives).
        extra: Vec<PathBuf>,
    },
    /// An unpacked image under a private writable layer.
    Image { lower: PathBuf },
}

/// A file or directory of this machine inside the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountPlan {
    pub source: PathBuf,
    /// A path inside `source`, made as a directory where missing; it cannot leave `source`.
    pub sub_path: Option<PathBuf>,
    pub target: PathBuf,
    pub read_only: bool,
}

/// Who the process is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserPlan {
    /// `user[:group]` of the image, names or numbers, resolved in the container's /etc/passwd and /etc/group.
    pub image_user: Option<String>,
    /// securityContext.runAsUser.
    pub uid: Option<u32>,
    /// securityContext.runAsGroup.
    pub gid: Option<u32>,
    /// supplementalGroups and fsGroup.
    pub groups: Vec<u32>,
}

/// What the process may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Privileges {
    /// Bit n is capability n: the bounding set, and what root has.
    pub capabilities: u64,
    pub no_new_privileges: bool,
    /// /proc/sys and /sys stay writable.
    pub privileged: bool,
}

/// A process beside the container's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExecPlan {
    pub container: String,
    pub argv: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// One container as PID 1 knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub name: String,
    pub attempt: u32,
    pub state: RecordState,
    /// How the attempt before this one ended.
    pub previous: Option<Exit>,
}

/// Whether it runs. Times are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RecordState {
    Running {
        started_us: i64,
        /// The inode of its mount namespace: how its processes are told from those of other containers.
        mounts: Option<u64>,
    },
    Exited(Exit),
}

/// A container's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub started_us: i64,
    pub finished_us: i64,
    pub how: How,
    /// The kernel killed in it for want of memory.
    #[serde(default)]
    pub oom: bool,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    Code(i32),
    Signal(i32),
    /// It never ran.
    NotStarted {
        message: String,
    },
}

impl How {
    /// The exit code as a shell and the pod status give it: 128 + n for signal n, 128 when the program could not be started.
    pub(crate) fn exit_code(&self) -> i32 {
        match self {
            Self::Code(code) => *code,
            Self::Signal(signal) => 128 + signal,
            Self::NotStarted { .. } => 128,
        }
    }
}
