//! The objects on the broker: names of exchanges, queues and markers, and the operations on them.
//!
//! Invariant: an item queue never expires, drops or limits anything, and has one active consumer.
//!
//! A marker is a durable exchange to which nothing is published. Its existence is a durable fact.

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

/// How often a delivery may be returned before the broker drops it. Without a value, RabbitMQ 3.10
/// does not limit this, but 4.x uses 20; -1 drops a delivery at its first redelivery on 3.10.
const DELIVERY_LIMIT: i64 = 1_000_000_000;
/// How long a queue waits for a consumer on an unreachable broker node before its deliveries go to
/// the next consumer, in milliseconds. The default of RabbitMQ 4.3 is a minute: nobody has these
/// deliveries then, and later ones overtake them. Earlier releases ignore this and never wait.
const DISCONNECTED_TIMEOUT_MS: i64 = 0;
/// The interval at which a lock held by another connection is tried again.
const LOCK_INTERVAL: Duration = Duration::from_millis(250);
/// The longest wait for a lock: longer than the broker needs to close a connection that hangs.
const LOCK_MAX: Duration = Duration::from_secs(60);
/// The broker's reply code when another connection holds an exclusive queue.
const LOCKED: u16 = 405;

/// A fact that the broker stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Marker {
    /// The bootstrap is complete: items may be published.
    Founded,
    /// The counter's queue existed before the first item.
    Founding(CounterName),
    /// The counter has consumed, or is about to.
    Started(CounterName),
    /// The counter's queue was missing and was declared again.
    Lost(CounterName),
    /// Some counter holds items that this broker never carried.
    Replaced,
    /// The counter was removed; its name cannot be used again.
    Removed(CounterName),
}

/// The names that derive from the prefix of the options.
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

    /// The queue of one connection that receives announcements.
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

/// The arguments of an item queue: it drops nothing and has one active consumer.
pub(super) fn queue_arguments(queue_type: QueueType) -> FieldTable {
    let mut arguments = lasting_arguments(queue_type);
    let one_at_a_time = ShortString::from("x-single-active-consumer");
    arguments.insert(one_at_a_time, AMQPValue::Boolean(true));
    arguments
}

/// The arguments of a queue that drops nothing, however often its messages are returned.
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

/// Operations on the broker over one connection. A refusal closes the channel, so each operation
/// asks for an open one.
pub(super) struct Broker {
    pub names: Names,
    pub options: Arc<AmqpOptions>,
    /// The index of the broker's address that the connection leads to.
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

    /// The same connection, with a channel of its own.
    pub(crate) fn again(&self) -> Self {
        Self {
            names: self.names.clone(),
            options: Arc::clone(&self.options),
            address: self.address,
            connection: Arc::clone(&self.connection),
            channel: None,
        }
    }

    /// A channel that operations share, one at a time.
    pub(crate) async fn channel(&mut self) -> Result<Channel, BrokerError> {
        if let Some(channel) = self.channel.as_ref().filter(|it| it.status().connected()) {
            return Ok(channel.clone());
        }
        let channel = self.fresh_channel().await?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    /// A channel that only the caller uses.
    pub(crate) async fn fresh_channel(&self) -> Result<Channel, BrokerError> {
        timed(self.connection.create_channel()).await
    }

    /// Whether the marker exists.
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

    /// Declares the exchange for announcements.
    pub(crate) async fn declare_presence(&mut self) -> Result<(), BrokerError> {
        let name = self.names.presence();
        self.declare_exchange(&name, durable()).await
    }

    /// Ready messages in all of a counter's queues; none when one of its queues is missing.
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

    /// The number of ready messages in a queue; none when the queue is missing.
    pub(crate) async fn messages(&mut self, queue: &str) -> Result<Option<u64>, BrokerError> {
        let channel = self.channel().await?;
        let options = QueueDeclareOptions::default().passive();
        let declared = timed(channel.queue_declare(queue.into(), options, FieldTable::default()));
        Ok(found(declared.await)?.map(|queue| u64::from(queue.message_count())))
    }

    /// The number of consumers of a queue; 0 when the queue is missing.
    pub(crate) async fn consumers(&mut self, queue: &str) -> Result<u32, BrokerError> {
        let channel = self.channel().await?;
        let options = QueueDeclareOptions::default().passive();
        let declared = timed(channel.queue_declare(queue.into(), options, FieldTable::default()));
        Ok(found(declared.await)?.map_or(0, |queue| queue.consumer_count()))
    }

    /// Whether the exchanges for items of all partitions exist.
    pub(crate) async fn has_items(&mut self) -> Result<bool, BrokerError> {
        for partition in self.options.partitioning.all() {
            let exchange = self.names.items(partition);
            if !self.has_exchange(&exchange).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Declares the exchanges for items; existing ones stay. The caller must bind all queues that
    /// it knows: a new exchange confirms what is published to it even without bound queues.
    pub(crate) async fn declare_items(&mut self) -> Result<(), BrokerError> {
        for partition in self.options.partitioning.all() {
            let exchange = self.names.items(partition);
            self.declare_exchange(&exchange, durable()).await?;
        }
        Ok(())
    }

    /// Declares and binds the counter's queues; existing ones stay. Call this only after the loss
    /// of a missing queue is recorded, or when nothing was ever published.
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

    /// Binds the counter's queues without creating them. The error reports what is
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

    /// Deletes the counter's queues and their content; returns the number of item messages.
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

    /// Deletes a queue, if it exists, and its content; returns the number of messages.
    pub(crate) async fn delete_queue(&mut self, name: &str) -> Result<u64, BrokerError> {
        let channel = self.channel().await?;
        let deleted = timed(channel.queue_delete(name.into(), QueueDeleteOptions::default()));
        Ok(found(deleted.await)?.map_or(0, u64::from))
    }

    /// Waits for the lock on declaring and removing. It ends with the connection of its holder.
    pub(crate) async fn lock(&mut self) -> Result<(), BrokerError> {
        self.lock_by(self.names.founding_lock()).await
    }

    /// Waits for the lock of this name. It also ends with the connection of its holder.
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

    /// Releases the lock.
    pub(crate) async fn unlock(&mut self) -> Result<(), BrokerError> {
        self.unlock_by(self.names.founding_lock()).await
    }

    /// Releases the lock of this name.
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

/// The result, or none when the broker reports that the object is missing.
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
