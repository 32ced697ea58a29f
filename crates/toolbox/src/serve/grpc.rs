//! gRPC by hand, two methods: `/fairway.toolbox.v1.Echo/Unary` and `/grpc.health.v1.Health/Check`.
//!
//! ```proto
//! message EchoRequest { string message = 1; }
//! message EchoReply { string json = 1; }   // who answered, and the message
//! ```
//!
//! The wire format (gRPC over HTTP/2, "Length-Prefixed-Message"): one byte that says whether it is compressed, four bytes of length,
//! then the message; the status travels in the trailers.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::State;
use super::http::Body;
use crate::probe::grpc::{ECHO_METHOD, decode_frame, decode_string, encode_frame, encode_string};

/// The health check that kubelets and load balancers use.
const HEALTH_METHOD: &str = "/grpc.health.v1.Health/Check";
/// The longest request message.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// grpc-status values used here (grpc/grpc `statuscodes.md`).
const OK: u8 = 0;
const INVALID_ARGUMENT: u8 = 3;
const UNIMPLEMENTED: u8 = 12;

/// Whether the request is a gRPC call.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Answers one unary call; always HTTP 200, as the protocol has it.
pub(super) async fn answer(request: Request<Incoming>, state: &State, describe: Value) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let (status, message) = match parts.uri.path() {
        HEALTH_METHOD => {
            // HealthCheckResponse { status = 1 }: SERVING is 1, NOT_SERVING is 2.
            let serving = if state.is_ready() { 1 } else { 2 };
            (OK, Some(Bytes::copy_from_slice(&[0x08, serving])))
        }
        ECHO_METHOD => match Limited::new(body, MESSAGE_BYTES_MAX).collect().await {
            Ok(collected) => {
                match decode_frame(&collected.to_bytes()).and_then(|frame| decode_string(&frame)) {
                    Some(text) => (OK, Some(echo(describe, &text))),
                    None => (INVALID_ARGUMENT, None),
                }
            }
            Err(_) => (INVALID_ARGUMENT, None),
        },
        _ => (UNIMPLEMENTED, None),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    let mut frames = Vec::new();
    if let Some(message) = message {
        frames.push(Ok(Frame::data(encode_frame(&message))));
    }
    frames.push(Ok(Frame::trailers(trailers)));
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn echo(mut describe: Value, message: &str) -> Bytes {
    if let Some(fields) = describe.as_object_mut() {
        fields.insert("message".into(), json!(message));
    }
    encode_string(&describe.to_string())
}
