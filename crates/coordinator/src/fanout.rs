//! Fan-out to counters: queries all of them, requires that each covers the floor, and checks each
//! answer for signs of a clone.
//!
//! Invariant: an answer that is marked as covering the requirement also covers the floor, in the
//! incarnation that gave it, and has no hole below what it covers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::hedging::gather;
use super::members::{Known, Member, MemberSet};
use super::merge::Covered;
use super::{Coordinator, Fatal, ReadError};
use headcount_model::{LossId, Partition, Requirement};
use headcount_rpc::{Counts, Coverage, Queries, QueryError, ReadRequirement};

/// The pending answer of one counter.
pub(super) type Answering<'a, A> = BoxFuture<'a, Result<A, QueryError>>;

/// How much longer than the counters a coordinator waits, so that their answers can arrive.
pub(super) const ANSWER_GRACE: Duration = Duration::from_millis(250);

/// How long to wait for the other counters once the answers are sufficient. What one of them holds
/// in addition is then required too, however it received it.
const BEYOND_ENOUGH: Duration = Duration::from_millis(10);

/// The answer of a counter that was asked for its whole position behind a barrier.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    /// Name of the counter.
    pub name: String,
    /// Whether the barrier came through its own queue in its current incarnation.
    pub barriers: bool,
    /// Whether the counter is complete.
    pub complete: bool,
    /// Everything that it holds.
    pub holds: Requirement,
    /// Id of the loss that makes it incomplete, if it reports one.
    pub loss: Option<LossId>,
}

impl Coordinator {
    /// Queries every counter of `members` and collects answers until they are `enough`, or until
    /// the timeout.
    pub(super) async fn ask_all<'a, A, F>(
        &self,
        members: &'a MemberSet,
        wait: Duration,
        ask: impl Fn(&'a Member) -> F,
        enough: impl Fn(&[A]) -> bool,
    ) -> Vec<A>
    where
        F: Future<Output = Result<A, QueryError>> + Send,
    {
        let all = members.iter().collect();
        gather(all, Vec::new(), wait, ask, enough).await.answers
    }

    /// Queries a counter for an answer that also covers the floor, unless its current incarnation
    /// is known to cover it, and that has no hole: a batch that is missing below one that the
    /// counter holds was acknowledged.
    pub(super) async fn ask_above<A: Covered>(
        &self,
        member: &Member,
        floor: Option<&Requirement>,
        mut demand: ReadRequirement,
        ask: &impl for<'a> Fn(&'a dyn Queries, ReadRequirement) -> Answering<'a, A>,
    ) -> Result<A, QueryError> {
        let Some(floor) = floor else {
            let answer = ask(member.queries.as_ref(), demand).await?;
            self.look_for_clone(answer.cover());
            return Ok(answer);
        };
        let deadline = Instant::now() + demand.wait;
        let mut is_second = false;
        loop {
            let by = (&demand, deadline);
            let mut answer = self.ask_known(member, floor, by, ask).await?;
            // The common case, in which holes are looked for only once.
            if !answer.cover().covered.has_holes() {
                return Ok(answer);
            }
            let holes = answer.cover().covered.holes().minus(floor);
            if is_second || holes.is_empty() || !answer.cover().is_full() {
                for (of, covers) in &mut answer.cover_mut().partitions {
                    *covers &= !holes.iter().any(|(partition, ..)| partition == *of);
                }
                return Ok(answer);
            }
            // The counter may be about to fill the holes, so the second query waits for them as for
            // the rest of the requirement.
            demand.requirement.unite(&holes);
            demand.wait = deadline.saturating_duration_since(Instant::now());
            is_second = true;
        }
    }

    /// Queries a counter for an answer that also covers the floor, unless its current incarnation
    /// is known to cover it. The deadline applies to the whole call.
    async fn ask_known<A: Covered>(
        &self,
        member: &Member,
        floor: &Requirement,
        (demand, deadline): (&ReadRequirement, Instant),
        ask: &impl for<'a> Fn(&'a dyn Queries, ReadRequirement) -> Answering<'a, A>,
    ) -> Result<A, QueryError> {
        let counter = member.queries.as_ref();
        let mut wait = demand.wait;
        if let Some(known) = member.known() {
            let mut answer = ask(counter, demand.clone()).await?;
            self.look_for_clone(answer.cover());
            if answer.cover().life == known.life {
                answer.cover_mut().covered.unite(&known.beyond_floor);
                return Ok(answer);
            }
            member.forget(known.life);
            wait = deadline.saturating_duration_since(Instant::now());
        }
        let mut demand = ReadRequirement {
            wait,
            ..demand.clone()
        };
        demand.requirement.unite(floor);
        // Later answers of this incarnation omit the epochs that did not change in it, so this
        // answer must name them.
        demand.whole_position = true;
        let mut answer = ask(counter, demand).await?;
        self.look_for_clone(answer.cover());
        let cover = answer.cover_mut();
        cover.covered = cover.covered.minus(floor);
        if cover.partitions.iter().all(|&(_, covers)| covers) {
            member.note(Known {
                life: cover.life,
                beyond_floor: Arc::new(cover.covered.clone()),
            });
        }
        Ok(answer)
    }

    /// Appends a barrier and asks every counter of `members` what it holds once it has applied the
    /// barrier. Collects answers until they are `enough` and a short time longer, or until the
    /// deadline.
    ///
    /// # Errors
    /// If the log did not confirm the barrier in time.
    pub(super) async fn hear_all(
        &self,
        members: &MemberSet,
        deadline: Instant,
        enough: impl Fn(&[Heard]) -> bool,
    ) -> Result<Vec<Heard>, ReadError> {
        if !self.log_state().writable {
            return Err(ReadError::NoMajority);
        }
        let barriers = tokio::time::timeout_at(deadline, self.append_barriers())
            .await
            .map_err(|_| ReadError::NoMajority)?
            .map_err(|_| ReadError::NoMajority)?;
        let wait = deadline.saturating_duration_since(Instant::now());
        let demand = ReadRequirement {
            requirement: Requirement::default(),
            barriers,
            wait,
            whole_position: true,
        };
        let ask = |member: &Member| {
            let (queries, name) = (Arc::clone(&member.queries), member.name.clone());
            let demand = demand.clone();
            async move {
                let cover = counts_of_nobody(queries.as_ref(), demand).await?.cover;
                self.look_for_clone(&cover);
                Ok::<_, QueryError>(Heard {
                    name,
                    barriers: cover.barriers,
                    // Nothing was required, so a partition is not covered only if the counter is
                    // incomplete.
                    complete: cover.partitions.iter().all(|&(_, covers)| covers),
                    holds: cover.covered,
                    loss: cover.loss,
                })
            }
        };
        let mut asked: FuturesUnordered<_> = members.iter().map(ask).collect();
        let mut heard = Vec::with_capacity(asked.len());
        let mut until = deadline + ANSWER_GRACE;
        while let Ok(Some(answer)) = tokio::time::timeout_at(until, asked.next()).await {
            match answer {
                Ok(one) => heard.push(one),
                Err(error) => tracing::debug!(%error, "counter query failed"),
            }
            if enough(&heard) {
                until = until.min(Instant::now() + BEYOND_ENOUGH);
            }
        }
        Ok(heard)
    }

    /// Queries every counter independently of reads. This detects clones even if there are no
    /// reads. It also shows that a counter whose answers always come second holds the floor, so
    /// that reads need not carry the floor. And it shows which counters have halted, so that reads
    /// without a requirement are not sent to those first.
    pub(super) async fn look_around(&self, timeout: Duration) {
        let members = self.inner.members.member_set();
        let floor = self.inner.session.floor();
        let ask = |member| {
            let floor = floor.as_deref();
            self.ask_above(member, floor, ReadRequirement::default(), &counts_of_nobody)
        };
        let statuses = futures_util::future::join_all(members.iter().map(Member::status));
        tokio::join!(self.ask_all(&members, timeout, ask, |_| false), statuses);
    }

    /// Stops the coordinator if a counter holds more batches of its epoch than it submitted to the
    /// log.
    fn look_for_clone(&self, cover: &Coverage) {
        for (partition, batcher) in (0..).zip(&self.inner.batchers) {
            let own = cover.covered.get(Partition(partition), self.inner.epoch);
            // Read after the answer arrived: what a counter holds was submitted before that.
            let (seen, handed) = (own.map_or(0, |own| own.last()), batcher.handed());
            if seen > handed {
                self.inner.ending.fail(Fatal::Cloned { seen, handed });
            }
        }
    }
}

/// Queries only the coverage of a counter.
fn counts_of_nobody(
    counter: &dyn Queries,
    demand: ReadRequirement,
) -> BoxFuture<'_, Result<Counts, QueryError>> {
    counter.counts(Arc::new([]), demand)
}
