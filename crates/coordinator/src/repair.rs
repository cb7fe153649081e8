//! Background tasks and operator actions of a coordinator: repeating the startup read, maintaining
//! the read requirement, and accepting losses.
//!
//! Invariant: this module only carries out what `losses` decides. Its tasks end when the
//! coordinator is closed.

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

/// Maximum number of sequences in one loss acceptance. A counter needs about a microsecond for
/// each.
const LOSSES_ACCEPTED_MAX: u64 = 1 << 32;

/// Settings of the maintenance of a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaintainOptions {
    /// Time between rounds.
    pub interval: Duration,
    /// How long reads must have been inexact before the read requirement is checked.
    pub uncovered_min: Duration,
    /// Timeout for the answers of the counters.
    pub timeout: Duration,
}

impl Default for MaintainOptions {
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
    #[error(
        "the last plan does not list all of this as lost; make a new plan and accept what it lists"
    )]
    NotInPlan,
    /// Nothing was appended: recording that many losses would keep every counter busy for more than
    /// an hour.
    #[error("these are more than {LOSSES_ACCEPTED_MAX} batches; accept fewer at a time")]
    TooMany,
    /// Nothing was appended: since the plan, a coordinator was heard that may still append one of
    /// these batches.
    #[error("batch {sequence} of epoch {epoch} is not lost yet: {why}")]
    MayCome {
        /// Epoch of the batch.
        epoch: Epoch,
        /// Sequence of the batch.
        sequence: Sequence,
        /// Why it may still arrive, and what to do.
        why: String,
    },
    /// Nothing was appended: a counter of an earlier release would halt at the record.
    #[error(
        "{name} (release {release}) can't read a loss acceptance that names counters, and would \
         stop consuming its queue: upgrade it, then make a new plan"
    )]
    CannotRead {
        /// Name of the node.
        name: String,
        /// Its release.
        release: String,
    },
    /// The records were not appended, or it is unknown whether they were. The same request may be
    /// repeated.
    #[error(transparent)]
    Append(#[from] AcceptError),
}

impl Coordinator {
    /// Repeats the [startup read](Self::start) until it succeeds or the coordinator ends. Each
    /// attempt takes at most `timeout`; `pause` is the time between attempts. Meanwhile posts are
    /// admitted and reads are not exact.
    pub async fn run_start(&self, timeout: Duration, pause: Duration) {
        let started = async {
            let mut failures: u64 = 0;
            while let Err(error) = self.start(timeout).await {
                failures += 1;
                // Logs failures 1, 2, 4, 8…, so that an outage does not fill the log.
                if failures.is_power_of_two() {
                    tracing::warn!(
                        %error,
                        "startup read failed; reads return exact=false until it succeeds"
                    );
                }
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = started => {}
            () = self.inner.ending.over() => {}
        }
    }

    /// How long reads of this session have been inexact; `None` if the last one was exact.
    #[must_use]
    pub fn uncovered_for(&self) -> Option<Duration> {
        self.inner.session.uncovered_for()
    }

    /// Maintains the coordinator until it ends: looks for clones, and checks the read requirement
    /// while reads are inexact.
    pub async fn maintain(&self, options: MaintainOptions) {
        let looks = async {
            loop {
                tokio::time::sleep(options.interval).await;
                self.look_around(options.timeout).await;
                let uncovered = self.uncovered_for();
                if uncovered.is_some_and(|time| time >= options.uncovered_min) {
                    if let Err(error) = self.drop_unheld(options.timeout).await {
                        tracing::debug!(%error, "read requirement check failed");
                    }
                    // Each check requests whole positions, so the next one waits as long again.
                    tokio::time::sleep(options.uncovered_min).await;
                }
            }
        };
        tokio::select! {
            () = looks => {}
            () = self.inner.ending.over() => {}
        }
    }

    /// Drops sequences of other coordinators from the read requirement if they were never
    /// acknowledged and no counter holds them any more. Returns how many it dropped. This is
    /// certain only if their coordinator is gone and every known counter is complete and has
    /// applied a barrier that was appended afterwards; otherwise nothing is dropped.
    ///
    /// # Errors
    /// If the log did not confirm the barrier in time.
    pub async fn drop_unheld(&self, timeout: Duration) -> Result<u64, ReadError> {
        let inner = &self.inner;
        let members = inner.members.member_set();
        let names = members.names();
        let required = inner.session.requirement_and_floor(&inner.batchers);
        let heard = self
            .hear_all(&members, Instant::now() + timeout, |_| false)
            .await?;
        // A counter that joined meanwhile may have ingested what another counter held.
        if !Arc::ptr_eq(&members, &inner.members.member_set()) {
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
                "dropped a batch from the read requirement: a read included it, it was never \
                 acknowledged, and the only counter that held it lost it"
            );
        }
        if count > 0 {
            inner.session.drop_all(&never);
            telemetry::count(telemetry::REQUIREMENTS_DROPPED, count);
        }
        Ok(count)
    }

    /// Makes a loss plan: what is permanently lost, as far as the answering counters know. An
    /// operator may [accept](Self::accept_loss) it. The coordinator keeps the plan.
    ///
    /// # Errors
    /// If the log did not confirm a barrier in time, or no counter answered.
    pub async fn loss_plan(&self, timeout: Duration) -> Result<LossPlan, ReadError> {
        let inner = &self.inner;
        let members = inner.members.member_set();
        let required = inner.session.requirement_and_floor(&inner.batchers);
        // Everything confirmed so far is ahead of the barrier in every queue.
        let confirmed: Vec<Sequence> = inner.batchers.iter().map(|own| own.confirmed()).collect();
        // Two rounds: what one counter receives up to the first barrier, all others must hold at
        // the second.
        let first = self
            .hear_all(&members, Instant::now() + timeout / 2, |_| false)
            .await?;
        let heard = self
            .hear_all(&members, Instant::now() + timeout / 2, |_| false)
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
            names: &members.names(),
            required: &required,
            first: &first,
            heard: &heard,
        };
        let planned = losses::plan(&known, may_come, passes_by);
        let plan = planned.plan.clone();
        *inner.planned.lock() = planned;
        Ok(plan)
    }

    /// Why a batch that no counter holds may still arrive, if it is the last one of its epoch.
    /// `confirmed` is the last confirmed sequence of this coordinator.
    fn may_come(&self, id: BatchId, confirmed: Sequence) -> Option<MayCome> {
        match id.epoch == self.inner.epoch {
            true => (id.sequence > confirmed).then_some(MayCome::InFlightHere),
            false => self.inner.neighbours.lock().may_come(id.epoch),
        }
    }

    /// Appends an operator's acceptance that `losses` are permanently lost. Counters then continue
    /// as if they had applied those batches. Each counter in `counters` becomes complete at that
    /// record, with what it holds, if the named loss is still its last one. Every exact answer of
    /// this coordinator must then cover everything that the counters held at the plan, so a counter
    /// that lacks some of it gives no exact answer until it has caught up. Accepts only what the
    /// last [plan](Self::loss_plan) lists.
    ///
    /// # Errors
    /// [`AcceptLossError`]. The same request may be repeated.
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
                    "appending loss acceptance record"
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

    /// Checks a loss acceptance against the last plan and against later announcements. Returns what
    /// the counters held at that plan.
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
            // Own batches were confirmed when the plan was made.
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

    /// Checks that all known nodes can read these records.
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

    /// The state of the counters after a loss acceptance that named `counters`. Waits at most
    /// `timeout` for them.
    ///
    /// # Errors
    /// If the log did not confirm a barrier in time.
    pub async fn aftermath(
        &self,
        counters: &[(CounterName, LossId)],
        timeout: Duration,
    ) -> Result<Aftermath, ReadError> {
        let members = self.inner.members.member_set();
        let deadline = Instant::now() + timeout;
        let heard = self.hear_all(&members, deadline, |_| false).await?;
        Ok(losses::aftermath(&members.names(), counters, &heard))
    }
}
