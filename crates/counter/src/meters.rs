//! Metric handles of a counter's task. They are looked up once, because a lookup by name costs more
//! than counting an item.
//!
//! Invariant: they are created after the process's recorder is installed; otherwise nothing is
//! recorded.

use std::time::Instant;

use metrics::{Counter, Gauge, Histogram};

use super::pending::Pending;
use headcount_telemetry as telemetry;

/// The handles; see the module.
pub(super) struct Meters {
    commit_seconds: Histogram,
    counted: Counter,
    duplicates: Counter,
    skipped: Counter,
    forks: Counter,
    /// 1 while nothing is consumed because the disk is full.
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

    /// Runs and times a commit.
    pub(crate) fn commit<T>(&self, commit: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let committed = commit();
        self.commit_seconds.record(started.elapsed());
        committed
    }

    /// Counts the outcome of committed batches.
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
