//! The deliveries of all queues of a counter, as one stream.
//!
//! Invariant: the end of a consumer is reported after all of its deliveries.

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll, select_all};
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};

use super::broker_error::BrokerError;
use super::connection::timed;
use super::topology::Broker;
use headcount_model::{CounterName, Partition};

/// An entry of the stream.
pub(super) enum Taken {
    Delivery(Partition, Box<Delivery>),
    Error(lapin::Error),
    /// The stream ended without an error.
    Cancelled,
}

/// The streams of several consumers.
pub(super) type Merged = SelectAll<BoxStream<'static, Taken>>;

/// Starts to consume all queues of counter `name`.
pub(super) async fn consume(broker: &Broker, name: &CounterName) -> Result<Merged, BrokerError> {
    let mut streams = Vec::new();
    for partition in broker.options.partitioning.all() {
        let channel = broker.fresh_channel().await?;
        let queue = broker.names.queue(partition, name);
        let prefetch = broker.options.prefetch;
        streams.push(consume_one(&channel, partition, queue.into(), name, prefetch).await?);
    }
    Ok(select_all(streams))
}

/// Starts to consume a queue, with at most `prefetch` deliveries in flight.
async fn consume_one(
    channel: &Channel,
    partition: Partition,
    queue: ShortString,
    name: &CounterName,
    prefetch: u16,
) -> Result<BoxStream<'static, Taken>, BrokerError> {
    timed(channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
    let options = BasicConsumeOptions::default();
    let consumer =
        channel.basic_consume(queue, name.as_str().into(), options, FieldTable::default());
    let deliveries = timed(consumer).await?.map(move |delivery| match delivery {
        Ok(delivery) => Taken::Delivery(partition, Box::new(delivery)),
        Err(error) => Taken::Error(error),
    });
    let end = futures_util::stream::once(async { Taken::Cancelled });
    Ok(deliveries.chain(end).boxed())
}

/// Whether the broker reports a consumer for every queue. If it does not, that is no proof of a
/// loss: the next run of the startup protocol detects losses.
pub(super) async fn is_consumed(
    broker: &mut Broker,
    name: &CounterName,
) -> Result<bool, BrokerError> {
    for partition in broker.options.partitioning.all() {
        let queue = broker.names.queue(partition, name);
        if broker.consumers(&queue).await? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}
