//! The query handle of a counter in the same process.
//!
//! Invariant: it reads only the last committed state of its store and never waits for the task that
//! writes.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::RwLockReadGuard;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::progress::Watching;
use super::waiting::{Ended, Lack};
use super::{
    Contains, Counts, Coverage, ListQuery, Listing, Queries, QueryError, ReadRequirement, Status,
};
use headcount_model::{BatchId, ItemHash, LossId, TenantName};
use headcount_store::{CommittedState, LookUp, StoreReader};

/// A read guard on the committed state. No commit finishes while it is held.
type Held<'c> = RwLockReadGuard<'c, CommittedState>;

/// The query handle of a [`CounterTask`](super::CounterTask); cheap to clone.
#[derive(Clone)]
pub struct LocalCounter<R> {
    name: Arc<str>,
    life: u64,
    pub(super) reader: R,
    progress: Watching,
    look_ups: Arc<Semaphore>,
}

/// Maximum concurrent item lookups on disk, each on its own thread. Further lookups wait for a
/// permit.
const LOOK_UPS_MAX: usize = 64;

/// Timeout for such a permit. A lookup that waits keeps files of the store from being removed.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

impl<R: StoreReader> LocalCounter<R> {
    pub(super) fn new(name: String, life: u64, reader: R, progress: Watching) -> Self {
        Self {
            name: name.into(),
            life,
            reader,
            progress,
            look_ups: Arc::new(Semaphore::new(LOOK_UPS_MAX)),
        }
    }

    /// The same counter with another reader of its store.
    #[cfg(test)]
    pub(super) fn reading<T: StoreReader>(self, reader: T) -> LocalCounter<T> {
        LocalCounter::new(self.name.to_string(), self.life, reader, self.progress)
    }

    /// Waits until `barriers` have passed through the counter's queue in this incarnation, or until
    /// `deadline`. Returns whether they have passed.
    pub(super) async fn passed(&self, barriers: &[BatchId], deadline: Instant) -> bool {
        while let Some(unseen) = self.progress.unseen(barriers) {
            let mut registered = self.progress.waiters().register(Lack::Barrier(unseen));
            if self.progress.unseen(&[unseen]).is_some() {
                let woken = tokio::time::timeout_at(deadline, registered.woken()).await;
                if !matches!(woken, Ok(Ok(()))) {
                    return self.progress.has_seen(barriers);
                }
            }
        }
        true
    }

    /// Whether the counter takes nothing from its log, for the rest of this incarnation or while
    /// its disk is full.
    pub(super) fn is_halted(&self) -> bool {
        self.progress.problem().is_some()
    }

    /// How often the log has reported a possible loss in this incarnation.
    pub(super) fn losses(&self) -> u64 {
        self.progress.tally().losses
    }

    /// Answers from the first commit that covers `demand`, or from the last commit once the wait is
    /// over.
    async fn answer<A>(
        &self,
        demand: ReadRequirement,
        read: impl Fn(&Held<'_>, Coverage) -> A,
    ) -> Result<A, QueryError> {
        let deadline = Instant::now() + demand.wait;
        // The last commit usually covers the demand, so look there first: all readers share the
        // memory in which waiters register.
        let mut lack = match self.look(&demand, deadline, &read) {
            Ok(answer) => return Ok(answer),
            Err(lack) => lack,
        };
        let waiters = self.progress.waiters();
        let is_proving = !demand.barriers.is_empty();
        let _place = waiters.enter(is_proving).ok_or(QueryError::Busy)?;
        loop {
            let mut registered = waiters.register(lack);
            // A commit before the registration did not wake this query, so look again.
            match self.look(&demand, deadline, &read) {
                Ok(answer) => return Ok(answer),
                Err(still) if still == lack => {}
                Err(another) => {
                    lack = another;
                    continue;
                }
            }
            if matches!(lack, Lack::Batch(_)) {
                self.progress.want();
            }
            let woken = tokio::time::timeout_at(deadline, registered.woken()).await;
            if woken.is_ok_and(|told| told == Err(Ended)) {
                let committed = self.reader.committed();
                let cover = self.cover(&committed, &demand);
                return Ok(read(&committed, cover));
            }
            match self.look(&demand, deadline, &read) {
                Ok(answer) => return Ok(answer),
                Err(another) => lack = another,
            }
        }
    }

    /// Answers from the last commit if it covers `demand` or the wait is over; otherwise returns
    /// one thing that is missing.
    fn look<A>(
        &self,
        demand: &ReadRequirement,
        deadline: Instant,
        read: impl Fn(&Held<'_>, Coverage) -> A,
    ) -> Result<A, Lack> {
        let committed = self.reader.committed();
        let cover = self.cover(&committed, demand);
        let covers = match demand.barriers.is_empty() {
            true => cover.is_full(),
            false => cover.barriers,
        };
        match covers || Instant::now() >= deadline {
            true => Ok(read(&committed, cover)),
            false => Err(self.lack(&committed, demand)),
        }
    }

    /// One thing that `demand` requires and that the committed state, or this incarnation, lacks.
    fn lack(&self, committed: &CommittedState, demand: &ReadRequirement) -> Lack {
        if let Some(unseen) = self.progress.unseen(&demand.barriers) {
            return Lack::Barrier(unseen);
        }
        let missing = |partition| committed.position().missing(&demand.requirement, partition);
        match committed.complete() {
            true => committed.partitioning().all().find_map(missing),
            false => None,
        }
        .map_or(Lack::Completeness, Lack::Batch)
    }

    /// Finishes a lookup, on disk where necessary.
    async fn finish(&self, look_up: LookUp) -> Result<bool, QueryError> {
        let unreadable = |error: &dyn Display| QueryError::Store(error.to_string());
        let on_disk = match look_up {
            LookUp::Known(is_in) => return Ok(is_in),
            on_disk => on_disk,
        };
        let waited =
            tokio::time::timeout(LOOK_UP_TIMEOUT, Arc::clone(&self.look_ups).acquire_owned());
        let place = waited.await.map_err(|_| QueryError::Busy)?;
        // The seen-set is read from disk, which must not block other requests on this thread.
        #[expect(
            clippy::disallowed_methods,
            reason = "one lookup; its caller gets a panic as an error"
        )]
        let looked_up = tokio::task::spawn_blocking(move || {
            let _place = place;
            on_disk.finish()
        });
        looked_up
            .await
            .map_err(|error| unreadable(&error))?
            .map_err(|error| unreadable(&error))
    }

    fn cover(&self, committed: &CommittedState, demand: &ReadRequirement) -> Coverage {
        let covers = |partition| {
            committed.complete() && committed.position().covers(&demand.requirement, partition)
        };
        Coverage {
            life: self.life,
            // No commit finishes while the guard is held, so everything that a noted barrier proves
            // is in it.
            barriers: self.progress.has_seen(&demand.barriers),
            partitions: committed
                .partitioning()
                .all()
                .map(|partition| (partition, covers(partition)))
                .collect(),
            covered: committed.covered(demand.whole_position),
            // The number of losses increases only after the commit that makes the store not
            // complete. In between, this ID names the previous loss, and accepting that loss has no
            // effect any more.
            loss: (!committed.complete()).then(|| LossId::new(self.life, self.losses())),
        }
    }
}

impl<R: StoreReader> Queries for LocalCounter<R> {
    fn name(&self) -> &str {
        &self.name
    }

    fn counts(
        &self,
        tenants: Arc<[TenantName]>,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Counts, QueryError>> {
        async move {
            let read = |committed: &Held<'_>, cover| Counts {
                cover,
                counts: tenants
                    .iter()
                    .map(|tenant| committed.counts(tenant.as_str()))
                    .collect(),
            };
            self.answer(demand, read).await
        }
        .boxed()
    }

    fn contains(
        &self,
        tenant: TenantName,
        hash: ItemHash,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Contains, QueryError>> {
        async move {
            // The lookup starts under the lock of the state that the coverage describes, so both
            // belong to the same commit, however long the lookup takes. An item of a later commit
            // would be shown although no later read has to cover it, and could disappear again.
            let read = |committed: &Held<'_>, cover| {
                (cover, self.reader.look_up(committed, &tenant, &hash))
            };
            let (cover, look_up) = self.answer(demand, read).await?;
            let counted = self.finish(look_up).await?;
            Ok(Contains { cover, counted })
        }
        .boxed()
    }

    fn list(
        &self,
        query: Arc<ListQuery>,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Listing, QueryError>> {
        async move {
            let read = |committed: &Held<'_>, cover| {
                let mut tenants: Vec<_> = committed
                    .list(
                        &query.prefix,
                        query.after.as_deref(),
                        query.limit.saturating_add(1),
                    )
                    .map(|(name, number)| (name.clone(), committed.counts_of(number).to_vec()))
                    .collect();
                let more = tenants.len() > query.limit;
                tenants.truncate(query.limit);
                Listing {
                    cover,
                    tenants,
                    more,
                }
            };
            self.answer(demand, read).await
        }
        .boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<Status, QueryError>> {
        let tally = self.progress.tally();
        let running = !self.progress.waiters().have_ended();
        let stats = self.reader.stats();
        let committed = self.reader.committed();
        let last_applied = committed
            .covered(false)
            .iter()
            .max_by_key(|(_, _, sequences)| sequences.last())
            .map(|(_, epoch, sequences)| (epoch.to_string(), sequences.last()));
        let status = Status {
            name: self.name.to_string(),
            complete: committed.complete(),
            tenants: committed.tenants(),
            items: committed.items(),
            epochs: committed.position().len() as u64,
            last_applied,
            holes: committed.position().holes() as u64,
            lag_ms: tally.lag_ms,
            redeliveries: tally.redeliveries,
            snapshots: tally.snapshots,
            forks: tally.forks,
            disk_bytes: stats.disk_bytes,
            memory_bytes: stats.memory_bytes,
            runs: stats.runs,
            doubt: self.progress.doubt().filter(|_| !committed.complete()),
            problem: self.progress.problem(),
        };
        let answer = if running {
            Ok(status)
        } else {
            Err(QueryError::Unreachable("the counter has stopped".into()))
        };
        std::future::ready(answer).boxed()
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
