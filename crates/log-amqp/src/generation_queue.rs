//! A counter's generation queue: its declaration, and looks into it.
//!
//! Invariant: a look leaves every message where it was.
//!
//! What is looked at lies on the connection that looks, under a lock that ends with it: whoever
//! comes after a connection that hangs waits for the broker to give up on that, and does not take
//! for lost what it holds.

use std::time::Duration;

use lapin::Channel;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions};

use super::broker_error::{BrokerError, Missing};
use super::connection::timed;
use super::generation::{Found, Message};
use super::topology::{Broker, lasting_arguments};
use headcount_model::{CounterName, Generation, KeptGeneration};

/// Looks into the queue before a mismatch counts: what a connection that just ended held comes back
/// some moments later.
const LOOKS: usize = 4;
/// The pause between two of them.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Messages looked at; no more are ever there but by somebody's hand.
const MESSAGES_MAX: usize = 1_000;

impl Broker {
    /// Declares the counter's generation queue; what is there already stays.
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

/// What lies in the counter's queue, as a store sees it that remembers `kept`. The messages stay
/// where they are.
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

/// Acknowledges everything in the counter's queue but `generation`.
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

/// Waits for the lock of those who look into the counter's generation queue. It ends with its
/// holder's connection.
pub(super) async fn lock(broker: &mut Broker, counter: &CounterName) -> Result<(), BrokerError> {
    let lock = broker.names.generation_lock(counter);
    broker.lock_by(lock).await
}

async fn unlock(broker: &mut Broker, counter: &CounterName) -> Result<(), BrokerError> {
    let lock = broker.names.generation_lock(counter);
    broker.unlock_by(lock).await
}

/// Messages that were taken from the queue, and are in nobody else's hand meanwhile.
struct Taken {
    channel: Channel,
    taken: Vec<BasicGetMessage>,
}

/// Takes all messages; none where there is no queue.
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

    /// Puts back what was not acknowledged.
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
