//! The counter's task: deliveries in, one commit for all that are there, then their acknowledgement.
//!
//! Invariant: nothing is acknowledged before its commit returned, and nothing after a commit failed: the task
//! ends, and with it the process.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::progress::Progress;
use super::{Applied, LocalCounter, apply};
use crate::clock::now_ms;
use crate::log::{Delivered, Deliveries, DeliveryError};
use crate::model::Batch;
use crate::store::{Store, StoreError};
use crate::telemetry;

/// How often the store is asked whether it still works while nothing is delivered.
const STORE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Why a counter stopped before its log ended.
#[derive(Debug, Error)]
pub enum CounterError {
    /// Its store failed. Nothing was acknowledged since; a restart recovers.
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
    /// Its log can't go on without an operator.
    #[error(transparent)]
    Deliveries(#[from] DeliveryError),
    /// Its thread could not be started, or panicked.
    #[error("the counter's thread failed: {0}")]
    Thread(String),
}

/// A counter over its store and its end of the log, not running yet.
pub struct CounterTask<S: Store, D: Deliveries> {
    store: S,
    deliveries: D,
    progress: Progress,
}

impl<S: Store, D: Deliveries> CounterTask<S, D> {
    /// A counter called `name` in its life `life`, and the handle that answers queries for it.
    #[must_use]
    pub fn new(
        name: String,
        life: u64,
        store: S,
        deliveries: D,
    ) -> (Self, LocalCounter<S::Reader>) {
        let (progress, watching) = Progress::new();
        let handle = LocalCounter::new(name, life, store.reader(), watching);
        let task = Self {
            store,
            deliveries,
            progress,
        };
        (task, handle)
    }

    /// Applies and acknowledges until the log ends, then closes the store. It blocks on the disk, so it wants
    /// a thread of its own.
    ///
    /// # Errors
    /// When the store failed. What was delivered since its last commit is not acknowledged.
    pub async fn run(mut self) -> Result<(), CounterError> {
        loop {
            let received = tokio::time::timeout(STORE_CHECK_INTERVAL, self.deliveries.next()).await;
            // Also when nothing comes: a store that failed in the background must not look well.
            self.store.check()?;
            let delivered = match received {
                Ok(delivered) => delivered?,
                Err(_) => continue,
            };
            match delivered {
                Some(Delivered::Batches(batches)) => self.apply_all(&batches)?,
                Some(Delivered::FromTheBeginning) => self.note_complete(true)?,
                Some(Delivered::MayHaveLost { why }) => {
                    tracing::error!(
                        why,
                        "batches may have been lost on their way; no answer of this counter is exact until it has caught up"
                    );
                    self.note_complete(false)?;
                }
                None => break,
            }
            self.deliveries.acknowledge().await;
        }
        self.store.close()?;
        Ok(())
    }

    fn apply_all(&mut self, batches: &[Arc<Batch>]) -> Result<(), CounterError> {
        let mut accepted_at_ms = 0;
        let mut barriers = Vec::new();
        let (mut redeliveries, mut forks) = (0, 0);
        for batch in batches {
            let applied = apply(&mut self.store, batch)?;
            match applied {
                Applied::Barrier => barriers.push(batch.id()),
                Applied::Skipped => redeliveries += 1,
                Applied::Counted { fork, .. } => forks += u64::from(fork),
            }
            report(batch.id().epoch, applied);
            accepted_at_ms = accepted_at_ms.max(batch.accepted_at_ms());
        }
        telemetry::timed(telemetry::COMMIT_SECONDS, || self.store.commit())?;
        let lag_ms = now_ms().saturating_sub(accepted_at_ms);
        self.progress.note(&barriers, |tally| {
            tally.lag_ms = lag_ms;
            tally.redeliveries += redeliveries;
            tally.forks += forks;
        });
        Ok(())
    }

    fn note_complete(&mut self, complete: bool) -> Result<(), CounterError> {
        self.store.set_complete(complete);
        self.store.commit()?;
        self.progress.note(&[], |_| {});
        Ok(())
    }
}

fn report(epoch: crate::model::Epoch, applied: Applied) {
    match applied {
        Applied::Barrier => {}
        Applied::Skipped => telemetry::count(telemetry::BATCHES_SKIPPED, 1),
        Applied::Counted {
            new,
            duplicates,
            fork,
        } => {
            telemetry::count(telemetry::ITEMS_COUNTED, new);
            telemetry::count(telemetry::ITEMS_DUPLICATE, duplicates);
            if fork {
                telemetry::count(telemetry::FORKS, 1);
                tracing::error!(
                    %epoch,
                    "two coordinators share an epoch: was a running machine cloned? Restart both coordinators; no count is wrong"
                );
            }
        }
    }
}
