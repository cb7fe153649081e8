//! The counter's task: deliveries in, one commit for all that are there, then their
//! acknowledgement.
//!
//! Invariant: nothing is acknowledged before its commit returned, and nothing after a commit
//! failed: the task ends, and with it the process. One commit holds all that one acknowledgement
//! covers, batches and events alike.
//!
//! What there is no room for on the disk is refused, and the task goes on: see [`super::full`].
//!
//! A batch that can't be read is the end of consuming, not of the task: it goes on to answer until
//! it is stopped.
//!
//! Where nobody waits for an acknowledgement ([`Deliveries::patience`]), deliveries share a commit
//! with those that come soon after. A query that waits for them, or a barrier among them, ends the
//! waiting: patience costs no reader anything.

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

/// What a turn of the task is about.
pub(super) enum Event {
    /// Something was delivered, or nothing will be any more.
    Delivered(Result<Option<Delivery>, DeliveryError>),
    /// What waits for a commit has waited long enough.
    CommitDue,
    /// A query waits for a batch: maybe for one that waits for a commit.
    Wanted,
    /// The store is to be asked whether it still works.
    CheckDue,
    /// Somebody steers it.
    Steered(Command),
}

impl Event {
    /// The items of delivered batches, where it is nothing else.
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

/// A counter over its store and its end of the log, not running yet.
pub struct CounterTask<S: Store, D: Deliveries> {
    own: Own,
    pub(super) store: S,
    pub(super) deliveries: D,
    pub(super) progress: Progress,
    /// What is applied and not yet committed.
    pending: Option<Pending>,
    /// The batches of that; the list's memory stays for the next ones.
    pub(super) recorded: Vec<BatchId>,
    commands: mpsc::Receiver<Command>,
    control: mpsc::Sender<Command>,
    /// One timer for all turns: setting one anew at each would wake the thread that keeps them.
    checks: Option<Interval>,
    pub(super) meters: Meters,
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

    /// The handle that steers it while it runs.
    #[must_use]
    pub fn control(&self) -> CounterControl {
        CounterControl::new(self.control.clone())
    }

    /// Applies and acknowledges until the log ends, then closes the store. It blocks on the disk
    /// wherever it is polled: [`host`](super::host()) finds it a place.
    ///
    /// # Errors
    /// When the store failed. What was delivered since its last commit is not acknowledged.
    pub async fn run(mut self) -> Result<(), CounterError> {
        loop {
            let event = self.next().await;
            if !self.handle(event).await? {
                return self.close();
            }
        }
    }

    /// Whether an append waits for each acknowledgement.
    pub(super) fn is_waited_for(&self) -> bool {
        self.deliveries.patience().is_zero()
    }

    /// Closes the store.
    pub(super) fn close(self) -> Result<(), CounterError> {
        Ok(self.store.close()?)
    }

    /// Waits for what comes next. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Event {
        let due = self.pending.as_ref().map(|pending| pending.due);
        let checks = self.checks.get_or_insert_with(|| {
            let mut checks = tokio::time::interval(STORE_CHECK_INTERVAL);
            checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            checks
        });
        tokio::select! {
            delivered = self.deliveries.next(), if !self.progress.is_halted() => Event::Delivered(delivered),
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Event::CommitDue,
            _ = checks.tick() => Event::CheckDue,
            Some(command) = self.commands.recv() => Event::Steered(command),
            () = self.progress.wanted(), if due.is_some() => Event::Wanted,
        }
    }

    /// Does what is to be done; says whether more may come.
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
            // A store that failed in the background must not look well.
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
        let patience = self.deliveries.patience();
        // Lost with an error, and with it the acknowledgement.
        let mut pending = self
            .pending
            .take()
            .unwrap_or_else(|| Pending::new(Instant::now() + patience));
        pending.up_to = tag;
        pending.concerns_all |= !matches!(delivered, Delivered::Batches(_));
        match delivered {
            Delivered::Batches(batches) => self.apply_all(&batches, &mut pending)?,
            Delivered::FromTheBeginning => self.store.set_complete(true),
            Delivered::Generation(kept) => pending.generation = Some(kept),
            Delivered::MayHaveLost { why } => {
                tracing::error!(
                    why,
                    "batches may have been lost on their way; no answer of this counter is exact until it has caught up"
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

    /// Commits what came before, and takes nothing more in this life: to go on would lose what
    /// can't be read. Queries are answered with what there is.
    async fn halt(&mut self, why: &DeliveryError) -> Result<bool, CounterError> {
        tracing::error!(%why, "this counter takes nothing more from its queue, and answers with what it has");
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
                // One that is skipped was heeded when it came first, or came with a snapshot, which
                // made complete.
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

    /// Commits what is pending, shows it, and acknowledges it; or refuses it, where there is no
    /// room.
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
        "two coordinators share an epoch: was a running machine cloned? Restart both coordinators; no count is wrong"
    );
}
