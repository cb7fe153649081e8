//! The deliveries of all queues of a counter, as one stream.
//!
//! Invariant: how a consumer ended is told after everything that it brought.

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll, select_all};
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};

use super::connection::{BrokerError, timed};
use crate::model::CounterName;

/// What came from a consumer.
pub(super) enum Taken {
    Delivery(ShortString, Box<Delivery>),
    Error(lapin::Error),
    /// The stream ended without an error.
    Cancelled,
}

/// The streams of several consumers.
pub(super) type Merged = SelectAll<BoxStream<'static, Taken>>;

/// Starts to consume, with at most `prefetch` deliveries under way.
pub(super) async fn consume(
    channel: &Channel,
    queue: ShortString,
    name: &CounterName,
    prefetch: u16,
) -> Result<BoxStream<'static, Taken>, BrokerError> {
    timed(channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(
        queue.clone(),
        name.as_str().into(),
        options,
        FieldTable::default(),
    );
    let deliveries = timed(consumer).await?.map(move |delivery| match delivery {
        Ok(delivery) => Taken::Delivery(queue.clone(), Box::new(delivery)),
        Err(error) => Taken::Error(error),
    });
    let end = futures_util::stream::once(async { Taken::Cancelled });
    Ok(deliveries.chain(end).boxed())
}

pub(super) fn merge(streams: Vec<BoxStream<'static, Taken>>) -> Merged {
    select_all(streams)
}
