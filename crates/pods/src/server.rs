//! The kubelet API on a unix socket: logs, exec, attach, port-forward, and figures of the node. Who may ask is decided by the API server in front.

mod exec;
mod forward;
mod remote;
mod stats;
mod upgrade;
mod windows;

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::agent::{ContainerView, Context, LivePod};
use crate::logs::{self, LogQuery};
use fairway_kit::Shutdown;

/// Connections served at the same time; more wait.
const CONNECTIONS_MAX: usize = 512;
/// Pieces of a log that wait for a slow reader.
const PIECES_MAX: usize = 16;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A request that cannot be served: a status and a sentence for the user.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    message: String,
    header: Option<(HeaderName, String)>,
}

impl Refused {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), header: None }
    }

    /// With a header that lists `words`.
    pub(super) fn with(self, name: HeaderName, words: &[&str]) -> Self {
        Self { header: Some((name, words.join(","))), ..self }
    }

    fn into_response(self) -> Response<Body> {
        let mut response = text(self.status, self.message);
        let header = self.header.and_then(|(name, value)| Some((name, value.parse().ok()?)));
        response.headers_mut().extend(header);
        response
    }
}

/// Listens on `socket` and serves until shutdown.
pub(crate) fn serve(socket: &Path, context: Arc<Context>, shutdown: Shutdown) -> io::Result<()> {
    if let Some(parent) = socket.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // A socket of an earlier agent would make bind fail.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        while let Some(accepted) = shutdown.unless_requested(listener.accept()).await {
            let Ok((stream, _)) = accepted else { continue };
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let (context, shutdown) = (context.clone(), shutdown.clone());
            tokio::spawn(async move {
                let service = service_fn(|request| answer(context.clone(), request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                let _ = shutdown.unless_requested(connection).await;
                drop(slot);
            });
        }
    });
    Ok(())
}

async fn answer(context: Arc<Context>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    Ok(route(&context, request).await.unwrap_or_else(Refused::into_response))
}

pub(super) fn text(status: StatusCode, message: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(message.into()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    response
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = text(StatusCode::OK, value.to_string());
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

async fn route(context: &Context, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let path = request.uri().path().to_owned();
    let parameters = decode_query(request.uri().query().unwrap_or_default());
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz"] => Ok(text(StatusCode::OK, "ok")),
        ["pods" | "runningpods"] => Ok(json(&stats::pods(context))),
        ["stats", "summary"] => Ok(json(&stats::summary(context).await)),
        ["metrics", "resource"] => Ok(text(StatusCode::OK, stats::resource_metrics(context).await)),
        ["containerLogs", namespace, pod, container] => {
            let (pod, view) = find(context, namespace, pod, container)?;
            let query = LogQuery::parse(&parameters, Timestamp::now())
                .map_err(|message| Refused::new(StatusCode::BAD_REQUEST, message))?;
            logs_of(&pod, container, &view, query)
        }
        ["exec", namespace, pod, container] => {
            let (pod, view) = find(context, namespace, pod, container)?;
            require_running(container, &view)?;
            exec::exec(request, &pod, container, &parameters)
        }
        ["attach", namespace, pod, container] => {
            let (pod, view) = find(context, namespace, pod, container)?;
            // `kubectl run -i` attaches to a command that may be over already: what it said is there.
            if !(view.stdin_once && view.started) {
                require_running(container, &view)?;
            }
            exec::attach(request, &pod, container, &view, &parameters).await
        }
        ["portForward", namespace, pod] => {
            let pod = find_pod(context, namespace, pod)?;
            forward::forward(request, &pod, &parameters)
        }
        _ => Err(Refused::new(StatusCode::NOT_FOUND, "not found")),
    }
}

fn find_pod(context: &Context, namespace: &str, pod: &str) -> Result<LivePod, Refused> {
    let missing =
        || Refused::new(StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} is not on this node"));
    context.live.find(namespace, pod).ok_or_else(missing)
}

fn find(
    context: &Context,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<(LivePod, ContainerView), Refused> {
    let live = find_pod(context, namespace, pod)?;
    let view = live.containers.borrow().get(container).cloned();
    let unknown =
        || Refused::new(StatusCode::BAD_REQUEST, format!("container {container} is not valid for pod {pod}"));
    let view = view.ok_or_else(unknown)?;
    Ok((live, view))
}

fn require_running(container: &str, view: &ContainerView) -> Result<(), Refused> {
    if view.running {
        return Ok(());
    }
    Err(Refused::new(StatusCode::BAD_REQUEST, format!("container {container:?} is not running")))
}

fn logs_of(
    pod: &LivePod,
    container: &str,
    view: &ContainerView,
    query: LogQuery,
) -> Result<Response<Body>, Refused> {
    let attempt = match (query.previous, view.attempt) {
        (false, attempt) => attempt,
        (true, 0) => {
            let message =
                format!("previous terminated container {container:?} in pod {:?} not found", pod.id.name);
            return Err(Refused::new(StatusCode::BAD_REQUEST, message));
        }
        (true, attempt) => attempt - 1,
    };
    if !view.started && !query.previous {
        let message =
            format!("container {container:?} in pod {:?} is waiting to start: {}", pod.id.name, view.waiting);
        return Err(Refused::new(StatusCode::BAD_REQUEST, message));
    }
    // A container that waits for its next start has the log of its last attempt.
    let path = pod.paths.log(container, attempt);
    let path = if path.exists() { path } else { pod.paths.log(container, attempt.saturating_sub(1)) };
    let (pieces, receiver) = mpsc::channel(PIECES_MAX);
    let over = end_of(pod, container, attempt);
    let name = format!("{} {container}", pod.id);
    tokio::spawn(async move {
        if let Err(error) = logs::stream(path, query, over, pieces).await {
            tracing::info!(%error, container = name, "a log could not be read to its end");
        }
    });
    let frames = futures::stream::unfold(receiver, |mut receiver| async {
        let piece: Bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(piece)), receiver))
    });
    let mut response = Response::new(StreamBody::new(frames.boxed()).boxed_unsync());
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// Becomes true when that attempt of a container has ended.
pub(super) fn end_of(pod: &LivePod, container: &str, attempt: u32) -> watch::Receiver<bool> {
    let mut views = pod.containers.clone();
    let container = container.to_owned();
    let (over, receiver) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            let runs = views
                .borrow_and_update()
                .get(&container)
                .is_some_and(|view| view.attempt == attempt && view.running);
            if !runs || over.is_closed() {
                break;
            }
            tokio::select! {
                changed = views.changed() => if changed.is_err() { break },
                () = over.closed() => break,
            }
        }
        over.send_replace(true);
    });
    receiver
}

/// The parameters of a query in order, decoded.
fn decode_query(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let mut rest = bytes.clone();
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                match (digit(rest.next()), digit(rest.next())) {
                    (Some(high), Some(low)) => {
                        out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                        bytes = rest;
                    }
                    _ => out.push(b'%'),
                }
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let got = decode_query("command=sh&command=-c&command=echo+%22a%2Bb%22%20%zz&tty=1&flag");
        let want = [
            ("command", "sh"),
            ("command", "-c"),
            ("command", "echo \"a+b\" %zz"),
            ("tty", "1"),
            ("flag", ""),
        ];
        assert_eq!(got, want.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
