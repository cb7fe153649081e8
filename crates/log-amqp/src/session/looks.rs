//! What a session looks at: before it consumes, and while it does.
//!
//! Invariant: a look changes nothing.

use tokio::time::Instant;

use super::super::broker_error::BrokerError;
use super::super::generation::Found;
use super::super::protocol::Facts;
use super::super::topology::{Broker, Marker};
use super::super::{announcement, generation_queue, merged};
use super::Session;
use headcount_model::KeptGeneration;

/// At every how many of these looks it looks for the marker of a loss too: RabbitMQ logs an error
/// when that is not there.
const TOLD_LOOKS: u32 = 4;

impl Session {
    /// Everything that decides what to do before consuming, for a store that remembers `kept`.
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

    /// Whether the queues have their consumer still, and, at every so many looks, whether nobody
    /// has left word since of a loss. Of a removal the end of the consumer tells.
    pub(super) async fn is_as_settled(
        &self,
        broker: &mut Broker,
        looked: u32,
    ) -> Result<bool, BrokerError> {
        let is_consumed = merged::is_consumed(broker, &self.name).await?;
        let looks = looked.is_multiple_of(TOLD_LOOKS);
        let is_told = looks && broker.has(&Marker::Lost(self.name.clone())).await?;
        Ok(is_consumed && !is_told && !self.is_unnamed())
    }

    /// Whether it may have missed, while it was away, what a coordinator that does not name it
    /// acknowledged. In this life that was told at most once: coordinators reach a counter that
    /// they hear.
    fn is_unnamed(&self) -> bool {
        !self.told && announcement::is_unnamed(&self.nodes.borrow(), &self.name, Instant::now())
    }

    /// Whether there is a marker of a loss, or of the counter's removal.
    pub(super) async fn is_told_of(&self, broker: &mut Broker) -> Result<bool, BrokerError> {
        let lost = Marker::Lost(self.name.clone());
        Ok(broker.has(&lost).await? || broker.has(&Marker::Removed(self.name.clone())).await?)
    }
}
