//! The metrics of a counter's task, looked up once: finding one by its name costs more than counting an item.
//!
//! Invariant: made after the process's recorder is set, or nothing is recorded.

use std::time::Instant;

use metrics::{Counter, Histogram};

use super::Applied;
use crate::model::Epoch;
use crate::telemetry;

/// See the module.
pub(super) struct Meters {
    commit_seconds: Histogram,
    counted: Counter,
    duplicates: Counter,
    skipped: Counter,
    forks: Counter,
}

impl Meters {
    pub fn new() -> Self {
        Self {
            commit_seconds: metrics::histogram!(telemetry::COMMIT_SECONDS),
            counted: metrics::counter!(telemetry::ITEMS_COUNTED),
            duplicates: metrics::counter!(telemetry::ITEMS_DUPLICATE),
            skipped: metrics::counter!(telemetry::BATCHES_SKIPPED),
            forks: metrics::counter!(telemetry::FORKS),
        }
    }

    /// Times a commit.
    pub fn commit<T>(&self, commit: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let committed = commit();
        self.commit_seconds.record(started.elapsed());
        committed
    }

    /// Counts what became of a batch of `epoch`.
    pub fn applied(&self, epoch: Epoch, applied: Applied) {
        match applied {
            Applied::Barrier => {}
            Applied::Skipped => self.skipped.increment(1),
            Applied::Counted {
                new,
                duplicates,
                fork,
            } => {
                self.counted.increment(new);
                self.duplicates.increment(duplicates);
                if fork {
                    self.forks.increment(1);
                    tracing::error!(
                        %epoch,
                        "two coordinators share an epoch: was a running machine cloned? Restart both coordinators; no count is wrong"
                    );
                }
            }
        }
    }
}
