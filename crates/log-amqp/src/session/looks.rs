//! The checks of a session: before it consumes, and while it consumes.
//!
//! Invariant: a check changes nothing.

use tokio::time::Instant;

use super::super::broker_error::BrokerError;
use super::super::generation::Found;
use super::super::startup::Facts;
use super::super::topology::{Broker, Marker};
use super::super::{announcement, delivery_streams, generation_queue};
use super::Session;
use headcount_model::KeptGeneration;

/// One of so many checks also looks for the `lost` marker. It is not done every time because
/// RabbitMQ logs an error when the marker does not exist.
const TOLD_LOOKS: u32 = 4;

impl Session {
    /// Reads all facts that decide what to do before consuming. `kept` is the store's generation.
    pub(super) async fn look(
        &self,
        broker: &mut Broker,
        kept: Option<KeptGeneration>,
    ) -> Result<Facts, BrokerError> {
        let name = &self.name;
        let founded = broker.has(&Marker::Founded).await?;
        let generation = match founded {
            true => generation_queue::look(broker, name, kept).await?,
            false => Found::default(),
        };
        Ok(Facts {
            founded,
            founding: broker.has(&Marker::Founding(name.clone())).await?,
            started: broker.has(&Marker::Started(name.clone())).await?,
            lost: broker.has(&Marker::Lost(name.clone())).await?,
            replaced: broker.has(&Marker::Replaced).await?,
            removed: broker.has(&Marker::Removed(name.clone())).await?,
            queues: broker.depth(name).await?.is_some(),
            cancelled: self.cancelled,
            vanished: self.vanished,
            first: self.first,
            unnamed: self.is_unnamed(),
            generation,
        })
    }

    /// Whether the queues still have their consumer, no coordinator omits this counter, and, in one
    /// of [`TOLD_LOOKS`] checks, no marker reports a new loss. The removal of the counter needs no
    /// check: it ends the consumer.
    pub(super) async fn is_as_settled(
        &self,
        broker: &mut Broker,
        looked: u32,
    ) -> Result<bool, BrokerError> {
        let is_consumed = delivery_streams::is_consumed(broker, &self.name).await?;
        let looks = looked.is_multiple_of(TOLD_LOOKS);
        let is_told = looks && broker.has(&Marker::Lost(self.name.clone())).await?;
        Ok(is_consumed && !is_told && !self.is_unnamed())
    }

    /// Whether a coordinator that does not name this counter may have acknowledged batches while
    /// the counter was away. This is reported at most once in an incarnation, because coordinators
    /// publish to a counter whose announcements they receive.
    fn is_unnamed(&self) -> bool {
        !self.told && announcement::is_unnamed(&self.nodes.borrow(), &self.name, Instant::now())
    }

    /// Whether a marker reports a loss, or the counter's removal.
    pub(super) async fn is_told_of(&self, broker: &mut Broker) -> Result<bool, BrokerError> {
        let lost = Marker::Lost(self.name.clone());
        Ok(broker.has(&lost).await? || broker.has(&Marker::Removed(self.name.clone())).await?)
    }
}
