//! Renewal of the generation that a counter's store and its queue hold.
//!
//! Invariant: at every moment the queue holds the generation that the store remembers. A new
//! generation is confirmed by the queue before the store commits it, and the old one is removed
//! after that commit.
//!
//! Renewals publish over a connection that nothing else uses: a broker that is short of memory or
//! disk stops to read from a publishing connection, and does not even read that it was closed.

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
use headcount_log::{Delivered, StoreStatus};
use headcount_model::{CounterName, Generation, KeptGeneration};

/// The interval of renewals. An older copy of the broker or of the data directory is detected if it
/// is older than this.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(30);
/// The pause after a failed renewal.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// The longest time that the first delivery of an incarnation waits for the first renewal. If the
/// data directory is restored from a copy made before this incarnation, the loss of what was
/// acknowledged before that renewal is not detected.
const FIRST_RENEWAL_MAX: Duration = Duration::from_secs(3);

/// The delivery mode of a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// Why a generation was not renewed.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error("{0}")]
    Broker(#[from] BrokerError),
    #[error("{0}: {1}")]
    Unreachable(String, BrokerError),
    #[error("the generation queue does not exist")]
    NoQueue,
    #[error("the counter accepts no more events")]
    Ended,
}

/// A new random generation.
fn draw() -> Result<Generation, BrokerError> {
    let mut generation = Generation([0; _]);
    getrandom::fill(&mut generation.0)
        .map_err(|error| BrokerError::Undone(format!("no random bytes available: {error}")))?;
    Ok(generation)
}

/// The generation that a store must commit before its first generation is placed.
pub(super) fn announced() -> Result<KeptGeneration, BrokerError> {
    Ok(KeptGeneration {
        generation: draw()?,
        is_placed: false,
    })
}

/// Publishes a message of the bootstrap to the generation queue of each counter.
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

/// Publishes a message and waits until the queue has confirmed it.
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
            Err(undone("the broker rejected the message"))
        }
    }
}

/// Waits until the broker accepts no more messages on a connection; returns the reason.
async fn ended_or_blocked(link: &mut Link) -> &'static str {
    loop {
        match link.event().await {
            LinkEvent::Blocked(_) => return "the broker blocks publishing",
            LinkEvent::Gone => return "the connection was lost",
            LinkEvent::Unblocked => {}
        }
    }
}

/// The renewals of one session.
pub(super) struct Renewals {
    counter: CounterName,
    standing: Arc<dyn Fn() -> StoreStatus + Send + Sync>,
    handing: Handing,
    /// Over the connection that consumes.
    broker: Broker,
    dialer: Dialer,
    /// The connection that publishes. It stays open even if the broker has stopped to read from it,
    /// because the broker would not read from another one either.
    link: Option<Link>,
    /// The pause before the next renewal.
    pause: Duration,
    /// The number of consumers of this incarnation on each queue.
    consumers_own: u32,
    /// Whether the present failure was logged as a warning.
    warned: bool,
}

impl Renewals {
    pub(crate) fn new(
        broker: &Broker,
        counter: CounterName,
        standing: Arc<dyn Fn() -> StoreStatus + Send + Sync>,
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

    /// Makes the first renewal of an incarnation before anything is consumed, within a limit: a
    /// broker that accepts no messages must not keep a counter from emptying its queue.
    pub(crate) async fn before_consuming(&mut self) {
        self.consumers_own = 0;
        if !self.pause.is_zero() {
            return;
        }
        let renewed = tokio::time::timeout(FIRST_RENEWAL_MAX, self.renew()).await;
        // If the queue does not exist, the next attempt finds that again.
        let _ = renewed.map(|renewed| self.note(renewed));
    }

    /// Renews repeatedly; returns when the queue does not exist or the receiver is closed.
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

    /// Logs the result of an attempt and sets the next pause; returns whether renewals must end.
    fn note(&mut self, renewed: Result<(), RenewalError>) -> bool {
        let counter = &self.counter;
        self.pause = match &renewed {
            Ok(()) => RENEWAL_INTERVAL,
            Err(_) => RETRY_PAUSE,
        };
        match renewed {
            Ok(()) if std::mem::take(&mut self.warned) => {
                tracing::info!(%counter, "generation renewed after failures");
            }
            Ok(()) => {}
            Err(error @ (RenewalError::NoQueue | RenewalError::Ended)) => {
                tracing::warn!(%counter, %error, "generation not renewed; checking queues again");
                return true;
            }
            Err(error) if !std::mem::replace(&mut self.warned, true) => {
                tracing::warn!(
                    %counter,
                    %error,
                    "generation not renewed; until it is, a restored older copy of the broker or \
                     of the data directory may not be detected"
                );
            }
            Err(error) => tracing::debug!(%counter, %error, "generation not renewed"),
        }
        false
    }

    async fn renew(&mut self) -> Result<(), RenewalError> {
        self.check_alone().await?;
        let generation = match (self.standing)().generation {
            // The generation that the store has committed to place.
            Some(kept) if !kept.is_placed => kept.generation,
            _ => draw()?,
        };
        self.place(generation).await?;
        self.tell(generation).await?;
        Ok(keep_only(&mut self.broker, &self.counter, generation).await?)
    }

    /// Fails if another consumer exists. Another process with the counter's name has its own
    /// generation: replacing it would make that process's store look older than it is. The error
    /// passes when that process or its connection ends, or when the other consumer was one of an
    /// earlier incarnation.
    async fn check_alone(&mut self) -> Result<(), RenewalError> {
        for partition in self.broker.options.partitioning.all() {
            let queue = self.broker.names.queue(partition, &self.counter);
            if self.broker.consumers(&queue).await? > self.consumers_own {
                let why = "another process, or an earlier incarnation, still consumes the queue of \
                           the counter";
                return Err(BrokerError::Undone(why.to_owned()).into());
            }
        }
        Ok(())
    }

    /// Publishes the generation to the counter's generation queue.
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
            Err(BrokerError::Undone("the broker still blocks publishing".to_owned()).into())
        } else {
            publish(&mut link, &self.broker.options, &queue, message).await
        };
        if matches!(published, Err(RenewalError::NoQueue))
            && self.broker.messages(&queue).await?.is_some()
        {
            // The connection leads to another broker node than the connection that consumes.
            link.close().await;
            let why = "a broker node does not know the generation queue that another node has";
            return Err(BrokerError::Undone(why.to_owned()).into());
        }
        self.link = Some(link);
        published
    }

    /// Has the store commit the generation.
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
