//! Bodies in and out.

use std::convert::Infallible;
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use fairway_objects::status::Status;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::Value;

/// The largest request body.
pub const REQUEST_BYTES_MAX: usize = 3 << 20;
/// How long a client may take to send one.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Bodies shorter than this are not worth compressing.
const GZIP_BYTES_MIN: usize = 128 << 10;

/// Any answer's body.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

/// A body that is there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A body that comes in pieces.
pub fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync()
}

/// Reads a request body whole.
pub async fn read(body: Incoming) -> Result<Bytes, Status> {
    let limited = Limited::new(body, REQUEST_BYTES_MAX).collect();
    match tokio::time::timeout(READ_TIMEOUT, limited).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Status::too_large(REQUEST_BYTES_MAX))
        }
        Ok(Err(error)) => Err(Status::bad_request(format!("the request body could not be read: {error}"))),
        Err(_) => Err(Status::timeout("the request body did not arrive in time", 1)),
    }
}

/// An answer with a body.
pub fn respond(code: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A plain text answer.
pub fn text(code: u16, text: impl Into<Bytes>) -> Response<Body> {
    respond(code, "text/plain; charset=utf-8", full(text))
}

/// A JSON answer.
pub fn json(code: u16, value: &Value) -> Response<Body> {
    respond(code, "application/json", full(value.to_string()))
}

/// A Status as an answer.
pub fn status(status: &Status) -> Response<Body> {
    let mut response = json(status.code, &status.to_value());
    if let Some(details) = status.details.as_ref().filter(|details| details.retry_after_seconds > 0) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(details.retry_after_seconds));
    }
    response
}

/// Compresses a long answer when the client can read it so.
pub fn compress(request: &HeaderMap, mut response: Response<Body>, bytes: Bytes) -> Response<Body> {
    let accepts = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let accepts = accepts.flat_map(|value| value.split(',')).any(|coding| coding.trim() == "gzip");
    if !accepts || bytes.len() < GZIP_BYTES_MIN {
        *response.body_mut() = full(bytes);
        return response;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    match encoder.write_all(&bytes).and_then(|()| encoder.finish()) {
        Ok(compressed) => {
            *response.body_mut() = full(compressed);
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        Err(_) => *response.body_mut() = full(bytes),
    }
    response
}
