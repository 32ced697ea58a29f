//! Counters under the names that ingress-nginx dashboards use.
//!
//! Handles are resolved when the table is built; counting is one relaxed addition on memory of the worker's own. [`Metrics`] adds the
//! workers' shares up when somebody scrapes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

mod route;

pub(crate) use route::{RouteLabels, RouteMetrics};

/// What one worker counts apart from routes.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct WorkerMetrics {
    /// Client connections open now.
    pub(crate) connections: AtomicU64,
    /// Client connections since the start.
    pub(crate) connections_total: AtomicU64,
    /// Requests sent to another endpoint after a failure.
    pub(crate) retries: AtomicU64,
    /// Connections to endpoints since the start.
    pub(crate) upstream_connects: AtomicU64,
    /// Times that [`crate::Limits::connections_max`] was reached.
    pub(crate) connection_limit_hits: AtomicU64,
    /// Access-log lines lost because standard output is slower than requests.
    pub(crate) access_log_dropped: AtomicU64,
    failures: [AtomicU64; FAILURES.len()],
}

/// Labels of [`crate::failure::Failure`].
const FAILURES: [&str; 13] = [
    "bad_head",
    "body_too_large",
    "bad_response",
    "client_body",
    "client_timeout",
    "connect_refused",
    "connect_timeout",
    "left_pool",
    "lost",
    "no_endpoint",
    "no_rule",
    "unsent",
    "upstream_timeout",
];

impl WorkerMetrics {
    /// Counts a failure by its label.
    pub(crate) fn count_failure(&self, label: &'static str) {
        let index = FAILURES.iter().position(|one| *one == label);
        if let Some(counter) = index.and_then(|index| self.failures.get(index)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// All counters of the gateway.
#[derive(Debug)]
pub(crate) struct Metrics {
    workers: Box<[WorkerMetrics]>,
    routes: Mutex<BTreeMap<RouteLabels, Arc<RouteMetrics>>>,
    /// Requests that no route serves.
    pub(crate) unrouted: Arc<RouteMetrics>,
    /// Tables built since the start.
    pub(crate) tables_built: AtomicU64,
    /// Pools replaced since the start.
    pub(crate) pools_replaced: AtomicU64,
}

impl Metrics {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| WorkerMetrics::default()).collect(),
            routes: Mutex::default(),
            unrouted: Arc::new(RouteMetrics::new(RouteLabels::default(), workers)),
            tables_built: AtomicU64::new(0),
            pools_replaced: AtomicU64::new(0),
        }
    }

    /// The counters of a worker; those of the first for an index that does not exist.
    pub(crate) fn worker(&self, index: usize) -> &WorkerMetrics {
        static NOBODY: OnceLock<WorkerMetrics> = OnceLock::new();
        self.workers.get(index).unwrap_or_else(|| NOBODY.get_or_init(WorkerMetrics::default))
    }

    /// The counters of exactly these routes: known ones go on counting, those that are gone are forgotten.
    pub(crate) fn routes(
        &self,
        wanted: impl IntoIterator<Item = RouteLabels>,
    ) -> BTreeMap<RouteLabels, Arc<RouteMetrics>> {
        let mut known = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: BTreeMap<_, _> = wanted
            .into_iter()
            .map(|labels| {
                let fresh = || Arc::new(RouteMetrics::new(labels.clone(), self.workers.len()));
                let metrics = known.get(&labels).cloned().unwrap_or_else(fresh);
                (labels, metrics)
            })
            .collect();
        known.clone_from(&kept);
        kept
    }

    fn sum(&self, of: impl Fn(&WorkerMetrics) -> &AtomicU64) -> u64 {
        self.workers.iter().map(|worker| of(worker).load(Ordering::Relaxed)).sum()
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut routes: Vec<Arc<RouteMetrics>> =
            self.routes.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        routes.push(self.unrouted.clone());
        route::encode(&routes, &mut encoder)?;
        self.encode_connections(&mut encoder)?;
        let counters = [
            ("fairway_gateway_retries", "Requests sent again after a failure", self.sum(|one| &one.retries)),
            (
                "fairway_gateway_upstream_connects",
                "Connections made to endpoints",
                self.sum(|one| &one.upstream_connects),
            ),
            (
                "fairway_gateway_connection_limit_hits",
                "Times a worker stopped accepting because it had as many connections as allowed",
                self.sum(|one| &one.connection_limit_hits),
            ),
            (
                "fairway_gateway_access_log_dropped",
                "Access-log lines lost because standard output was too slow",
                self.sum(|one| &one.access_log_dropped),
            ),
            ("fairway_gateway_tables_built", "Route tables built", self.tables_built.load(Ordering::Relaxed)),
            (
                "fairway_gateway_pools_replaced",
                "Endpoint pools replaced",
                self.pools_replaced.load(Ordering::Relaxed),
            ),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let help = "Requests that no endpoint answered, by reason";
        let mut family =
            encoder.encode_descriptor("fairway_gateway_failures", help, None, MetricType::Counter)?;
        for (index, label) in FAILURES.iter().enumerate() {
            let value: u64 = self
                .workers
                .iter()
                .filter_map(|worker| worker.failures.get(index))
                .map(|counter| counter.load(Ordering::Relaxed))
                .sum();
            ConstCounter::new(value).encode(family.encode_family(&[("reason", *label)])?)?;
        }
        Ok(())
    }
}

impl Metrics {
    fn encode_connections(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = "nginx_ingress_controller_nginx_process_connections";
        let mut family = encoder.encode_descriptor(name, "Client connections", None, MetricType::Gauge)?;
        let open = i64::try_from(self.sum(|one| &one.connections)).unwrap_or(i64::MAX);
        ConstGauge::new(open).encode(family.encode_family(&[("state", "active")])?)?;
        let name = "nginx_ingress_controller_nginx_process_connections_total";
        let help = "Client connections since the start";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Unknown)?;
        let total = i64::try_from(self.sum(|one| &one.connections_total)).unwrap_or(i64::MAX);
        ConstGauge::new(total).encode(family.encode_family(&[("state", "accepted")])?)
    }
}

/// One finished request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished<'a> {
    /// Its method.
    pub(crate) method: &'a Method,
    /// What the client got; 499 when it left before.
    pub(crate) status: StatusCode,
    /// From the head's arrival to the last byte handed over.
    pub(crate) duration: Duration,
    /// Body bytes from the client.
    pub(crate) received_bytes: u64,
    /// Body bytes to the client.
    pub(crate) sent_bytes: u64,
}
