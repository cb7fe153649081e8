//! A counter's generation queue: declaring it and reading it.
//!
//! Invariant: reading leaves every message in the queue.
//!
//! While messages are read, the connection that reads holds them, under a lock that ends with that
//! connection. So after a reader that hangs, the next reader waits until the broker gives up on the
//! connection, and does not mistake the held messages for lost ones.

use std::time::Duration;

use lapin::Channel;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions};

use super::broker_error::{BrokerError, Missing};
use super::connection::timed;
use super::generation::{Found, Message};
use super::topology::{Broker, lasting_arguments};
use headcount_model::{CounterName, Generation, KeptGeneration};

/// How often the queue is read before a mismatch counts. Messages that a closed connection held
/// return some moments later.
const LOOKS: usize = 4;
/// The pause between two reads.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// The most messages that are read. The queue holds more only if somebody adds them by hand.
const MESSAGES_MAX: usize = 1_000;

impl Broker {
    /// Declares the counter's generation queue; an existing one stays.
    pub(crate) async fn declare_generation(
        &mut self,
        counter: &CounterName,
    ) -> Result<(), BrokerError> {
        let (queue, channel) = (self.names.generation(counter), self.channel().await?);
        let arguments = lasting_arguments(self.options.queue_type);
        let options = QueueDeclareOptions::durable();
        let declared = timed(channel.queue_declare(queue.into(), options, arguments));
        declared.await.map(|_| ())
    }
}

/// Reads the counter's queue and classifies its messages for a store that remembers `kept`. The
/// messages stay in the queue.
pub(super) async fn look(
    broker: &mut Broker,
    counter: &CounterName,
    kept: Option<KeptGeneration>,
) -> Result<Found, BrokerError> {
    let mut looks = 1;
    loop {
        lock(broker, counter).await?;
        let taken = take(broker, counter).await?;
        let messages = taken.as_ref().map(Taken::messages);
        let found = Found::of(messages.as_deref(), kept);
        if let Some(taken) = taken {
            taken.give_back().await?;
        }
        unlock(broker, counter).await?;
        if found.mismatch(kept).is_none() || looks == LOOKS {
            return Ok(found);
        }
        looks += 1;
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// Acknowledges all messages in the counter's queue except those with `generation`.
pub(super) async fn keep_only(
    broker: &mut Broker,
    counter: &CounterName,
    generation: Generation,
) -> Result<(), BrokerError> {
    lock(broker, counter).await?;
    if let Some(taken) = take(broker, counter).await? {
        for (message, taken) in taken.messages().iter().zip(&taken.taken) {
            if message.is_none_or(|message| message.generation != generation) {
                timed(taken.acker.ack(BasicAckOptions::default())).await?;
            }
        }
        taken.give_back().await?;
    }
    unlock(broker, counter).await
}

/// Waits for the lock on reading the counter's generation queue. It ends with the connection of its
/// holder.
pub(super) async fn lock(broker: &mut Broker, counter: &CounterName) -> Result<(), BrokerError> {
    let lock = broker.names.generation_lock(counter);
    broker.lock_by(lock).await
}

async fn unlock(broker: &mut Broker, counter: &CounterName) -> Result<(), BrokerError> {
    let lock = broker.names.generation_lock(counter);
    broker.unlock_by(lock).await
}

/// Messages taken from the queue and not acknowledged; no other connection can get them.
struct Taken {
    channel: Channel,
    taken: Vec<BasicGetMessage>,
}

/// Takes all messages; none if the queue does not exist.
async fn take(broker: &Broker, counter: &CounterName) -> Result<Option<Taken>, BrokerError> {
    let queue = broker.names.generation(counter);
    let channel = broker.fresh_channel().await?;
    let mut taken = Vec::new();
    while taken.len() < MESSAGES_MAX {
        let options = BasicGetOptions { no_ack: false };
        match timed(channel.basic_get(queue.as_str().into(), options)).await {
            Ok(Some(message)) => taken.push(message),
            Ok(None) => break,
            Err(error) if error.missing() == Some(Missing::Queue) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(Taken { channel, taken }))
}

impl Taken {
    fn messages(&self) -> Vec<Option<Message>> {
        let messages = self.taken.iter().map(|it| Message::decode(&it.data));
        messages.collect()
    }

    /// Returns all unacknowledged messages to the queue.
    async fn give_back(self) -> Result<(), BrokerError> {
        const ALL: u64 = 0;
        let options = BasicNackOptions {
            multiple: true,
            requeue: true,
        };
        if !self.taken.is_empty() {
            timed(self.channel.basic_nack(ALL, options)).await?;
        }
        timed(self.channel.close(200, "OK".into())).await
    }
}
