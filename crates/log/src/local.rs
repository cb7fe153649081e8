//! The log of a standalone process: a bounded channel to the only counter, in the same process.
//!
//! Invariant: the log stores nothing. An append completes when the counter acknowledges it, which
//! is after its commit is on disk. The store's journal provides the durability, and a second log
//! would only duplicate it. If the counter has no room for a batch, the append fails and nothing of
//! the batch is kept.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use headcount_model::{Batch, BatchId, NewItems};

use super::{AppendError, Delivered, Deliveries, Delivery, DeliveryError, DeliveryTag, Log};

/// Maximum number of appends that wait in the channel. Each (epoch, partition) has one in flight.
const APPENDS_WAITING_MAX: usize = 64;

struct Append {
    batch: Arc<Batch>,
    done: oneshot::Sender<Outcome>,
}

/// The result of an append, with the batch's new items if the counter has reported them.
type Outcome = Result<Option<NewItems>, AppendError>;

/// An append that waits for its acknowledgement.
struct Waiting {
    /// The delivery that contained the batch.
    tag: DeliveryTag,
    batch: BatchId,
    is_barrier: bool,
    /// The new items, once the counter has reported them.
    new: Option<NewItems>,
    done: oneshot::Sender<Outcome>,
}

/// Makes a log within this process.
#[must_use]
pub fn local() -> (LocalLog, LocalDeliveries) {
    let (sender, receiver) = mpsc::channel(APPENDS_WAITING_MAX);
    let deliveries = LocalDeliveries {
        receiver,
        received: Vec::new(),
        last: DeliveryTag::default(),
        unacknowledged: VecDeque::new(),
    };
    (LocalLog { sender }, deliveries)
}

/// The appending end of a [`local`] log.
#[derive(Clone)]
pub struct LocalLog {
    sender: mpsc::Sender<Append>,
}

/// The consuming end of a [`local`] log.
pub struct LocalDeliveries {
    receiver: mpsc::Receiver<Append>,
    received: Vec<Append>,
    last: DeliveryTag,
    unacknowledged: VecDeque<Waiting>,
}

impl LocalDeliveries {
    /// Completes all appends up to the delivery `up_to`, with the result that `outcome` returns.
    fn settle(&mut self, up_to: DeliveryTag, outcome: impl Fn(&mut Waiting) -> Outcome) {
        let covered = self
            .unacknowledged
            .partition_point(|waiting| waiting.tag <= up_to);
        for mut waiting in self.unacknowledged.drain(..covered) {
            let outcome = outcome(&mut waiting);
            // The appender may have stopped waiting.
            let _ = waiting.done.send(outcome);
        }
    }
}

impl Log for LocalLog {
    async fn append(&self, batch: Arc<Batch>) -> Result<Option<NewItems>, AppendError> {
        let (done, acknowledged) = oneshot::channel();
        self.sender
            .send(Append { batch, done })
            .await
            .map_err(|_| AppendError::OutcomeUnknown)?;
        acknowledged
            .await
            .unwrap_or(Err(AppendError::OutcomeUnknown))
    }

    fn tells_new(&self) -> bool {
        true
    }
}

impl Deliveries for LocalDeliveries {
    async fn next(&mut self) -> Result<Option<Delivery>, DeliveryError> {
        self.receiver
            .recv_many(&mut self.received, APPENDS_WAITING_MAX)
            .await;
        if self.received.is_empty() {
            return Ok(None);
        }
        self.last = self.last.next();
        let tag = self.last;
        let mut batches = Vec::with_capacity(self.received.len());
        for append in self.received.drain(..) {
            self.unacknowledged.push_back(Waiting {
                tag,
                batch: append.batch.id(),
                is_barrier: append.batch.is_barrier(),
                new: None,
                done: append.done,
            });
            batches.push(append.batch);
        }
        let delivered = Delivered::Batches(batches);
        Ok(Some(Delivery { tag, delivered }))
    }

    fn commit_delay_max(&self) -> Duration {
        Duration::ZERO
    }

    async fn acknowledge(&mut self, up_to: DeliveryTag) {
        self.settle(up_to, |waiting| Ok(waiting.new.take()));
    }

    fn refuse(&mut self, up_to: DeliveryTag, why: &str) -> bool {
        self.settle(up_to, |waiting| match waiting.is_barrier {
            true => Ok(waiting.new.take()),
            false => Err(AppendError::Full(why.to_owned())),
        });
        true
    }

    fn tell(&mut self, batch: BatchId, new: NewItems) {
        // Few appends wait, and the reported one is mostly among the last.
        let mut waiting = self.unacknowledged.iter_mut().rev();
        if let Some(told) = waiting.find(|waiting| waiting.batch == batch) {
            told.new = Some(new);
        }
    }
}
