//! A counter of this process, asked without a network.
//!
//! Invariant: it only reads its store's last commit; it never waits for the task that writes.

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
use super::{Counts, Cover, Demand, ListQuery, Listing, Membership, Queries, QueryError, Status};
use headcount_model::{BatchId, ItemHash, LossId, TenantName};
use headcount_store::{Cut, LookUp, StoreReader};

/// The last commit's cut, held: an answer is read from it while no commit ends.
type Held<'c> = RwLockReadGuard<'c, Cut>;

/// The query handle of a [`CounterTask`](super::CounterTask); cheap to clone.
#[derive(Clone)]
pub struct LocalCounter<R> {
    name: Arc<str>,
    life: u64,
    pub(super) reader: R,
    progress: Watching,
    look_ups: Arc<Semaphore>,
}

/// Items looked up on disk at once, each on a thread; more wait for a place.
const LOOK_UPS_MAX: usize = 64;

/// The longest wait for such a place: who waits keeps files of the store from being removed.
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

    /// The same counter over another reader of its store.
    #[cfg(test)]
    pub(super) fn reading<T: StoreReader>(self, reader: T) -> LocalCounter<T> {
        LocalCounter::new(self.name.to_string(), self.life, reader, self.progress)
    }

    /// Waits until `barriers` have come through the counter's queue in this life; says whether they
    /// have.
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

    /// Whether it takes nothing from its log, in this life or as long as its disk is full.
    pub(super) fn is_halted(&self) -> bool {
        self.progress.problem().is_some()
    }

    /// How often, in this life, the log said that batches may have been lost.
    pub(super) fn losses(&self) -> u64 {
        self.progress.tally().losses
    }

    /// Answers from the first commit that covers the demand, or from the last one when the time is
    /// up.
    async fn answer<A>(
        &self,
        demand: Demand,
        read: impl Fn(&Held<'_>, Cover) -> A,
    ) -> Result<A, QueryError> {
        let deadline = Instant::now() + demand.wait;
        // Mostly the last commit has it all, and whoever waits for the next shares memory with all
        // other readers.
        let mut lack = match self.look(&demand, deadline, &read) {
            Ok(answer) => return Ok(answer),
            Err(lack) => lack,
        };
        let waiters = self.progress.waiters();
        let is_proving = !demand.barriers.is_empty();
        let _place = waiters.enter(is_proving).ok_or(QueryError::Busy)?;
        loop {
            let mut registered = waiters.register(lack);
            // What was committed before it was registered wakes nobody.
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
                let cut = self.reader.cut();
                let cover = self.cover(&cut, &demand);
                return Ok(read(&cut, cover));
            }
            match self.look(&demand, deadline, &read) {
                Ok(answer) => return Ok(answer),
                Err(another) => lack = another,
            }
        }
    }

    /// Answers from the last commit if that covers the demand, or if the time is up; otherwise says
    /// what it lacks.
    fn look<A>(
        &self,
        demand: &Demand,
        deadline: Instant,
        read: impl Fn(&Held<'_>, Cover) -> A,
    ) -> Result<A, Lack> {
        let cut = self.reader.cut();
        let cover = self.cover(&cut, demand);
        let covers = match demand.barriers.is_empty() {
            true => cover.is_full(),
            false => cover.barriers,
        };
        match covers || Instant::now() >= deadline {
            true => Ok(read(&cut, cover)),
            false => Err(self.lack(&cut, demand)),
        }
    }

    /// One thing of all that `demand` asks for and that the cut, or this life, has not.
    fn lack(&self, cut: &Cut, demand: &Demand) -> Lack {
        if let Some(unseen) = self.progress.unseen(&demand.barriers) {
            return Lack::Barrier(unseen);
        }
        let missing = |partition| cut.position().missing(&demand.requirement, partition);
        match cut.complete() {
            true => cut.partitioning().all().find_map(missing),
            false => None,
        }
        .map_or(Lack::Completeness, Lack::Batch)
    }

    /// Finishes a look-up.
    async fn finish(&self, look_up: LookUp) -> Result<bool, QueryError> {
        let unreadable = |error: &dyn Display| QueryError::Store(error.to_string());
        let on_disk = match look_up {
            LookUp::Known(is_in) => return Ok(is_in),
            on_disk => on_disk,
        };
        let waited =
            tokio::time::timeout(LOOK_UP_TIMEOUT, Arc::clone(&self.look_ups).acquire_owned());
        let place = waited.await.map_err(|_| QueryError::Busy)?;
        // The seen-set reads from disk, which must not hold up this thread's other requests.
        #[expect(
            clippy::disallowed_methods,
            reason = "one look-up, whose caller hears of a panic"
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

    fn cover(&self, cut: &Cut, demand: &Demand) -> Cover {
        let covers =
            |partition| cut.complete() && cut.position().covers(&demand.requirement, partition);
        Cover {
            life: self.life,
            // No commit ends while the cut is held, so what a noted barrier vouches for is in it.
            barriers: self.progress.has_seen(&demand.barriers),
            partitions: cut
                .partitioning()
                .all()
                .map(|partition| (partition, covers(partition)))
                .collect(),
            covered: cut.covered(demand.whole_position),
            // Counted only after the commit that says so: in between it names the loss before, for
            // which nobody signs with any effect any more.
            loss: (!cut.complete()).then(|| LossId::new(self.life, self.losses())),
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
        demand: Demand,
    ) -> BoxFuture<'_, Result<Counts, QueryError>> {
        async move {
            let read = |cut: &Held<'_>, cover| Counts {
                cover,
                counts: tenants
                    .iter()
                    .map(|tenant| cut.counts(tenant.as_str()))
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
        demand: Demand,
    ) -> BoxFuture<'_, Result<Membership, QueryError>> {
        async move {
            // Begun under the lock of the cut that the cover is of, so that it is of the same
            // commit, however long it takes: an item of a later one would be shown though no later
            // read has to cover it, and go again.
            let read = |cut: &Held<'_>, cover| (cover, self.reader.look_up(cut, &tenant, &hash));
            let (cover, look_up) = self.answer(demand, read).await?;
            let counted = self.finish(look_up).await?;
            Ok(Membership { cover, counted })
        }
        .boxed()
    }

    fn list(
        &self,
        query: Arc<ListQuery>,
        demand: Demand,
    ) -> BoxFuture<'_, Result<Listing, QueryError>> {
        async move {
            let read = |cut: &Held<'_>, cover| {
                let mut tenants: Vec<_> = cut
                    .list(
                        &query.prefix,
                        query.after.as_deref(),
                        query.limit.saturating_add(1),
                    )
                    .map(|(name, number)| (name.clone(), cut.counts_of(number).to_vec()))
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
        let cut = self.reader.cut();
        let last_applied = cut
            .covered(false)
            .iter()
            .max_by_key(|(_, _, sequences)| sequences.last())
            .map(|(_, epoch, sequences)| (epoch.to_string(), sequences.last()));
        let status = Status {
            name: self.name.to_string(),
            complete: cut.complete(),
            tenants: cut.tenants(),
            items: cut.items(),
            epochs: cut.position().len() as u64,
            last_applied,
            holes: cut.position().holes() as u64,
            lag_ms: tally.lag_ms,
            redeliveries: tally.redeliveries,
            snapshots: tally.snapshots,
            forks: tally.forks,
            disk_bytes: stats.disk_bytes,
            memory_bytes: stats.memory_bytes,
            runs: stats.runs,
            doubt: self.progress.doubt().filter(|_| !cut.complete()),
            problem: self.progress.problem(),
        };
        let answer = if running {
            Ok(status)
        } else {
            Err(QueryError::Unreachable("it has stopped".into()))
        };
        std::future::ready(answer).boxed()
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
