//! The consuming end of a counter: what its session with the broker hands over, gathered for the
//! counter's task.
//!
//! Invariant: an acknowledgement covers what was returned up to its tag, and nothing that was
//! returned later: one delivery tag of the broker per partition, each partition on a channel of its
//! own. After a refusal nothing is returned that an earlier session handed over: it comes again
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
use headcount_log::{Delivered, Deliveries, Delivery, DeliveryError, DeliveryTag, Standing};
use headcount_model::{Batch, CounterName, Partition};
use headcount_runtime::supervisor::{Ended, Task};

/// The most batches returned at once: they share a commit.
const BATCHES_MAX: usize = 256;
/// Encoded bytes after which no further batch is returned with the others.
const BATCHES_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a delivery may wait to share its commit and its acknowledgement with later ones. The
/// batch is safe in the queue meanwhile.
const PATIENCE: Duration = Duration::from_millis(5);
/// What a session may hand over before it waits.
const HANDED_OVER_MAX: usize = 256;

/// What a session hands over.
pub(super) enum Handed {
    /// A batch, the size of its encoding and how to acknowledge it.
    Batch {
        batch: Arc<Batch>,
        bytes: usize,
        acker: Acker,
    },
    /// What the log learned of itself; told when the counter's store remembers it.
    Event {
        event: Delivered,
        remembered: oneshot::Sender<()>,
    },
    /// The end.
    Failed(DeliveryError),
}

/// What the acknowledgement of a delivery sets off.
enum Returned {
    /// The broker is told, of the last batch of each partition.
    Batches(BTreeMap<Partition, Acker>),
    /// The session is told that the counter's store remembers the event.
    Event(oneshot::Sender<()>),
}

/// How the consuming end is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConsumerStatus {
    /// Whether it is connected to the broker.
    pub connected: bool,
    /// Whether it consumes: everything before that is settled.
    pub consuming: bool,
    /// Whether the counter's `started` marker is on this broker; none until it has looked.
    pub started: Option<bool>,
}

/// Ends a consuming end from outside; cheap to clone.
#[derive(Clone)]
pub struct Stopper(watch::Sender<bool>);

impl Stopper {
    /// Lets [`Deliveries::next`] return what was handed over already, then `None`.
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
    /// What is not acknowledged yet, with the delivery that it was returned in.
    returned: VecDeque<(DeliveryTag, Returned)>,
    /// At most one for each unacknowledged delivery, which prefetch bounds.
    acks: mpsc::UnboundedSender<Acker>,
    status: watch::Receiver<ConsumerStatus>,
    stopper: Stopper,
}

impl AmqpDeliveries {
    /// Starts to connect and to settle what must be settled before counter `name` may consume. Must
    /// be called on a Tokio runtime, which runs it; [`Deliveries::next`] may then be called on
    /// another one.
    ///
    /// `standing` says how the counter's store stands at that moment, `nodes` who else is there:
    /// counter `name` must announce itself too, since an empty counter listens for others until it
    /// has heard itself.
    #[must_use]
    pub fn start(
        options: AmqpOptions,
        name: CounterName,
        standing: Arc<dyn Fn() -> Standing + Send + Sync>,
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
            // The deliveries' owner is gone.
            Ended::Done
        });
        let (flow, flowing) = watch::channel(Flow::default());
        let handing = Handing::new(sender);
        let session = Session::new(options, name, standing, nodes, handing, status);
        let running = session::run(session, stopping, flowing, acknowledging);
        supervisor.spawn(Task::Session, async {
            running.await;
            // The deliveries' owner asked for it, is gone, or was handed why nothing comes any
            // more.
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

    /// How it is, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ConsumerStatus> {
        self.status.clone()
    }

    /// A handle that ends it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Keeps what was handed over, unless it was given back.
    fn keep(&mut self, (round, handed): (u64, Handed)) {
        let is_current = round == self.flow.borrow().round;
        // Of an end that needs an operator is told once.
        if is_current || matches!(handed, Handed::Failed(_)) {
            self.waiting.push_back(handed);
        }
    }

    /// What can be returned of what is waiting.
    fn take_waiting(&mut self) -> Option<Result<Delivery, DeliveryError>> {
        let (delivered, returned) = match self.waiting.pop_front()? {
            Handed::Failed(error) => {
                // Whoever asks again hears the same.
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

/// Whether a batch of `bytes` goes with the `taken` before it. The first always does.
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
            // Dropped while it waits, it has taken nothing.
            match self.handed.recv().await {
                Some(handed) => self.keep(handed),
                None => return Ok(None),
            }
        }
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn acknowledge(&mut self, up_to: DeliveryTag) {
        let covered = self.returned.partition_point(|(tag, _)| *tag <= up_to);
        // One acknowledgement of the broker's covers all before it on the same channel.
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
        // Before anything is dropped that a session waits for: it ends for that reason and no
        // other.
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
        // The session ends once nobody takes what it hands over, and waits for the acknowledgements
        // before it closes.
        self.handed.close();
        while self.handed.try_recv().is_ok() {}
        self.waiting.clear();
        self.returned.clear();
        (self.acks, _) = mpsc::unbounded_channel();
    }
}

/// Carries out acknowledgements, so that a broker that is slow to read them does not stop the
/// counter. One that fails is followed by redelivery.
async fn acknowledge_all(options: Arc<AmqpOptions>, mut ackers: mpsc::UnboundedReceiver<Acker>) {
    while let Some(acker) = ackers.recv().await {
        let all_before = BasicAckOptions { multiple: true };
        match tokio::time::timeout(options.confirm_timeout, acker.ack(all_before)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => tracing::debug!("the channel of an acknowledgement is gone"),
            Ok(Err(error)) => tracing::warn!(%error, "an acknowledgement was not sent"),
            Err(_) => tracing::warn!("the broker takes no acknowledgements"),
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
