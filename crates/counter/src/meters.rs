//! The metrics of a counter's task, looked up once: finding one by its name costs more than
//! counting an item.
//!
//! Invariant: made after the process's recorder is set, or nothing is recorded.

use std::time::Instant;

use metrics::{Counter, Gauge, Histogram};

use super::pending::Pending;
use headcount_telemetry as telemetry;

/// See the module.
pub(super) struct Meters {
    commit_seconds: Histogram,
    counted: Counter,
    duplicates: Counter,
    skipped: Counter,
    forks: Counter,
    /// 1 while nothing is taken for want of room on the disk.
    pub full: Gauge,
}

impl Meters {
    pub(crate) fn new() -> Self {
        Self {
            commit_seconds: metrics::histogram!(telemetry::COMMIT_SECONDS),
            counted: metrics::counter!(telemetry::ITEMS_COUNTED),
            duplicates: metrics::counter!(telemetry::ITEMS_DUPLICATE),
            skipped: metrics::counter!(telemetry::BATCHES_SKIPPED),
            forks: metrics::counter!(telemetry::FORKS),
            full: metrics::gauge!(telemetry::STORE_FULL),
        }
    }

    /// Times a commit.
    pub(crate) fn commit<T>(&self, commit: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let committed = commit();
        self.commit_seconds.record(started.elapsed());
        committed
    }

    /// Counts what became of batches that are committed.
    pub(crate) fn committed(&self, pending: &Pending) {
        self.counted.increment(pending.counted);
        self.duplicates.increment(pending.duplicates);
        if pending.redeliveries > 0 {
            self.skipped.increment(pending.redeliveries);
        }
        if pending.forks > 0 {
            self.forks.increment(pending.forks);
        }
    }
}
