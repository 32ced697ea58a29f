//! The shape of a scenario file: names and types, nothing more. Every struct refuses unknown fields.
//!
//! The types can be written as well as read: a step becomes a JSON value, its variables are replaced in every string of it, and the
//! value becomes a step again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_saphyr::Spanned;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// For people; the file's name when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// What is needed of the cluster.
    #[serde(default)]
    pub cluster: Cluster,
    /// What is done.
    pub steps: Vec<Spanned<Step>>,
}

/// `cluster:`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// How many nodes; 2 when absent.
    pub nodes: Option<u8>,
    /// No other scenario may use it.
    pub fresh: bool,
}

/// One step: exactly one action, and what belongs to it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    /// Shown in reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Manifests to create or change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apply: Option<OneOrMany<Value>>,
    /// A patch of one object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<Patch>,
    /// Objects to delete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete: Option<OneOrMany<String>>,
    /// `deployment/web: 5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<BTreeMap<String, u32>>,
    /// A state to wait for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// HTTP, gRPC, WebSocket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// TCP or UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Connect>,
    /// DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolve: Option<Resolve>,
    /// A command in a pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    /// The real kubectl.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubectl: Option<OneOrMany<String>>,
    /// A script on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// What a container wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logs: Option<Logs>,
    /// SIGKILL to `pod/web-0`, `deployment/web` (one pod of it), `agent/node-1`, `server`, `controller`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill: Option<String>,
    /// Requests in the background from here on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// The end of them, judged as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
    /// What background requests may meet from here on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerate: Option<Tolerate>,
    /// Waits until background requests have gone on for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observe: Option<Observe>,
    /// Steps that are done several times.
    #[serde(skip_serializing)]
    pub repeat: Option<Repeat>,
    /// What has to come of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
    /// Try again until it is as expected, for so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eventually: Option<String>,
}

/// A single value or a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// A list.
    Many(Vec<T>),
    /// A single value.
    One(T),
}

impl<T: Clone> OneOrMany<T> {
    /// As a list.
    pub fn list(&self) -> Vec<T> {
        match self {
            Self::Many(list) => list.clone(),
            Self::One(value) => vec![value.clone()],
        }
    }
}

/// `patch:`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// `deployment/web`.
    pub object: String,
    /// RFC 7396; the default way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<Value>,
    /// RFC 6902.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Vec<Value>>,
    /// Kubernetes' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategic: Option<Value>,
    /// `status` and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subresource: Option<String>,
}

/// `wait:`; exactly one state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wait {
    /// A workload whose pods are all new and available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// An object that is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted: Option<String>,
    /// The object that `condition` or `field` is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// A condition's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// A dotted path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What the condition or the field has to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is: Option<Value>,
    /// A Service whose ready endpoints are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<String>,
    /// How many of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<u32>,
    /// For how long; 30 s when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
}

/// `request:`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// `pod/client`, `deployment/web`, `node/node-1`, `outside`.
    pub from: String,
    /// What is asked for.
    pub url: String,
    /// `1.1`, `2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// `GET` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Sent as they are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The address to connect to, whatever the URL says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Who is trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// A call of the toolbox's echo service with this message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// Messages to a WebSocket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub websocket: Option<Vec<String>>,
    /// Requests in all; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// At the same time; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// A second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// For one request; 5 s when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Several requests on one connection.
    pub reuse_connection: bool,
}

/// `tls:`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// `secret/web-tls` (its `ca.crt`, else its `tls.crt`), a PEM file, or PEM text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Trust anybody.
    pub insecure: bool,
    /// Asked for and verified in place of the URL's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// `connect:`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connect {
    /// As in `request`.
    pub from: String,
    /// `host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// `host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<String>,
    /// What is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<String>,
    /// As in `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// As in `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// As in `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// As in `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// `resolve:`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resolve {
    /// As in `request`.
    pub from: String,
    /// The name.
    pub name: String,
    /// `A` when absent.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub record_type: Option<String>,
    /// Ask this server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// As in `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// As in `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// As in `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// `exec:`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// `client`, `other-namespace/client`, `deployment/web`.
    pub pod: String,
    /// The pod's only one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The words of the command.
    pub command: Vec<String>,
    /// What it reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// 10 s when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// `logs:`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logs {
    /// As in `exec`.
    pub pod: String,
    /// As in `exec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Of the container before the last restart.
    pub previous: bool,
}

/// `start:`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Start {
    /// Its name, for `stop` and `tolerate`.
    pub load: String,
    /// One of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// One of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Connect>,
    /// One of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolve: Option<Resolve>,
}

/// `tolerate:`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tolerate {
    /// Which background requests.
    pub load: String,
    /// The failures that may be met from here on; an empty list ends the tolerance.
    pub errors: Vec<String>,
    /// HTTP statuses that may be met from here on.
    pub statuses: Vec<u16>,
    /// … if they come so soon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
}

/// `observe:`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Observe {
    /// Which background requests.
    pub load: String,
    /// Go on when so many more were answered …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered: Option<u64>,
    /// … or so many more failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<u64>,
    /// For at most so long; 30 s when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
}

/// `repeat:`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    /// How often.
    pub times: u32,
    /// What.
    pub steps: Vec<Spanned<Step>>,
}

/// `expect:`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// `200`, `2xx`, or a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<OneOrMany<Value>>,
    /// `HTTP/1.1`, `HTTP/2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Header by header.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Value>,
    /// Fields of a JSON body by dotted path.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub body: BTreeMap<String, Value>,
    /// The body (or what a log says) as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Value>,
    /// Length of the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<u64>,
    /// What a WebSocket answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<String>>,
    /// 0 is OK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u16>,
    /// A DNS name that the server's certificate is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Which pods answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<Pods>,
    /// Every request fails, in one of these ways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<OneOrMany<String>>,
    /// How long it may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// So many may fail; 0 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<u64>,
    /// At least so many are answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered: Option<u64>,
    /// The data of the records, in any order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<Vec<String>>,
    /// How many records of the type that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_count: Option<u64>,
    /// An alias on the way to the records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Exit code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// Standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<Value>,
    /// Standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<Value>,
}

/// `pods:`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pods {
    /// Each of these answered, and nobody else; `*` stands for anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<OneOrMany<String>>,
    /// So many different ones answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// `even`, or a share for each name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// How far a share may be off, such as `10%`; four standard deviations when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<String>,
}

/// `share:`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Share {
    /// `even`.
    Word(String),
    /// `"web-v1-*": 90%`.
    Each(BTreeMap<String, String>),
}

/// `latency:`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Latency {
    /// Each takes at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<String>,
    /// Half of them take at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<String>,
    /// 99 of 100 take at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<String>,
    /// Each takes at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<String>,
    /// The first piece of each body is there after at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_chunk: Option<String>,
}
