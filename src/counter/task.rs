//! The counter's task: deliveries in, one commit for all that are there, then their acknowledgement.
//!
//! Invariant: nothing is acknowledged before its commit returned, and nothing after a commit failed: the task
//! ends, and with it the process.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::progress::Progress;
use super::{Applied, LocalCounter, apply};
use crate::clock::now_ms;
use crate::log::{Delivered, Deliveries, DeliveryError};
use crate::model::{Batch, ItemHash, Position, TenantName};
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

/// What a healer asks of the task.
enum Unite {
    Begin,
    Keys(Vec<(TenantName, Vec<ItemHash>)>),
    Finish { position: Position, losses: u64 },
    Abandon,
}

struct Command {
    what: Unite,
    done: oneshot::Sender<()>,
}

/// The counter's task has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the counter has stopped")]
pub struct TaskEnded;

/// Takes another counter's keys into a running counter's store; cheap to clone, used by one at a time.
#[derive(Clone)]
pub struct UniteHandle {
    commands: mpsc::Sender<Command>,
}

impl UniteHandle {
    /// Begins anew.
    pub(super) async fn begin(&self) -> Result<(), TaskEnded> {
        self.send(Unite::Begin).await
    }

    /// Sets keys aside.
    pub(super) async fn keys(
        &self,
        keys: Vec<(TenantName, Vec<ItemHash>)>,
    ) -> Result<(), TaskEnded> {
        self.send(Unite::Keys(keys)).await
    }

    /// Takes all that was set aside in, at once. The store is complete then, unless the log has said since
    /// that batches may be lost: `losses` is how often it had said so when the round began.
    pub(super) async fn finish(&self, position: Position, losses: u64) -> Result<(), TaskEnded> {
        self.send(Unite::Finish { position, losses }).await
    }

    /// Forgets what was set aside.
    pub(super) async fn abandon(&self) -> Result<(), TaskEnded> {
        self.send(Unite::Abandon).await
    }

    async fn send(&self, what: Unite) -> Result<(), TaskEnded> {
        let (done, carried_out) = oneshot::channel();
        let command = Command { what, done };
        self.commands.send(command).await.map_err(|_| TaskEnded)?;
        carried_out.await.map_err(|_| TaskEnded)
    }
}

/// A counter over its store and its end of the log, not running yet.
pub struct CounterTask<S: Store, D: Deliveries> {
    store: S,
    deliveries: D,
    progress: Progress,
    commands: mpsc::Receiver<Command>,
    unite: mpsc::Sender<Command>,
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
        let (unite, commands) = mpsc::channel(1);
        let task = Self {
            store,
            deliveries,
            progress,
            commands,
            unite,
        };
        (task, handle)
    }

    /// A handle to take another counter's keys in while the task runs.
    #[must_use]
    pub fn unite_handle(&self) -> UniteHandle {
        UniteHandle {
            commands: self.unite.clone(),
        }
    }

    /// Applies and acknowledges until the log ends, then closes the store. It blocks on the disk, so it wants
    /// a thread of its own.
    ///
    /// # Errors
    /// When the store failed. What was delivered since its last commit is not acknowledged.
    pub async fn run(mut self) -> Result<(), CounterError> {
        loop {
            let received = tokio::select! {
                received = tokio::time::timeout(STORE_CHECK_INTERVAL, self.deliveries.next()) => received,
                Some(command) = self.commands.recv() => {
                    self.carry_out(command)?;
                    continue;
                }
            };
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
                    self.progress.note(&[], |tally| tally.losses += 1);
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

    fn carry_out(&mut self, command: Command) -> Result<(), CounterError> {
        match command.what {
            Unite::Begin => self.store.begin_unite()?,
            Unite::Keys(keys) => {
                for (tenant, hashes) in keys {
                    self.store.unite(&tenant, &hashes)?;
                }
            }
            Unite::Finish { position, losses } => {
                // A loss noticed since the round began is not made good by what was fetched in it.
                let complete = self.progress.losses() == losses;
                self.store.finish_unite(&position, complete)?;
                self.progress.note(&[], |tally| tally.snapshots += 1);
            }
            Unite::Abandon => self.store.abandon_unite(),
        }
        // A healer that no longer waits has nothing to learn.
        let _ = command.done.send(());
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
