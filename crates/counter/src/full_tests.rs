//! Tests of a counter with a full disk that has room again later.
//!
//! Invariant: see the [module above](super).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::halt_tests::{count, tenant};
use super::{CounterTask, LocalCounter, Queries};
use headcount_log::{
    AppendError, Delivered, Deliveries, Delivery, DeliveryError, DeliveryTag, Log, local,
};
use headcount_model::{
    Batch, BatchId, Epoch, ItemHash, Marks, NewItems, Partition, Partitioning, TenantItems,
};
use headcount_store::memory::{MemoryReader, MemoryStore};
use headcount_store::{Store, StoreShape};

const LIMIT: Duration = Duration::from_secs(30);

fn store() -> (MemoryStore, Arc<AtomicBool>) {
    let mut store = MemoryStore::new(StoreShape {
        partitioning: Partitioning::SINGLE,
    });
    store.set_complete(true);
    store.commit().expect("there is room");
    let fullness = store.fullness();
    (store, fullness)
}

fn id(epoch: u128, sequence: u64) -> BatchId {
    BatchId {
        partition: Partition(0),
        epoch: Epoch(epoch),
        sequence,
    }
}

fn batch(sequence: u64, ids: &[u32]) -> Arc<Batch> {
    let hashes: Vec<ItemHash> = ids
        .iter()
        .map(|id| ItemHash::of_id(&id.to_string()))
        .collect();
    let items = TenantItems {
        tenant: tenant(),
        hashes: hashes.into_iter().collect(),
    };
    Arc::new(Batch::new(id(1, sequence), 0, vec![items]))
}

async fn problem(counter: &LocalCounter<MemoryReader>) -> Option<String> {
    counter.status().await.expect("it runs").problem
}

/// Waits until the counter reports a problem, or none.
async fn until_problem(counter: &LocalCounter<MemoryReader>, is_there: bool) -> Option<String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let problem = problem(counter).await;
        if problem.is_some() == is_there {
            return problem;
        }
        assert!(Instant::now() < deadline, "{problem:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The outcome of an append with `count` new items.
fn new(count: u64) -> Result<Option<NewItems>, AppendError> {
    let marks = Marks::default();
    Ok(Some(NewItems { count, marks }))
}

#[tokio::test]
async fn alone_what_finds_no_room_is_refused_and_reads_go_on() {
    let (store, fullness) = store();
    let (log, deliveries) = local();
    let (task, counter) = CounterTask::new("c".into(), 1, store, deliveries);
    let running = tokio::spawn(task.run());
    assert_eq!(log.append(batch(1, &[1, 2])).await, new(2));
    fullness.store(true, Ordering::Release);
    for _ in 0..3 {
        let refused = log.append(batch(2, &[3, 4, 5])).await;
        assert!(matches!(refused, Err(AppendError::Full(_))), "{refused:?}");
    }
    assert_eq!(count(&counter, 1).await, (2, true));
    assert_eq!(count(&counter, 2).await, (2, false));
    let told = until_problem(&counter, true).await.expect("a problem");
    assert!(
        told.contains("no room") && told.contains("resumes automatically"),
        "{told}"
    );
    // A barrier stores nothing, so strong reads continue.
    let barrier = Arc::new(Batch::new(id(7, 1), 0, Vec::new()));
    let (appended, refused) = tokio::join!(log.append(barrier), log.append(batch(2, &[6])));
    assert_eq!(appended, new(0));
    assert!(matches!(refused, Err(AppendError::Full(_))), "{refused:?}");
    assert!(counter.passed(&[id(7, 1)], Instant::now() + LIMIT).await);

    fullness.store(false, Ordering::Release);
    // The sequence was not used, so another batch takes it without a fork.
    assert_eq!(log.append(batch(2, &[2, 3])).await, new(1));
    assert_eq!(count(&counter, 2).await, (3, true));
    until_problem(&counter, false).await;
    assert_eq!(counter.status().await.expect("it runs").forks, 0);
    drop(log);
    assert!(running.await.expect("joined").is_ok(), "a clean end");
}

/// A queue that keeps unacknowledged deliveries and redelivers all of them after a refusal.
struct Queue {
    coming: mpsc::UnboundedReceiver<Arc<Batch>>,
    unacknowledged: VecDeque<(DeliveryTag, Arc<Batch>)>,
    again: VecDeque<Arc<Batch>>,
    last: DeliveryTag,
    is_paused: bool,
    asked: Arc<Mutex<Vec<&'static str>>>,
}

impl Deliveries for Queue {
    async fn next(&mut self) -> Result<Option<Delivery>, DeliveryError> {
        if self.is_paused {
            std::future::pending::<()>().await;
        }
        let batch = match self.again.pop_front() {
            Some(batch) => Some(batch),
            None => self.coming.recv().await,
        };
        let Some(batch) = batch else { return Ok(None) };
        self.last = self.last.next();
        self.unacknowledged.push_back((self.last, batch.clone()));
        Ok(Some(Delivery {
            tag: self.last,
            delivered: Delivered::Batches(vec![batch]),
        }))
    }

    fn commit_delay_max(&self) -> Duration {
        Duration::from_millis(5)
    }

    async fn acknowledge(&mut self, up_to: DeliveryTag) {
        self.unacknowledged.retain(|(tag, _)| *tag > up_to);
        self.asked.lock().push("acknowledge");
    }

    fn refuse(&mut self, _: DeliveryTag, _: &str) -> bool {
        let back = self.unacknowledged.drain(..).map(|(_, batch)| batch);
        self.again = back.chain(self.again.drain(..)).collect();
        self.is_paused = true;
        self.asked.lock().push("refuse");
        false
    }

    fn resume(&mut self) {
        self.is_paused = false;
        self.asked.lock().push("resume");
    }
}

#[tokio::test]
async fn behind_a_broker_what_finds_no_room_goes_back_and_comes_again() {
    let (store, fullness) = store();
    let (sender, coming) = mpsc::unbounded_channel();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let queue = Queue {
        coming,
        unacknowledged: VecDeque::new(),
        again: VecDeque::new(),
        last: DeliveryTag::default(),
        is_paused: false,
        asked: Arc::clone(&asked),
    };
    let (task, counter) = CounterTask::new("c".into(), 1, store, queue);
    let running = tokio::spawn(task.run());
    fullness.store(true, Ordering::Release);
    sender.send(batch(1, &[1, 2])).expect("taken");
    let barrier = Arc::new(Batch::new(id(7, 1), 0, Vec::new()));
    sender.send(barrier).expect("taken");
    until_problem(&counter, true).await;
    assert_eq!(count(&counter, 1).await, (0, false));
    let soon = Instant::now() + Duration::from_millis(50);
    assert!(
        !counter.passed(&[id(7, 1)], soon).await,
        "earlier batches are still in the queue"
    );
    assert_eq!(*asked.lock(), ["refuse"]);
    assert!(!running.is_finished());

    fullness.store(false, Ordering::Release);
    assert!(counter.passed(&[id(7, 1)], Instant::now() + LIMIT).await);
    assert_eq!(count(&counter, 1).await, (2, true));
    assert_eq!(problem(&counter).await, None);
    assert_eq!(asked.lock()[..3], ["refuse", "resume", "acknowledge"]);

    // The disk is full before anything arrives: nothing is requested either.
    fullness.store(true, Ordering::Release);
    until_problem(&counter, true).await;
    assert_eq!(asked.lock().last(), Some(&"refuse"));
    fullness.store(false, Ordering::Release);
    until_problem(&counter, false).await;
    drop(sender);
    assert!(running.await.expect("joined").is_ok(), "a clean end");
}
