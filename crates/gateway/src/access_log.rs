//! The access log: a JSON line a request on standard output, written by a thread of its own. When nobody reads it, lines are lost and
//! counted; requests never wait for it.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use serde::Serialize;

use crate::head::ClientFacts;
use crate::metrics::{Finished, WorkerMetrics};

/// Lines that may wait to be written.
const QUEUE_LINES_MAX: usize = 8192;

/// What is remembered of a request until it is over.
#[derive(Debug)]
pub(crate) struct Request {
    peer: SocketAddr,
    secure: bool,
    version: http::Version,
    host: String,
    target: String,
    user_agent: String,
    pub(crate) upstream: Option<SocketAddr>,
}

impl Request {
    pub(crate) fn of(parts: &http::request::Parts, client: &ClientFacts) -> Self {
        let field = |name| {
            let value = parts.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
            value.map_or_else(String::new, std::borrow::Cow::into_owned)
        };
        let authority = parts.uri.authority().map(ToString::to_string);
        Self {
            peer: client.peer,
            secure: client.secure,
            version: parts.version,
            host: authority.unwrap_or_else(|| field(http::header::HOST)),
            target: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            user_agent: field(http::header::USER_AGENT),
            upstream: None,
        }
    }
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    remote_addr: String,
    scheme: &'static str,
    protocol: String,
    method: &'a str,
    host: &'a str,
    target: &'a str,
    status: u16,
    request_bytes: u64,
    response_bytes: u64,
    duration_s: f64,
    upstream_addr: Option<String>,
    user_agent: &'a str,
    failure: Option<&'static str>,
}

/// Where lines go.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog(mpsc::SyncSender<Vec<u8>>);

impl AccessLog {
    /// Starts the writer.
    pub(crate) fn to_stdout() -> std::io::Result<Self> {
        let (lines, queue) = mpsc::sync_channel::<Vec<u8>>(QUEUE_LINES_MAX);
        std::thread::Builder::new().name("access-log".into()).spawn(move || {
            let mut out = std::io::stdout();
            while let Ok(line) = queue.recv() {
                if out.write_all(&line).and_then(|()| out.flush()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self(lines))
    }

    /// Hands a line over, or counts it as lost.
    pub(crate) fn write(
        &self,
        request: Request,
        finished: Finished<'_>,
        failure: Option<&'static str>,
        metrics: &WorkerMetrics,
    ) {
        let line = Line {
            time: k8s_openapi::jiff::Timestamp::now().to_string(),
            remote_addr: request.peer.ip().to_canonical().to_string(),
            scheme: if request.secure { "https" } else { "http" },
            protocol: format!("{:?}", request.version),
            method: finished.method.as_str(),
            host: &request.host,
            target: &request.target,
            status: finished.status.as_u16(),
            request_bytes: finished.received_bytes,
            response_bytes: finished.sent_bytes,
            duration_s: finished.duration.as_secs_f64(),
            upstream_addr: request.upstream.map(|address| address.to_string()),
            user_agent: &request.user_agent,
            failure,
        };
        let Ok(mut text) = serde_json::to_vec(&line) else { return };
        text.push(b'\n');
        if self.0.try_send(text).is_err() {
            metrics.access_log_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
