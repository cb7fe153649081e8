//! The counter's task: it applies deliveries, commits all that are available in one commit, and
//! acknowledges them.
//!
//! Invariant: no delivery is acknowledged before its commit has returned, and none after a commit
//! has failed: the task ends, and with it the process. One commit holds everything that one
//! acknowledgement covers, batches and events alike.
//!
//! Deliveries that find no room on the disk are refused, and the task continues: see
//! [`super::full`].
//!
//! A batch that can't be decoded ends consumption, but not the task: the counter answers queries
//! until it is stopped.
//!
//! Where no append waits for the acknowledgement ([`Deliveries::commit_delay_max`] is not zero),
//! commits are delayed so that deliveries share a commit with those that follow. A query that waits
//! for one of these batches, or a barrier among them, causes the commit at once: the delay costs no
//! reader anything.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::control::{Command, CounterControl};
use super::meters::Meters;
use super::pending::Pending;
use super::progress::Progress;
use super::signing::Own;
use super::{Applied, LocalCounter, apply_marking};
use headcount_log::{Delivered, Deliveries, Delivery, DeliveryError};
use headcount_model::{Batch, BatchId, Epoch, NewItems};
use headcount_runtime::clock::now_ms;
use headcount_store::{Store, StoreError};

/// Interval at which the store is checked for failures, also while nothing is delivered.
const STORE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Why a counter stopped before its log ended.
#[derive(Debug, Error)]
pub enum CounterError {
    /// The store failed. Nothing has been acknowledged since; a restart recovers.
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
    /// The log can't continue without an operator.
    #[error(transparent)]
    Deliveries(#[from] DeliveryError),
    /// The counter's thread could not be started, or it panicked.
    #[error("the counter thread failed: {0}")]
    Thread(String),
}

/// An event that the task handles.
pub(super) enum Event {
    /// A delivery, the end of deliveries, or an error.
    Delivered(Result<Option<Delivery>, DeliveryError>),
    /// The commit of the pending deliveries is due.
    CommitDue,
    /// A query waits for a batch, which may be pending.
    Wanted,
    /// A check of the store is due.
    CheckDue,
    /// A control command.
    Steered(Command),
}

impl Event {
    /// The number of items, if the event is a delivery of batches; otherwise `None`.
    pub(super) fn items(&self) -> Option<usize> {
        match self {
            Self::Delivered(Ok(Some(Delivery {
                delivered: Delivered::Batches(batches),
                ..
            }))) => Some(batches.iter().map(|batch| batch.item_count()).sum()),
            _ => None,
        }
    }
}

/// A counter with its store and the consuming end of its log, not running yet.
pub struct CounterTask<S: Store, D: Deliveries> {
    own: Own,
    pub(super) store: S,
    pub(super) deliveries: D,
    pub(super) progress: Progress,
    /// Deliveries that are applied but not committed.
    pending: Option<Pending>,
    /// The batches that `pending` records. The allocation is reused.
    pub(super) recorded: Vec<BatchId>,
    commands: mpsc::Receiver<Command>,
    control: mpsc::Sender<Command>,
    /// One timer for the whole run: setting a new timer for each event would wake the thread that
    /// drives the timers.
    checks: Option<Interval>,
    pub(super) meters: Meters,
}

impl<S: Store, D: Deliveries> CounterTask<S, D> {
    /// A counter called `name` in the incarnation `life`, and the handle that answers its queries.
    #[must_use]
    pub fn new(
        name: String,
        life: u64,
        store: S,
        deliveries: D,
    ) -> (Self, LocalCounter<S::Reader>) {
        let (progress, watching) = Progress::new();
        let handle = LocalCounter::new(name.clone(), life, store.reader(), watching);
        let (control, commands) = mpsc::channel(1);
        let task = Self {
            own: Own { name, life },
            store,
            deliveries,
            progress,
            pending: None,
            recorded: Vec::new(),
            commands,
            control,
            checks: None,
            meters: Meters::new(),
        };
        (task, handle)
    }

    /// The handle that controls the counter while it runs.
    #[must_use]
    pub fn control(&self) -> CounterControl {
        CounterControl::new(self.control.clone())
    }

    /// Applies and acknowledges deliveries until the log ends, then closes the store. It blocks on
    /// the disk on the thread that polls it; [`host`](super::host()) chooses that thread.
    ///
    /// # Errors
    /// If the store fails, or the log can't continue. Deliveries since the last commit are not
    /// acknowledged.
    pub async fn run(mut self) -> Result<(), CounterError> {
        loop {
            let event = self.next().await;
            if !self.handle(event).await? {
                return self.close();
            }
        }
    }

    /// Whether appends wait for their acknowledgement.
    pub(super) fn is_waited_for(&self) -> bool {
        self.deliveries.commit_delay_max().is_zero()
    }

    pub(super) fn close(self) -> Result<(), CounterError> {
        Ok(self.store.close()?)
    }

    /// Waits for the next event. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Event {
        let due = self.pending.as_ref().map(|pending| pending.due);
        let checks = self.checks.get_or_insert_with(|| {
            let mut checks = tokio::time::interval(STORE_CHECK_INTERVAL);
            checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            checks
        });
        tokio::select! {
            delivered = self.deliveries.next(), if !self.progress.is_halted() => {
                Event::Delivered(delivered)
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                Event::CommitDue
            }
            _ = checks.tick() => Event::CheckDue,
            Some(command) = self.commands.recv() => Event::Steered(command),
            () = self.progress.wanted(), if due.is_some() => Event::Wanted,
        }
    }

    /// Handles an event. Returns whether the task continues.
    pub(super) async fn handle(&mut self, event: Event) -> Result<bool, CounterError> {
        match event {
            Event::Delivered(delivered) => {
                self.store.check()?;
                match delivered {
                    Err(error @ DeliveryError::Undecodable { .. }) => self.halt(&error).await,
                    delivered => self.take(delivered?).await,
                }
            }
            Event::CommitDue => {
                self.commit_pending().await?;
                Ok(true)
            }
            Event::Wanted => {
                if self.progress.wants_any(&self.recorded) {
                    self.commit_pending().await?;
                }
                Ok(true)
            }
            // A store that failed in the background must not look healthy.
            Event::CheckDue => {
                self.store.check()?;
                self.look_at_room().await?;
                Ok(true)
            }
            Event::Steered(command) => {
                self.commit_pending().await?;
                Ok(!self.carry_out(command)?)
            }
        }
    }

    async fn take(&mut self, delivery: Option<Delivery>) -> Result<bool, CounterError> {
        let Some(Delivery { tag, delivered }) = delivery else {
            self.commit_pending().await?;
            return Ok(false);
        };
        let commit_delay_max = self.deliveries.commit_delay_max();
        // An error drops `pending`, and with it the acknowledgement.
        let mut pending = self
            .pending
            .take()
            .unwrap_or_else(|| Pending::new(Instant::now() + commit_delay_max));
        pending.up_to = tag;
        pending.concerns_all |= !matches!(delivered, Delivered::Batches(_));
        match delivered {
            Delivered::Batches(batches) => self.apply_all(&batches, &mut pending)?,
            Delivered::HistoryComplete => self.store.set_complete(true),
            Delivered::Generation(kept) => pending.generation = Some(kept),
            Delivered::PossibleLoss { why } => {
                tracing::error!(
                    why,
                    "batches may have been lost; no answer of this counter is exact until it has \
                     caught up"
                );
                self.store.set_complete(false);
                pending.losses += 1;
                pending.doubt = Some(why);
            }
        }
        let is_due = pending.is_due() || self.progress.wants_any(&self.recorded);
        self.pending = Some(pending);
        if is_due {
            self.commit_pending().await?;
        }
        Ok(true)
    }

    /// Commits the pending deliveries and ends consumption for this incarnation: to continue would
    /// lose the batch that can't be decoded. Queries are answered from the committed state.
    async fn halt(&mut self, why: &DeliveryError) -> Result<bool, CounterError> {
        tracing::error!(%why, "consumption halted; this counter answers from its committed state");
        self.commit_pending().await?;
        self.deliveries.leave();
        self.progress.halt(why.to_string());
        Ok(true)
    }

    fn apply_all(
        &mut self,
        batches: &[Arc<Batch>],
        pending: &mut Pending,
    ) -> Result<(), CounterError> {
        for batch in batches {
            let mut marks = batch.unmarked();
            let applied = apply_marking(&mut self.store, batch, marks.as_mut())?;
            let new = NewItems {
                count: applied.new_items(),
                marks: marks.unwrap_or_default(),
            };
            self.deliveries.tell(batch.id(), new);
            match applied {
                Applied::Barrier => pending.barriers.push(batch.id()),
                Applied::Skipped => pending.redeliveries += 1,
                Applied::Counted {
                    new,
                    duplicates,
                    fork,
                } => {
                    pending.counted += new;
                    pending.duplicates += duplicates;
                    pending.forks += u64::from(fork);
                    self.recorded.push(batch.id());
                    if fork {
                        tell_fork(batch.id().epoch);
                    }
                }
            }
            if let Some(acceptance) = batch.acceptance() {
                pending.concerns_all = true;
                // A skipped acceptance took effect when it was first applied, or came with a
                // snapshot that made the counter complete.
                if applied != Applied::Skipped {
                    let losses = self.progress.losses() + pending.losses;
                    self.own.heed(&mut self.store, acceptance, losses);
                }
            }
            pending.items += batch.item_count();
            pending.accepted_at_ms = pending.accepted_at_ms.max(Some(batch.accepted_at_ms()));
        }
        Ok(())
    }

    /// Commits, publishes and acknowledges the pending deliveries, or refuses them if the disk has
    /// no room.
    pub(super) async fn commit_pending(&mut self) -> Result<(), CounterError> {
        let Some(pending) = self.pending.take() else {
            return Ok(());
        };
        let mut kept = self.meters.commit(|| self.store.commit());
        if let (Ok(()), Some(generation)) = (&kept, pending.generation) {
            kept = self.store.set_generation(generation);
        }
        match kept {
            Err(error) if error.is_full() => {
                self.refuse(&pending, &error.to_string());
                return Ok(());
            }
            kept => kept?,
        }
        self.meters.committed(&pending);
        if let Some(why) = pending.doubt {
            self.progress.doubt(why);
        }
        let lag_ms = pending.accepted_at_ms.map(|at| now_ms().saturating_sub(at));
        self.progress.note(&pending.barriers, |tally| {
            tally.lag_ms = lag_ms.unwrap_or(tally.lag_ms);
            tally.redeliveries += pending.redeliveries;
            tally.forks += pending.forks;
            tally.losses += pending.losses;
        });
        match pending.concerns_all {
            true => self.progress.changed(),
            false => self.progress.committed(&self.recorded),
        }
        self.recorded.clear();
        self.deliveries.acknowledge(pending.up_to).await;
        Ok(())
    }
}

#[cold]
fn tell_fork(epoch: Epoch) {
    tracing::error!(
        %epoch,
        "two coordinators share an epoch, as after a running machine was cloned; restart both \
         coordinators (no count is wrong)"
    );
}
