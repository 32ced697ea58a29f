//! One request from its head to the last byte of its answer: what must happen exactly once when it is over, however it ends.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode};

use crate::access_log;
use crate::body::RequestSource;
use crate::connection::ClientConnection;
use crate::metrics::{Finished, RouteMetrics};
use crate::pool::Active;
use crate::upstream::Lease;
use crate::worker::Worker;

/// A client that leaves before it was answered (nginx).
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Counted and logged when dropped; until a status is set that means the client left.
#[derive(Debug)]
pub(crate) struct Exchange {
    worker: Rc<Worker>,
    connection: Rc<ClientConnection>,
    route: Arc<RouteMetrics>,
    method: Method,
    started: Instant,
    status: StatusCode,
    failure: Option<&'static str>,
    source: Option<Rc<RequestSource>>,
    sent_bytes: u64,
    log: Option<Box<access_log::Request>>,
    upstream: Option<(Lease, Active)>,
}

impl Exchange {
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        connection: &Rc<ClientConnection>,
        parts: &http::request::Parts,
    ) -> Self {
        connection.request_began();
        let log = worker.shared.access_log.is_some();
        Self {
            worker: worker.clone(),
            connection: connection.clone(),
            route: worker.shared.metrics.unrouted.clone(),
            method: parts.method.clone(),
            started: Instant::now(),
            status: StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::BAD_REQUEST),
            failure: None,
            source: None,
            sent_bytes: 0,
            log: log.then(|| Box::new(access_log::Request::of(parts, connection.client()))),
            upstream: None,
        }
    }

    /// The route that serves it.
    pub(crate) fn routed(&mut self, route: &Arc<RouteMetrics>) {
        self.route = route.clone();
    }

    /// Where its body comes from.
    pub(crate) fn reads(&mut self, source: &Rc<RequestSource>) {
        self.source = Some(source.clone());
    }

    /// What the client is told.
    pub(crate) fn answered(&mut self, status: StatusCode, failure: Option<&'static str>) {
        self.status = status;
        self.failure = failure;
        if let Some(failure) = failure {
            self.worker.metrics().count_failure(failure);
        }
    }

    /// The endpoint at work, and the connection to it.
    pub(crate) fn served_by(&mut self, lease: Lease, active: Active) {
        if let Some(log) = &mut self.log {
            log.upstream = Some(active.address());
        }
        self.upstream = Some((lease, active));
    }

    /// Body bytes handed over to the client.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.sent_bytes += bytes;
    }

    /// The endpoint has said everything: its connection can serve somebody else.
    pub(crate) fn upstream_done(&mut self) {
        if let Some((lease, _)) = self.upstream.take() {
            self.worker.upstreams.release(lease);
        }
    }

    /// The endpoint's answer broke off: its connection is of no use.
    pub(crate) fn broken(&mut self) {
        self.failure = Some("broken_off");
        self.upstream = None;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.connection.request_ended();
        let received_bytes = self.source.as_ref().map_or(0, |source| source.bytes());
        let finished = Finished {
            method: &self.method,
            status: self.status,
            duration: self.started.elapsed(),
            received_bytes,
            sent_bytes: self.sent_bytes,
        };
        self.route.count(self.worker.index, finished);
        if let (Some(log), Some(sink)) = (self.log.take(), &self.worker.shared.access_log) {
            sink.write(*log, finished, self.failure, self.worker.metrics());
        }
    }
}
