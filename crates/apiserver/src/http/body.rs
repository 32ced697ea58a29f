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
pub const GZIP_BYTES_MIN: usize = 128 << 10;

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
    if bytes.len() <= GZIP_BYTES_MIN || !accepts_gzip(request) {
        *response.body_mut() = full(bytes);
        return response;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    match encoder.write_all(&bytes).and_then(|()| encoder.finish()) {
        Ok(compressed) => {
            *response.body_mut() = full(compressed);
            say_gzip(&mut response);
        }
        Err(_) => *response.body_mut() = full(bytes),
    }
    response
}

/// An answer that is worth compressing, of pieces that are made when the client has taken the ones before.
pub fn respond_long(
    content_type: &'static str,
    request: &HeaderMap,
    pieces: impl Iterator<Item = Bytes> + Send + 'static,
) -> Response<Body> {
    if !accepts_gzip(request) {
        return respond(200, content_type, stream(futures::stream::iter(pieces)));
    }
    let compressed = Gzip { pieces, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) };
    let mut response = respond(200, content_type, stream(futures::stream::iter(compressed)));
    say_gzip(&mut response);
    response
}

fn accepts_gzip(request: &HeaderMap) -> bool {
    let accepted = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut codings = accepted.flat_map(|value| value.split(',')).filter_map(|coding| {
        let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = quality.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        (!refused).then_some(name.trim())
    });
    codings.any(|coding| coding.eq_ignore_ascii_case("gzip"))
}

fn say_gzip(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// Pieces compressed as they come.
struct Gzip<I> {
    pieces: I,
    /// None after the end.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<I: Iterator<Item = Bytes>> Iterator for Gzip<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let encoder = self.encoder.as_mut()?;
            // Writing to memory does not fail.
            let Some(piece) = self.pieces.next() else {
                return self.encoder.take()?.finish().ok().map(Bytes::from);
            };
            encoder.write_all(&piece).ok()?;
            if !encoder.get_ref().is_empty() {
                return Some(Bytes::from(std::mem::take(encoder.get_mut())));
            }
        }
    }
}
