//! Publishing the batches of one partition: one at a time, with retries until it is confirmed.
//!
//! Invariant: a coordinator's batch is confirmed once each counter that it publishes to has a copy
//! in its queue. Every copy must be acknowledged and none returned: the broker also acknowledges a
//! message that no queue received, but returns it first. A failed attempt is repeated on a new
//! channel, so that a late confirm is not attributed to another attempt.

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

/// The delivery mode of a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;
/// The longest wait for a new declaration before the batch is published anyway.
const DECLARATION_TIMEOUT: Duration = Duration::from_secs(30);

/// The purpose of its channels, in refusals of the broker.
const PURPOSE: &str = "a channel for publishing";

/// State of the task of a partition.
pub(super) struct PartitionPublisher {
    publishing: Arc<Publishing>,
    partition: Partition,
    channel: Option<Channel>,
    targets: watch::Receiver<BTreeSet<CounterName>>,
    /// The counters that receive a copy, with their queues.
    queues: Vec<(CounterName, ShortString)>,
}

impl PartitionPublisher {
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

    /// Publishes to the present targets from now on. Call this only while everything published is
    /// confirmed or will be published again: the announcement that a counter is reached relies on
    /// it.
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
pub(super) async fn run(mut lane: PartitionPublisher, mut appends: mpsc::Receiver<Append>) {
    let mut status = lane.publishing.status.subscribe();
    loop {
        let append = tokio::select! {
            biased;
            // Does not fail: the sender lives as long as the lanes.
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
        // Fails if the caller no longer waits, which does not matter.
        let _ = done.send(result);
    }
}

async fn publish(lane: &mut PartitionPublisher, batch: &Batch) -> Result<(), AppendError> {
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

/// Which copies of a batch are confirmed: one bit for each of the first 64 queues.
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

impl PartitionPublisher {
    /// A channel in confirm mode, once everything is declared and a connection is open.
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
                    tracing::warn!(%error, "opening a channel for publishing failed; retrying");
                    // A blocked broker opens no channel, on no other connection either.
                    if !self.publishing.is_blocked() {
                        self.publishing.reconnect.notify_one();
                    }
                }
            }
        }
    }

    async fn open(&self) -> Result<Channel, BrokerError> {
        // Does not fail: the sender lives as long as the lanes.
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
            // The task that connects has ended, and this lane ends soon.
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
        // All copies are published concurrently: each is written to the connection at its first
        // poll, then waits for its confirm. Each confirm may carry the return of another copy, so
        // only all of them together show that none was returned.
        let copies = self.queues.iter().enumerate();
        let copies = copies.map(async |(at, (_, queue))| {
            let confirmation = self.publish_to(queue, channel, bytes).await?.await?;
            noted.note(at, &confirmation);
            Ok(confirmation)
        });
        // The broker may refuse one copy while another is still being written; that one then fails
        // without the broker's reply.
        let confirmed = futures_util::future::join_all(copies);
        let mut confirmed = std::pin::pin!(confirmed);
        loop {
            let was_blocked = self.publishing.is_blocked();
            let wait = self.publishing.options.confirm_timeout;
            match tokio::time::timeout(wait, &mut confirmed).await {
                Ok(confirmations) => return outcome(confirmations),
                // A blocked broker has not read the batch: another attempt would only add to what
                // it must read.
                Err(_) if was_blocked || self.publishing.is_blocked() => {}
                Err(_) => return Outcome::TimedOut,
            }
        }
    }

    /// Publishes a copy to a queue through RabbitMQ's default exchange, which routes by the names
    /// of queues. Declared exchanges and bindings are not involved.
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

    /// Has everything declared again; returns whether that was done.
    async fn declare_again(&self) -> bool {
        let (done, declared) = oneshot::channel();
        if self.publishing.declare_again.send(done).await.is_err() {
            return false;
        }
        let declared = tokio::time::timeout(DECLARATION_TIMEOUT, declared).await;
        matches!(declared, Ok(Ok(())))
    }
}
