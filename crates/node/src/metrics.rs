//! Metrics by the names of kube-proxy, so that dashboards and alerts go on working.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Handles; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    sync: Histogram,
    sync_full: Histogram,
    sync_partial: Histogram,
    programming: Histogram,
    last_sync_s: Gauge<f64, AtomicU64>,
    failures: Counter,
    service_changes: Counter,
    endpoint_changes: Counter,
    flows_cut: Counter,
    drift_repairs: Counter,
}

/// What a synchronisation started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// From what was read from the kernel.
    Full,
    /// From the last compiled state.
    Partial,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        // From 0.1 ms: kube-proxy's own buckets begin at 1 ms, where everything here would be in the first.
        let seconds = || Histogram::new(exponential_buckets(0.0001, 2.0, 20));
        let metrics = Self {
            sync: seconds(),
            sync_full: seconds(),
            sync_partial: seconds(),
            programming: seconds(),
            last_sync_s: Gauge::default(),
            failures: Counter::default(),
            service_changes: Counter::default(),
            endpoint_changes: Counter::default(),
            flows_cut: Counter::default(),
            drift_repairs: Counter::default(),
        };
        let kube_proxy = registry.sub_registry_with_prefix("kubeproxy");
        let rules = "sync_proxy_rules";
        kube_proxy.register(
            format!("{rules}_duration_seconds"),
            "Time to program rules",
            metrics.sync.clone(),
        );
        kube_proxy.register(
            "sync_full_proxy_rules_duration_seconds",
            "Time of full resyncs",
            metrics.sync_full.clone(),
        );
        kube_proxy.register(
            "sync_partial_proxy_rules_duration_seconds",
            "Time of changes",
            metrics.sync_partial.clone(),
        );
        kube_proxy.register(
            "network_programming_duration_seconds",
            "From the change of a pod or Service to its rules in the kernel",
            metrics.programming.clone(),
        );
        kube_proxy.register(
            format!("{rules}_last_timestamp_seconds"),
            "The last time that rules were programmed",
            metrics.last_sync_s.clone(),
        );
        kube_proxy.register(
            format!("{rules}_nftables_sync_failures"),
            "Transactions that failed",
            metrics.failures.clone(),
        );
        kube_proxy.register(
            format!("{rules}_service_changes"),
            "Changes of Services",
            metrics.service_changes.clone(),
        );
        kube_proxy.register(
            format!("{rules}_endpoint_changes"),
            "Changes of EndpointSlices",
            metrics.endpoint_changes.clone(),
        );
        let ours = registry.sub_registry_with_prefix("fairway_node");
        ours.register(
            "udp_flows_cut",
            "UDP flows deleted because their endpoint left",
            metrics.flows_cut.clone(),
        );
        ours.register(
            "drift_repairs",
            "Times that rules changed by others were restored",
            metrics.drift_repairs.clone(),
        );
        metrics
    }

    /// Rules were programmed.
    pub(crate) fn synced(&self, sync: Sync, took: Duration, at: jiff::Timestamp) {
        let seconds = took.as_secs_f64();
        self.sync.observe(seconds);
        match sync {
            Sync::Full => self.sync_full.observe(seconds),
            Sync::Partial => self.sync_partial.observe(seconds),
        }
        self.last_sync_s.set(at.as_millisecond() as f64 / 1000.0);
    }

    pub(crate) fn failed(&self) {
        self.failures.inc();
    }

    pub(crate) fn changed(&self, changes: &crate::world::Changes) {
        self.service_changes.inc_by(changes.services);
        self.endpoint_changes.inc_by(changes.slices);
    }

    /// Endpoint changes of those times are in the kernel now.
    pub(crate) fn programmed(&self, triggered: &[jiff::Timestamp], now: jiff::Timestamp) {
        for time in triggered {
            self.programming.observe(now.duration_since(*time).as_secs_f64().max(0.0));
        }
    }

    pub(crate) fn cut_flows(&self, count: usize) {
        self.flows_cut.inc_by(count as u64);
    }

    pub(crate) fn repaired_drift(&self) {
        self.drift_repairs.inc();
    }
}
