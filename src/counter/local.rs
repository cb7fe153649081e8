//! A counter of this process, asked without a network.
//!
//! Invariant: it only reads its store's last commit; it never waits for the task that writes.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::RwLockReadGuard;
use tokio::time::Instant;

use super::progress::Watching;
use super::{Counts, Cover, Demand, ListQuery, Listing, Membership, Queries, QueryError, Status};
use crate::model::{BatchId, ItemHash, TenantName};
use crate::store::{Cut, LookUp, StoreReader};

/// The last commit's cut, held: an answer is read from it while no commit ends.
type Held<'c> = RwLockReadGuard<'c, Cut>;

/// The query handle of a [`CounterTask`](super::CounterTask); cheap to clone.
#[derive(Clone)]
pub struct LocalCounter<R> {
    name: Arc<str>,
    life: u64,
    pub(super) reader: R,
    progress: Watching,
}

impl<R: StoreReader> LocalCounter<R> {
    pub(super) fn new(name: String, life: u64, reader: R, progress: Watching) -> Self {
        Self {
            name: name.into(),
            life,
            reader,
            progress,
        }
    }

    /// The same counter over another reader of its store.
    #[cfg(test)]
    pub(super) fn reading<T: StoreReader>(self, reader: T) -> LocalCounter<T> {
        LocalCounter::new(self.name.to_string(), self.life, reader, self.progress)
    }

    /// Waits until `barriers` have come through the counter's queue in this life; says whether they have.
    pub(super) async fn passed(&self, barriers: &[BatchId], deadline: Instant) -> bool {
        let mut tally = self.progress.tally.clone();
        loop {
            tally.borrow_and_update();
            if self.progress.has_seen(barriers) {
                return true;
            }
            if !matches!(
                tokio::time::timeout_at(deadline, tally.changed()).await,
                Ok(Ok(()))
            ) {
                return false;
            }
        }
    }

    /// Whether it takes nothing more from its log in this life.
    pub(super) fn is_halted(&self) -> bool {
        self.progress.problem().is_some()
    }

    /// How often, in this life, the log said that batches may have been lost.
    pub(super) fn losses(&self) -> u64 {
        self.progress.tally.borrow().losses
    }

    /// Answers from the first commit that covers the demand, or from the last one when the time is up.
    async fn answer<A>(&self, demand: Demand, read: impl Fn(&Held<'_>, Cover) -> A) -> A {
        let deadline = Instant::now() + demand.wait;
        let look = || {
            let cut = self.reader.cut();
            let cover = self.cover(&cut, &demand);
            let enough = if demand.barriers.is_empty() {
                cover.is_full()
            } else {
                cover.barriers
            };
            (enough || Instant::now() >= deadline).then(|| read(&cut, cover))
        };
        // Mostly the last commit has it all, and whoever waits for the next shares memory with all other readers.
        if let Some(answer) = look() {
            return answer;
        }
        let mut progress = self.progress.tally.clone();
        loop {
            // Marked as seen before looking, so that a commit in between wakes the wait below.
            progress.borrow_and_update();
            if let Some(answer) = look() {
                return answer;
            }
            self.progress.want();
            let changed = tokio::time::timeout_at(deadline, progress.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                // The task has ended: no commit will come any more.
                let cut = self.reader.cut();
                let cover = self.cover(&cut, &demand);
                return read(&cut, cover);
            }
        }
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
        }
    }
}

/// Finishes a look-up; the error says why the store can't be read.
async fn finish(look_up: LookUp) -> Result<bool, String> {
    match look_up {
        LookUp::Known(is_in) => Ok(is_in),
        // The seen-set reads from disk, which must not hold up this thread's other requests.
        on_disk => tokio::task::spawn_blocking(|| on_disk.finish())
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string()),
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
            Ok(self.answer(demand, read).await)
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
            // Begun under the lock of the cut that the cover is of, so that it is of the same commit, however long it
            // takes: an item of a later one would be shown though no later read has to cover it, and go again.
            let read = |cut: &Held<'_>, cover| (cover, self.reader.look_up(cut, &tenant, &hash));
            let (cover, look_up) = self.answer(demand, read).await;
            let counted = finish(look_up).await.map_err(QueryError::Store)?;
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
            Ok(self.answer(demand, read).await)
        }
        .boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<Status, QueryError>> {
        let tally = *self.progress.tally.borrow();
        let running = self.progress.tally.has_changed().is_ok();
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
            problem: self.progress.problem().map(str::to_owned),
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
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;
    use crate::counter::{CounterTask, apply};
    use crate::log::{LocalLog, Log, local};
    use crate::model::{
        Batch, BatchId, Epoch, Partition, Partitioning, Requirement, Sequence, TenantItems,
    };
    use crate::store::memory::{MemoryReader, MemoryStore};
    use crate::store::{Snapshot, Store, StoreError, StoreShape, StoreStats};

    fn start(complete: bool) -> (LocalLog, LocalCounter<MemoryReader>) {
        let mut store = MemoryStore::new(StoreShape {
            partitioning: Partitioning::SINGLE,
        });
        store.set_complete(complete);
        store.commit().expect("commits");
        let (log, deliveries) = local();
        let (task, counter) = CounterTask::new("c".into(), 1, store, deliveries);
        tokio::spawn(task.run());
        (log, counter)
    }

    /// A reader of a store that commits the next batch before each look at it, as under load.
    #[derive(Clone)]
    struct Busy {
        store: Arc<Mutex<MemoryStore>>,
        reader: MemoryReader,
    }

    impl Busy {
        fn commit(&self) {
            let mut store = self.store.lock();
            let next = batch(self.reader.cut().items() + 1);
            apply(&mut *store, &next).expect("applied");
            store.commit().expect("commits");
        }
    }

    impl StoreReader for Busy {
        fn cut(&self) -> Held<'_> {
            self.commit();
            self.reader.cut()
        }

        fn look_up(&self, cut: &Held<'_>, tenant: &TenantName, hash: &ItemHash) -> LookUp {
            let begun = self.reader.look_up(cut, tenant, hash);
            let busy = self.clone();
            LookUp::OnDisk(Box::new(move || {
                busy.commit();
                begun.finish()
            }))
        }

        fn snapshot(&self) -> Result<Snapshot, StoreError> {
            self.reader.snapshot()
        }

        fn stats(&self) -> StoreStats {
            self.reader.stats()
        }
    }

    fn tenant() -> TenantName {
        TenantName::new("t").expect("valid")
    }

    fn batch(sequence: Sequence) -> Arc<Batch> {
        let items = TenantItems {
            tenant: tenant(),
            hashes: [ItemHash::of_id(&sequence.to_string())].into(),
        };
        let id = BatchId {
            partition: Partition(0),
            epoch: Epoch(1),
            sequence,
        };
        Arc::new(Batch::new(id, 0, vec![items]))
    }

    fn demand(sequence: Sequence, wait: Duration) -> Demand {
        let mut requirement = Requirement::default();
        requirement.add(Partition(0), Epoch(1), sequence);
        Demand {
            requirement,
            barriers: Vec::new(),
            wait,
            whole_position: false,
        }
    }

    async fn count(counter: &LocalCounter<MemoryReader>, demand: Demand) -> (u64, bool) {
        let counts = counter
            .counts(Arc::new([tenant()]), demand)
            .await
            .expect("answers");
        (counts.counts[0][0], counts.cover.partitions[0].1)
    }

    #[tokio::test]
    async fn a_query_waits_until_it_is_covered() {
        let (log, counter) = start(true);
        log.append(batch(1)).await.expect("appended");
        let waiting = tokio::spawn({
            let counter = counter.clone();
            async move { count(&counter, demand(2, Duration::from_secs(60))).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        log.append(batch(2)).await.expect("appended");
        assert_eq!(waiting.await.expect("joined"), (2, true));
    }

    #[tokio::test]
    async fn a_query_that_is_not_covered_in_time_says_so() {
        let (log, counter) = start(true);
        log.append(batch(2)).await.expect("appended");
        // Sequence 1 is missing: a hole is not covered by what lies beyond it.
        assert_eq!(
            count(&counter, demand(2, Duration::from_millis(20))).await,
            (1, false)
        );
        let status = counter.status().await.expect("runs");
        assert_eq!((status.holes, status.items), (1, 1));
        log.append(batch(1)).await.expect("appended");
        assert_eq!(count(&counter, demand(2, Duration::ZERO)).await, (2, true));
    }

    #[tokio::test]
    async fn an_incomplete_counter_covers_nothing() {
        let (log, counter) = start(false);
        log.append(batch(1)).await.expect("appended");
        assert_eq!(count(&counter, Demand::default()).await, (1, false));
    }

    #[tokio::test]
    async fn what_a_membership_shows_is_of_the_commit_that_it_covers() {
        let (_log, counter) = start(true);
        let mut store = MemoryStore::new(StoreShape {
            partitioning: Partitioning::SINGLE,
        });
        store.set_complete(true);
        let reader = store.reader();
        let store = Arc::new(Mutex::new(store));
        let busy = Busy { store, reader };
        let counter = counter.reading(busy.clone());
        for _ in 0..3 {
            let next = busy.reader.cut().items() + 1;
            for (sequence, counted) in [(next, true), (next + 3, false)] {
                let hash = ItemHash::of_id(&sequence.to_string());
                let answer = counter.contains(tenant(), hash, Demand::default()).await;
                let answer = answer.expect("answers");
                let covered = answer.cover.covered.get(Partition(0), Epoch(1));
                let covers = covered.is_some_and(|covered| covered.contains(sequence));
                assert!(answer.cover.is_full());
                assert_eq!((answer.counted, covers), (counted, counted), "{sequence}");
            }
        }
    }

    #[tokio::test]
    async fn a_counter_that_has_ended_answers_at_once_with_what_it_has() {
        let (log, counter) = start(true);
        log.append(batch(1)).await.expect("appended");
        drop(log);
        let answer = count(&counter, demand(5, Duration::from_secs(3_600)));
        let answer = tokio::time::timeout(Duration::from_secs(30), answer).await;
        assert_eq!(answer.expect("at once"), (1, false));
        assert!(counter.status().await.is_err());
    }
}
