//! Tests of reads over several counters that lag, are incomplete, or do not answer.
//!
//! Invariant: they go through the public handle; only the counters are scripted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::*;
use crate::coordinator::{AdmissionLimits, CoordinatorOptions};
use crate::counter::{Counts, Cover, Listing, Membership};
use crate::log::{AppendError, Log};
use crate::model::{
    Batch, BatchId, Epoch, Partition, Partitioning, Position, Sequence, TenantItems,
};

/// Whether a scripted counter answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Answers,
    Silent,
    Gone,
}

struct Inside {
    position: Position,
    counts: BTreeMap<String, u64>,
    complete: bool,
    mode: Mode,
}

/// A counter that applies a batch when the test says so.
#[derive(Clone)]
struct Scripted(Arc<Mutex<Inside>>);

impl Scripted {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Inside {
            position: Position::default(),
            counts: BTreeMap::new(),
            complete: true,
            mode: Mode::Answers,
        })))
    }

    fn apply(&self, batch: &Batch) {
        let mut inside = self.0.lock();
        inside.position.record(batch.id(), batch.checksum());
        for items in batch.tenants() {
            *inside.counts.entry(items.tenant.to_string()).or_default() +=
                items.hashes.len() as u64;
        }
    }

    fn set(&self, mode: Mode) {
        self.0.lock().mode = mode;
    }
}

impl Queries for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn counts(
        &self,
        tenants: Arc<[TenantName]>,
        demand: Demand,
    ) -> BoxFuture<'_, Result<Counts, QueryError>> {
        async move {
            let deadline = Instant::now() + demand.wait;
            loop {
                {
                    let inside = self.0.lock();
                    if inside.mode == Mode::Gone {
                        return Err(QueryError::Unreachable("gone".into()));
                    }
                    let covers = inside.complete
                        && inside.position.covers(&demand.requirement, Partition(0));
                    if inside.mode == Mode::Answers && (covers || Instant::now() >= deadline) {
                        let mut covered = Requirement::default();
                        for (partition, epoch, part) in inside.position.iter() {
                            covered.add_all(partition, epoch, &part.sequences);
                        }
                        let count = |tenant: &TenantName| {
                            vec![inside.counts.get(tenant.as_str()).copied().unwrap_or(0)]
                        };
                        return Ok(Counts {
                            cover: Cover {
                                life: 0,
                                barriers: true,
                                partitions: vec![(Partition(0), covers)],
                                covered,
                            },
                            counts: tenants.iter().map(count).collect(),
                        });
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        .boxed()
    }

    fn contains(
        &self,
        _: TenantName,
        _: ItemHash,
        _: Demand,
    ) -> BoxFuture<'_, Result<Membership, QueryError>> {
        std::future::ready(Err(QueryError::Unreachable("not scripted".into()))).boxed()
    }

    fn list(&self, _: Arc<ListQuery>, _: Demand) -> BoxFuture<'_, Result<Listing, QueryError>> {
        std::future::ready(Err(QueryError::Unreachable("not scripted".into()))).boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<Status, QueryError>> {
        std::future::ready(Err(QueryError::Unreachable("not scripted".into()))).boxed()
    }
}

/// A log that is durable at once and reaches those counters that are told to receive.
#[derive(Clone, Default)]
struct Fanout(Arc<Mutex<Vec<Scripted>>>);

impl Log for Fanout {
    async fn append(&self, batch: Arc<Batch>) -> Result<(), AppendError> {
        for counter in self.0.lock().iter() {
            counter.apply(&batch);
        }
        Ok(())
    }
}

struct World {
    counters: Vec<Scripted>,
    log: Fanout,
    coordinator: Coordinator,
}

impl World {
    fn new() -> Self {
        let counters = vec![Scripted::new(), Scripted::new(), Scripted::new()];
        let log = Fanout(Arc::new(Mutex::new(counters.clone())));
        let members = counters
            .iter()
            .map(|counter| Arc::new(counter.clone()) as Arc<dyn Queries>);
        let options = CoordinatorOptions {
            batch_bytes_max: 1 << 20,
            admission: AdmissionLimits {
                waiting_bytes_max: 1 << 20,
                waiting_posts_max: 100,
            },
            accept_timeout: Duration::from_secs(10),
        };
        let members = members.collect();
        let coordinator = Coordinator::new(
            Epoch(9),
            Epoch(10),
            Partitioning::SINGLE,
            &log,
            members,
            options,
        );
        Self {
            counters,
            log,
            coordinator,
        }
    }

    async fn start(&self) {
        let started = self.coordinator.start(Duration::from_secs(5)).await;
        started.expect("a majority answers");
    }

    /// Which counters the log reaches from now on.
    fn reach(&self, counters: &[usize]) {
        *self.log.0.lock() = counters
            .iter()
            .map(|&at| self.counters[at].clone())
            .collect();
    }

    async fn post(&self, id: u32) {
        let items = TenantItems {
            tenant: tenant(),
            hashes: vec![ItemHash::of_id(&id.to_string())],
        };
        self.coordinator
            .accept(vec![items])
            .await
            .expect("accepted");
    }

    async fn count(&self, consistency: Consistency) -> Result<(u64, bool), ReadError> {
        let options = ReadOptions {
            consistency,
            after: None,
            timeout: Duration::from_millis(100),
        };
        let read = self.coordinator.counts(vec![tenant()], &options).await?;
        Ok((read.value[0], read.exact))
    }
}

fn tenant() -> TenantName {
    TenantName::new("t").expect("valid")
}

/// A batch of another coordinator.
fn foreign(sequence: Sequence) -> Batch {
    let items = TenantItems {
        tenant: tenant(),
        hashes: vec![ItemHash::of_id(&format!("foreign {sequence}"))],
    };
    let id = BatchId {
        partition: Partition(0),
        epoch: Epoch(1),
        sequence,
    };
    Batch::new(id, 0, vec![items])
}

#[tokio::test]
async fn reads_are_exact_only_after_the_start_read() {
    let world = World::new();
    assert_eq!(world.count(Consistency::Session).await, Ok((0, false)));
    world.start().await;
    assert_eq!(world.count(Consistency::Session).await, Ok((0, true)));
}

#[tokio::test]
async fn the_start_read_needs_a_majority_and_takes_what_it_has_as_the_floor() {
    let world = World::new();
    world.counters[0].apply(&foreign(1));
    world.counters[1].set(Mode::Gone);
    world.counters[2].set(Mode::Gone);
    let started = world.coordinator.start(Duration::from_millis(50)).await;
    assert_eq!(started, Err(ReadError::NoMajority));
    world.counters[1].set(Mode::Answers);
    world.start().await;
    // Only the first has what an earlier life was told; the second must not answer for it.
    world.counters[0].set(Mode::Gone);
    assert_eq!(world.count(Consistency::Session).await, Ok((0, false)));
    world.counters[1].apply(&foreign(1));
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
}

#[tokio::test]
async fn a_read_includes_every_own_write_or_says_that_it_does_not() {
    let world = World::new();
    world.start().await;
    world.reach(&[2]);
    world.post(1).await;
    assert_eq!(
        world.count(Consistency::Session).await,
        Ok((1, true)),
        "the one that has it wins"
    );
    world.counters[2].set(Mode::Silent);
    assert_eq!(world.count(Consistency::Session).await, Ok((0, false)));
    world.counters[2].set(Mode::Gone);
    assert_eq!(world.count(Consistency::Eventual).await, Ok((0, false)));
}

#[tokio::test]
async fn an_incomplete_counter_never_makes_an_answer_exact() {
    let world = World::new();
    world.start().await;
    world.post(1).await;
    for counter in &world.counters {
        counter.0.lock().complete = false;
    }
    assert_eq!(world.count(Consistency::Session).await, Ok((1, false)));
    world.counters[1].0.lock().complete = true;
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
}

#[tokio::test]
async fn exact_reads_never_go_backwards() {
    let world = World::new();
    world.start().await;
    world.counters[1].set(Mode::Gone);
    world.counters[2].set(Mode::Gone);
    // Another coordinator's batch has reached the first counter alone, and is shown.
    world.counters[0].apply(&foreign(1));
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
    world.counters[0].set(Mode::Gone);
    world.counters[1].set(Mode::Answers);
    assert_eq!(
        world.count(Consistency::Session).await,
        Ok((0, false)),
        "less, and says so"
    );
    world.counters[1].apply(&foreign(1));
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
}

#[tokio::test]
async fn strong_reads_include_what_others_acknowledged_and_need_a_majority() {
    let world = World::new();
    world.start().await;
    world.counters[0].apply(&foreign(1));
    world.counters[1].apply(&foreign(1));
    for _ in 0..20 {
        // The third lags; whichever two answer first, one of them has it.
        assert_eq!(world.count(Consistency::Strong).await, Ok((1, true)));
    }
    world.reach(&[0]);
    assert_eq!(
        world.count(Consistency::Strong).await,
        Err(ReadError::NoMajority)
    );
}

#[tokio::test]
async fn without_any_counter_there_is_no_answer() {
    let world = World::new();
    world.start().await;
    for counter in &world.counters {
        counter.set(Mode::Gone);
    }
    assert_eq!(
        world.count(Consistency::Session).await,
        Err(ReadError::NoCounter)
    );
    world.counters[0].set(Mode::Silent);
    assert_eq!(
        world.count(Consistency::Eventual).await,
        Err(ReadError::NoCounter)
    );
}
