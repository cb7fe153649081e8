//! The log, which carries every batch from a coordinator to its counters.
//!
//! Contract, for every implementation:
//! - [`Log::append`] returns `Ok` only when the batch is durable and will reach every counter.
//! - Each batch is delivered at least once, in the order of the appends, except for redeliveries.
//! - A counter acknowledges only what it has committed. A batch that is not acknowledged is
//!   delivered again, or its append never returned `Ok`.
//! - An acknowledgement names a delivery ([`DeliveryTag`]). It covers that delivery and all earlier
//!   ones, and no later ones.
//! - The log also reports its own state as deliveries ([`Delivered`]), which are acknowledged in
//!   the same way: the log acts on them only after the counter's store has recorded them.

mod local;
pub mod wire;

pub use local::{LocalDeliveries, LocalLog, local};

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use headcount_model::{Batch, BatchId, KeptGeneration, NewItems, TenantItems};

/// Why an append failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The log refuses the batch permanently. The epoch must end, because its sequence cannot be
    /// used again.
    #[error("the log refused the batch permanently: {0}")]
    Refused(String),
    /// There is no room for the batch. Nothing of it is kept now or later, so its sequence is
    /// unused. The same items can be appended when there is room.
    #[error("there is no room for the batch: {0}")]
    Full(String),
    /// The batch exceeds the log's limit for encoded bytes. Nothing of it is kept now or later, so
    /// its sequence is unused. The same items can be appended in smaller batches.
    #[error("the batch exceeds the limit of {bytes_max} bytes")]
    TooLarge {
        /// The limit for an encoded batch, in bytes. It is less than the size of this one.
        bytes_max: usize,
    },
    /// The log ended while the batch was in flight. The batch may or may not become durable.
    #[error("the log ended; the batch may or may not be durable")]
    OutcomeUnknown,
}

/// The producer's end of a log; cheap to clone.
pub trait Log: Clone + Send + Sync + 'static {
    /// Appends a batch and waits until it is durable. Returns which of its items were new, if the
    /// log [can](Self::tells_new).
    ///
    /// The caller keeps one append in flight per (epoch, partition), so that a gap in the sequences
    /// always proves a loss and never a race. Dropping the future does not cancel the append.
    fn append(
        &self,
        batch: Arc<Batch>,
    ) -> impl Future<Output = Result<Option<NewItems>, AppendError>> + Send;

    /// Whether appends return which items were new. That requires an append to return after the
    /// counter has applied the batch.
    fn tells_new(&self) -> bool {
        false
    }
}

/// The content of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// Batches in order, at least one.
    Batches(Vec<Arc<Batch>>),
    /// This log has delivered or will deliver every batch that was ever appended. A store that has
    /// applied all of them is complete.
    HistoryComplete,
    /// A possible loss: batches may have been lost on the way to this counter. The store is
    /// incomplete until it has caught up.
    PossibleLoss {
        /// The evidence, for the operator.
        why: String,
    },
    /// The store must record this generation. It makes no statement about batches, and batches may
    /// follow before it is acknowledged.
    Generation(KeptGeneration),
}

/// The number of a delivery among all deliveries of one consumer: 1, 2, 3…
///
/// It acknowledges this delivery and all earlier ones, as AMQP's delivery tag with `multiple` does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeliveryTag(u64);

impl DeliveryTag {
    /// The tag of the next delivery.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A delivery with its tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The tag that acknowledges it.
    pub tag: DeliveryTag,
    /// Its content.
    pub delivered: Delivered,
}

/// Why deliveries have ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeliveryError {
    /// A delivery is not a batch that this release can decode. It stays in the queue with all later
    /// ones. Earlier deliveries can still be acknowledged.
    #[error(
        "the first batch in {queue} cannot be decoded: {detail}. Nothing is lost: the queue keeps \
         it and all later batches. Start a release that supports it; or, if it is damaged, stop \
         this counter, run headcount skip-poison (its --help describes what is lost), and start \
         the counter again"
    )]
    Undecodable {
        /// The queue of the delivery.
        queue: String,
        /// Why it cannot be decoded.
        detail: String,
    },
    /// The log refuses this counter.
    #[error("{0}")]
    Refused(String),
}

/// The state of a counter's store that a log checks before it lets the counter consume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Whether the store has ever applied a batch.
    pub holds_position: bool,
    /// Whether the store is complete.
    pub complete: bool,
    /// Whether the operator declared this store to be the history of a cluster that is new to the
    /// log.
    pub adopted: bool,
    /// The generation that the store has recorded.
    pub generation: Option<KeptGeneration>,
}

impl StoreStatus {
    /// Whether the store has ever applied a batch or consumed from a broker.
    #[must_use]
    pub fn has_history(&self) -> bool {
        self.holds_position || self.generation.is_some_and(|kept| kept.is_placed)
    }
}

/// The consumer's end of a log, owned by one counter.
pub trait Deliveries: Send + 'static {
    /// Waits for deliveries and returns those that are available, up to a limit. `None` when there
    /// will be no more: all producers of a log in this process are gone, or the consumer of another
    /// log was stopped. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the log cannot continue without an operator. Unacknowledged deliveries are not lost.
    fn next(&mut self) -> impl Future<Output = Result<Option<Delivery>, DeliveryError>> + Send;

    /// How long the acknowledgement of a delivery may be delayed, so that several deliveries share
    /// a commit. Zero if an append waits for it.
    fn commit_delay_max(&self) -> Duration;

    /// Acknowledges the delivery `up_to` and all that [`next`](Self::next) returned before it, but
    /// none that it returned later.
    fn acknowledge(&mut self, up_to: DeliveryTag) -> impl Future<Output = ()> + Send;

    /// Reports which items of an unacknowledged batch were new. The batch's append returns them
    /// after the acknowledgement. A log with appends that do not wait for it ignores the report.
    fn tell(&mut self, _batch: BatchId, _new: NewItems) {}

    /// Reports that there is no room, for the reason `why`, to keep the unacknowledged deliveries
    /// up to `up_to`, so none of them is committed.
    ///
    /// If appends wait for the acknowledgement, they fail with [`AppendError::Full`]. Appends of
    /// barriers return `Ok`, because nothing of a barrier is kept and no earlier append waits any
    /// more. The method then returns true: nothing is delivered again.
    ///
    /// A log that keeps its deliveries elsewhere takes back *all* unacknowledged ones and delivers
    /// nothing until [`resume`](Self::resume). Then it delivers them all again, in order.
    fn refuse(&mut self, up_to: DeliveryTag, why: &str) -> bool;

    /// Reports that there is room again.
    fn resume(&mut self) {}

    /// Stops consuming permanently. Unacknowledged deliveries return to their queue, and
    /// [`next`](Self::next) returns no more. Earlier acknowledgements are still carried out. Used
    /// for a log that keeps its deliveries elsewhere, after it
    /// [failed](DeliveryError::Undecodable).
    fn leave(&mut self) {}
}

/// Maximum size of an encoded batch of these items, in bytes.
#[must_use]
pub fn batch_bytes(tenants: &[TenantItems]) -> usize {
    wire::OVERHEAD_BYTES + tenants.iter().map(encoded_bytes).sum::<usize>()
}

/// Maximum size of a tenant's items in an encoded batch, in bytes. Limits for batches use it.
#[must_use]
pub fn encoded_bytes(items: &TenantItems) -> usize {
    wire::tenant_bytes(items)
}
