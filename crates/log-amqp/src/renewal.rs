//! Renewing the generation that a counter's store and its queue hold.
//!
//! Invariant: at every moment the queue holds the generation that the store remembers. A new one is
//! there, confirmed, before the store is told, and the old one goes after the store remembers the
//! new.
//!
//! What publishes has a connection of its own, and nothing else uses it: a broker in need of memory
//! or disk reads nothing more from it, not even that it was closed.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation};
use tokio::sync::oneshot;

use super::AmqpOptions;
use super::broker_error::BrokerError;
use super::connection::{Dialer, Link, LinkEvent, timed};
use super::consumer::Handed;
use super::flow::Handing;
use super::generation::{Author, Message};
use super::generation_queue::keep_only;
use super::topology::Broker;
use headcount_log::{Delivered, Standing};
use headcount_model::{CounterName, Generation, KeptGeneration};

/// How old the generation may be: an older copy of the broker or of the data folder is noticed if
/// it is older than this.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(30);
/// The pause after a renewal that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// How long the first delivery of a life waits for the first renewal at most. What is acknowledged
/// before that renewal is not noticed to be missing from a copy of the folder that was made before
/// this life.
const FIRST_RENEWAL_MAX: Duration = Duration::from_secs(3);

/// The delivery mode of a message that survives the broker.
const PERSISTENT: u8 = 2;

/// Why a generation was not renewed.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error("{0}")]
    Broker(#[from] BrokerError),
    #[error("{0}: {1}")]
    Unreachable(String, BrokerError),
    #[error("the generation queue is gone")]
    NoQueue,
    #[error("the counter takes nothing more")]
    Ended,
}

/// A generation that nobody has had.
fn draw() -> Result<Generation, BrokerError> {
    let mut generation = Generation([0; _]);
    getrandom::fill(&mut generation.0)
        .map_err(|error| BrokerError::Undone(format!("no random bytes: {error}")))?;
    Ok(generation)
}

/// The generation that a store is to remember before its first one is placed.
pub(super) fn announced() -> Result<KeptGeneration, BrokerError> {
    Ok(KeptGeneration {
        generation: draw()?,
        is_placed: false,
    })
}

/// Puts the founding's message into the queue of each counter.
pub(super) async fn found(broker: &Broker, counters: &[CounterName]) -> Result<(), BrokerError> {
    let options = Arc::clone(&broker.options);
    let mut dialer = Dialer::beginning_at(broker.address, options, "founding");
    let dialed = dialer.dial_once().await;
    let mut link = dialed.map_err(|(url, error)| BrokerError::Undone(format!("{url}: {error}")))?;
    let mut published = Ok(());
    for counter in counters {
        let message = Message {
            author: Author::Founding,
            generation: draw()?,
        };
        let queue = broker.names.generation(counter);
        published = publish(&mut link, &broker.options, &queue, message).await;
        if published.is_err() {
            break;
        }
    }
    link.close().await;
    match published {
        Ok(()) => Ok(()),
        Err(RenewalError::Broker(error)) => Err(error),
        Err(other) => Err(BrokerError::Undone(other.to_string())),
    }
}

/// Publishes a message and waits until the queue has it for good.
async fn publish(
    link: &mut Link,
    options: &AmqpOptions,
    queue: &str,
    message: Message,
) -> Result<(), RenewalError> {
    let undone = |why: &str| RenewalError::Broker(BrokerError::Undone(why.to_owned()));
    let connection = Arc::clone(&link.connection);
    let bytes = message.encode();
    let confirmed = async {
        let channel = timed(connection.create_channel()).await?;
        timed(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let mandatory = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let published =
            channel.basic_publish("".into(), queue.into(), mandatory, &bytes, properties);
        let confirmation = timed(async { published.await?.await }).await?;
        timed(channel.close(200, "OK".into())).await?;
        Ok(confirmation)
    };
    let confirmation = tokio::select! {
        confirmed = tokio::time::timeout(options.confirm_timeout, confirmed) => {
            let wait = options.confirm_timeout;
            confirmed.unwrap_or(Err(RenewalError::Broker(BrokerError::Timeout(wait))))?
        }
        refused = ended_or_blocked(link) => return Err(undone(refused)),
    };
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Err(RenewalError::NoQueue),
        Confirmation::Nack(None) | Confirmation::NotRequested => {
            Err(undone("the broker did not take the message"))
        }
    }
}

/// Waits until the broker takes nothing more on a connection.
async fn ended_or_blocked(link: &mut Link) -> &'static str {
    loop {
        match link.event().await {
            LinkEvent::Blocked(_) => return "the broker takes no messages for now",
            LinkEvent::Gone => return "the connection is lost",
            LinkEvent::Unblocked => {}
        }
    }
}

/// The renewals of one session.
pub(super) struct Renewals {
    counter: CounterName,
    standing: Arc<dyn Fn() -> Standing + Send + Sync>,
    handing: Handing,
    /// Over the connection that consumes.
    broker: Broker,
    dialer: Dialer,
    /// What publishes. One that the broker has stopped to read stays open: another would not be
    /// read either.
    link: Option<Link>,
    /// Before the next one.
    pause: Duration,
    /// Consumers of this life.
    consumers_own: u32,
    /// Whether somebody was told that they fail.
    warned: bool,
}

impl Renewals {
    pub(crate) fn new(
        broker: &Broker,
        counter: CounterName,
        standing: Arc<dyn Fn() -> Standing + Send + Sync>,
        handing: Handing,
    ) -> Self {
        let purpose = format!("generation of {counter}");
        Self {
            dialer: Dialer::beginning_at(broker.address, Arc::clone(&broker.options), purpose),
            broker: broker.again(),
            counter,
            standing,
            handing,
            link: None,
            pause: Duration::ZERO,
            consumers_own: 0,
            warned: false,
        }
    }

    /// The first renewal of a life, before anything is consumed in it, unless that takes long: a
    /// broker that takes no messages must not keep a counter from emptying its queue.
    pub(crate) async fn before_consuming(&mut self) {
        self.consumers_own = 0;
        if !self.pause.is_zero() {
            return;
        }
        let renewed = tokio::time::timeout(FIRST_RENEWAL_MAX, self.renew()).await;
        // Where the queue is gone, the next attempt finds that too.
        let _ = renewed.map(|renewed| self.note(renewed));
    }

    /// Renews again and again; returns when the queue is gone, or nobody takes what is handed over.
    pub(crate) async fn run(&mut self) {
        self.consumers_own = 1;
        loop {
            tokio::time::sleep(self.pause).await;
            let renewed = self.renew().await;
            if self.note(renewed) {
                return;
            }
        }
    }

    /// Notes what came of an attempt; whether there will be no other.
    fn note(&mut self, renewed: Result<(), RenewalError>) -> bool {
        let counter = &self.counter;
        self.pause = match &renewed {
            Ok(()) => RENEWAL_INTERVAL,
            Err(_) => RETRY_PAUSE,
        };
        match renewed {
            Ok(()) if std::mem::take(&mut self.warned) => {
                tracing::info!(%counter, "its generation is renewed again");
            }
            Ok(()) => {}
            Err(error @ (RenewalError::NoQueue | RenewalError::Ended)) => {
                tracing::warn!(%counter, %error, "its generation is not renewed; looking again");
                return true;
            }
            Err(error) if !std::mem::replace(&mut self.warned, true) => {
                tracing::warn!(
                    %counter,
                    %error,
                    "its generation is not renewed; until it is, an older copy of the broker or of the data folder may pass \
                     for this one"
                );
            }
            Err(error) => tracing::debug!(%counter, %error, "its generation is not renewed"),
        }
        false
    }

    async fn renew(&mut self) -> Result<(), RenewalError> {
        self.check_alone().await?;
        let generation = match (self.standing)().generation {
            // What the store has said that it will place.
            Some(kept) if !kept.is_placed => kept.generation,
            _ => draw()?,
        };
        self.place(generation).await?;
        self.tell(generation).await?;
        Ok(keep_only(&mut self.broker, &self.counter, generation).await?)
    }

    /// Another process of the counter's name has a generation of its own: to put one in its place
    /// would make that one's store look older than it is. It ends, or its connection does, or the
    /// other consumer is of a life before this one.
    async fn check_alone(&mut self) -> Result<(), RenewalError> {
        for partition in self.broker.options.partitioning.all() {
            let queue = self.broker.names.queue(partition, &self.counter);
            if self.broker.consumers(&queue).await? > self.consumers_own {
                let why =
                    "another process, or a life before this one, still consumes from its queue";
                return Err(BrokerError::Undone(why.to_owned()).into());
            }
        }
        Ok(())
    }

    /// Has the broker hold it.
    async fn place(&mut self, generation: Generation) -> Result<(), RenewalError> {
        let open = |link: &Link| link.connection.status().connected();
        let mut link = match self.link.take().filter(open) {
            Some(link) => link,
            None => {
                let dialed = self.dialer.dial_once().await;
                dialed.map_err(|(url, error)| RenewalError::Unreachable(url, error))?
            }
        };
        let queue = self.broker.names.generation(&self.counter);
        let message = Message {
            author: Author::Counter,
            generation,
        };
        let published = if link.connection.status().blocked() {
            Err(BrokerError::Undone("the broker still takes no messages".to_owned()).into())
        } else {
            publish(&mut link, &self.broker.options, &queue, message).await
        };
        if matches!(published, Err(RenewalError::NoQueue))
            && self.broker.messages(&queue).await?.is_some()
        {
            // It led to another node than that which consumes.
            link.close().await;
            let why = "a node of the broker does not know the generation queue that another has";
            return Err(BrokerError::Undone(why.to_owned()).into());
        }
        self.link = Some(link);
        published
    }

    /// Has the store remember it.
    async fn tell(&mut self, generation: Generation) -> Result<(), RenewalError> {
        let (remembered, waiting) = oneshot::channel();
        let event = Delivered::Generation(KeptGeneration {
            generation,
            is_placed: true,
        });
        let handed = Handed::Event { event, remembered };
        let handed = self.handing.send(handed).await;
        handed.map_err(|_| RenewalError::Ended)?;
        waiting.await.map_err(|_| RenewalError::Ended)
    }
}
