//! What the server counts, as Prometheus text, under the names that dashboards of kube-apiserver know.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fairway_objects::status::Status;

use crate::rest::watch::pulse::Pulses;
use crate::store;

/// Watches open at once.
const WATCHES_MAX: usize = 10_000;
/// Label combinations that are counted apart.
const SERIES_MAX: usize = 2000;
/// Upper bounds of the latency buckets, seconds.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// All counters of the HTTP side.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(String, &'static str, u16), u64>>,
    latencies: Mutex<BTreeMap<&'static str, Histogram>>,
    watches: Arc<AtomicUsize>,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum_s: f64,
}

/// Counts as an open watch until it is dropped.
#[derive(Debug)]
pub(crate) struct Watching(Arc<AtomicUsize>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Counts one watch more, unless there are too many.
    pub(crate) fn watch(&self) -> Result<Watching, Status> {
        if self.watches.fetch_add(1, Ordering::Relaxed) >= WATCHES_MAX {
            self.watches.fetch_sub(1, Ordering::Relaxed);
            return Err(Status::too_many_requests("too many watches, please try again later", 5));
        }
        Ok(Watching(Arc::clone(&self.watches)))
    }

    /// Counts a request that was refused because too many were under way.
    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answered request. `resource` is "" for paths.
    pub(crate) fn answered(&self, verb: &'static str, resource: &str, code: u16, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() < SERIES_MAX {
            *requests.entry((resource.to_owned(), verb, code)).or_default() += 1;
        }
        drop(requests);
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let histogram = latencies.entry(verb).or_default();
        let seconds = took.as_secs_f64();
        histogram.count += 1;
        histogram.sum_s += seconds;
        for (bucket, bound) in histogram.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= bound);
        }
    }

    /// The text that Prometheus reads.
    pub(crate) fn render(&self, store: &store::Store, pulses: &Pulses) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text, store, pulses);
        text
    }

    fn write(&self, text: &mut String, store: &store::Store, pulses: &Pulses) -> std::fmt::Result {
        writeln!(
            text,
            "# HELP apiserver_request_total Requests answered.\n# TYPE apiserver_request_total counter"
        )?;
        for ((resource, verb, code), count) in
            self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter()
        {
            writeln!(
                text,
                "apiserver_request_total{{verb=\"{verb}\",resource=\"{resource}\",code=\"{code}\"}} {count}"
            )?;
        }
        let name = "apiserver_request_duration_seconds";
        writeln!(
            text,
            "# HELP {name} Time from the head of a request to the head of its answer.\n# TYPE {name} histogram"
        )?;
        for (verb, histogram) in self.latencies.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for (count, bound) in histogram.buckets.iter().zip(BUCKETS) {
                writeln!(text, "{name}_bucket{{verb=\"{verb}\",le=\"{bound}\"}} {count}")?;
            }
            writeln!(text, "{name}_bucket{{verb=\"{verb}\",le=\"+Inf\"}} {}", histogram.count)?;
            writeln!(text, "{name}_sum{{verb=\"{verb}\"}} {}", histogram.sum_s)?;
            writeln!(text, "{name}_count{{verb=\"{verb}\"}} {}", histogram.count)?;
        }
        self.write_singles(text, store, pulses)?;
        write_collections(text, store)
    }

    #[expect(clippy::too_many_lines, reason = "one table")]
    fn write_singles(&self, text: &mut String, store: &store::Store, pulses: &Pulses) -> std::fmt::Result {
        let state = store.state();
        let counters = store.metrics();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let watches = self.watches.load(Ordering::Relaxed) as u64;
        let singles = [
            ("apiserver_longrunning_requests", "gauge", "Watches open.", watches),
            (
                "fairway_watches_dropped_total",
                "counter",
                "Watches hung up on because their clients did not read.",
                pulses.dropped(),
            ),
            (
                "apiserver_storage_size_bytes",
                "gauge",
                "Snapshots and logs on disk, as of the last look.",
                load(&counters.disk_bytes),
            ),
            (
                "etcd_mvcc_db_total_size_in_bytes",
                "gauge",
                "The same under the name that dashboards of etcd know.",
                load(&counters.disk_bytes),
            ),
            (
                "fairway_store_segment_bytes",
                "gauge",
                "The log file that is appended to.",
                load(&counters.segment_bytes),
            ),
            ("fairway_store_queue_length", "gauge", "Transactions that wait.", store.queue_len() as u64),
            (
                "fairway_store_compacted_events_total",
                "counter",
                "Changes that watchers can no longer come back for.",
                load(&counters.compacted_events),
            ),
            (
                "fairway_store_compacted_trees_total",
                "counter",
                "Documents whose trees were let go.",
                load(&counters.compacted_trees),
            ),
            (
                "apiserver_request_terminations_total",
                "counter",
                "Requests refused under load.",
                load(&self.refused),
            ),
            ("fairway_store_revision", "gauge", "The newest revision.", state.revision()),
            (
                "fairway_store_transactions_total",
                "counter",
                "Transactions decided.",
                load(&counters.transactions),
            ),
            ("fairway_store_syncs_total", "counter", "Frames written and synced.", load(&counters.frames)),
            (
                "fairway_store_sync_microseconds_total",
                "counter",
                "Time spent writing and syncing.",
                load(&counters.sync_us),
            ),
            (
                "fairway_store_log_bytes_total",
                "counter",
                "Bytes appended to the log.",
                load(&counters.log_bytes),
            ),
            (
                "fairway_store_failures_total",
                "counter",
                "Frames that could not be kept.",
                load(&counters.failures),
            ),
            ("fairway_store_snapshots_total", "counter", "Snapshots written.", load(&counters.snapshots)),
        ];
        for (name, kind, help, value) in singles {
            writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}")?;
        }
        Ok(())
    }
}

/// What is counted for each collection.
fn write_collections(text: &mut String, store: &store::Store) -> std::fmt::Result {
    let state = store.state();
    let logs = store.logs();
    let head = |text: &mut String, name: &str, help: &str| {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge")
    };
    head(text, "apiserver_storage_objects", "Objects stored.")?;
    for (collection, objects) in state.collections() {
        let (resource, count) = (collection.as_str(), objects.len());
        writeln!(text, "apiserver_storage_objects{{resource=\"{resource}\"}} {count}")?;
    }
    head(text, "apiserver_registered_watchers", "Watches of a resource.")?;
    for (collection, log) in &logs {
        let (resource, count) = (collection.as_str(), log.watcher_count());
        writeln!(text, "apiserver_registered_watchers{{resource=\"{resource}\"}} {count}")?;
    }
    head(text, "fairway_store_log_events", "Changes that watchers can come back for.")?;
    for (collection, log) in &logs {
        let (resource, (count, _)) = (collection.as_str(), log.size());
        writeln!(text, "fairway_store_log_events{{resource=\"{resource}\"}} {count}")?;
    }
    head(text, "fairway_store_log_held_bytes", "Text of superseded versions in them.")?;
    for (collection, log) in &logs {
        let (resource, (_, bytes)) = (collection.as_str(), log.size());
        writeln!(text, "fairway_store_log_held_bytes{{resource=\"{resource}\"}} {bytes}")?;
    }
    Ok(())
}
