//! The gRPC health protocol: one unary call of `grpc.health.v1.Health/Check` over HTTP/2 in clear text.

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::probe::Address;

/// Bytes of a response that are read: it is seven bytes long.
const BODY_BYTES_MAX: usize = 10 << 10;
/// `HealthCheckResponse.ServingStatus`, by number.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// SERVING is success.
pub(super) async fn check(stream: TcpStream, address: &Address, service: &str) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("grpc {address}: {error}");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let uri: Uri = format!("http://{address}/grpc.health.v1.Health/Check")
            .parse()
            .map_err(|error| failed(&error))?;
        let request = Request::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "kube-probe/1.36")
            .body(Full::new(Bytes::from(frame(service))))
            .map_err(|error| failed(&error))?;
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let refusal = grpc_status(response.headers());
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| failed(&error))?;
        let refusal = refusal.or_else(|| body.trailers().and_then(grpc_status));
        match (refusal, status(&body.to_bytes())) {
            (Some(refusal), _) => Err(failed(&format!("service {service:?}: {refusal}"))),
            (None, 1) => Ok(()),
            (None, number) => {
                let name = usize::try_from(number)
                    .ok()
                    .and_then(|number| STATUSES.get(number))
                    .unwrap_or(&"UNKNOWN");
                Err(format!("service unhealthy (responded with {name:?})"))
            }
        }
    };
    let answer = answer.await;
    connection.abort();
    answer
}

/// The call's own status, when it failed.
fn grpc_status(headers: &http::HeaderMap) -> Option<String> {
    let code = headers.get("grpc-status")?.to_str().ok()?;
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    (code != "0").then(|| format!("status {code} {message}").trim_end().to_owned())
}

/// A gRPC frame (not compressed, four bytes of length) around `HealthCheckRequest { service = 1 }`.
fn frame(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        push_varint(&mut message, service.len());
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(message);
    frame
}

fn push_varint(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        out.push(if value == 0 { low } else { low | 0x80 });
        if value == 0 {
            return;
        }
    }
}

/// `HealthCheckResponse.status`, field 1, in a frame; 0 (UNKNOWN) is not written.
fn status(frame: &[u8]) -> u64 {
    match frame.get(5..) {
        Some([0x08, status, ..]) => u64::from(*status),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        assert_eq!(frame(""), [0, 0, 0, 0, 0]);
        assert_eq!(frame("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = frame(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
        assert_eq!(
            [status(&[0, 0, 0, 0, 2, 8, 1]), status(&[0, 0, 0, 0, 2, 8, 2]), status(&[0, 0, 0, 0, 0])],
            [1, 2, 0]
        );
    }
}
