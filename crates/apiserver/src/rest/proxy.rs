//! pods/proxy, services/proxy, nodes/proxy: a request for the API server is one for a pod, an endpoint of a Service or a node.
//!
//! Any method, bodies streamed both ways, upgrades copied. The answer's links and redirects are rewritten so that they lead through the
//! proxy again. Certificates of pods are not checked, as in Kubernetes: nobody could sign for them.

mod destination;
mod dial;
mod rewrite;

use std::time::Duration;

use fairway_objects::status::Status;
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, BodyStream, Limited, StreamBody};
use hyper::body::{Bytes, Incoming};

use self::destination::{Destination, Scheme};
use self::rewrite::Place;
use super::{Call, relay};
use crate::http::body::{self, Body};

/// How long the other side may take to take a connection and begin its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest page whose links are rewritten; a longer one is passed on as it is.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Headers that are of one connection (RFC 9110, clause 7.6.1) or meant for this server only.
static NOT_PASSED_ON: [HeaderName; 13] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("impersonate-user"),
    HeaderName::from_static("impersonate-group"),
    HeaderName::from_static("impersonate-uid"),
];

impl Call<'_> {
    /// `name` is `[scheme:]name[:port]`.
    pub(super) async fn proxy(
        &self,
        name: &str,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        let destination =
            destination::find(&self.api.store.state(), &self.target.resource, &self.target.namespace, name)?;
        let upgrades = upgrades(request.headers());
        let path = self.target.proxied.as_str();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if path.is_empty() && reads && !upgrades {
            return Ok(with_slash(&request));
        }
        let prefix = request.uri().path().strip_suffix(path).unwrap_or_default().to_owned();
        let host = authority(&request);
        let forwarded = forwarded(&mut request, path, &prefix, &host, upgrades)?;
        let client = hyper::upgrade::on(&mut request);
        let (parts, ()) = forwarded.into_parts();
        let forwarded = Request::from_parts(parts, request.into_body());
        let mut response = match &destination {
            Destination::Agent { node } => self.send_to_agent(node, forwarded).await?,
            Destination::Address { scheme, host, port } => {
                let sent = dial::send(*scheme, host, *port, forwarded);
                let sent = tokio::time::timeout(ANSWER_TIMEOUT, sent).await;
                let unreachable =
                    |why: String| Status::unavailable(format!("error trying to reach service: {why}"));
                sent.map_err(|_| unreachable(format!("no answer from {host}:{port} in time")))?
                    .map_err(|error| unreachable(error.to_string()))?
            }
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let mut answer = Response::new(body::full(Bytes::new()));
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *answer.headers_mut() = response.headers().clone();
            relay::upgraded(client, hyper::upgrade::on(&mut response), self.api.stop.clone());
            return Ok(answer);
        }
        let place = Place { scheme: "https", host: &host, prefix: &prefix, destination: &destination };
        answer(response, &place).await
    }
}

/// Whether another protocol is asked for.
fn upgrades(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    let asks =
        values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    asks && headers.contains_key(header::UPGRADE)
}

/// The same with a slash at the end: relative links of the answer would lead to another object otherwise.
fn with_slash(request: &Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(body::full(Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", request.uri().path())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The host that the client asked, as it wrote it.
fn authority(request: &Request<Incoming>) -> String {
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = || request.uri().authority().map(http::uri::Authority::as_str);
    host.or_else(authority).unwrap_or_default().to_owned()
}

/// The head of the request for the other side.
fn forwarded(
    request: &mut Request<Incoming>,
    path: &str,
    prefix: &str,
    host: &str,
    upgrades: bool,
) -> Result<Request<()>, Status> {
    let path = if path.is_empty() { "/" } else { path };
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let uri =
        format!("{path}{query}").parse().map_err(|_| Status::bad_request("the path cannot be forwarded"))?;
    let mut forwarded = Request::new(());
    *forwarded.method_mut() = request.method().clone();
    *forwarded.uri_mut() = uri;
    let mut headers = request.headers().clone();
    pass_on(&mut headers, upgrades);
    let more = [
        (header::HOST, host.to_owned()),
        (HeaderName::from_static("x-forwarded-host"), host.to_owned()),
        (HeaderName::from_static("x-forwarded-proto"), "https".to_owned()),
        (HeaderName::from_static("x-forwarded-uri"), format!("{prefix}{path}")),
    ];
    for (name, value) in more {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    *forwarded.headers_mut() = headers;
    Ok(forwarded)
}

/// Leaves out what is of one connection: all that `Connection` names, too.
fn pass_on(headers: &mut HeaderMap, upgrades: bool) {
    let (connection, upgrade) =
        (headers.get(header::CONNECTION).cloned(), headers.get(header::UPGRADE).cloned());
    let named = connection.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    for name in named.split(',') {
        headers.remove(name.trim());
    }
    for name in &NOT_PASSED_ON {
        headers.remove(name);
    }
    if let (true, Some(connection), Some(upgrade)) = (upgrades, connection, upgrade) {
        headers.insert(header::CONNECTION, connection);
        headers.insert(header::UPGRADE, upgrade);
    }
}

/// The other side's answer as ours.
async fn answer(response: Response<Incoming>, place: &Place<'_>) -> Result<Response<Body>, Status> {
    let (mut parts, body) = response.into_parts();
    pass_on(&mut parts.headers, false);
    parts.version = http::Version::default();
    if let Some(location) = parts.headers.get(header::LOCATION).and_then(|value| value.to_str().ok())
        && let Ok(location) = HeaderValue::from_str(&rewrite::location(location, place))
    {
        parts.headers.insert(header::LOCATION, location);
    }
    let length =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_page = kind.is_some_and(|kind| kind.starts_with("text/html"))
        && !parts.headers.contains_key(header::CONTENT_ENCODING)
        && length.is_some_and(|length: usize| length <= PAGE_BYTES_MAX);
    if is_page && parts.status != StatusCode::NOT_MODIFIED {
        let page = Limited::new(body, PAGE_BYTES_MAX).collect().await;
        let page =
            page.map_err(|error| Status::unavailable(format!("error trying to reach service: {error}")))?;
        let page = rewrite::page(&page.to_bytes(), place);
        if !page.is_empty() {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(page.len()));
        }
        return Ok(Response::from_parts(parts, body::full(page)));
    }
    // A failure in the middle can only end the body; its length tells the client that it is not whole.
    let frames = BodyStream::new(body).filter_map(|frame| async { frame.ok().map(Ok) });
    Ok(Response::from_parts(parts, StreamBody::new(frames).boxed_unsync()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_connection_stay_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "Upgrade, x-own"),
            ("upgrade", "websocket"),
            ("x-own", "1"),
            ("authorization", "Bearer secret"),
            ("impersonate-user", "me"),
            ("cookie", "a=b"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let mut plain = headers.clone();
        pass_on(&mut plain, false);
        assert_eq!(plain.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["cookie"]);
        assert!(upgrades(&headers));
        pass_on(&mut headers, true);
        assert_eq!(headers["upgrade"], "websocket");
        assert!(!headers.contains_key("authorization") && !headers.contains_key("x-own"));
    }
}
