//! Tests of a counter with an undecodable batch in its log: what it still does, and what it no
//! longer does.
//!
//! Invariant: see the [module above](super).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{CounterError, CounterTask, LocalCounter, Queries, ReadRequirement};
use headcount_log::{Delivered, Deliveries, Delivery, DeliveryError, DeliveryTag};
use headcount_model::{
    Batch, BatchId, Epoch, ItemHash, Partition, Partitioning, Requirement, TenantItems, TenantName,
};
use headcount_store::memory::{MemoryReader, MemoryStore};
use headcount_store::{Store, StoreShape};

type Next = Result<Option<Delivery>, DeliveryError>;

/// What a scripted log was asked to do, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Acknowledge,
    Leave,
    /// A delivery after the end of the script.
    More,
}

/// A log that delivers a script and allows long commit delays.
#[derive(Clone)]
struct Script {
    waiting: Arc<Mutex<VecDeque<Next>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    changed: Arc<Notify>,
}

impl Script {
    fn note(&self, asked: Asked) {
        self.asked.lock().push(asked);
        self.changed.notify_one();
    }

    async fn was_asked(&self, expected: &[Asked]) {
        let asked = async {
            while *self.asked.lock() != expected {
                self.changed.notified().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), asked).await;
        assert!(waited.is_ok(), "{:?}", self.asked.lock());
    }
}

impl Deliveries for Script {
    async fn next(&mut self) -> Next {
        let next = self.waiting.lock().pop_front();
        match next {
            Some(next) => next,
            None => {
                self.note(Asked::More);
                std::future::pending().await
            }
        }
    }

    fn commit_delay_max(&self) -> Duration {
        Duration::from_secs(3_600)
    }

    fn refuse(&mut self, _: DeliveryTag, _: &str) -> bool {
        false
    }

    async fn acknowledge(&mut self, _: DeliveryTag) {
        self.note(Asked::Acknowledge);
    }

    fn leave(&mut self) {
        self.note(Asked::Leave);
    }
}

pub(super) fn tenant() -> TenantName {
    TenantName::new("t").expect("valid")
}

fn batch(sequence: u64) -> Next {
    let items = TenantItems {
        tenant: tenant(),
        hashes: [ItemHash::of_id(&sequence.to_string())].into(),
    };
    let id = BatchId {
        partition: Partition(0),
        epoch: Epoch(1),
        sequence,
    };
    let batch = Arc::new(Batch::new(id, 0, vec![items]));
    Ok(Some(Delivery {
        tag: DeliveryTag::default(),
        delivered: Delivered::Batches(vec![batch]),
    }))
}

fn task(script: Script) -> (CounterTask<MemoryStore, Script>, LocalCounter<MemoryReader>) {
    let mut store = MemoryStore::new(StoreShape {
        partitioning: Partitioning::SINGLE,
    });
    store.set_complete(true);
    store.commit().expect("commits");
    CounterTask::new("c".into(), 1, store, script)
}

fn script(waiting: impl IntoIterator<Item = Next>) -> Script {
    Script {
        waiting: Arc::new(Mutex::new(waiting.into_iter().collect())),
        asked: Arc::default(),
        changed: Arc::default(),
    }
}

fn undecodable() -> DeliveryError {
    DeliveryError::Undecodable {
        queue: "q".into(),
        detail: "version 99".into(),
    }
}

/// The count, and whether the answer covers everything up to `sequence`.
pub(super) async fn count(counter: &LocalCounter<MemoryReader>, sequence: u64) -> (u64, bool) {
    let mut requirement = Requirement::default();
    requirement.add(Partition(0), Epoch(1), sequence);
    let demand = ReadRequirement {
        requirement,
        ..ReadRequirement::default()
    };
    let counts = counter.counts(Arc::new([tenant()]), demand).await;
    let counts = counts.expect("answers");
    (counts.counts[0][0], counts.cover.partitions[0].1)
}

#[tokio::test]
async fn a_counter_stands_at_what_it_cannot_read_and_answers() {
    let script = script([batch(1), Err(undecodable()), batch(2)]);
    let (task, counter) = task(script.clone());
    let control = task.control();
    let running = tokio::spawn(task.run());
    // Earlier batches are committed although the log allows a long delay; later ones are not
    // requested.
    script.was_asked(&[Asked::Acknowledge, Asked::Leave]).await;
    while counter.status().await.expect("it runs").problem.is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(count(&counter, 1).await, (1, true));
    assert_eq!(count(&counter, 2).await, (1, false));
    let status = counter.status().await.expect("it runs");
    let problem = status.problem.expect("a problem");
    assert!(
        problem.contains("skip-poison") && problem.contains("version 99"),
        "{problem}"
    );
    assert!(status.complete);

    control.stop().await.expect("told");
    assert!(running.await.expect("joined").is_ok(), "a clean end");
    assert_eq!(*script.asked.lock(), [Asked::Acknowledge, Asked::Leave]);
}

/// The log refuses the counter because of a retired name or other settings. The counter ends.
#[tokio::test]
async fn a_log_that_refuses_a_counter_ends_it() {
    let refused = DeliveryError::Refused("its name is spent".into());
    let (task, counter) = task(script([batch(1), Err(refused.clone())]));
    let ended = tokio::time::timeout(Duration::from_secs(30), task.run()).await;
    let ended = ended.expect("it ends");
    assert!(matches!(ended, Err(CounterError::Deliveries(error)) if error == refused));
    assert!(counter.status().await.is_err());
}
