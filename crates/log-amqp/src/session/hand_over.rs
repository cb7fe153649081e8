//! The consuming phase of a session.
//!
//! Invariant: a delivery that does not decode ends the session, and nothing behind it is delivered.

use std::sync::Arc;

use futures_util::StreamExt;
use tokio::time::{Instant, MissedTickBehavior};

use super::super::consumer::Handed;
use super::super::delivery_streams::{Merged, Taken};
use super::super::topology::Broker;
use super::{CONSUMER_INTERVAL, End, Session};
use headcount_log::{DeliveryError, wire};

impl Session {
    /// Passes deliveries on until the session ends.
    pub(super) async fn hand_over(&self, broker: &mut Broker, merged: &mut Merged) -> End {
        let first = Instant::now() + CONSUMER_INTERVAL;
        let mut looks = tokio::time::interval_at(first, CONSUMER_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = 1;
        loop {
            let taken = tokio::select! {
                taken = merged.next() => taken,
                () = self.handing.closed() => return End::Dropped,
                _ = looks.tick() => match self.is_as_settled(broker, looked).await {
                    Ok(true) => {
                        looked += 1;
                        continue;
                    }
                    Ok(false) => return End::Lost,
                    Err(error) => return End::Broken(error),
                },
            };
            let (partition, delivery) = match taken {
                Some(Taken::Delivery(partition, delivery)) => (partition, delivery),
                Some(Taken::Cancelled) | None => return End::Cancelled,
                Some(Taken::Error(error)) => {
                    tracing::debug!(%error, "consumer ended with an error");
                    return End::Lost;
                }
            };
            let batch = match wire::decode_of(partition, &delivery.data) {
                Ok(batch) => Arc::new(batch),
                Err(error) => {
                    return End::Failed(DeliveryError::Undecodable {
                        queue: broker.names.queue(partition, &self.name),
                        detail: error.to_string(),
                    });
                }
            };
            let handed = Handed::Batch {
                batch,
                bytes: delivery.data.len(),
                acker: delivery.acker,
            };
            if self.handing.send(handed).await.is_err() {
                return End::Dropped;
            }
        }
    }
}
