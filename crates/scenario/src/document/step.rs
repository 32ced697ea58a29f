//! What a step does, after its check: nothing here can be half right.

use std::fmt;
use std::time::Duration;

use fairway_toolbox::probe::{Pace, Target};
use serde_json::Value;

use crate::expect::{CommandExpect, Matcher, ProbeExpect, Tolerance};

/// A step that was checked.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What it does.
    pub action: Action,
    /// Try again for so long until it is as expected.
    pub eventually: Option<Duration>,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Creates or changes objects.
    Apply(Vec<Manifest>),
    /// Patches one object.
    Patch(Patch),
    /// Deletes objects; those that are not there are deleted already.
    Delete(Vec<ObjectRef>),
    /// Sets `spec.replicas`.
    Scale(Vec<(ObjectRef, u32)>),
    /// Waits for a state.
    Wait {
        /// The state.
        state: State,
        /// For at most so long.
        within: Duration,
    },
    /// Sends requests and judges what comes.
    Probe {
        /// The requests.
        probe: Box<Probe>,
        /// The judgement.
        expect: Box<ProbeExpect>,
    },
    /// Runs a command in a pod.
    Exec {
        /// Where and what.
        exec: Exec,
        /// The judgement.
        expect: CommandExpect,
    },
    /// Runs the real kubectl.
    Kubectl {
        /// Its arguments.
        args: Vec<String>,
        /// The judgement.
        expect: CommandExpect,
    },
    /// Runs a script on this machine, with the cluster's kubeconfig.
    Shell {
        /// For bash.
        script: String,
        /// The judgement.
        expect: CommandExpect,
    },
    /// Reads a container's log.
    Logs {
        /// Whose.
        logs: Logs,
        /// The judgement.
        text: Matcher,
    },
    /// Kills with SIGKILL.
    Kill(Victim),
    /// Sends requests in the background.
    Start {
        /// Its name.
        load: String,
        /// The requests.
        probe: Box<Probe>,
    },
    /// Ends them and judges all of them.
    Stop {
        /// Its name.
        load: String,
        /// The judgement.
        expect: Box<ProbeExpect>,
    },
    /// From here on background requests may fail in these ways.
    Tolerate {
        /// Which.
        load: String,
        /// What.
        tolerance: Tolerance,
    },
    /// Waits for background requests to go on.
    Observe {
        /// Which.
        load: String,
        /// So many more are answered …
        answered: u64,
        /// … and so many more fail.
        failed: u64,
        /// For at most so long.
        within: Duration,
    },
}

/// Where a manifest is.
#[derive(Clone, Debug)]
pub enum Manifest {
    /// A file (or a folder of files), relative to the scenario.
    File(String),
    /// One object in the scenario itself.
    Inline(Value),
    /// YAML text in the scenario itself.
    Text(String),
}

/// A patch of one object.
#[derive(Clone, Debug)]
pub struct Patch {
    /// Which.
    pub object: ObjectRef,
    /// How.
    pub body: PatchBody,
    /// `status` and the like.
    pub subresource: Option<String>,
}

/// The three ways to patch.
#[derive(Clone, Debug)]
pub enum PatchBody {
    /// RFC 7396.
    Merge(Value),
    /// RFC 6902.
    Json(Vec<Value>),
    /// Kubernetes' strategic merge.
    Strategic(Value),
}

/// `kind/name` or `namespace/kind/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    /// The scenario's own when absent.
    pub namespace: Option<String>,
    /// Kind, plural, singular or a short name, in lower case.
    pub kind: String,
    /// The name.
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{}/{}", self.kind, self.name)
    }
}

impl ObjectRef {
    /// Reads `kind/name` or `namespace/kind/name`.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (namespace, kind, name) = match parts.as_slice() {
            [kind, name] => (None, *kind, *name),
            [namespace, kind, name] => (Some((*namespace).to_owned()), *kind, *name),
            _ => return None,
        };
        let complete = !kind.is_empty() && !name.is_empty() && namespace.as_deref() != Some("");
        complete.then(|| Self { namespace, kind: kind.to_ascii_lowercase(), name: name.to_owned() })
    }

    /// Whether it names a pod itself rather than what owns pods.
    pub fn is_pod(&self) -> bool {
        matches!(self.kind.as_str(), "pod" | "pods" | "po")
    }
}

/// A state to wait for.
#[derive(Clone, Debug)]
pub enum State {
    /// All pods of a workload are of its newest template and available.
    Rollout(ObjectRef),
    /// The object is gone.
    Deleted(ObjectRef),
    /// A condition of an object.
    Condition {
        /// Whose.
        object: ObjectRef,
        /// Its type.
        condition: String,
        /// Its status.
        status: String,
    },
    /// A field of an object.
    Field {
        /// Whose.
        object: ObjectRef,
        /// A dotted path.
        path: String,
        /// What it has to be.
        is: Matcher,
    },
    /// Ready endpoints of a Service.
    Endpoints {
        /// Its name, with or without a namespace before a slash.
        service: ObjectRef,
        /// Exactly so many; any number above 0 when absent.
        ready: Option<u32>,
    },
}

/// Where requests come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The host: the user's own shell.
    Outside,
    /// A node.
    Node(String),
    /// A pod, or one pod of a workload.
    Pod(ObjectRef),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside => f.write_str("outside"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Pod(pod) => pod.fmt(f),
        }
    }
}

/// Requests to send.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Where from.
    pub from: Source,
    /// What.
    pub target: Target,
    /// Where the trusted certificates of an HTTP target come from.
    pub authorities: Option<Authorities>,
    /// How often.
    pub pace: Pace,
    /// For one request.
    pub timeout: Duration,
}

/// Where trusted certificates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorities {
    /// A Secret's `ca.crt`, or else its `tls.crt`.
    Secret(ObjectRef),
    /// A file, relative to the scenario.
    File(String),
    /// PEM in the scenario itself.
    Text(String),
}

/// A command in a pod.
#[derive(Clone, Debug)]
pub struct Exec {
    /// A pod, or one pod of a workload.
    pub pod: ObjectRef,
    /// The pod's only one when absent.
    pub container: Option<String>,
    /// The words.
    pub command: Vec<String>,
    /// What it reads.
    pub stdin: Option<String>,
    /// For at most so long.
    pub timeout: Duration,
}

/// A container's log.
#[derive(Clone, Debug)]
pub struct Logs {
    /// A pod, or one pod of a workload.
    pub pod: ObjectRef,
    /// The pod's only one when absent.
    pub container: Option<String>,
    /// Before the last restart.
    pub previous: bool,
}

/// Who is killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Victim {
    /// A pod, or one pod of a workload.
    Pod(ObjectRef),
    /// The agent of a node.
    Agent(String),
    /// The API server.
    Server,
    /// The controllers.
    Controller,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => pod.fmt(f),
            Self::Agent(node) => write!(f, "agent/{node}"),
            Self::Server => f.write_str("server"),
            Self::Controller => f.write_str("controller"),
        }
    }
}
