//! Tests of anti-entropy: several counters in one process over a log that can lose what it queued.
//!
//! Invariant: every test waits for a condition; only the log and the disks are simulated.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::*;
use crate::CounterTask;
use crate::snapshot::SnapshotEncoder;
use headcount_log::{AppendError, Delivered, Deliveries, Delivery, DeliveryError, DeliveryTag};
use headcount_model::{
    BarrierEpochs, Entropy, Epoch, ItemHash, NewItems, Partition, Sequence, TenantItems,
};
use headcount_rpc::{Contains, Counts, ListQuery, Listing, SnapshotStream, Status};
use headcount_store::memory::{MemoryReader, MemoryStore};
use headcount_store::{Store, StoreShape};

const PATIENCE: Duration = Duration::from_secs(30);

/// Intervals and timeouts of the healers in these tests.
const OPTIONS: AntiEntropyOptions = AntiEntropyOptions {
    incomplete_interval: Duration::from_millis(10),
    complete_interval: Duration::from_millis(10),
    ask_timeout: Duration::from_millis(100),
    barrier_timeout: Duration::from_millis(500),
    snapshot_idle_timeout: PATIENCE,
};

/// One counter's queue, which an operator can purge.
#[derive(Clone, Default)]
struct Queue {
    waiting: Arc<Mutex<VecDeque<Delivered>>>,
    held: Arc<Mutex<bool>>,
    changed: Arc<Notify>,
}

impl Queue {
    fn push(&self, delivered: Delivered) {
        self.waiting.lock().push_back(delivered);
        self.changed.notify_one();
    }

    /// Nothing is delivered while it is held.
    fn hold(&self, held: bool) {
        *self.held.lock() = held;
        self.changed.notify_one();
    }

    fn purge(&self) {
        self.waiting.lock().clear();
    }
}

impl Deliveries for Queue {
    async fn next(&mut self) -> Result<Option<Delivery>, DeliveryError> {
        loop {
            if !*self.held.lock()
                && let Some(delivered) = self.waiting.lock().pop_front()
            {
                let tag = DeliveryTag::default();
                return Ok(Some(Delivery { tag, delivered }));
            }
            self.changed.notified().await;
        }
    }

    fn commit_delay_max(&self) -> Duration {
        Duration::ZERO
    }

    fn refuse(&mut self, _: DeliveryTag, _: &str) -> bool {
        false
    }

    async fn acknowledge(&mut self, _: DeliveryTag) {}
}

#[derive(Clone)]
struct Fanout(Arc<Vec<Queue>>);

impl Log for Fanout {
    async fn append(&self, batch: Arc<Batch>) -> Result<Option<NewItems>, AppendError> {
        for queue in self.0.iter() {
            queue.push(Delivered::Batches(vec![Arc::clone(&batch)]));
        }
        Ok(None)
    }
}

/// A counter as its peers see it.
struct Near(String, LocalCounter<MemoryReader>, MemoryReader);

impl Queries for Near {
    fn name(&self) -> &str {
        &self.0
    }

    fn counts(
        &self,
        tenants: Arc<[TenantName]>,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Counts, QueryError>> {
        self.1.counts(tenants, demand)
    }

    fn contains(
        &self,
        tenant: TenantName,
        hash: ItemHash,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Contains, QueryError>> {
        self.1.contains(tenant, hash, demand)
    }

    fn list(
        &self,
        query: Arc<ListQuery>,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Listing, QueryError>> {
        self.1.list(query, demand)
    }

    fn status(&self) -> BoxFuture<'_, Result<Status, QueryError>> {
        self.1.status()
    }
}

impl Peer for Near {
    fn snapshot(&self) -> BoxFuture<'_, Result<SnapshotStream, QueryError>> {
        async {
            let snapshot = self.2.snapshot();
            let snapshot = snapshot.map_err(|error| QueryError::Store(error.to_string()))?;
            let frames = SnapshotEncoder::new(snapshot).map(|frame| {
                frame
                    .map(Into::into)
                    .map_err(|error| QueryError::Store(error.to_string()))
            });
            Ok(futures_util::stream::iter(frames).boxed())
        }
        .boxed()
    }
}

/// Reports that batches may not reach a counter while `passed_by` is set, and counts its calls.
fn passes_by_where(passed_by: &Arc<AtomicBool>, asked: &Arc<AtomicU64>) -> NotReached {
    let (passed_by, asked) = (Arc::clone(passed_by), Arc::clone(asked));
    Arc::new(move |_| {
        asked.fetch_add(1, Ordering::SeqCst);
        passed_by
            .load(Ordering::SeqCst)
            .then(|| "k does not publish to it".to_owned())
    })
}

/// Starts a counter with an empty store that consumes from `queue`.
fn start_counter(
    at: usize,
    complete: bool,
    queue: Queue,
) -> (CounterControl, LocalCounter<MemoryReader>, MemoryReader) {
    let mut store = MemoryStore::new(StoreShape {
        partitioning: Partitioning::SINGLE,
    });
    store.set_complete(complete);
    store.commit().expect("commits");
    let reader = store.reader();
    let (task, counter) = CounterTask::new(format!("c{at}"), 1, store, queue);
    let control = task.control();
    tokio::spawn(task.run());
    (control, counter, reader)
}

struct World {
    log: Fanout,
    counters: Vec<LocalCounter<MemoryReader>>,
    /// Whether batches are appended that do not reach every counter.
    passed_by: Arc<AtomicBool>,
    /// How often a healer has asked for that.
    asked: Arc<AtomicU64>,
}

impl World {
    /// Counters that are complete as given, with their healers.
    fn new(complete: &[bool]) -> Self {
        let queues: Vec<Queue> = complete.iter().map(|_| Queue::default()).collect();
        let log = Fanout(Arc::new(queues));
        let (passed_by, asked) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let not_reached = passes_by_where(&passed_by, &asked);
        let mut parts = Vec::new();
        for (at, &complete) in complete.iter().enumerate() {
            parts.push(start_counter(at, complete, log.0[at].clone()));
        }
        let near = |at: usize| {
            let (_, counter, reader) = &parts[at];
            Arc::new(Near(format!("c{at}"), counter.clone(), reader.clone())) as Arc<dyn Peer>
        };
        for (at, (control, counter, _)) in parts.iter().enumerate() {
            let others: Vec<_> = (0..parts.len())
                .filter(|&other| other != at)
                .map(near)
                .collect();
            let healer = AntiEntropy::new(
                counter.clone(),
                control.clone(),
                log.clone(),
                BarrierEpochs::new(Epoch(100 + at as u128), Entropy::default),
                Partitioning::SINGLE,
                Cluster {
                    peers: Arc::new(move || others.clone()),
                    not_reached: Arc::clone(&not_reached),
                },
                OPTIONS,
            );
            tokio::spawn(healer.run());
        }
        Self {
            log,
            counters: parts.into_iter().map(|(_, counter, _)| counter).collect(),
            passed_by,
            asked,
        }
    }

    async fn post(&self, epoch: u128, sequence: Sequence) {
        self.log
            .append(batch(epoch, sequence))
            .await
            .expect("appended");
    }

    async fn state(&self, at: usize) -> (u64, bool) {
        let status = self.counters[at].status().await.expect("runs");
        (status.items, status.complete && status.holes == 0)
    }

    async fn wait(&self, at: usize, items: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.state(at).await != (items, true) {
            let state = self.state(at).await;
            assert!(Instant::now() < deadline, "c{at} is {state:?}, not {items}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn batch(epoch: u128, sequence: Sequence) -> Arc<Batch> {
    let id = BatchId {
        partition: Partition(0),
        epoch: Epoch(epoch),
        sequence,
    };
    let items = TenantItems {
        tenant: TenantName::new("t").expect("valid"),
        hashes: [ItemHash::of_id(&format!("{epoch}-{sequence}"))].into(),
    };
    Arc::new(Batch::new(id, 0, vec![items]))
}

#[tokio::test]
async fn a_newcomer_becomes_complete() {
    let world = World::new(&[true, true, false]);
    world.log.0[2].hold(true);
    world.post(1, 1).await;
    world.post(1, 2).await;
    world.wait(0, 2).await;
    world.log.0[2].purge();
    world.log.0[2].hold(false);
    world.wait(2, 2).await;
}

/// The counter would miss a batch that is appended without its queue.
#[tokio::test]
async fn a_newcomer_is_not_complete_before_everybody_reaches_it() {
    let world = World::new(&[true, true]);
    world.post(1, 1).await;
    world.wait(1, 1).await;
    world.passed_by.store(true, Ordering::SeqCst);
    world.log.0[1].push(Delivered::PossibleLoss { why: "test".into() });
    let deadline = Instant::now() + PATIENCE;
    while world.asked.load(Ordering::SeqCst) < 3 {
        assert!(Instant::now() < deadline, "rounds continue");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(world.state(1).await, (1, false));
    world.passed_by.store(false, Ordering::SeqCst);
    world.wait(1, 1).await;
}

#[tokio::test]
async fn what_was_purged_is_fetched_even_if_nothing_follows() {
    let world = World::new(&[true, true, true]);
    world.post(1, 1).await;
    world.wait(1, 1).await;
    world.log.0[1].hold(true);
    world.post(1, 2).await;
    world.wait(0, 2).await;
    world.log.0[1].purge();
    world.log.0[1].hold(false);
    world.wait(1, 2).await;
}

/// The queue of each counter lost what the other has.
#[tokio::test]
async fn two_that_miss_different_batches_heal_each_other() {
    let world = World::new(&[true, true]);
    world.log.0[0].push(Delivered::Batches(vec![batch(1, 2)]));
    world.log.0[1].push(Delivered::Batches(vec![batch(1, 1)]));
    world.wait(0, 2).await;
    world.wait(1, 2).await;
}

#[tokio::test]
async fn a_counter_whose_log_lost_something_is_complete_again_after_a_round() {
    let world = World::new(&[true, true]);
    world.post(1, 1).await;
    world.log.0[0].push(Delivered::PossibleLoss { why: "test".into() });
    world.wait(0, 1).await;
    let status = world.counters[0].status().await.expect("runs");
    assert_eq!(status.snapshots, 1);
}

#[tokio::test]
async fn without_a_complete_counter_nobody_becomes_complete() {
    let world = World::new(&[false, false]);
    world.post(1, 1).await;
    let deadline = Instant::now() + PATIENCE;
    while world.state(0).await.0 != 1 || world.state(1).await.0 != 1 {
        assert!(Instant::now() < deadline, "both count");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Several rounds of both counters. The first healer's barrier epochs are drawn again here.
    let barriers = BarrierEpochs::new(Epoch(100), Entropy::default);
    for _ in 0..3 {
        let barrier = BatchId {
            partition: Partition(0),
            epoch: barriers.draw(),
            sequence: 1,
        };
        let passed = world.counters[0]
            .passed(&[barrier], Instant::now() + PATIENCE)
            .await;
        assert!(passed, "rounds continue");
    }
    assert_eq!(world.state(0).await, (1, false));
    assert_eq!(world.state(1).await, (1, false));
}
