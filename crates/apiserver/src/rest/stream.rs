//! What the node agent answers for its pods: logs, exec, attach, port-forward. The server finds the agent's socket, refuses what cannot
//! work with the message that clients know, and then carries bytes without reading them.

use fairway_objects::document::{self, Document};
use fairway_objects::field::{FieldError, Path};
use fairway_objects::status::{Qualified, Status};
use futures::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyStream;
use hyper::body::{Bytes, Incoming};
use serde_json::Value;

use super::agent::{self, upgrade_headers};
use super::{Call, relay};
use crate::http::body::{self, Body};
use crate::http::query::Query;

impl Call<'_> {
    pub(super) async fn log(&self, name: &str) -> Result<Response<Body>, Status> {
        let pod = self.pod(name)?;
        check_log_options(self.query, name)?;
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
        for text in ["sinceTime", "stream"] {
            let value = self.query.text(text);
            if !value.is_empty() {
                parameters.push(format!("{text}={}", encode(value)));
            }
        }
        let path =
            format!("/containerLogs/{}/{name}/{container}?{}", self.target.namespace, parameters.join("&"));
        let response = self.agent(node, &path, Method::GET, HeaderMap::new()).await?;
        if response.status() != StatusCode::OK {
            return Err(agent::error(response).await);
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
        let path = self.tunnel_path(name, part, &pod)?;
        let verb = match part {
            "exec" => Some("exec into a container"),
            "attach" if !self.replays(name, &pod)? => Some("attach to a container"),
            _ => None,
        };
        if let (Some(verb), "Succeeded" | "Failed") = (verb, phase) {
            return Err(Status::bad_request(format!(
                "cannot {verb} in a completed pod; current phase is {phase}"
            )));
        }
        // What kind of upgrade it is, the agent looks at, but only after what else is wrong: kubectl falls back to an older one when the
        // first is refused, and shows the answer to that.
        let headers = upgrade_headers(request.headers());
        let mut response = self.agent(&node, &path, request.method().clone(), headers).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(agent::error(response).await);
        }
        let mut answer = Response::new(body::full(Bytes::new()));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = upgrade_headers(response.headers());
        relay::upgraded(
            hyper::upgrade::on(&mut request),
            hyper::upgrade::on(&mut response),
            self.api.stop.clone(),
        );
        Ok(answer)
    }

    /// A container that was started for its first client's input tells that client what it said, even after its end: `kubectl run -i`
    /// of a short command attaches too late as often as not.
    fn replays(&self, name: &str, pod: &Value) -> Result<bool, Status> {
        let container = self.container(name, pod)?;
        let mut containers = pod.list(&["spec", "containers"]).iter();
        let spec = containers.find(|spec| spec.text(&["name"]) == container);
        Ok(spec.is_some_and(|spec| spec.is_true(&["stdin"]) && spec.is_true(&["stdinOnce"])))
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
}

fn node<'a>(name: &str, pod: &'a Value) -> Result<&'a str, Status> {
    match pod.text(&["spec", "nodeName"]) {
        "" => Err(Status::bad_request(format!("pod {name} does not have a host assigned"))),
        node => Ok(node),
    }
}

/// The rules of PodLogOptions.
fn check_log_options(query: &Query, name: &str) -> Result<(), Status> {
    let mut errors = Vec::new();
    let mut at_least = |field, least: i64, detail| {
        let value = query.integer(field)?;
        if let Some(value) = value.filter(|value| *value < least) {
            errors.push(FieldError::invalid(&Path::new(field), value, detail));
        }
        Ok::<_, Status>(value.is_some())
    };
    let tails = at_least("tailLines", 0, "must be greater than or equal to 0")?;
    at_least("limitBytes", 1, "must be greater than 0")?;
    let counts_back = at_least("sinceSeconds", 1, "must be greater than 0")?;
    if counts_back && query.has("sinceTime") {
        let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden(&Path::new(""), detail));
    }
    match query.text("stream") {
        "" | "All" => {}
        "Stdout" | "Stderr" if tails => {
            let detail = "`tailLines` and specific `stream` are mutually exclusive for now";
            errors.push(FieldError::forbidden(&Path::new(""), detail));
        }
        "Stdout" | "Stderr" => {}
        other => {
            errors.push(FieldError::not_supported(&Path::new("stream"), other, &["All", "Stderr", "Stdout"]))
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid_kind(Qualified { group: "", name: "PodLogOptions" }, name, &errors))
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
