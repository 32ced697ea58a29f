//! What the node agent answers for its pods: logs, exec, attach, port-forward. The server finds the agent's socket, refuses what cannot
//! work with the message that clients know, and then carries bytes without reading them.

use std::path::PathBuf;
use std::time::Duration;

use fairway_objects::document::{self, Document};
use fairway_objects::status::Status;
use futures::StreamExt;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, BodyStream, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::Call;
use crate::http::body::{self, Body};

/// How long the agent may take to answer.
const AGENT_TIMEOUT: Duration = Duration::from_secs(30);
/// What an agent's error text may be long.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Headers of an upgrade that are passed on in both directions.
const UPGRADE_HEADERS: &[HeaderName] = &[
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_EXTENSIONS,
];

impl Call<'_> {
    pub(super) async fn log(&self, name: &str) -> Result<Response<Body>, Status> {
        let pod = self.pod(name)?;
        let container = self.container(name, &pod)?;
        let node = node(name, &pod)?;
        if !self.query.flag("previous") {
            started(name, &container, &pod)?;
        }
        let mut parameters = Vec::new();
        for flag in ["follow", "previous", "timestamps"] {
            if self.query.flag(flag) {
                parameters.push(format!("{flag}=true"));
            }
        }
        for number in ["tailLines", "sinceSeconds", "limitBytes"] {
            if let Some(value) = self.query.integer(number)? {
                parameters.push(format!("{number}={value}"));
            }
        }
        let since = self.query.text("sinceTime");
        if !since.is_empty() {
            parameters.push(format!("sinceTime={}", encode(since)));
        }
        let path =
            format!("/containerLogs/{}/{name}/{container}?{}", self.target.namespace, parameters.join("&"));
        let response = self.agent(node, &path, Method::GET, HeaderMap::new()).await?;
        if response.status() != StatusCode::OK {
            return Err(agent_error(response).await);
        }
        // A failure in the middle can only end the text.
        let pieces =
            BodyStream::new(response.into_body()).filter_map(|frame| async { frame.ok()?.into_data().ok() });
        Ok(body::respond(200, "text/plain", body::stream(pieces)))
    }

    pub(super) async fn tunnel(
        &self,
        name: &str,
        part: &str,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        let pod = self.pod(name)?;
        let node = node(name, &pod)?.to_owned();
        let phase = pod.text(&["status", "phase"]);
        if matches!(phase, "Succeeded" | "Failed") {
            let verb = if part == "exec" { "exec into a container" } else { "attach to a container" };
            return Err(Status::bad_request(format!(
                "cannot {verb} in a completed pod; current phase is {phase}"
            )));
        }
        // A client that asks for another upgrade than WebSocket is told so by the agent, but only after what else is wrong: kubectl falls
        // back to an older upgrade when the first is refused, and shows the answer to that one.
        let path = self.tunnel_path(name, part, &pod)?;
        let headers = pick(request.headers());
        let mut response = self.agent(&node, &path, Method::GET, headers).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(agent_error(response).await);
        }
        let mut answer = Response::new(body::full(Bytes::new()));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = pick(response.headers());
        let (client, agent) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut response));
        let stop = self.api.stop.clone();
        tokio::spawn(async move {
            let Ok((client, agent)) = tokio::try_join!(client, agent) else { return };
            let (mut client, mut agent) = (TokioIo::new(client), TokioIo::new(agent));
            tokio::select! {
                copied = tokio::io::copy_bidirectional(&mut client, &mut agent) => {
                    if let Err(error) = copied {
                        tracing::debug!(%error, "a stream to a pod ended");
                    }
                }
                () = stop.cancelled() => {}
            }
        });
        Ok(answer)
    }

    fn tunnel_path(&self, name: &str, part: &str, pod: &Value) -> Result<String, Status> {
        let namespace = &self.target.namespace;
        if part == "portforward" {
            let ports: Vec<String> =
                self.query.all("ports").map(|ports| format!("ports={}", encode(ports))).collect();
            return Ok(format!("/portForward/{namespace}/{name}?{}", ports.join("&")));
        }
        let container = self.container(name, pod)?;
        let mut parameters: Vec<String> =
            self.query.all("command").map(|argument| format!("command={}", encode(argument))).collect();
        if part == "exec" && parameters.is_empty() {
            return Err(Status::bad_request("you must specify at least 1 command for the container"));
        }
        for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
        {
            if self.query.flag(ours) {
                parameters.push(format!("{theirs}=1"));
            }
        }
        Ok(format!("/{part}/{namespace}/{name}/{container}?{}", parameters.join("&")))
    }

    fn pod(&self, name: &str) -> Result<Value, Status> {
        let state = self.api.store.state();
        let pod = state.object(&self.collection, &self.key(name)).ok_or_else(|| self.not_found(name))?;
        Ok(pod.value().clone())
    }

    /// The container asked for, the one that the pod names as its default, or its only one.
    fn container(&self, name: &str, pod: &Value) -> Result<String, Status> {
        let names = |list| pod.list(&["spec", list]).iter().map(|container| container.text(&["name"]));
        let asked = self.query.text("container");
        let all = || names("containers").chain(names("initContainers")).chain(names("ephemeralContainers"));
        if !asked.is_empty() {
            return match all().any(|known| known == asked) {
                true => Ok(asked.to_owned()),
                false => Err(Status::bad_request(format!("container {asked} is not valid for pod {name}"))),
            };
        }
        let default = document::annotation(pod, "kubectl.kubernetes.io/default-container");
        if let Some(default) = default.filter(|default| names("containers").any(|known| known == *default)) {
            return Ok(default.to_owned());
        }
        match names("containers").collect::<Vec<_>>().as_slice() {
            [only] => Ok((*only).to_owned()),
            several => {
                let mut message = format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    several.join(" ")
                );
                let inits: Vec<_> = names("initContainers").collect();
                if !inits.is_empty() {
                    message.push_str(&format!(" or one of the init containers: [{}]", inits.join(" ")));
                }
                Err(Status::bad_request(message))
            }
        }
    }

    /// One request to the agent of a node.
    async fn agent(
        &self,
        node: &str,
        path: &str,
        method: Method,
        headers: HeaderMap,
    ) -> Result<Response<Incoming>, Status> {
        let socket = self.socket(node)?;
        let failed = |why: String| {
            Status::internal(format!(
                "the agent of node {node:?} does not answer at {}: {why}; its pods go on, but their logs and consoles are out of reach until it is back",
                socket.display()
            ))
        };
        let exchange = async {
            let stream = UnixStream::connect(&socket).await.map_err(|error| failed(error.to_string()))?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| failed(error.to_string()))?;
            tokio::spawn(connection.with_upgrades());
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.method_mut() = method;
            *request.uri_mut() =
                path.parse().map_err(|_| Status::bad_request("the name or command cannot be sent"))?;
            *request.headers_mut() = headers;
            request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("kubelet"));
            sender.send_request(request).await.map_err(|error| failed(error.to_string()))
        };
        tokio::time::timeout(AGENT_TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(failed("no answer in time".to_owned())))
    }

    /// The socket of a node's agent. Node names are checked when pods are written; here again, because they become a path.
    fn socket(&self, node: &str) -> Result<PathBuf, Status> {
        let plain = node.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
        if !plain || node.starts_with('.') {
            return Err(Status::bad_request(format!("node name {node:?} is not valid")));
        }
        Ok(self.api.run_dir.join("nodes").join(node).join("kubelet.sock"))
    }
}

fn node<'a>(name: &str, pod: &'a Value) -> Result<&'a str, Status> {
    match pod.text(&["spec", "nodeName"]) {
        "" => Err(Status::bad_request(format!("pod {name} does not have a host assigned"))),
        node => Ok(node),
    }
}

/// A container that has not begun has no log.
fn started(name: &str, container: &str, pod: &Value) -> Result<(), Status> {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut statuses = lists.iter().flat_map(|list| pod.list(&["status", list]));
    let status = statuses.find(|status| status.text(&["name"]) == container);
    let reason = match status {
        None => "ContainerCreating",
        Some(status) if status.has(&["state", "waiting"]) && !status.has(&["lastState", "terminated"]) => {
            status.text(&["state", "waiting", "reason"])
        }
        Some(_) => return Ok(()),
    };
    let reason = if reason.is_empty() { "ContainerCreating" } else { reason };
    let message = match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            "trying and failing to pull image"
        }
        other => other,
    };
    Err(Status::bad_request(format!(
        "container {container:?} in pod {name:?} is waiting to start: {message}"
    )))
}

/// The agent's error as ours, with its words.
async fn agent_error(response: Response<Incoming>) -> Status {
    let code = response.status().as_u16();
    let body = http_body_util::Limited::new(response.into_body(), ERROR_BYTES_MAX).collect();
    let text = match tokio::time::timeout(AGENT_TIMEOUT, body).await {
        Ok(Ok(collected)) => String::from_utf8_lossy(&collected.to_bytes()).trim().to_owned(),
        Ok(Err(_)) | Err(_) => "the agent's answer was cut short".to_owned(),
    };
    match code {
        400..500 => Status::bad_request(text),
        _ => Status::internal(text),
    }
}

fn pick(headers: &HeaderMap) -> HeaderMap {
    let mut picked = HeaderMap::new();
    for name in UPGRADE_HEADERS {
        for value in headers.get_all(name) {
            picked.append(name, value.clone());
        }
    }
    picked
}

/// Percent-encodes a query value.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}
