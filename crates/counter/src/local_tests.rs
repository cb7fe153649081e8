//! Tests of a counter's query handle: what it answers, when, and which queries a commit wakes.
//!
//! Invariant: see the [module above](super).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::waiting::WAITING_MAX;
use crate::{CounterTask, apply};
use headcount_log::{LocalLog, Log, local};
use headcount_model::{
    Acceptance, Batch, BatchId, Epoch, KeptGeneration, Partition, Partitioning, Position,
    Requirement, Sequence, TenantItems,
};
use headcount_store::memory::{MemoryReader, MemoryStore};
use headcount_store::{Snapshot, Store, StoreError, StoreShape, StoreStats};

const LONG: Duration = Duration::from_secs(3_600);

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

/// A reader of a store that commits the next batch before each read, as under load.
#[derive(Clone)]
struct Busy {
    store: Arc<Mutex<MemoryStore>>,
    reader: MemoryReader,
}

impl Busy {
    fn commit(&self) {
        let mut store = self.store.lock();
        let next = batch(self.reader.committed().items() + 1);
        apply(&mut *store, &next).expect("applied");
        store.commit().expect("commits");
    }
}

impl StoreReader for Busy {
    fn committed(&self) -> Held<'_> {
        self.commit();
        self.reader.committed()
    }

    fn look_up(&self, committed: &Held<'_>, tenant: &TenantName, hash: &ItemHash) -> LookUp {
        let begun = self.reader.look_up(committed, tenant, hash);
        let busy = self.clone();
        LookUp::OnDisk(Box::new(move || {
            busy.commit();
            begun.finish()
        }))
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.reader.snapshot()
    }

    fn generation(&self) -> Option<KeptGeneration> {
        self.reader.generation()
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

fn demand(sequence: Sequence, wait: Duration) -> ReadRequirement {
    let mut requirement = Requirement::default();
    requirement.add(Partition(0), Epoch(1), sequence);
    ReadRequirement {
        requirement,
        barriers: Vec::new(),
        wait,
        whole_position: false,
    }
}

async fn count(counter: &LocalCounter<MemoryReader>, demand: ReadRequirement) -> (u64, bool) {
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
    // Sequence 1 is missing. A later sequence does not cover a hole.
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
    assert_eq!(
        count(&counter, ReadRequirement::default()).await,
        (1, false)
    );
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
        let next = busy.reader.committed().items() + 1;
        for (sequence, counted) in [(next, true), (next + 3, false)] {
            let hash = ItemHash::of_id(&sequence.to_string());
            let answer = counter
                .contains(tenant(), hash, ReadRequirement::default())
                .await;
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

/// How often a query was woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A waiting query that is polled manually.
struct Waiting<'c> {
    query: BoxFuture<'c, Result<Counts, QueryError>>,
    wakes: Arc<Wakes>,
}

impl<'c> Waiting<'c> {
    fn start(counter: &'c LocalCounter<MemoryReader>, demand: ReadRequirement) -> Self {
        let mut waiting = Self {
            // Without the runtime's cooperative budget, which also causes wake-ups.
            query: tokio::task::unconstrained(counter.counts(Arc::new([tenant()]), demand)).boxed(),
            wakes: Arc::default(),
        };
        assert!(waiting.poll().is_none(), "it has to wait");
        waiting
    }

    fn poll(&mut self) -> Option<Result<Counts, QueryError>> {
        let waker = Waker::from(Arc::clone(&self.wakes));
        match self.query.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::Relaxed)
    }

    /// Polls the query until it answers.
    async fn answer(&mut self) -> Result<Counts, QueryError> {
        loop {
            if let Some(answer) = self.poll() {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn proving(sequence: Sequence) -> ReadRequirement {
    let barrier = BatchId {
        partition: Partition(0),
        epoch: Epoch(9),
        sequence,
    };
    ReadRequirement {
        barriers: vec![barrier],
        wait: LONG,
        ..ReadRequirement::default()
    }
}

#[tokio::test]
async fn a_commit_wakes_only_the_queries_that_it_concerns() {
    let (log, counter) = start(true);
    let mut waiting: Vec<_> = (2..=51)
        .map(|sequence| Waiting::start(&counter, demand(sequence, LONG)))
        .collect();
    // This query lacks two things: one arrives, the other never will.
    let mut invented = demand(7, LONG);
    invented.requirement.add(Partition(0), Epoch(77), 1);
    let invented = Waiting::start(&counter, invented);
    let proves = Waiting::start(&counter, proving(1));

    log.append(batch(1)).await.expect("appended");
    assert!(waiting.iter().all(|query| query.wakes() == 0));
    log.append(batch(2)).await.expect("appended");
    let woken: Vec<_> = waiting.iter().map(Waiting::wakes).collect();
    assert_eq!((woken[0], woken.iter().sum()), (1, 1));
    let first = waiting[0].poll().expect("covered").expect("answers");
    assert_eq!((first.counts[0][0], first.cover.is_full()), (2, true));
    for sequence in 3..=51 {
        log.append(batch(sequence)).await.expect("appended");
    }
    for query in &mut waiting[1..] {
        assert_eq!(query.wakes(), 1);
        assert!(query.poll().is_some(), "covered");
    }
    assert_eq!((invented.wakes(), proves.wakes()), (1, 0));
}

#[tokio::test]
async fn a_query_that_lacks_much_waits_for_one_thing_after_the_other() {
    let (log, counter) = start(true);
    let mut holes = Waiting::start(&counter, demand(3, LONG));
    // The query waits for the last sequence, then for those that are still missing.
    log.append(batch(3)).await.expect("appended");
    assert!((holes.wakes(), holes.poll().is_none()) == (1, true));
    log.append(batch(1)).await.expect("appended");
    assert_eq!(holes.wakes(), 1);
    log.append(batch(2)).await.expect("appended");
    assert_eq!(holes.wakes(), 2);
    let answer = holes.poll().expect("covered").expect("answers");
    assert_eq!(answer.counts, [[3]]);

    let mut proves = Waiting::start(&counter, proving(1));
    let mut proves_later = Waiting::start(&counter, proving(3));
    let id = |sequence| proving(sequence).barriers[0];
    log.append(Arc::new(Batch::new(id(2), 0, Vec::new())))
        .await
        .expect("appended");
    assert!(
        proves.poll().is_some(),
        "a later barrier proves an earlier one"
    );
    assert_eq!((proves_later.wakes(), proves_later.poll()), (0, None));
}

#[tokio::test]
async fn what_comes_otherwise_than_by_its_batch_wakes_too() {
    let (log, deliveries) = local();
    let store = MemoryStore::new(StoreShape {
        partitioning: Partitioning::SINGLE,
    });
    let (task, counter) = CounterTask::new("c".into(), 1, store, deliveries);
    let control = task.control();
    tokio::spawn(task.run());
    let mut one = Waiting::start(&counter, demand(1, LONG));
    let mut three = Waiting::start(&counter, demand(3, LONG));
    // A snapshot makes the counter complete and brings the first batch.
    let mut position = Position::default();
    position.record(batch(1).id(), 0);
    control.begin().await.expect("runs");
    control.finish(position, Some(0)).await.expect("runs");
    assert_eq!((one.wakes(), three.wakes()), (1, 1));
    assert!(one.poll().is_some() && three.poll().is_none());
    // An operator accepts the loss of the others.
    let losses = vec![(Epoch(1), 2, 3)];
    let signed = Acceptance {
        losses,
        ..Acceptance::default()
    };
    let accepted = Batch::accepting(proving(1).barriers[0], 0, signed);
    log.append(Arc::new(accepted)).await.expect("appended");
    assert_eq!(three.wakes(), 2);
    assert!(three.poll().expect("covered").is_ok());
}

#[tokio::test]
async fn as_many_wait_as_may_and_no_other_query_is_held_up() {
    let (log, counter) = start(true);
    log.append(batch(1)).await.expect("appended");
    let mut waiting: Vec<_> = (0..WAITING_MAX)
        .map(|_| Waiting::start(&counter, demand(2, LONG)))
        .collect();
    let one_more = counter.counts(Arc::new([tenant()]), demand(2, LONG));
    assert_eq!(one_more.await, Err(QueryError::Busy));
    let hash = ItemHash::of_id("1");
    let one_more = counter.contains(tenant(), hash, demand(2, LONG));
    assert_eq!(one_more.await, Err(QueryError::Busy));

    assert_eq!(count(&counter, ReadRequirement::default()).await, (1, true));
    assert_eq!(count(&counter, demand(1, LONG)).await, (1, true));
    assert_eq!(count(&counter, demand(2, Duration::ZERO)).await, (1, false));
    let found = counter.contains(tenant(), hash, demand(1, LONG)).await;
    assert!(found.expect("answers").counted);
    let _proves = Waiting::start(&counter, proving(1));

    drop(waiting.pop());
    let mut another = Waiting::start(&counter, demand(2, LONG));
    log.append(batch(2)).await.expect("appended");
    assert_eq!(another.answer().await.expect("answers").counts, [[2]]);
}
