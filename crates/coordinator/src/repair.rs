//! Beside posts and reads: the start read until it succeeds, tending what can't be covered,
//! accepting losses.
//!
//! Invariant: a task here only carries out what `losses` decides, and ends when the coordinator is
//! closed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use super::losses::{self, Aftermath, Known, Loss, LossPlan};
use super::neighbours::MayCome;
use super::{AcceptError, Coordinator, ReadError};
use headcount_log::wire;
use headcount_model::{
    Acceptance, BatchId, CounterName, Epoch, LossId, Requirement, Sequence, Token,
};
use headcount_telemetry as telemetry;

/// Sequences that one signature accepts at most: each takes a counter about a microsecond.
const LOSSES_ACCEPTED_MAX: u64 = 1 << 32;

/// How a coordinator tends itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TendOptions {
    /// Time between looks.
    pub interval: Duration,
    /// How long reads must have failed to be exact before their requirement is doubted.
    pub uncovered_min: Duration,
    /// How long the counters may take to answer.
    pub timeout: Duration,
}

impl Default for TendOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            uncovered_min: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Why a loss is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AcceptLossError {
    /// Nothing was appended: some of it is not in the last plan.
    #[error("not all of this is lost by the last plan; make a new one and accept what it says")]
    NotInPlan,
    /// Nothing was appended: recording that many would keep every counter busy for more than an
    /// hour.
    #[error("these are more than {LOSSES_ACCEPTED_MAX} batches; accept some of them at a time")]
    TooMany,
    /// Nothing was appended: whoever may still bring one of these batches has been heard again
    /// since the plan.
    #[error("batch {sequence} of epoch {epoch} is not lost yet: {why}")]
    MayCome {
        /// Its epoch.
        epoch: Epoch,
        /// Its sequence.
        sequence: Sequence,
        /// Why it may come, and what to do.
        why: String,
    },
    /// Nothing was appended: a counter of an earlier release would stand at it.
    #[error(
        "{name}, of release {release}, can't read a signature that names counters, and would take nothing more from its \
         queue: upgrade it, then make a new plan"
    )]
    CannotRead {
        /// The node's name.
        name: String,
        /// Its release.
        release: String,
    },
    /// The records were not, or not surely, appended. The same may be accepted again.
    #[error(transparent)]
    Append(#[from] AcceptError),
}

impl Coordinator {
    /// Repeats the [start read](Self::start), each within `timeout`, with `pause` between, until it
    /// succeeds or the coordinator ends. Posts are admitted meanwhile; reads are not exact.
    pub async fn run_start(&self, timeout: Duration, pause: Duration) {
        let started = async {
            let mut failures: u64 = 0;
            while let Err(error) = self.start(timeout).await {
                failures += 1;
                // The first, the second, the fourth…: an outage must not fill the log.
                if failures.is_power_of_two() {
                    tracing::warn!(%error, "no read is exact yet: what was acknowledged before is not known");
                }
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = started => {}
            () = self.inner.ending.over() => {}
        }
    }

    /// How long reads of this session have been failing to be exact; `None` when the last one was.
    #[must_use]
    pub fn uncovered_for(&self) -> Option<Duration> {
        self.inner.session.uncovered_for()
    }

    /// Looks for clones, and doubts the requirement when reads fail to be exact, until the
    /// coordinator ends.
    pub async fn tend(&self, options: TendOptions) {
        let looks = async {
            loop {
                tokio::time::sleep(options.interval).await;
                self.look_around(options.timeout).await;
                let uncovered = self.uncovered_for();
                if uncovered.is_some_and(|time| time >= options.uncovered_min) {
                    if let Err(error) = self.drop_unheld(options.timeout).await {
                        tracing::debug!(%error, "the requirement could not be doubted");
                    }
                    // The next doubt comes only after as long again: a round asks for whole
                    // positions.
                    tokio::time::sleep(options.uncovered_min).await;
                }
            }
        };
        tokio::select! {
            () = looks => {}
            () = self.inner.ending.over() => {}
        }
    }

    /// Drops from what reads must cover those sequences of other coordinators that were never
    /// acknowledged and that no counter holds any more, and says how many. Only when their
    /// coordinator is gone and every named counter is complete and has applied a barrier that was
    /// appended afterwards can that be known; else nothing is dropped.
    ///
    /// # Errors
    /// When the log did not take the barrier in time.
    pub async fn drop_unheld(&self, timeout: Duration) -> Result<u64, ReadError> {
        let inner = &self.inner;
        let roll = inner.members.roll();
        let names = roll.names();
        let required = inner.session.requirement_and_floor(&inner.batchers);
        let heard = self
            .hear_all(&roll, Instant::now() + timeout, |_| false)
            .await?;
        // A counter that came meanwhile may have taken over what another held.
        if !Arc::ptr_eq(&roll, &inner.members.roll()) {
            return Ok(0);
        }
        let dropped = inner.session.dropped();
        let neighbours = inner.neighbours.lock().clone();
        let may_come = |epoch| neighbours.may_come(epoch).is_some();
        let never =
            losses::never_acknowledged(inner.epoch, &names, &required, &heard, &dropped, may_come);
        let mut count = 0;
        for (partition, epoch, sequences) in never.iter() {
            count += 1;
            tracing::warn!(
                %partition,
                %epoch,
                sequence = sequences.last(),
                "a batch was shown, never acknowledged, and lost with the only counter that had it; counts go on without it"
            );
        }
        if count > 0 {
            inner.session.drop_all(&never);
            telemetry::count(telemetry::REQUIREMENTS_DROPPED, count);
        }
        Ok(count)
    }

    /// What is lost for good, as far as the counters that answer know: what an operator may
    /// [accept](Self::accept_loss). The plan is remembered.
    ///
    /// # Errors
    /// When the log did not take a barrier in time, or no counter answered.
    pub async fn loss_plan(&self, timeout: Duration) -> Result<LossPlan, ReadError> {
        let inner = &self.inner;
        let roll = inner.members.roll();
        let required = inner.session.requirement_and_floor(&inner.batchers);
        // What is confirmed by now is before the barrier in every queue.
        let confirmed: Vec<Sequence> = inner.batchers.iter().map(|own| own.confirmed()).collect();
        // Twice: what a counter finds in its queue up to the first barrier, all others must hold at
        // the second.
        let first = self
            .hear_all(&roll, Instant::now() + timeout / 2, |_| false)
            .await?;
        let heard = self
            .hear_all(&roll, Instant::now() + timeout / 2, |_| false)
            .await?;
        if heard.is_empty() {
            return Err(ReadError::NoCounter);
        }
        let may_come = |id: BatchId| {
            let own = confirmed.get(usize::from(id.partition.0)).copied();
            self.may_come(id, own.unwrap_or_default())
        };
        let may_come = |id| may_come(id).map(|why| why.to_string());
        let neighbours = inner.neighbours.lock().clone();
        let passes_by = |name: &str| neighbours.passes_by(name).map(str::to_owned);
        let known = Known {
            names: &roll.names(),
            required: &required,
            first: &first,
            heard: &heard,
        };
        let planned = losses::plan(&known, may_come, passes_by);
        let plan = planned.plan.clone();
        *inner.planned.lock() = planned;
        Ok(plan)
    }

    /// Why a batch that no counter holds may still come, if it is its epoch's last and `confirmed`
    /// is our own last confirmed one.
    fn may_come(&self, id: BatchId, confirmed: Sequence) -> Option<MayCome> {
        match id.epoch == self.inner.epoch {
            true => (id.sequence > confirmed).then_some(MayCome::InFlightHere),
            false => self.inner.neighbours.lock().may_come(id.epoch),
        }
    }

    /// Appends an operator's signature that `losses` are lost for good: counters go on as if they
    /// had been applied. Each of `counters` is complete from there on, with what it holds, if the
    /// loss that it is named with is still its last one; what one of them holds, every exact answer
    /// of this coordinator must cover, until the others have it too. Only what the last
    /// [plan](Self::loss_plan) names is taken.
    ///
    /// # Errors
    /// [`AcceptLossError`]; the same may be accepted again.
    pub async fn accept_loss(
        &self,
        losses: &[Loss],
        counters: &[(CounterName, LossId)],
    ) -> Result<Token, AcceptLossError> {
        let held = self.check_planned(losses, counters)?;
        let counters: BTreeMap<_, _> = counters.iter().cloned().collect();
        let counters: Vec<_> = counters.into_iter().collect();
        let mut records = Vec::new();
        for partition in self.inner.partitioning.all() {
            records.push(losses::records(partition, losses, &counters));
        }
        self.check_readers(records.iter().flatten())?;
        self.check_open()?;
        if !counters.is_empty() {
            self.inner.session.note_shown(&held.closed());
        }
        let mut sequences = Vec::new();
        let partitions = self.inner.partitioning.all().zip(&self.inner.batchers);
        for ((partition, batcher), records) in partitions.zip(records) {
            let mut last = None;
            for record in records {
                tracing::warn!(
                    %partition,
                    ranges = record.losses.len(),
                    completes = ?record.completes,
                    "an operator accepts a loss"
                );
                let appended = batcher.accept(record);
                let appended = tokio::time::timeout(self.inner.options.accept_timeout, appended);
                let appended = appended.await.map_err(|_| AcceptError::TimedOut)?;
                last = Some(appended.map_err(AcceptError::from)?);
            }
            sequences.extend(last.map(|last| (partition, last)));
        }
        Ok(Token {
            epoch: self.inner.epoch,
            sequences: sequences.into(),
        })
    }

    /// Checks a signature against the last plan, and what has been heard since; gives what those
    /// heard for that plan held.
    fn check_planned(
        &self,
        losses: &[Loss],
        counters: &[(CounterName, LossId)],
    ) -> Result<Requirement, AcceptLossError> {
        let planned = self.inner.planned.lock();
        let is_planned = |(name, loss): &(CounterName, LossId)| planned.plan.completes(name, *loss);
        if !losses.iter().all(|loss| planned.plan.includes(loss))
            || !counters.iter().all(is_planned)
        {
            return Err(AcceptLossError::NotInPlan);
        }
        let counts = losses.iter().map(|loss| loss.last - loss.first);
        if counts.fold(losses.len() as u64, u64::saturating_add) > LOSSES_ACCEPTED_MAX {
            return Err(AcceptLossError::TooMany);
        }
        for loss in losses {
            let last = BatchId {
                partition: loss.partition,
                epoch: loss.epoch,
                sequence: loss.last,
            };
            // Our own were confirmed when they were planned.
            let why = match planned.lasts.contains(&last) {
                true => self.may_come(last, Sequence::MAX),
                false => None,
            };
            if let Some(why) = why {
                return Err(AcceptLossError::MayCome {
                    epoch: last.epoch,
                    sequence: last.sequence,
                    why: why.to_string(),
                });
            }
        }
        Ok(planned.held.clone())
    }

    /// Checks that whoever is heard can read these records.
    fn check_readers<'r>(
        &self,
        records: impl Iterator<Item = &'r Acceptance>,
    ) -> Result<(), AcceptLossError> {
        let newest = records.map(|record| wire::version_of(Some(record))).max();
        let neighbours = self.inner.neighbours.lock();
        match neighbours.cannot_read(newest.unwrap_or_default()) {
            None => Ok(()),
            Some(node) => Err(AcceptLossError::CannotRead {
                name: node.name.clone(),
                release: node.release.clone(),
            }),
        }
    }

    /// How the counters stand once a signature that named `counters` has come to them, within
    /// `timeout`.
    ///
    /// # Errors
    /// When the log did not take a barrier in time.
    pub async fn aftermath(
        &self,
        counters: &[(CounterName, LossId)],
        timeout: Duration,
    ) -> Result<Aftermath, ReadError> {
        let roll = self.inner.members.roll();
        let deadline = Instant::now() + timeout;
        let heard = self.hear_all(&roll, deadline, |_| false).await?;
        Ok(losses::aftermath(&roll.names(), counters, &heard))
    }
}
