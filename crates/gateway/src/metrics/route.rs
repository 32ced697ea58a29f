//! Counters of one route.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use http::Method;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Finished;

/// What ingress-nginx labels a request with, apart from method and status.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteLabels {
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) namespace: String,
    pub(crate) ingress: String,
    pub(crate) service: String,
}

/// Methods with a label of their own; the last stands for all others.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "OTHER"];

/// Statuses with a label of their own (RFC 9110 and what proxies add); others count under their class at the end.
const STATUSES: [(u16, &str); 52] = [
    (101, "101"),
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (203, "203"),
    (204, "204"),
    (205, "205"),
    (206, "206"),
    (207, "207"),
    (300, "300"),
    (301, "301"),
    (302, "302"),
    (303, "303"),
    (304, "304"),
    (307, "307"),
    (308, "308"),
    (400, "400"),
    (401, "401"),
    (402, "402"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (406, "406"),
    (407, "407"),
    (408, "408"),
    (409, "409"),
    (410, "410"),
    (411, "411"),
    (412, "412"),
    (413, "413"),
    (414, "414"),
    (415, "415"),
    (416, "416"),
    (417, "417"),
    (418, "418"),
    (421, "421"),
    (422, "422"),
    (423, "423"),
    (425, "425"),
    (426, "426"),
    (428, "428"),
    (429, "429"),
    (431, "431"),
    (451, "451"),
    (499, "499"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    (505, "505"),
    (511, "511"),
];

/// Labels of statuses without one of their own, by class.
const CLASSES: [&str; 6] = ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"];

const SLOTS: usize = STATUSES.len() + CLASSES.len();

const SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
const BYTES: [f64; 8] = [10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8];

/// The counters of a route.
#[derive(Debug)]
pub(crate) struct RouteMetrics {
    labels: RouteLabels,
    shards: Box<[Shard]>,
}

/// One worker's share. Counts of a method come into being with its first request: thousands of quiet routes cost little.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard {
    counts: [OnceLock<Box<[AtomicU64; SLOTS]>>; METHODS.len()],
    durations: Histogram<{ SECONDS.len() }>,
    received: Histogram<{ BYTES.len() }>,
    sent: Histogram<{ BYTES.len() }>,
}

/// Counts below each bound, and what exceeds all of them.
#[derive(Debug)]
struct Histogram<const N: usize> {
    below: [AtomicU64; N],
    above: AtomicU64,
    /// In millionths of the unit.
    sum_micros: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            below: std::array::from_fn(|_| AtomicU64::new(0)),
            above: AtomicU64::new(0),
            sum_micros: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Histogram<N> {
    fn observe(&self, bounds: &[f64; N], value: f64, micros: u64) {
        let slot = bounds.iter().zip(&self.below).find(|(bound, _)| value <= **bound);
        slot.map_or(&self.above, |(_, slot)| slot).fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

impl RouteMetrics {
    pub(crate) fn new(labels: RouteLabels, workers: usize) -> Self {
        Self { labels, shards: (0..workers).map(|_| Shard::default()).collect() }
    }

    /// Counts a finished request.
    pub(crate) fn count(&self, worker: usize, request: Finished<'_>) {
        let Some(shard) = self.shards.get(worker) else { return };
        let (method, status) = (method_index(request.method), status_index(request.status.as_u16()));
        let counts = shard
            .counts
            .get(method)
            .map(|counts| counts.get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0)))));
        if let Some(count) = counts.and_then(|counts| counts.get(status)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(request.duration.as_micros()).unwrap_or(u64::MAX);
        shard.durations.observe(&SECONDS, request.duration.as_secs_f64(), micros);
        for (histogram, bytes) in
            [(&shard.received, request.received_bytes), (&shard.sent, request.sent_bytes)]
        {
            #[expect(clippy::cast_precision_loss, reason = "a bucket bound needs no 53 bits")]
            histogram.observe(&BYTES, bytes as f64, bytes.saturating_mul(1_000_000));
        }
    }

    fn label_set(&self) -> [(&'static str, &str); 6] {
        [
            ("host", &self.labels.host),
            ("path", &self.labels.path),
            ("namespace", &self.labels.namespace),
            ("ingress", &self.labels.ingress),
            ("service", &self.labels.service),
            ("canary", ""),
        ]
    }

    /// The requests of one method and status over all workers.
    fn requests(&self, method: usize, status: usize) -> u64 {
        self.shards
            .iter()
            .filter_map(|shard| shard.counts.get(method)?.get()?.get(status))
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }
}

fn method_index(method: &Method) -> usize {
    METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1)
}

fn status_index(status: u16) -> usize {
    let class = STATUSES.len() + usize::from(status / 100).min(CLASSES.len() - 1);
    STATUSES.binary_search_by_key(&status, |(code, _)| *code).unwrap_or(class)
}

fn status_labels() -> impl Iterator<Item = &'static str> {
    STATUSES.iter().map(|(_, label)| *label).chain(CLASSES)
}

/// Writes the families of all routes.
pub(super) fn encode(
    routes: &[Arc<RouteMetrics>],
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    // Of no declared type: a counter would be renamed `…_total`, and dashboards ask for this name.
    let name = "nginx_ingress_controller_requests";
    let mut family = encoder.encode_descriptor(name, "Client requests", None, MetricType::Unknown)?;
    for route in routes {
        for (method, method_label) in METHODS.iter().enumerate() {
            for (status, status_label) in status_labels().enumerate() {
                let count = route.requests(method, status);
                if count > 0 {
                    let own = [("method", *method_label), ("status", status_label)];
                    let labels: Vec<(&str, &str)> = own.into_iter().chain(route.label_set()).collect();
                    let value = i64::try_from(count).unwrap_or(i64::MAX);
                    ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
    }
    let name = "nginx_ingress_controller_request_duration_seconds";
    encode_histogram(routes, encoder, name, "Time from the head to the last byte", &SECONDS, |shard| {
        &shard.durations
    })?;
    let name = "nginx_ingress_controller_request_size";
    encode_histogram(routes, encoder, name, "Bytes of request bodies", &BYTES, |shard| &shard.received)?;
    let name = "nginx_ingress_controller_response_size";
    encode_histogram(routes, encoder, name, "Bytes of response bodies", &BYTES, |shard| &shard.sent)
}

fn encode_histogram<const N: usize>(
    routes: &[Arc<RouteMetrics>],
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    bounds: &[f64; N],
    of: impl Fn(&Shard) -> &Histogram<N>,
) -> Result<(), std::fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for route in routes {
        let total = |of_one: &dyn Fn(&Histogram<N>) -> u64| -> u64 {
            route.shards.iter().map(|shard| of_one(of(shard))).sum()
        };
        let mut buckets: Vec<(f64, u64)> = Vec::with_capacity(N + 1);
        for (index, bound) in bounds.iter().enumerate() {
            let below = |one: &Histogram<N>| one.below.get(index).map_or(0, |n| n.load(Ordering::Relaxed));
            buckets.push((*bound, total(&below)));
        }
        buckets.push((f64::INFINITY, total(&|one| one.above.load(Ordering::Relaxed))));
        let count: u64 = buckets.iter().map(|(_, count)| count).sum();
        if count == 0 {
            continue;
        }
        #[expect(clippy::cast_precision_loss, reason = "a sum for averages needs no 53 bits")]
        let sum = total(&|one| one.sum_micros.load(Ordering::Relaxed)) as f64 / 1e6;
        let labels = route.label_set();
        family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;
    use prometheus_client::encoding::text::encode as text;
    use prometheus_client::registry::Registry;

    use super::super::Metrics;
    use super::*;

    #[test]
    fn statuses_are_sorted_or_the_search_fails() {
        assert!(STATUSES.is_sorted_by_key(|(code, _)| *code));
        assert_eq!(status_labels().nth(status_index(299)), Some("2xx"));
        assert_eq!(status_labels().nth(status_index(404)), Some("404"));
        assert_eq!(status_labels().nth(status_index(999)), Some("5xx"));
    }

    #[test]
    fn a_scrape_has_the_names_of_ingress_nginx_and_the_sum_of_all_workers() {
        let metrics = Arc::new(Metrics::new(2));
        let labels = RouteLabels { host: "h".into(), ingress: "shop".into(), ..RouteLabels::default() };
        let route = metrics.routes([labels.clone()]).remove(&labels).unwrap();
        let finished = Finished {
            method: &Method::GET,
            status: StatusCode::OK,
            duration: Duration::from_millis(20),
            received_bytes: 0,
            sent_bytes: 1024,
        };
        route.count(0, finished);
        route.count(1, finished);
        metrics.worker(0).count_failure("lost");
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics.clone()));
        let mut out = String::new();
        text(&mut out, &registry).unwrap();
        for want in [
            "nginx_ingress_controller_requests{method=\"GET\",status=\"200\",host=\"h\",path=\"\",namespace=\"\",ingress=\"shop\",service=\"\",canary=\"\"} 2",
            "nginx_ingress_controller_request_duration_seconds_count{host=\"h\",path=\"\",namespace=\"\",ingress=\"shop\",service=\"\",canary=\"\"} 2",
            "nginx_ingress_controller_response_size_sum{host=\"h\",path=\"\",namespace=\"\",ingress=\"shop\",service=\"\",canary=\"\"} 2048.0",
            "fairway_gateway_failures_total{reason=\"lost\"} 1",
        ] {
            assert!(out.contains(want), "{want} is not in\n{out}");
        }
        assert!(metrics.routes([]).is_empty());
    }
}
