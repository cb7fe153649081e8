//! The log of a process that runs alone: a bounded channel to the one counter in the same process.
//!
//! Invariant: nothing is stored here. An append completes when the counter acknowledges, that is when its
//! commit is on disk: the store's journal is the durability, a second log would only repeat it.

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
    done: oneshot::Sender<()>,
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
    /// Appends that wait, each with the delivery that it came by.
    unacknowledged: VecDeque<(DeliveryTag, oneshot::Sender<()>)>,
}

impl Log for LocalLog {
    async fn append(&self, batch: Arc<Batch>) -> Result<(), AppendError> {
        let (done, acknowledged) = oneshot::channel();
        self.sender
            .send(Append { batch, done })
            .await
            .map_err(|_| AppendError::OutcomeUnknown)?;
        acknowledged.await.map_err(|_| AppendError::OutcomeUnknown)
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
            batches.push(append.batch);
            self.unacknowledged.push_back((tag, append.done));
        }
        let delivered = Delivered::Batches(batches);
        Ok(Some(Delivery { tag, delivered }))
    }

    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    async fn acknowledge(&mut self, up_to: DeliveryTag) {
        let covered = self
            .unacknowledged
            .partition_point(|(tag, _)| *tag <= up_to);
        for (_, done) in self.unacknowledged.drain(..covered) {
            // An appender that no longer waits has nothing to learn.
            let _ = done.send(());
        }
    }
}
