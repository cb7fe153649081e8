//! Tests of delayed commits: what ends the delay, and that it loses nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{CounterControl, CounterTask, LocalCounter, Queries, ReadRequirement};
use headcount_log::{
    Delivered, Deliveries, Delivery, DeliveryError, DeliveryTag, LocalDeliveries, LocalLog, Log,
    local,
};
use headcount_model::{
    Batch, BatchId, Epoch, Generation, ItemHash, KeptGeneration, Partition, Partitioning,
    Requirement, Sequence, TenantItems, TenantName,
};
use headcount_store::memory::{MemoryReader, MemoryStore};
use headcount_store::{Store, StoreReader, StoreShape};

const FOR_EVER: Duration = Duration::from_secs(3_600);

struct Patient(LocalDeliveries, Duration);

impl Deliveries for Patient {
    async fn next(&mut self) -> Result<Option<Delivery>, DeliveryError> {
        self.0.next().await
    }

    fn commit_delay_max(&self) -> Duration {
        self.1
    }

    fn refuse(&mut self, _: DeliveryTag, _: &str) -> bool {
        false
    }

    async fn acknowledge(&mut self, up_to: DeliveryTag) {
        self.0.acknowledge(up_to).await;
    }
}

fn start(commit_delay_max: Duration) -> (LocalLog, LocalCounter<MemoryReader>, CounterControl) {
    let mut store = MemoryStore::new(StoreShape {
        partitioning: Partitioning::SINGLE,
    });
    store.set_complete(true);
    store.commit().expect("commits");
    let (log, deliveries) = local();
    let (task, counter) =
        CounterTask::new("c".into(), 1, store, Patient(deliveries, commit_delay_max));
    let control = task.control();
    tokio::spawn(task.run());
    (log, counter, control)
}

fn tenant() -> TenantName {
    TenantName::new("t").expect("valid")
}

fn batch(epoch: u128, sequence: Sequence, ids: &[u32]) -> Arc<Batch> {
    let items = TenantItems {
        tenant: tenant(),
        hashes: ids
            .iter()
            .map(|id| ItemHash::of_id(&id.to_string()))
            .collect(),
    };
    let id = BatchId {
        partition: Partition(0),
        epoch: Epoch(epoch),
        sequence,
    };
    Arc::new(Batch::new(id, 0, vec![items]))
}

/// The count, and whether it covers everything up to `sequence`, after waiting for that up to
/// `wait`.
async fn count(
    counter: &LocalCounter<MemoryReader>,
    sequence: Sequence,
    wait: Duration,
) -> (u64, bool) {
    let mut requirement = Requirement::default();
    requirement.add(Partition(0), Epoch(1), sequence);
    let demand = ReadRequirement {
        requirement,
        barriers: Vec::new(),
        wait,
        whole_position: false,
    };
    let counts = counter
        .counts(Arc::new([tenant()]), demand)
        .await
        .expect("answers");
    (counts.counts[0][0], counts.cover.partitions[0].1)
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what)
        .await
        .expect("within its time")
}

#[tokio::test]
async fn a_query_that_waits_brings_the_commit() {
    let (log, counter, _control) = start(FOR_EVER);
    for sequence in 1..=3 {
        let append = tokio::spawn({
            let (log, batch) = (log.clone(), batch(1, sequence, &[sequence as u32]));
            async move { log.append(batch).await }
        });
        // The query may start before or after the batch arrives. Neither waits for the commit delay
        // of the log.
        if sequence != 2 {
            tokio::task::yield_now().await;
        }
        let answer = soon(count(&counter, sequence, FOR_EVER)).await;
        assert_eq!(answer, (sequence, true));
        assert_eq!(soon(append).await.expect("joined"), Ok(None));
    }
}

#[tokio::test]
async fn a_query_that_waits_for_something_else_brings_no_commit() {
    let (log, counter, _control) = start(FOR_EVER);
    let waiting = |sequence| {
        let counter = counter.clone();
        tokio::spawn(async move { count(&counter, sequence, FOR_EVER).await })
    };
    let (third, never) = (waiting(3), waiting(1_000));
    let mut appends = Vec::new();
    for sequence in 1..=3 {
        let (log, batch) = (log.clone(), batch(1, sequence, &[sequence as u32]));
        appends.push(tokio::spawn(async move { log.append(batch).await }));
        // Let the queries start, and the batch be applied.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let committed = if sequence < 3 { 0 } else { 3 };
        let seen = count(&counter, sequence, Duration::ZERO).await;
        assert_eq!(seen, (committed, committed > 0));
    }
    assert_eq!(soon(third).await.expect("joined"), (3, true));
    assert!(!never.is_finished());
    for append in appends {
        assert_eq!(soon(append).await.expect("joined"), Ok(None));
    }
}

#[tokio::test]
async fn a_barrier_and_the_log_s_patience_bring_the_commit() {
    let (log, counter, _control) = start(FOR_EVER);
    let append = tokio::spawn({
        let (log, batch) = (log.clone(), batch(1, 1, &[1]));
        async move { log.append(batch).await }
    });
    tokio::task::yield_now().await;
    soon(log.append(batch(2, 1, &[]))).await.expect("appended");
    soon(append).await.expect("joined").expect("appended");
    assert_eq!(count(&counter, 1, Duration::ZERO).await, (1, true));

    let (log, counter, _control) = start(Duration::from_millis(20));
    soon(log.append(batch(1, 1, &[1]))).await.expect("appended");
    assert_eq!(count(&counter, 1, Duration::ZERO).await, (1, true));
}

#[tokio::test]
async fn what_waits_is_committed_before_the_counter_stops() {
    let (log, counter, control) = start(FOR_EVER);
    let append = tokio::spawn({
        let (log, batch) = (log.clone(), batch(1, 1, &[1]));
        async move { log.append(batch).await }
    });
    // A query that does not wait leaves the batch uncommitted.
    assert_eq!(count(&counter, 1, Duration::ZERO).await, (0, false));
    tokio::task::yield_now().await;
    soon(control.stop()).await.expect("told");
    soon(append).await.expect("joined").expect("appended");
    assert_eq!(count(&counter, 1, Duration::ZERO).await, (1, true));
}

/// Whether the store is complete, its items, and its generation.
type Noted = (bool, u64, Option<KeptGeneration>);

/// A log that delivers a script, and notes the state of the store at each acknowledgement of an
/// event.
struct Scripted {
    script: VecDeque<Delivered>,
    last: DeliveryTag,
    event: Option<DeliveryTag>,
    reader: MemoryReader,
    noted: mpsc::UnboundedSender<Noted>,
}

impl Deliveries for Scripted {
    async fn next(&mut self) -> Result<Option<Delivery>, DeliveryError> {
        let Some(delivered) = self.script.pop_front() else {
            return std::future::pending().await;
        };
        self.last = self.last.next();
        let tag = self.last;
        if !matches!(delivered, Delivered::Batches(_)) {
            self.event = Some(tag);
        }
        Ok(Some(Delivery { tag, delivered }))
    }

    fn commit_delay_max(&self) -> Duration {
        FOR_EVER
    }

    fn refuse(&mut self, _: DeliveryTag, _: &str) -> bool {
        false
    }

    async fn acknowledge(&mut self, up_to: DeliveryTag) {
        if self.event.take_if(|event| *event <= up_to).is_some() {
            let kept = self.reader.generation();
            let committed = self.reader.committed();
            let _ = self
                .noted
                .send((committed.complete(), committed.items(), kept));
        }
    }
}

/// The state of the store when the last event of `script` is acknowledged.
async fn when_acknowledged(complete: bool, script: Vec<Delivered>) -> Noted {
    let mut store = MemoryStore::new(StoreShape {
        partitioning: Partitioning::SINGLE,
    });
    store.set_complete(complete);
    store.commit().expect("commits");
    let (noted, mut notes) = mpsc::unbounded_channel();
    let deliveries = Scripted {
        script: script.into(),
        last: DeliveryTag::default(),
        event: None,
        reader: store.reader(),
        noted,
    };
    let (task, _counter) = CounterTask::new("c".into(), 1, store, deliveries);
    tokio::spawn(task.run());
    soon(notes.recv()).await.expect("acknowledged")
}

/// An event follows a batch that waits for its commit. The log acts on the event as soon as it is
/// acknowledged, so its effect must be committed by then, with the batch.
#[tokio::test]
async fn an_event_is_committed_before_it_is_acknowledged() {
    let lost = || Delivered::PossibleLoss { why: "test".into() };
    let waiting = || Delivered::Batches(vec![batch(1, 1, &[1])]);
    let noted = when_acknowledged(true, vec![lost()]).await;
    assert_eq!(noted, (false, 0, None));
    let behind = vec![waiting(), lost()];
    assert_eq!(when_acknowledged(true, behind).await, (false, 1, None));
    let behind = vec![waiting(), Delivered::HistoryComplete];
    assert_eq!(when_acknowledged(false, behind).await, (true, 1, None));
    let kept = KeptGeneration {
        generation: Generation([7; _]),
        is_placed: true,
    };
    let behind = vec![waiting(), Delivered::Generation(kept)];
    let noted = when_acknowledged(true, behind).await;
    assert_eq!(noted, (true, 1, Some(kept)));
}
