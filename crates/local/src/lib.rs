//! The local cluster: what `fairway up`, `down` and `status` do.
//!
//! It makes the wires (a bridge in the host, a namespace for each node), the certificates and the system objects, keeps the processes
//! of the cluster running, and removes every trace of all that. It is not a part of the cluster: no role depends on it, and what it
//! knows of Kubernetes is only when a node or pod is ready.
//!
//! Three things shape it. *Settings are the single source*: every address, name and path is a function of [`Settings`], so a crashed
//! cluster can be found and removed from its name alone. *Checks come first*: [`preflight()`] finds all problems before anything is
//! touched, each with what to do. *One way to clean*: a start, a stop, a failed start and `down` remove leftovers by the same code,
//! so what works after Ctrl-C works after a crash.
//!
//! - [`settings`]: [`Settings`], [`Flags`], [`ClusterName`], the ranges and directories
//! - [`up()`], [`up_detached`], [`down()`], [`status()`]: the commands, blocking
//! - [`preflight()`] and its [`Problem`]s
//! - [`roles`]: the processes as data; [`pki`]: certificates and kubeconfigs of the roles
//! - [`progress`]: events for whoever waits
//!
//! Network set-up runs beside the certificates, the API server starts as soon as the bridge has its address, and each node agent as soon
//! as its namespace is there.

mod detach;
mod down;
mod error;
mod files;
mod host;
mod kubeconfig;
mod leftovers;
mod lock;
mod log;
mod manifests;
mod masquerade;
pub mod pki;
mod preflight;
mod process;
pub mod progress;
mod readiness;
mod role;
pub mod settings;
mod status;
mod supervisor;
mod sys;
mod underlay;
mod up;

pub use detach::up_detached;
pub use down::{State, Stopped, down};
pub use error::Error;
pub use files::FileError;
pub use leftovers::Report;
pub use preflight::{Problem, preflight};
pub use process::MARK;
pub use progress::{Event, EventKind, Reporter, Summary};
pub use role::{Role, RunningRole, StopPhase, roles};
pub use settings::{ClusterName, Directories, Flags, NODES_MAX, Node, Roots, Settings, SettingsError};
pub use status::{Addresses, NodeStatus, Objects, PodStatus, ProcessStatus, Status, status};
pub use up::{UpRequest, settle, up};
