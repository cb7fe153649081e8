//! A counter's sessions with the broker. Each session connects, runs the startup protocol, and
//! consumes; then the next session begins.
//!
//! Invariant: a fact on the broker is changed only after the counter's store has committed it, and
//! nothing is delivered before the startup protocol is complete. Deliveries return to the broker
//! only by closing the channel.

mod hand_over;
mod looks;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::bootstrap::Creation;
use super::broker_error::{BrokerError, Missing};
use super::connection::Dialer;
use super::consumer::{ConsumerStatus, Handed};
use super::delivery_streams::{self, Merged};
use super::elsewhere::{self, Silent};
use super::flow::{Flow, Handing, flowing, given_back};
use super::renewal::{self, Renewals};
use super::startup::{Decision, decide};
use super::topology::{Broker, Marker};
use super::trouble::Trouble;
use super::{AmqpOptions, Nodes, bootstrap, listening};
use headcount_log::{Delivered, DeliveryError, StoreStatus};
use headcount_model::CounterName;

/// The longest wait for the last acknowledgements at shutdown.
const LAST_ACKS_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after a cancelled consumer, or after a queue or exchange disappeared between a check
/// and its use. RabbitMQ cancels a consumer while it still deletes the queue: a queue declared in
/// that moment is reported as existing, and is then deleted under its consumer without a notice.
const CANCELLED_PAUSE: Duration = Duration::from_secs(1);
/// How often a counter checks that its queues still have a consumer.
const CONSUMER_INTERVAL: Duration = Duration::from_secs(5);
/// How long a consumer must last before the next connection is made without a pause. Otherwise a
/// consumer that the broker ends at once would be requested in a tight loop.
const LASTED_MIN: Duration = Duration::from_secs(1);

/// Why a session ended.
enum End {
    /// A broker operation failed. A retry may succeed.
    Broken(BrokerError),
    /// The connection was lost or is not usable.
    Lost,
    /// The broker cancelled a consumer.
    Cancelled,
    /// An operator must intervene.
    Failed(DeliveryError),
    /// The counter has no room for the deliveries. They return to their queue.
    GivenBack,
    /// The receiver of the deliveries was dropped.
    Dropped,
}

impl From<BrokerError> for End {
    fn from(error: BrokerError) -> Self {
        Self::Broken(error)
    }
}

/// State of the session task.
pub(super) struct Session {
    options: Arc<AmqpOptions>,
    name: CounterName,
    standing: Arc<dyn Fn() -> StoreStatus + Send + Sync>,
    nodes: watch::Receiver<Arc<Nodes>>,
    handing: Handing,
    status: watch::Sender<ConsumerStatus>,
    cancelled: bool,
    vanished: bool,
    first: bool,
    /// Whether this incarnation has reported a possible loss, or that it starts from the beginning.
    told: bool,
    /// Consecutive failures of broker operations.
    trouble: Trouble,
}

impl Session {
    pub(crate) fn new(
        options: Arc<AmqpOptions>,
        name: CounterName,
        standing: Arc<dyn Fn() -> StoreStatus + Send + Sync>,
        nodes: watch::Receiver<Arc<Nodes>>,
        handing: Handing,
        status: watch::Sender<ConsumerStatus>,
    ) -> Self {
        Self {
            options,
            name,
            standing,
            nodes,
            handing,
            status,
            cancelled: false,
            vanished: false,
            first: true,
            told: false,
            trouble: Trouble::default(),
        }
    }
}

/// Runs sessions until it is told to stop, until the receiver is dropped, or until an operator must
/// intervene. In the last case it keeps unacknowledged deliveries until the receiver is dropped.
pub(super) async fn run(
    mut session: Session,
    mut stopping: watch::Receiver<bool>,
    mut flow: watch::Receiver<Flow>,
    acknowledging: JoinHandle<()>,
) {
    let purpose = format!("counter {}", session.name);
    let mut dialer = Dialer::new(Arc::clone(&session.options), purpose);
    let gone = session.handing.clone();
    loop {
        tokio::select! {
            round = flowing(&mut flow) => session.handing.round = round,
            () = stopped(&mut stopping) => return,
            () = gone.closed() => return,
        }
        let link = tokio::select! {
            link = dialer.dial() => link,
            () = stopped(&mut stopping) => return,
            () = gone.closed() => return,
        };
        session.status.send_modify(|status| status.connected = true);
        let mut broker = Broker::new(Arc::clone(&session.options), &link);
        // Kept until the connection is closed: the consumers must stay while the last batches are
        // acknowledged.
        let mut consuming = None;
        let round = session.handing.round;
        let end = tokio::select! {
            biased;
            // First, because it also causes other ends.
            () = given_back(&mut flow, round) => Some(End::GivenBack),
            end = session.hold(&mut broker, &mut dialer, &mut consuming) => Some(end),
            () = stopped(&mut stopping) => None,
            () = gone.closed() => Some(End::Dropped),
        };
        if let Some(End::Broken(error)) = &end {
            dialer.is_refused(error);
        }
        let goes_on = session.note_end(end).await;
        session.status.send_modify(|status| {
            (status.connected, status.consuming) = (false, false);
        });
        if !goes_on {
            drop(session);
            if *stopping.borrow() {
                // Lets the owner finish what it has received.
                drop(gone);
            } else {
                gone.closed().await;
            }
            // Acknowledgements of returned deliveries still arrive; they end with the owner.
            let _ = tokio::time::timeout(LAST_ACKS_TIMEOUT, acknowledging).await;
            link.close().await;
            return;
        }
        drop(consuming);
        link.close().await;
    }
}

/// Waits until it is told to stop. If the sender was dropped, no stop will come.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Session {
    /// Logs and reports how a session ended; returns whether another session follows.
    async fn note_end(&mut self, end: Option<End>) -> bool {
        match end {
            Some(End::Broken(error)) if error.is_of_other_arguments() => {
                let text = format!(
                    "queues or exchanges on the broker do not match the settings; check \
                     --queue-type and --prefix: {error}"
                );
                let _ = self
                    .handing
                    .send(Handed::Failed(DeliveryError::Refused(text)))
                    .await;
                return false;
            }
            Some(End::Broken(error)) => {
                // Then the queue exists, and its consumer ended because the queue's process ended.
                // If the queue is deleted after all, a check finds it missing, or finds the marker
                // of the node that declared it again.
                self.cancelled &= !error.is_out_of_reach();
                self.trouble.tell(&error, &self.name);
            }
            Some(End::Lost) => {
                tracing::warn!(counter = %self.name, "connection for consuming lost; reconnecting");
            }
            Some(End::Cancelled) => {
                tracing::error!(counter = %self.name, "broker cancelled the consumer");
                self.cancelled = true;
                tokio::time::sleep(CANCELLED_PAUSE).await;
            }
            Some(End::Failed(error)) => {
                let _ = self.handing.send(Handed::Failed(error)).await;
                return false;
            }
            Some(End::GivenBack) => {
                tracing::warn!(
                    counter = %self.name,
                    "store has no room: uncommitted deliveries return to the queue, and consuming \
                     resumes once there is room"
                );
            }
            Some(End::Dropped) | None => return false,
        }
        true
    }

    /// Runs one session, from the startup protocol to its end.
    async fn hold(
        &mut self,
        broker: &mut Broker,
        dialer: &mut Dialer,
        consuming: &mut Option<Merged>,
    ) -> End {
        let (standing, handing) = (Arc::clone(&self.standing), self.handing.clone());
        let mut renewals = Renewals::new(broker, self.name.clone(), standing, handing);
        let here = match elsewhere::check(broker, Silent::Passes).await {
            Ok(here) => here,
            Err(error) => return error.into(),
        };
        match self.settle(broker, &mut renewals).await {
            Ok(merged) => {
                let since = Instant::now();
                let merged = consuming.insert(merged);
                let elsewhere = elsewhere::turns_up(broker.again(), here);
                self.first = false;
                self.cancelled = false;
                self.trouble.over();
                dialer.is_granted();
                self.status.send_modify(|status| status.consuming = true);
                let end = tokio::select! {
                    end = self.hand_over(broker, merged) => end,
                    () = renewals.run() => End::Lost,
                    () = elsewhere => End::Lost,
                };
                if since.elapsed() >= LASTED_MIN {
                    dialer.worked();
                }
                end
            }
            Err(end) => end,
        }
    }

    /// Runs the startup protocol, then starts to consume.
    async fn settle(
        &mut self,
        broker: &mut Broker,
        renewals: &mut Renewals,
    ) -> Result<Merged, End> {
        let mut peers = None;
        loop {
            let standing = (self.standing)();
            let facts = self.look(broker, standing.generation).await?;
            let started = Some(facts.started);
            self.status.send_modify(|status| status.started = started);
            let decision = decide(&self.name, facts, standing, peers.as_ref());
            let announces = decision.announces(&facts);
            let may_create = decision.may_create();
            match decision {
                Decision::Wait { replaced } => {
                    if replaced {
                        elsewhere::check(broker, Silent::MayKnow).await?;
                    }
                    self.leave_word(broker, replaced).await?;
                    elsewhere::wait_or_move_on(&broker.options).await?;
                    continue;
                }
                Decision::Listen => {
                    peers =
                        Some(listening::listen(&self.options, &self.name, &mut self.nodes).await);
                    // The announcements may be newer than the facts: read the facts again.
                    continue;
                }
                Decision::Refuse(why) => return Err(End::Failed(DeliveryError::Refused(why))),
                Decision::Consume => {}
                Decision::Adopt => self.leave_word(broker, true).await?,
                Decision::Begin => {
                    self.tell(Delivered::HistoryComplete).await?;
                    self.told = true;
                }
                Decision::Lose { why, replaced } => {
                    self.leave_word(broker, replaced).await?;
                    self.tell(Delivered::PossibleLoss { why }).await?;
                    (self.cancelled, self.vanished, self.told) = (false, false, true);
                }
            }
            if announces {
                let announced = renewal::announced()?;
                self.tell(Delivered::Generation(announced)).await?;
            }
            if !facts.generation.queue
                && !bootstrap::create(broker, &self.name, Creation::Generation).await?
            {
                continue;
            }
            broker.mark(&Marker::Started(self.name.clone())).await?;
            self.status
                .send_modify(|status| status.started = Some(true));
            if self.first {
                renewals.before_consuming().await;
            }
            match self.consume(broker, facts.lost, may_create).await {
                Ok(Some(merged)) => return Ok(merged),
                // A node found the queue missing in the meantime, or removed the counter.
                Ok(None) => {}
                Err(error) => self.note_vanished(error).await?,
            }
        }
    }

    /// Starts to consume, and creates the queues before that only if `may_create`. Returns none if
    /// the facts must be read again: a marker reports a loss that the store does not know, or the
    /// counter was removed. `told` says that the store knows the loss of the present marker.
    async fn consume(
        &self,
        broker: &mut Broker,
        told: bool,
        may_create: bool,
    ) -> Result<Option<Merged>, BrokerError> {
        let lost = Marker::Lost(self.name.clone());
        if told {
            // Before consuming: a marker that exists afterwards reports another loss.
            broker.unmark(&lost).await?;
        }
        if !may_create {
            broker.bind_queues(&self.name).await?;
        } else if !bootstrap::create(broker, &self.name, Creation::Items).await? {
            return Ok(None);
        }
        let merged = delivery_streams::consume(broker, &self.name).await?;
        Ok((!self.is_told_of(broker).await?).then_some(merged))
    }

    /// Pauses if a queue or exchange disappeared after it was found; fails on any other error.
    async fn note_vanished(&mut self, error: BrokerError) -> Result<(), End> {
        match error.missing() {
            Some(Missing::Queue) => {
                tracing::error!(
                    %error,
                    counter = %self.name,
                    "queue disappeared before it could be consumed; checking again"
                );
                self.vanished = true;
            }
            Some(Missing::Exchange) => {
                tracing::warn!(
                    %error,
                    counter = %self.name,
                    "exchange for items is missing; waiting for a coordinator to declare it"
                );
            }
            None => return Err(error.into()),
        }
        tokio::time::sleep(CANCELLED_PAUSE).await;
        Ok(())
    }

    async fn leave_word(&self, broker: &mut Broker, replaced: bool) -> Result<(), BrokerError> {
        if replaced {
            broker.mark(&Marker::Replaced).await?;
        }
        Ok(())
    }

    /// Delivers an event and waits until the counter's store has committed it.
    async fn tell(&self, event: Delivered) -> Result<(), End> {
        let (remembered, waiting) = oneshot::channel();
        let event = Handed::Event { event, remembered };
        self.handing.send(event).await.map_err(|_| End::Dropped)?;
        waiting.await.map_err(|_| End::Dropped)
    }
}
