//! The consuming end of a counter. It collects what the session with the broker delivers, for the
//! counter's task.
//!
//! Invariant: an acknowledgement covers what was returned up to its tag, and nothing returned
//! later. Each partition has its own channel, and per partition one delivery tag of the broker is
//! acknowledged. After a refusal, nothing from an earlier session is returned: it arrives again
//! from the queue, behind what was refused.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lapin::Acker;
use lapin::options::BasicAckOptions;
use tokio::sync::{mpsc, oneshot, watch};

use super::flow::{Flow, Handing};
use super::session::{self, Session};
use super::{AmqpOptions, Nodes};
use headcount_log::{Delivered, Deliveries, Delivery, DeliveryError, DeliveryTag, StoreStatus};
use headcount_model::{Batch, CounterName, Partition};
use headcount_runtime::supervisor::{Ended, Task};

/// The most batches returned at once; they share a commit.
const BATCHES_MAX: usize = 256;
/// The most encoded bytes of batches returned at once; the first batch may exceed it.
const BATCHES_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a delivery may wait to share its commit and acknowledgement with later ones. Meanwhile
/// the queue still holds the batch.
const PATIENCE: Duration = Duration::from_millis(5);
/// The most entries that a session may pass before it waits.
const HANDED_OVER_MAX: usize = 256;

/// What a session passes to the consuming end.
pub(super) enum Handed {
    /// A batch, the size of its encoding, and the handle to acknowledge it.
    Batch {
        batch: Arc<Batch>,
        bytes: usize,
        acker: Acker,
    },
    /// An event of the log. `remembered` is notified when the counter's store has committed it.
    Event {
        event: Delivered,
        remembered: oneshot::Sender<()>,
    },
    /// The session failed, and no further one follows.
    Failed(DeliveryError),
}

/// What is done when a delivery is acknowledged.
enum Returned {
    /// Acknowledge to the broker the last batch of each partition.
    Batches(BTreeMap<Partition, Acker>),
    /// Notify the session that the counter's store has committed the event.
    Event(oneshot::Sender<()>),
}

/// The state of the consuming end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConsumerStatus {
    /// Whether it is connected to the broker.
    pub connected: bool,
    /// Whether it consumes: the startup protocol is complete.
    pub consuming: bool,
    /// Whether the counter's `started` marker is on this broker; none until it has checked.
    pub started: Option<bool>,
}

/// Stops a consuming end; cheap to clone.
#[derive(Clone)]
pub struct Stopper(watch::Sender<bool>);

impl Stopper {
    /// Stops it: [`Deliveries::next`] still returns what has already arrived, then `None`.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// The consuming end of a counter.
pub struct AmqpDeliveries {
    handed: mpsc::Receiver<(u64, Handed)>,
    flow: watch::Sender<Flow>,
    waiting: VecDeque<Handed>,
    last: DeliveryTag,
    /// What is not acknowledged yet, with the tag of the delivery that contained it.
    returned: VecDeque<(DeliveryTag, Returned)>,
    /// At most one entry for each unacknowledged delivery, which the prefetch limits.
    acks: mpsc::UnboundedSender<Acker>,
    status: watch::Receiver<ConsumerStatus>,
    stopper: Stopper,
}

impl AmqpDeliveries {
    /// Starts to connect and to run the startup protocol of counter `name`. Must be called on a
    /// Tokio runtime, which runs its tasks; [`Deliveries::next`] may be called on another one.
    ///
    /// `standing` returns the present status of the counter's store, and `nodes` the announcements.
    /// Counter `name` must announce itself too, because an empty counter listens for others until
    /// it has heard itself.
    #[must_use]
    pub fn start(
        options: AmqpOptions,
        name: CounterName,
        standing: Arc<dyn Fn() -> StoreStatus + Send + Sync>,
        nodes: watch::Receiver<Arc<Nodes>>,
    ) -> Self {
        let (sender, handed) = mpsc::channel(HANDED_OVER_MAX);
        let (acks, ackers) = mpsc::unbounded_channel();
        let (status, watching) = watch::channel(ConsumerStatus::default());
        let (stop, stopping) = watch::channel(false);
        let options = Arc::new(options);
        let supervisor = options.supervisor.clone();
        let acknowledging = acknowledge_all(Arc::clone(&options), ackers);
        let acknowledging = supervisor.spawn(Task::Acknowledger, async {
            acknowledging.await;
            // The owner of the deliveries is gone.
            Ended::Done
        });
        let (flow, flowing) = watch::channel(Flow::default());
        let handing = Handing::new(sender);
        let session = Session::new(options, name, standing, nodes, handing, status);
        let running = session::run(session, stopping, flowing, acknowledging);
        supervisor.spawn(Task::Session, async {
            running.await;
            // The owner of the deliveries stopped it, is gone, or was given the reason why no more
            // deliveries come.
            Ended::Done
        });
        Self {
            handed,
            flow,
            waiting: VecDeque::new(),
            last: DeliveryTag::default(),
            returned: VecDeque::new(),
            acks,
            status: watching,
            stopper: Stopper(stop),
        }
    }

    /// The state, and its changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ConsumerStatus> {
        self.status.clone()
    }

    /// A handle that stops it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Keeps an entry, unless its round was given back.
    fn keep(&mut self, (round, handed): (u64, Handed)) {
        let is_current = round == self.flow.borrow().round;
        // A failure is reported in any case, because only an operator can resolve it.
        if is_current || matches!(handed, Handed::Failed(_)) {
            self.waiting.push_back(handed);
        }
    }

    /// The next delivery from the waiting entries, if there is one.
    fn take_waiting(&mut self) -> Option<Result<Delivery, DeliveryError>> {
        let (delivered, returned) = match self.waiting.pop_front()? {
            Handed::Failed(error) => {
                // The failure stays, so that the next call returns it again.
                self.waiting.push_front(Handed::Failed(error.clone()));
                return Some(Err(error));
            }
            Handed::Event { event, remembered } => (event, Returned::Event(remembered)),
            first @ Handed::Batch { .. } => {
                self.waiting.push_front(first);
                let (batches, ackers) = self.take_batches();
                (Delivered::Batches(batches), Returned::Batches(ackers))
            }
        };
        self.last = self.last.next();
        let tag = self.last;
        self.returned.push_back((tag, returned));
        Some(Ok(Delivery { tag, delivered }))
    }

    fn take_batches(&mut self) -> (Vec<Arc<Batch>>, BTreeMap<Partition, Acker>) {
        let (mut batches, mut ackers) = (Vec::new(), BTreeMap::new());
        let mut bytes_taken = 0;
        while let Some(Handed::Batch { bytes, .. }) = self.waiting.front() {
            if !fits(batches.len(), bytes_taken, *bytes) {
                break;
            }
            bytes_taken += bytes;
            if let Some(Handed::Batch { batch, acker, .. }) = self.waiting.pop_front() {
                ackers.insert(batch.id().partition, acker);
                batches.push(batch);
            }
        }
        (batches, ackers)
    }
}

/// Whether a batch of `bytes` fits with the `taken` ones before it. The first always fits.
fn fits(taken: usize, bytes_taken: usize, bytes: usize) -> bool {
    taken == 0 || taken < BATCHES_MAX && bytes_taken.saturating_add(bytes) <= BATCHES_BYTES_MAX
}

impl Deliveries for AmqpDeliveries {
    async fn next(&mut self) -> Result<Option<Delivery>, DeliveryError> {
        loop {
            while self.waiting.len() < BATCHES_MAX {
                match self.handed.try_recv() {
                    Ok(handed) => self.keep(handed),
                    Err(_) => break,
                }
            }
            if let Some(ready) = self.take_waiting() {
                return ready.map(Some);
            }
            // Cancel-safe: dropped while it waits, it has taken nothing.
            match self.handed.recv().await {
                Some(handed) => self.keep(handed),
                None => return Ok(None),
            }
        }
    }

    fn commit_delay_max(&self) -> Duration {
        PATIENCE
    }

    async fn acknowledge(&mut self, up_to: DeliveryTag) {
        let covered = self.returned.partition_point(|(tag, _)| *tag <= up_to);
        // An acknowledgement to the broker covers all earlier deliveries of the same channel.
        let mut last = BTreeMap::new();
        for (_, returned) in self.returned.drain(..covered) {
            match returned {
                Returned::Batches(ackers) => last.extend(ackers),
                Returned::Event(remembered) => {
                    let _ = remembered.send(());
                }
            }
        }
        for acker in last.into_values() {
            let _ = self.acks.send(acker);
        }
    }

    fn refuse(&mut self, _: DeliveryTag, _: &str) -> bool {
        // Changes the flow before it drops senders that a session waits for, so that the session
        // ends with this reason and no other.
        self.flow.send_modify(|flow| {
            flow.round += 1;
            flow.is_paused = true;
        });
        self.waiting
            .retain(|handed| matches!(handed, Handed::Failed(_)));
        self.returned.clear();
        false
    }

    fn resume(&mut self) {
        self.flow.send_modify(|flow| flow.is_paused = false);
    }

    fn leave(&mut self) {
        // The session ends when the receiver is closed. Before it closes the connection, it waits
        // for the acknowledgements.
        self.handed.close();
        while self.handed.try_recv().is_ok() {}
        self.waiting.clear();
        self.returned.clear();
        (self.acks, _) = mpsc::unbounded_channel();
    }
}

/// Sends acknowledgements, so that a broker that reads them slowly does not delay the counter. If
/// one fails, the broker redelivers.
async fn acknowledge_all(options: Arc<AmqpOptions>, mut ackers: mpsc::UnboundedReceiver<Acker>) {
    while let Some(acker) = ackers.recv().await {
        let all_before = BasicAckOptions { multiple: true };
        match tokio::time::timeout(options.confirm_timeout, acker.ack(all_before)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => tracing::debug!("acknowledgement not sent: its channel is closed"),
            Ok(Err(error)) => tracing::warn!(%error, "acknowledgement failed"),
            Err(_) => tracing::warn!("acknowledgement timed out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_returned_at_once_is_bounded() {
        assert!(fits(0, 0, BATCHES_BYTES_MAX + 1), "a batch is never split");
        assert!(fits(1, 100, 200));
        assert!(fits(1, 0, BATCHES_BYTES_MAX));
        assert!(!fits(1, 1, BATCHES_BYTES_MAX));
        assert!(!fits(BATCHES_MAX, 0, 1));
    }
}
