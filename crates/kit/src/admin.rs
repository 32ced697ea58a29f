//! `/healthz` (alive), `/readyz` (first state applied) and `/metrics` (OpenMetrics text) on a port of their own, apart from traffic.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::Shutdown;

/// Connections served at the same time; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 64;

/// Set once by a role when it serves from a complete state; read by `/readyz`.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// From now on (or no longer) ready.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    /// What `/readyz` answers.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Serves until shutdown. Fails only when the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    readiness: Readiness,
    metrics: impl Into<Arc<Registry>>,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let metrics = metrics.into();
    tokio::spawn(async move {
        let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
        while let Some(accepted) = shutdown.unless_requested(listener.accept()).await {
            let Ok((stream, _)) = accepted else { continue };
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let (readiness, metrics, shutdown) = (readiness.clone(), metrics.clone(), shutdown.clone());
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    std::future::ready(Ok::<_, Infallible>(answer(&request, &readiness, &metrics)))
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(std::time::Duration::from_secs(10))
                    .serve_connection(TokioIo::new(stream), service);
                let _ = shutdown.unless_requested(connection).await;
                drop(slot);
            });
        }
    });
    Ok(())
}

fn answer(request: &Request<Incoming>, readiness: &Readiness, metrics: &Registry) -> Response<Full<Bytes>> {
    let (status, content_type, body) = match request.uri().path() {
        "/healthz" | "/livez" | "/health" => (StatusCode::OK, "text/plain", "ok".to_owned()),
        "/readyz" | "/ready" if readiness.is_ready() => (StatusCode::OK, "text/plain", "ok".to_owned()),
        "/readyz" | "/ready" => {
            (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "not ready: no complete state yet".to_owned())
        }
        "/metrics" => {
            let mut text = String::new();
            match prometheus_client::encoding::text::encode(&mut text, metrics) {
                Ok(()) => {
                    (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
                }
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
            }
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "not found".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
