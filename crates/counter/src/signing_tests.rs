//! Tests of a counter that receives losses and loss acceptances in any order from its log.
//!
//! Invariant: see [`signing`](super::signing).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{CounterTask, Coverage, LocalCounter, Queries, ReadRequirement};
use headcount_log::{Delivered, Deliveries, Delivery, DeliveryError, DeliveryTag};
use headcount_model::{
    Acceptance, Batch, BatchId, Completes, CounterName, Epoch, LossId, NamedLosses, Partition,
    Partitioning,
};
use headcount_store::StoreShape;
use headcount_store::memory::{MemoryReader, MemoryStore};

/// A log that delivers what a test sends, and allows any commit delay.
struct Sent {
    deliveries: mpsc::UnboundedReceiver<Delivered>,
    last: DeliveryTag,
}

impl Deliveries for Sent {
    async fn next(&mut self) -> Result<Option<Delivery>, DeliveryError> {
        let delivered = self.deliveries.recv().await;
        self.last = self.last.next();
        let tag = self.last;
        Ok(delivered.map(|delivered| Delivery { tag, delivered }))
    }

    fn commit_delay_max(&self) -> Duration {
        Duration::from_secs(3_600)
    }

    fn refuse(&mut self, _: DeliveryTag, _: &str) -> bool {
        false
    }

    async fn acknowledge(&mut self, _: DeliveryTag) {}
}

/// A counter `c1` that starts empty and not complete, as after the loss of its disk.
struct Lost {
    log: mpsc::UnboundedSender<Delivered>,
    counter: LocalCounter<MemoryReader>,
    barriers: u128,
}

impl Lost {
    fn start(life: u64) -> Self {
        let (log, deliveries) = mpsc::unbounded_channel();
        let sent = Sent {
            deliveries,
            last: DeliveryTag::default(),
        };
        let store = MemoryStore::new(StoreShape {
            partitioning: Partitioning::SINGLE,
        });
        let (task, counter) = CounterTask::new("c1".into(), life, store, sent);
        tokio::spawn(task.run());
        Self {
            log,
            counter,
            barriers: 0,
        }
    }

    fn deliver(&self, delivered: Delivered) {
        self.log.send(delivered).expect("it runs");
    }

    fn lose(&self) {
        let why = "the queue was gone".into();
        self.deliver(Delivered::PossibleLoss { why });
    }

    /// Its coverage, once all deliveries are committed.
    async fn cover(&mut self) -> Coverage {
        self.barriers += 1;
        let barrier = BatchId {
            partition: Partition(0),
            epoch: Epoch(1_000 + self.barriers),
            sequence: 1,
        };
        let batch = Batch::new(barrier, 0, Vec::new());
        self.deliver(Delivered::Batches(vec![Arc::new(batch)]));
        let demand = ReadRequirement {
            barriers: vec![barrier],
            wait: Duration::from_secs(30),
            ..ReadRequirement::default()
        };
        let counts = self.counter.counts(Arc::new([]), demand).await;
        let cover = counts.expect("answers").cover;
        assert!(cover.barriers);
        cover
    }

    /// The ID of its loss, as a plan would show it; `None` once it is complete.
    async fn loss(&mut self) -> Option<LossId> {
        let cover = self.cover().await;
        assert_eq!(cover.partitions, [(Partition(0), cover.loss.is_none())]);
        cover.loss
    }
}

fn signature(sequence: u64, loss: LossId) -> Delivered {
    let id = BatchId {
        partition: Partition(0),
        epoch: Epoch(1),
        sequence,
    };
    let name = CounterName::new("c1").expect("a name");
    let acceptance = Acceptance {
        losses: Vec::new(),
        completes: Completes::Named(NamedLosses::new(vec![(name, loss)]).expect("one")),
    };
    Delivered::Batches(vec![Arc::new(Batch::accepting(id, 0, acceptance))])
}

#[tokio::test]
async fn a_signature_for_the_loss_that_a_plan_showed_makes_complete() {
    let mut counter = Lost::start(1);
    counter.lose();
    let loss = counter.loss().await.expect("not complete");
    counter.deliver(signature(1, loss));
    assert_eq!(counter.loss().await, None);
}

#[tokio::test]
async fn another_loss_before_the_signature_leaves_it_not_complete() {
    let mut counter = Lost::start(1);
    counter.lose();
    let loss = counter.loss().await.expect("not complete");
    counter.lose();
    let again = counter.loss().await.expect("not complete");
    assert_ne!(again, loss);
    counter.deliver(signature(1, loss));
    assert_eq!(counter.loss().await, Some(again));
    counter.deliver(signature(2, again));
    assert_eq!(counter.loss().await, None, "the acceptance of a new plan");
}

/// Its disk was lost after the plan, and its queue still has the old acceptance.
#[tokio::test]
async fn another_life_is_not_complete_by_an_old_signature_in_its_queue() {
    let mut counter = Lost::start(1);
    counter.lose();
    let loss = counter.loss().await.expect("not complete");
    let mut counter = Lost::start(2);
    counter.lose();
    counter.deliver(signature(1, loss));
    let again = counter.loss().await.expect("not complete");
    // The redelivered batch is skipped, with the same result.
    counter.deliver(signature(1, loss));
    assert_eq!(counter.loss().await, Some(again));
}

/// The order decides between a loss and an acceptance that share a commit.
#[tokio::test]
async fn a_loss_after_the_signature_is_not_covered_by_it() {
    let mut counter = Lost::start(1);
    counter.lose();
    let loss = counter.loss().await.expect("not complete");
    counter.deliver(signature(1, loss));
    counter.lose();
    assert!(counter.loss().await.is_some());
}
