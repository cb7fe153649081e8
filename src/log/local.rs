//! The log of a process that runs alone: a bounded channel to the one counter in the same process.
//!
//! Invariant: nothing is stored here. An append completes when the counter acknowledges, that is when its
//! commit is on disk: the store's journal is the durability, a second log would only repeat it. What the counter has no
//! room for is refused, and is nowhere.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::model::Batch;

use super::{AppendError, Delivered, Deliveries, Delivery, DeliveryError, DeliveryTag, Log};

/// Appends that may wait in the channel; each (epoch, partition) has one in flight.
const APPENDS_WAITING_MAX: usize = 64;

struct Append {
    batch: Arc<Batch>,
    done: oneshot::Sender<Result<(), AppendError>>,
}

/// An append that waits.
struct Waiting {
    /// The delivery that it came by.
    tag: DeliveryTag,
    is_barrier: bool,
    done: oneshot::Sender<Result<(), AppendError>>,
}

/// Makes a log that ends in this process.
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
    /// Tells all that came up to `up_to` what became of them.
    fn tell(&mut self, up_to: DeliveryTag, outcome: impl Fn(&Waiting) -> Result<(), AppendError>) {
        let covered = self
            .unacknowledged
            .partition_point(|waiting| waiting.tag <= up_to);
        for waiting in self.unacknowledged.drain(..covered) {
            let outcome = outcome(&waiting);
            // An appender that no longer waits has nothing to learn.
            let _ = waiting.done.send(outcome);
        }
    }
}

impl Log for LocalLog {
    async fn append(&self, batch: Arc<Batch>) -> Result<(), AppendError> {
        let (done, acknowledged) = oneshot::channel();
        self.sender
            .send(Append { batch, done })
            .await
            .map_err(|_| AppendError::OutcomeUnknown)?;
        acknowledged
            .await
            .unwrap_or(Err(AppendError::OutcomeUnknown))
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
                is_barrier: append.batch.is_barrier(),
                done: append.done,
            });
            batches.push(append.batch);
        }
        let delivered = Delivered::Batches(batches);
        Ok(Some(Delivery { tag, delivered }))
    }

    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    async fn acknowledge(&mut self, up_to: DeliveryTag) {
        self.tell(up_to, |_| Ok(()));
    }

    fn refuse(&mut self, up_to: DeliveryTag, why: &str) -> bool {
        self.tell(up_to, |waiting| match waiting.is_barrier {
            true => Ok(()),
            false => Err(AppendError::Full(why.to_owned())),
        });
        true
    }
}
