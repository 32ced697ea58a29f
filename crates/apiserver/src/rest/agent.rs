//! A node's agent, over its unix socket.

use std::path::PathBuf;
use std::time::Duration;

use fairway_objects::Reason;
use fairway_objects::status::{Details, Status};
use http::{HeaderMap, HeaderName, Method, Request, Response, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body as HttpBody, Bytes, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::Call;

/// How long the agent may take to answer.
const AGENT_TIMEOUT: Duration = Duration::from_secs(30);
/// What an agent's error text may be long.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Headers of an upgrade that are passed on in both directions.
static UPGRADE_HEADERS: [HeaderName; 8] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_EXTENSIONS,
    HeaderName::from_static("x-stream-protocol-version"),
];

impl Call<'_> {
    /// One request without a body to the agent of a node.
    pub(super) async fn agent(
        &self,
        node: &str,
        path: &str,
        method: Method,
        headers: HeaderMap,
    ) -> Result<Response<Incoming>, Status> {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method;
        *request.uri_mut() =
            path.parse().map_err(|_| Status::bad_request("the name or command cannot be sent"))?;
        *request.headers_mut() = headers;
        self.send_to_agent(node, request).await
    }

    /// Any request to the agent of a node.
    pub(super) async fn send_to_agent<B>(
        &self,
        node: &str,
        mut request: Request<B>,
    ) -> Result<Response<Incoming>, Status>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let socket = self.socket(node)?;
        let failed = |why: String| {
            Status::internal(format!(
                "the agent of node {node:?} does not answer at {}: {why}; its pods go on, but their logs and consoles are out of reach until it is back",
                socket.display()
            ))
        };
        request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("kubelet"));
        let exchange = async {
            let stream = UnixStream::connect(&socket).await.map_err(|error| failed(error.to_string()))?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| failed(error.to_string()))?;
            tokio::spawn(connection.with_upgrades());
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

/// The agent's error as ours, with its words.
pub(super) async fn error(response: Response<Incoming>) -> Status {
    let code = response.status().as_u16();
    let body = http_body_util::Limited::new(response.into_body(), ERROR_BYTES_MAX).collect();
    let text = match tokio::time::timeout(AGENT_TIMEOUT, body).await {
        Ok(Ok(collected)) => String::from_utf8_lossy(&collected.to_bytes()).trim().to_owned(),
        Ok(Err(_)) | Err(_) => "the agent's answer was cut short".to_owned(),
    };
    match code {
        403 => refused(text),
        404 if text == "not found" => Status::resource_not_found(),
        400..500 => Status::bad_request(text),
        _ => Status::internal(text),
    }
}

/// An upgrade whose protocols are not ours.
fn refused(text: String) -> Status {
    let mut status = Status::new(403, Reason::Forbidden, text);
    status.details = Some(Box::new(Details::default()));
    status
}

/// The headers of an upgrade.
pub(super) fn upgrade_headers(headers: &HeaderMap) -> HeaderMap {
    let mut picked = HeaderMap::new();
    for name in &UPGRADE_HEADERS {
        for value in headers.get_all(name) {
            picked.append(name, value.clone());
        }
    }
    picked
}
