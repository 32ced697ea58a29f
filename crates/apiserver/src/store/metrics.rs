//! What the writer counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start; read with relaxed ordering.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Transactions asked for.
    pub transactions: AtomicU64,
    /// Frames written (each with one sync).
    pub frames: AtomicU64,
    /// Time spent in write and sync, microseconds.
    pub sync_us: AtomicU64,
    /// Bytes appended to the log.
    pub log_bytes: AtomicU64,
    /// Frames that could not be written or synced.
    pub failures: AtomicU64,
    /// Snapshot files written.
    pub snapshots: AtomicU64,
    /// Events let go from the logs.
    pub compacted_events: AtomicU64,
    /// Trees of documents let go.
    pub compacted_trees: AtomicU64,
    /// Bytes of snapshots and logs on disk, as of the last look.
    pub disk_bytes: AtomicU64,
    /// Bytes of the log file that is appended to.
    pub segment_bytes: AtomicU64,
}

impl Metrics {
    pub(super) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}
