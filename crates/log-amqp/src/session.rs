//! A counter's sessions with the broker: connect, settle, consume, again and again.
//!
//! Invariant: the broker's facts are changed only after the counter's store remembers what they
//! say, and nothing is handed over before everything is settled. Nothing is ever returned to the
//! broker but by closing.

mod hand_over;
mod looks;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::broker_error::{BrokerError, Missing};
use super::connection::Dialer;
use super::consumer::{ConsumerStatus, Handed};
use super::elsewhere::{self, Silent};
use super::flow::{Flow, Handing, flowing, given_back};
use super::founding::Creation;
use super::merged::{self, Merged};
use super::protocol::{Decision, decide};
use super::renewal::{self, Renewals};
use super::topology::{Broker, Marker};
use super::trouble::Trouble;
use super::{AmqpOptions, Nodes, founding, listening};
use headcount_log::{Delivered, DeliveryError, Standing};
use headcount_model::CounterName;

/// The longest wait for the last acknowledgements at the end.
const LAST_ACKS_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after a cancelled consumer, or when something vanished behind a look. RabbitMQ cancels
/// while it still deletes the queue: what is declared meanwhile is taken for there, and then
/// deleted under its consumer without a word.
const CANCELLED_PAUSE: Duration = Duration::from_secs(1);
/// How often a counter looks whether its queues still have a consumer.
const CONSUMER_INTERVAL: Duration = Duration::from_secs(5);
/// How long a consumer must have lasted for the next one not to wait longer than it did: one that
/// the broker ends at once must not be asked for again and again.
const LASTED_MIN: Duration = Duration::from_secs(1);

/// Why a session ended.
enum End {
    /// The broker is to be tried again.
    Broken(BrokerError),
    /// The connection is lost, or of no use.
    Lost,
    /// The broker cancelled a consumer.
    Cancelled,
    /// Nothing goes on without an operator.
    Failed(DeliveryError),
    /// The counter has no room for what was handed over, which goes back to its queue.
    GivenBack,
    /// Nobody waits for deliveries any more.
    Dropped,
}

impl From<BrokerError> for End {
    fn from(error: BrokerError) -> Self {
        Self::Broken(error)
    }
}

/// The task's own state.
pub(super) struct Session {
    options: Arc<AmqpOptions>,
    name: CounterName,
    standing: Arc<dyn Fn() -> Standing + Send + Sync>,
    nodes: watch::Receiver<Arc<Nodes>>,
    handing: Handing,
    status: watch::Sender<ConsumerStatus>,
    cancelled: bool,
    vanished: bool,
    first: bool,
    /// Whether this life has told what it may have lost before, or that it begins.
    told: bool,
    /// What the broker refuses again and again.
    trouble: Trouble,
}

impl Session {
    pub(crate) fn new(
        options: Arc<AmqpOptions>,
        name: CounterName,
        standing: Arc<dyn Fn() -> Standing + Send + Sync>,
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

/// Runs sessions until told to stop, until nobody waits, or until an operator is needed: then it
/// keeps what is not acknowledged only until nobody waits for more.
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
        // Kept until the connection is closed, so that its consumers stay while the last batches
        // are acknowledged.
        let mut consuming = None;
        let round = session.handing.round;
        let end = tokio::select! {
            biased;
            // First, since it makes others end as well.
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
                // Lets the owner come to the end of what was handed over.
                drop(gone);
            } else {
                gone.closed().await;
            }
            // What was returned is still acknowledged: that ends with the owner.
            let _ = tokio::time::timeout(LAST_ACKS_TIMEOUT, acknowledging).await;
            link.close().await;
            return;
        }
        drop(consuming);
        link.close().await;
    }
}

/// Waits until told to stop. Who dropped the means to tell will not.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Session {
    /// Says how a session ended; whether another one follows.
    async fn note_end(&mut self, end: Option<End>) -> bool {
        match end {
            Some(End::Broken(error)) if error.is_of_other_arguments() => {
                let text = format!(
                    "what is on the broker does not match these settings (queue type? prefix?): {error}"
                );
                let _ = self
                    .handing
                    .send(Handed::Failed(DeliveryError::Refused(text)))
                    .await;
                return false;
            }
            Some(End::Broken(error)) => {
                // The queue is there, then: what ended its consumer was its process. Should it be
                // deleted after all, a look finds that it is missing, or the word of whoever made
                // another.
                self.cancelled &= !error.is_out_of_reach();
                self.trouble.tell(&error, &self.name);
            }
            Some(End::Lost) => {
                tracing::warn!(counter = %self.name, "the connection for consuming is lost");
            }
            Some(End::Cancelled) => {
                tracing::error!(counter = %self.name, "the broker cancelled the consumer");
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
                    "what is not committed goes back to its queue, and nothing is consumed until the disk has room"
                );
            }
            Some(End::Dropped) | None => return false,
        }
        true
    }

    /// One session, from settling to its end.
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

    /// Does what the protocol asks before consuming, and consumes.
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
                    // What they said may be newer than what was looked at.
                    continue;
                }
                Decision::Refuse(why) => return Err(End::Failed(DeliveryError::Refused(why))),
                Decision::Consume => {}
                Decision::Adopt => self.leave_word(broker, true).await?,
                Decision::Begin => {
                    self.tell(Delivered::FromTheBeginning).await?;
                    self.told = true;
                }
                Decision::Lose { why, replaced } => {
                    self.leave_word(broker, replaced).await?;
                    self.tell(Delivered::MayHaveLost { why }).await?;
                    (self.cancelled, self.vanished, self.told) = (false, false, true);
                }
            }
            if announces {
                let announced = renewal::announced()?;
                self.tell(Delivered::Generation(announced)).await?;
            }
            if !facts.generation.queue
                && !founding::create(broker, &self.name, Creation::Generation).await?
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
                // Somebody found the queue missing meanwhile, or removed the counter.
                Ok(None) => {}
                Err(error) => self.note_vanished(error).await?,
            }
        }
    }

    /// Consumes, and creates the queues before only if it may; none when it is to look again: there
    /// is a marker of a loss that was not `told`, or its name is spent.
    async fn consume(
        &self,
        broker: &mut Broker,
        told: bool,
        may_create: bool,
    ) -> Result<Option<Merged>, BrokerError> {
        let lost = Marker::Lost(self.name.clone());
        if told {
            // Before it consumes: from then on the marker is of another loss.
            broker.unmark(&lost).await?;
        }
        if !may_create {
            broker.bind_queues(&self.name).await?;
        } else if !founding::create(broker, &self.name, Creation::Items).await? {
            return Ok(None);
        }
        let merged = merged::consume(broker, &self.name).await?;
        Ok((!self.is_told_of(broker).await?).then_some(merged))
    }

    /// Goes on, after a pause, when what a look has found there was not there any more.
    async fn note_vanished(&mut self, error: BrokerError) -> Result<(), End> {
        match error.missing() {
            Some(Missing::Queue) => {
                tracing::error!(%error, counter = %self.name, "the queue vanished; looking again");
                self.vanished = true;
            }
            Some(Missing::Exchange) => {
                tracing::warn!(%error, counter = %self.name, "waiting for a coordinator to declare it again");
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

    /// Hands an event over and waits until the counter's store remembers it.
    async fn tell(&self, event: Delivered) -> Result<(), End> {
        let (remembered, waiting) = oneshot::channel();
        let event = Handed::Event { event, remembered };
        self.handing.send(event).await.map_err(|_| End::Dropped)?;
        waiting.await.map_err(|_| End::Dropped)
    }
}
