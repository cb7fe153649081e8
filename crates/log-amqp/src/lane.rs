//! One partition's way to the broker: a batch at a time, again and again until it is confirmed.
//!
//! Invariant: a coordinator's batch is confirmed once each counter that it publishes to has a copy
//! in its queue. Only a clean acknowledgement of each is success: a message that no queue took is
//! acknowledged as well, but returned first. An attempt that failed is repeated on a fresh channel,
//! so no late answer is taken for another's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use tokio::sync::{mpsc, oneshot, watch};

use super::broker_error::BrokerError;
use super::connection::{timed, wait_before};
use super::outcome::{History, Outcome, Verdict, judge, outcome};
use super::publisher::{Append, Publishing};
use super::topology::Names;
use super::trouble::Trouble;
use headcount_log::{AppendError, wire};
use headcount_model::{Batch, CounterName, Partition};
use headcount_telemetry as telemetry;

/// AMQP's mark of a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;
/// The longest wait for a new declaration before the batch is tried anyway.
const DECLARATION_TIMEOUT: Duration = Duration::from_secs(30);

/// What its channels are for, where it is told what the broker refuses.
const PURPOSE: &str = "a channel for publishing";

/// The task's own state.
pub(super) struct Lane {
    publishing: Arc<Publishing>,
    partition: Partition,
    channel: Option<Channel>,
    targets: watch::Receiver<BTreeSet<CounterName>>,
    /// The counters whose queues get a copy, with these.
    queues: Vec<(CounterName, ShortString)>,
}

impl Lane {
    pub(crate) fn new(publishing: Arc<Publishing>, partition: Partition) -> Self {
        let targets = publishing.targets.subscribe();
        let mut lane = Self {
            publishing,
            partition,
            channel: None,
            targets,
            queues: Vec::new(),
        };
        lane.adopt();
        lane
    }

    /// Publishes to the present targets from here on. To be called only while all that was
    /// published is confirmed, or will be published again: who is told that a counter is reached
    /// relies on that.
    fn adopt(&mut self) {
        let targets = self.targets.borrow_and_update().clone();
        let names = Names::new(&self.publishing.options);
        let queue = |counter: &CounterName| {
            let queue = names.queue(self.partition, counter);
            (counter.clone(), queue.into())
        };
        self.queues = targets.iter().map(queue).collect();
        self.publishing.note_reached(self.partition, &targets);
    }
}

/// Publishes one batch after the other until nobody can append any more.
pub(super) async fn run(mut lane: Lane, mut appends: mpsc::Receiver<Append>) {
    let mut status = lane.publishing.status.subscribe();
    loop {
        let append = tokio::select! {
            biased;
            // The sender lives as long as the lanes.
            Ok(()) = lane.targets.changed() => {
                lane.adopt();
                continue;
            }
            append = appends.recv() => append,
        };
        let Some(Append { batch, done }) = append else {
            return;
        };
        let result = tokio::select! {
            biased;
            result = publish(&mut lane, &batch) => result,
            refused = status.wait_for(|status| status.fatal.is_some()) => {
                let why = refused.ok().and_then(|status| status.fatal.clone());
                Err(AppendError::Refused(why.unwrap_or_default()))
            }
        };
        // An appender that no longer waits has nothing to learn.
        let _ = done.send(result);
    }
}

async fn publish(lane: &mut Lane, batch: &Batch) -> Result<(), AppendError> {
    let bytes = wire::encode(batch);
    let mut history = History::default();
    let mut failures = 0;
    let mut trouble = Trouble::default();
    loop {
        let channel = lane.channel().await;
        if lane.targets.has_changed().unwrap_or(false) {
            lane.adopt();
        }
        let copies = Copies::default();
        let outcome = lane.attempt(&channel, &bytes, &copies).await;
        let verdict = judge(&outcome, lane.publishing.is_coordinator, history);
        if verdict == Verdict::Durable {
            return Ok(());
        }
        lane.channel = None;
        let lacking = copies.lacking(&lane.queues);
        trouble.tell_unconfirmed(&outcome, &verdict, batch.id(), &lacking);
        note(&outcome, &mut history);
        match verdict {
            Verdict::Durable => return Ok(()),
            Verdict::FreshChannel => {}
            Verdict::FreshConnection => {
                (history.confirms_lost, history.returns) = (0, 0);
                lane.publishing.reconnect.notify_one();
            }
            Verdict::DeclareAgain => {
                history.declared_again |= lane.declare_again().await;
            }
            Verdict::TooLarge { bytes_max } => return Err(AppendError::TooLarge { bytes_max }),
            Verdict::Refused(why) => return Err(AppendError::Refused(why)),
        }
        failures += 1;
        telemetry::count(telemetry::PUBLISHES_RETRIED, 1);
        wait_before(failures).await;
    }
}

fn note(outcome: &Outcome, history: &mut History) {
    history.tried = true;
    match outcome {
        Outcome::TimedOut => {
            history.confirms_lost += 1;
            telemetry::count(telemetry::CONFIRMS_LOST, 1);
        }
        Outcome::Returned => {
            history.returns += 1;
            telemetry::count(telemetry::PUBLISHES_RETURNED, 1);
        }
        _ => {}
    }
}

/// Which copies of a batch are confirmed: a bit for each of the first 64 queues.
#[derive(Default)]
struct Copies(AtomicU64);

impl Copies {
    fn note(&self, at: usize, confirmation: &Confirmation) {
        if matches!(confirmation, Confirmation::Ack(None)) && at < u64::BITS as usize {
            self.0.fetch_or(1 << at, Ordering::Relaxed);
        }
    }

    /// The counters whose queues have not confirmed.
    fn lacking<'a>(&self, queues: &'a [(CounterName, ShortString)]) -> Vec<&'a CounterName> {
        let confirmed = self.0.load(Ordering::Relaxed);
        let first = queues.iter().take(u64::BITS as usize).enumerate();
        first
            .filter(|(at, _)| confirmed & (1 << at) == 0)
            .map(|(_, (counter, _))| counter)
            .collect()
    }
}

impl Lane {
    /// A channel that confirms, once everything is declared and a connection is open.
    async fn channel(&mut self) -> Channel {
        let mut failures = 0;
        loop {
            if let Some(channel) = self.channel.as_ref().filter(|it| it.status().connected()) {
                return channel.clone();
            }
            wait_before(failures).await;
            failures += 1;
            match self.open().await {
                Ok(channel) => {
                    self.publishing.options.refusals.over(PURPOSE);
                    self.channel = Some(channel);
                }
                Err(error) => {
                    let refusals = &self.publishing.options.refusals;
                    refusals.note(PURPOSE, error.to_string());
                    tracing::warn!(%error, "no channel for publishing");
                    // A blocked broker opens none, and would on no other connection either.
                    if !self.publishing.is_blocked() {
                        self.publishing.reconnect.notify_one();
                    }
                }
            }
        }
    }

    async fn open(&self) -> Result<Channel, BrokerError> {
        // The senders live as long as the lanes.
        let _ = self
            .publishing
            .declared
            .subscribe()
            .wait_for(|it| *it)
            .await;
        let mut connection = self.publishing.connection.clone();
        let connected = connection.wait_for(Option::is_some).await;
        let connected = connected.ok().and_then(|connected| connected.clone());
        let Some(connection) = connected else {
            // Whoever connects is gone, and soon this lane.
            return std::future::pending().await;
        };
        let opened = async {
            let channel = timed(connection.create_channel()).await?;
            timed(channel.confirm_select(ConfirmSelectOptions::default())).await?;
            Ok(channel)
        };
        let wait = self.publishing.options.confirm_timeout;
        let opened = tokio::time::timeout(wait, opened).await;
        opened.unwrap_or(Err(BrokerError::Timeout(wait)))
    }

    async fn attempt(&self, channel: &Channel, bytes: &[u8], noted: &Copies) -> Outcome {
        if self.queues.is_empty() {
            return Outcome::Returned;
        }
        // All at once: each is written to the connection when it is polled first, and waits for its
        // confirm after that. Any may carry the return of another: only all of them together say
        // that none came back.
        let copies = self.queues.iter().enumerate();
        let copies = copies.map(async |(at, (_, queue))| {
            let confirmation = self.publish_to(queue, channel, bytes).await?.await?;
            noted.note(at, &confirmation);
            Ok(confirmation)
        });
        // The broker's word on one may come while another is still handed over, which then fails
        // without it.
        let confirmed = futures_util::future::join_all(copies);
        let mut confirmed = std::pin::pin!(confirmed);
        loop {
            let was_blocked = self.publishing.is_blocked();
            let wait = self.publishing.options.confirm_timeout;
            match tokio::time::timeout(wait, &mut confirmed).await {
                Ok(confirmations) => return outcome(confirmations),
                // A blocked broker has not even read it: once more would only be one more to read.
                Err(_) if was_blocked || self.publishing.is_blocked() => {}
                Err(_) => return Outcome::TimedOut,
            }
        }
    }

    /// Publishes a copy to a queue, by RabbitMQ's default exchange, which routes by the names of
    /// queues: neither exchanges nor bindings of ours are asked.
    async fn publish_to(
        &self,
        queue: &ShortString,
        channel: &Channel,
        bytes: &[u8],
    ) -> lapin::Result<PublisherConfirm> {
        let options = BasicPublishOptions {
            mandatory: self.publishing.is_coordinator,
            ..BasicPublishOptions::default()
        };
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let exchange = ShortString::default();
        let published = channel.basic_publish(exchange, queue.clone(), options, bytes, properties);
        published.await
    }

    /// Has everything declared again; whether it was.
    async fn declare_again(&self) -> bool {
        let (done, declared) = oneshot::channel();
        if self.publishing.declare_again.send(done).await.is_err() {
            return false;
        }
        let declared = tokio::time::timeout(DECLARATION_TIMEOUT, declared).await;
        matches!(declared, Ok(Ok(())))
    }
}
