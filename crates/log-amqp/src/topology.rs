//! What is on the broker: names of exchanges, queues and markers, and the operations on them.
//!
//! Invariant: an item queue never expires, drops or limits anything, and is read by one consumer at
//! a time.
//!
//! A marker is a durable exchange that nothing is published to: a fact that the broker keeps.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, Connection, ExchangeKind};

use super::broker_error::BrokerError;
use super::connection::{Link, timed};
use super::{AmqpOptions, QueueType};
use headcount_model::{CounterName, Partition};

/// How often a delivery may be returned before the broker drops it. Absent means unlimited to
/// RabbitMQ 3.10 but 20 to 4.x; -1 drops at the first redelivery on 3.10.
const DELIVERY_LIMIT: i64 = 1_000_000_000;
/// How long a queue waits for a consumer whose broker is gone before its deliveries go to the next,
/// in milliseconds. RabbitMQ 4.3 waits for a minute, for which nobody has them, and later ones pass
/// them by; earlier releases don't know this argument and never wait.
const DISCONNECTED_TIMEOUT_MS: i64 = 0;
/// How often the lock of another connection is tried again.
const LOCK_INTERVAL: Duration = Duration::from_millis(250);
/// The longest wait for a lock: longer than the broker needs to give up on a connection that hangs.
const LOCK_MAX: Duration = Duration::from_secs(60);
/// The broker's reply when another connection holds an exclusive queue.
const LOCKED: u16 = 405;

/// A fact that the broker keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Marker {
    /// The first queues are declared: from here on items may come.
    Founded,
    /// The counter's queue was there before the first item.
    Founding(CounterName),
    /// The counter has consumed, or is about to.
    Started(CounterName),
    /// The counter's queue was found missing, and declared again.
    Lost(CounterName),
    /// Some counter holds what this broker never carried.
    Replaced,
    /// The counter was removed; its name is spent.
    Removed(CounterName),
}

/// The names that an options' prefix makes.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(crate) fn new(options: &AmqpOptions) -> Self {
        Self {
            prefix: options.prefix.clone(),
        }
    }

    pub(crate) fn items(&self, partition: Partition) -> String {
        format!("{}.items.{partition}", self.prefix)
    }

    pub(crate) fn queue(&self, partition: Partition, counter: &CounterName) -> String {
        format!("{}.items.{partition}.{counter}", self.prefix)
    }

    pub(crate) fn presence(&self) -> String {
        format!("{}.presence", self.prefix)
    }

    /// Where one connection listens, by a number of its own.
    pub(crate) fn presence_queue(&self, number: u64) -> String {
        format!("{}.presence.{number:016x}", self.prefix)
    }

    pub(crate) fn generation(&self, counter: &CounterName) -> String {
        format!("{}.generation.{counter}", self.prefix)
    }

    pub(crate) fn generation_lock(&self, counter: &CounterName) -> String {
        format!("{}.generation-lock.{counter}", self.prefix)
    }

    pub(crate) fn founding_lock(&self) -> String {
        format!("{}.founding-lock", self.prefix)
    }

    pub(crate) fn marker(&self, marker: &Marker) -> String {
        let prefix = &self.prefix;
        match marker {
            Marker::Founded => format!("{prefix}.founded"),
            Marker::Founding(counter) => format!("{prefix}.founding.{counter}"),
            Marker::Started(counter) => format!("{prefix}.started.{counter}"),
            Marker::Lost(counter) => format!("{prefix}.lost.{counter}"),
            Marker::Replaced => format!("{prefix}.replaced"),
            Marker::Removed(counter) => format!("{prefix}.removed.{counter}"),
        }
    }
}

/// The arguments of an item queue: those of a queue that drops nothing, and one consumer at a time.
pub(super) fn queue_arguments(queue_type: QueueType) -> FieldTable {
    let mut arguments = lasting_arguments(queue_type);
    let one_at_a_time = ShortString::from("x-single-active-consumer");
    arguments.insert(one_at_a_time, AMQPValue::Boolean(true));
    arguments
}

/// The arguments of a queue that drops nothing, however often its messages are taken and given
/// back.
pub(super) fn lasting_arguments(queue_type: QueueType) -> FieldTable {
    let mut arguments = FieldTable::default();
    let kind = match queue_type {
        QueueType::Quorum => "quorum",
        QueueType::Classic => "classic",
    };
    let mut insert = |name: &str, value| {
        arguments.insert(ShortString::from(name), value);
    };
    insert(
        "x-queue-type",
        AMQPValue::LongString(LongString::from(kind)),
    );
    if queue_type == QueueType::Quorum {
        insert("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT));
        insert(
            "x-consumer-disconnected-timeout",
            AMQPValue::LongLongInt(DISCONNECTED_TIMEOUT_MS),
        );
    }
    arguments
}

/// Operations on the broker over one connection. A refusal closes the channel, so each asks for a
/// usable one.
pub(super) struct Broker {
    pub names: Names,
    pub options: Arc<AmqpOptions>,
    /// Which of the broker's addresses the connection leads to, counted from 0.
    pub address: usize,
    connection: Arc<Connection>,
    channel: Option<Channel>,
}

impl Broker {
    pub(crate) fn new(options: Arc<AmqpOptions>, link: &Link) -> Self {
        Self {
            names: Names::new(&options),
            options,
            address: link.address,
            connection: Arc::clone(&link.connection),
            channel: None,
        }
    }

    /// The same connection for another user of it.
    pub(crate) fn again(&self) -> Self {
        Self {
            names: self.names.clone(),
            options: Arc::clone(&self.options),
            address: self.address,
            connection: Arc::clone(&self.connection),
            channel: None,
        }
    }

    /// A channel for one operation at a time.
    pub(crate) async fn channel(&mut self) -> Result<Channel, BrokerError> {
        if let Some(channel) = self.channel.as_ref().filter(|it| it.status().connected()) {
            return Ok(channel.clone());
        }
        let channel = self.fresh_channel().await?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    /// A channel for the caller alone.
    pub(crate) async fn fresh_channel(&self) -> Result<Channel, BrokerError> {
        timed(self.connection.create_channel()).await
    }

    /// Whether the marker is there.
    pub(crate) async fn has(&mut self, marker: &Marker) -> Result<bool, BrokerError> {
        let name = self.names.marker(marker);
        self.has_exchange(&name).await
    }

    async fn has_exchange(&mut self, name: &str) -> Result<bool, BrokerError> {
        let options = ExchangeDeclareOptions {
            passive: true,
            ..ExchangeDeclareOptions::default()
        };
        let declared = self.declare_exchange(name, options).await;
        found(declared).map(|found| found.is_some())
    }

    /// Declares the marker.
    pub(crate) async fn mark(&mut self, marker: &Marker) -> Result<(), BrokerError> {
        let name = self.names.marker(marker);
        self.declare_exchange(&name, durable()).await
    }

    /// Removes the marker.
    pub(crate) async fn unmark(&mut self, marker: &Marker) -> Result<(), BrokerError> {
        let name = self.names.marker(marker);
        let channel = self.channel().await?;
        timed(channel.exchange_delete(name.into(), ExchangeDeleteOptions::default())).await
    }

    async fn declare_exchange(
        &mut self,
        name: &str,
        options: ExchangeDeclareOptions,
    ) -> Result<(), BrokerError> {
        let channel = self.channel().await?;
        let kind = ExchangeKind::Fanout;
        let declared = channel.exchange_declare(name.into(), kind, options, FieldTable::default());
        timed(declared).await
    }

    /// The exchange that presence is announced on.
    pub(crate) async fn declare_presence(&mut self) -> Result<(), BrokerError> {
        let name = self.names.presence();
        self.declare_exchange(&name, durable()).await
    }

    /// Messages in a counter's queues that nobody holds; none when one of its queues is missing.
    pub(crate) async fn depth(
        &mut self,
        counter: &CounterName,
    ) -> Result<Option<u64>, BrokerError> {
        let mut messages = 0;
        for partition in self.options.partitioning.all() {
            let name = self.names.queue(partition, counter);
            match self.messages(&name).await? {
                Some(of_queue) => messages += of_queue,
                None => return Ok(None),
            }
        }
        Ok(Some(messages))
    }

    /// How many messages a queue has for whoever comes; none when it is not there.
    pub(crate) async fn messages(&mut self, queue: &str) -> Result<Option<u64>, BrokerError> {
        let channel = self.channel().await?;
        let options = QueueDeclareOptions::default().passive();
        let declared = timed(channel.queue_declare(queue.into(), options, FieldTable::default()));
        Ok(found(declared.await)?.map(|queue| u64::from(queue.message_count())))
    }

    /// How many consumers a queue has; none when it is not there.
    pub(crate) async fn consumers(&mut self, queue: &str) -> Result<u32, BrokerError> {
        let channel = self.channel().await?;
        let options = QueueDeclareOptions::default().passive();
        let declared = timed(channel.queue_declare(queue.into(), options, FieldTable::default()));
        Ok(found(declared.await)?.map_or(0, |queue| queue.consumer_count()))
    }

    /// Whether all of the items' exchanges are there.
    pub(crate) async fn has_items(&mut self) -> Result<bool, BrokerError> {
        for partition in self.options.partitioning.all() {
            let exchange = self.names.items(partition);
            if !self.has_exchange(&exchange).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Declares the items' exchanges; what is there already stays. Who calls this must bind all
    /// queues that it knows: what is published to a new exchange is confirmed, however few queues
    /// it reaches.
    pub(crate) async fn declare_items(&mut self) -> Result<(), BrokerError> {
        for partition in self.options.partitioning.all() {
            let exchange = self.names.items(partition);
            self.declare_exchange(&exchange, durable()).await?;
        }
        Ok(())
    }

    /// Declares the counter's queues and binds them; what is there already stays. Only for who has
    /// left word of what a missing queue has lost, or knows that nothing was ever published.
    pub(crate) async fn declare_queues(
        &mut self,
        counter: &CounterName,
    ) -> Result<(), BrokerError> {
        for partition in self.options.partitioning.all() {
            let queue = self.names.queue(partition, counter);
            let channel = self.channel().await?;
            let options = QueueDeclareOptions::durable();
            let arguments = queue_arguments(self.options.queue_type);
            timed(channel.queue_declare(queue.into(), options, arguments)).await?;
        }
        self.bind_queues(counter).await
    }

    /// Binds the counter's queues and creates nothing: an error says what is
    /// [missing](BrokerError::missing).
    pub(crate) async fn bind_queues(&mut self, counter: &CounterName) -> Result<(), BrokerError> {
        for partition in self.options.partitioning.all() {
            let channel = self.channel().await?;
            let bound = channel.queue_bind(
                self.names.queue(partition, counter).into(),
                self.names.items(partition).into(),
                ShortString::default(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            timed(bound).await?;
        }
        Ok(())
    }

    /// Deletes the counter's queues with all that is in them; returns how many messages of items
    /// that was.
    pub(crate) async fn delete_queues(
        &mut self,
        counter: &CounterName,
    ) -> Result<u64, BrokerError> {
        let mut messages = 0;
        for partition in self.options.partitioning.all() {
            let name = self.names.queue(partition, counter);
            messages += self.delete_queue(&name).await?;
        }
        let generation = self.names.generation(counter);
        self.delete_queue(&generation).await?;
        Ok(messages)
    }

    /// Deletes a queue, if it is there, with all that is in it; returns how many messages that was.
    pub(crate) async fn delete_queue(&mut self, name: &str) -> Result<u64, BrokerError> {
        let channel = self.channel().await?;
        let deleted = timed(channel.queue_delete(name.into(), QueueDeleteOptions::default()));
        Ok(found(deleted.await)?.map_or(0, u64::from))
    }

    /// Waits for the lock of those who declare or remove. It ends with its holder's connection.
    pub(crate) async fn lock(&mut self) -> Result<(), BrokerError> {
        self.lock_by(self.names.founding_lock()).await
    }

    /// Waits for the lock of this name, likewise.
    pub(crate) async fn lock_by(&mut self, name: String) -> Result<(), BrokerError> {
        let locked = async {
            while !self.try_lock(&name).await? {
                tokio::time::sleep(LOCK_INTERVAL).await;
            }
            Ok(())
        };
        let locked = tokio::time::timeout(LOCK_MAX, locked).await;
        locked.unwrap_or(Err(BrokerError::Timeout(LOCK_MAX)))
    }

    /// Takes the lock of this name; false while another connection holds it.
    async fn try_lock(&mut self, name: &str) -> Result<bool, BrokerError> {
        let channel = self.channel().await?;
        let options = QueueDeclareOptions::exclusive();
        match timed(channel.queue_declare(name.into(), options, FieldTable::default())).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(LOCKED) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives the lock back.
    pub(crate) async fn unlock(&mut self) -> Result<(), BrokerError> {
        self.unlock_by(self.names.founding_lock()).await
    }

    /// Gives the lock of this name back.
    pub(crate) async fn unlock_by(&mut self, name: String) -> Result<(), BrokerError> {
        let channel = self.channel().await?;
        let deleted = channel.queue_delete(name.into(), QueueDeleteOptions::default());
        timed(deleted).await.map(|_| ())
    }
}

fn durable() -> ExchangeDeclareOptions {
    ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    }
}

/// Whether what was asked for is there.
fn found<T>(answer: Result<T, BrokerError>) -> Result<Option<T>, BrokerError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.missing().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
