//! The counter's task: deliveries in, one commit for all that are there, then their acknowledgement.
//!
//! Invariant: nothing is acknowledged before its commit returned, and nothing after a commit failed: the task
//! ends, and with it the process.

use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;

use super::{Applied, LocalCounter, apply};
use crate::clock::now_ms;
use crate::log::Deliveries;
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
    /// Its thread could not be started, or panicked.
    #[error("the counter's thread failed: {0}")]
    Thread(String),
}

/// What the task has done lately, for queries that wait and for status.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// Commits so far in this life.
    pub commits: u64,
    /// How old the last applied batch was when it was committed, in milliseconds.
    pub lag_ms: u64,
}

/// A counter over its store and its end of the log, not running yet.
pub struct CounterTask<S: Store, D: Deliveries> {
    store: S,
    deliveries: D,
    progress: watch::Sender<Progress>,
}

impl<S: Store, D: Deliveries> CounterTask<S, D> {
    /// A counter called `name`, and the handle that answers queries for it.
    #[must_use]
    pub fn new(name: String, store: S, deliveries: D) -> (Self, LocalCounter<S::Reader>) {
        let (progress, watching) = watch::channel(Progress::default());
        let handle = LocalCounter::new(name, store.reader(), watching);
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
            let batches = match received {
                Ok(Some(batches)) => batches,
                Ok(None) => break,
                Err(_) => continue,
            };
            let mut accepted_at_ms = 0;
            for batch in &batches {
                let applied = apply(&mut self.store, batch)?;
                report(batch.id().epoch, applied);
                accepted_at_ms = accepted_at_ms.max(batch.accepted_at_ms());
            }
            telemetry::timed(telemetry::COMMIT_SECONDS, || self.store.commit())?;
            let lag_ms = now_ms().saturating_sub(accepted_at_ms);
            self.progress.send_modify(|progress| {
                progress.commits += 1;
                progress.lag_ms = lag_ms;
            });
            self.deliveries.acknowledge().await;
        }
        self.store.close()?;
        Ok(())
    }
}

fn report(epoch: crate::model::Epoch, applied: Applied) {
    match applied {
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
