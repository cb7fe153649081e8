//! The log: the way of every batch from a coordinator to its counters.
//!
//! Contract, for every implementation:
//! - [`Log::append`] returns `Ok` only when the batch is durable and will reach every counter.
//! - Deliveries come at least once, in the order of their appends but for redelivery.
//! - Acknowledging means committed: what is not acknowledged comes again, or its append never
//!   returned `Ok`.
//! - An acknowledgement names what it covers ([`DeliveryTag`]): all deliveries up to that one and
//!   none after it.
//! - What the log learns of itself comes as a delivery as well ([`Delivered`]), and is acknowledged
//!   in the same way: the log acts on it only once the counter's store remembers it.

mod local;
pub mod wire;

pub use local::{LocalDeliveries, LocalLog, local};

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use headcount_model::{Batch, BatchId, KeptGeneration, NewItems, TenantItems};

/// Why an append did not return `Ok`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The log refuses the batch for good: the epoch must end, since its sequence can't be given
    /// again.
    #[error("the log refuses the batch for good: {0}")]
    Refused(String),
    /// There is no room to keep the batch: nothing of it is kept, nor ever will be, so its sequence
    /// is still to be given. The same items may be appended once there is room.
    #[error("there is no room to keep the batch: {0}")]
    Full(String),
    /// The log takes no batch of more than so many encoded bytes: nothing of it is kept, nor ever
    /// will be, so its sequence is still to be given. The same items may be appended in smaller
    /// batches.
    #[error("the log takes no batch of more than {bytes_max} bytes")]
    TooLarge {
        /// Bytes of a batch that it takes, and fewer than this one had.
        bytes_max: usize,
    },
    /// The log ended while the batch was on its way: it may or may not become durable.
    #[error("the log ended; the batch may or may not be durable")]
    OutcomeUnknown,
}

/// The appending end; cheap to clone.
pub trait Log: Clone + Send + Sync + 'static {
    /// Appends a batch and waits until it is durable. Tells which of its items were new, where the
    /// log [can](Self::tells_new).
    ///
    /// The caller keeps one append in flight per (epoch, partition), so that a gap in the sequences
    /// is proof of loss, never of a race. Dropping the future does not take the batch back.
    fn append(
        &self,
        batch: Arc<Batch>,
    ) -> impl Future<Output = Result<Option<NewItems>, AppendError>> + Send;

    /// Whether appends tell which items were new: only where they return after the counter has
    /// counted.
    fn tells_new(&self) -> bool {
        false
    }
}

/// What comes out of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// Batches, in order; at least one.
    Batches(Vec<Arc<Batch>>),
    /// Every batch ever appended comes, or came, this way: a store that has applied what came is
    /// complete.
    FromTheBeginning,
    /// Batches may have been lost on their way here: the store is not complete until it has caught
    /// up.
    MayHaveLost {
        /// What was found, for the operator.
        why: String,
    },
    /// The store is to remember this generation. It says nothing of batches, which may come behind
    /// it before it is acknowledged.
    Generation(KeptGeneration),
}

/// The place of a delivery among all that one consuming end has returned: 1, 2, 3…
///
/// As AMQP's delivery tag with `multiple`, it acknowledges its delivery and all before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeliveryTag(u64);

impl DeliveryTag {
    /// The tag of the delivery after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A delivery with the tag that acknowledges it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What to acknowledge it by.
    pub tag: DeliveryTag,
    /// What came.
    pub delivered: Delivered,
}

/// Why nothing is delivered any more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeliveryError {
    /// A delivery is no batch that this release knows. It stays in the queue, and all behind it;
    /// what came before it can still be acknowledged.
    #[error(
        "the first batch in {queue} can't be read: {detail}. Nothing is lost: it stays there, and all behind it. \
         Start a release that knows it; or, if it is damaged, stop this counter, run headcount skip-poison (its \
         --help says what that gives up), and start it again"
    )]
    Undecodable {
        /// Where it is.
        queue: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The log no longer takes this counter.
    #[error("{0}")]
    Refused(String),
}

/// What a log asks of a counter's store before it lets it consume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether it has applied anything, ever.
    pub holds_position: bool,
    /// Whether it is complete.
    pub complete: bool,
    /// Whether the operator says that this store is the history of a cluster that is new to the
    /// log.
    pub adopted: bool,
    /// The generation that it remembers.
    pub generation: Option<KeptGeneration>,
}

impl Standing {
    /// Whether it has applied anything, or consumed from a broker, ever.
    #[must_use]
    pub fn has_history(&self) -> bool {
        self.holds_position || self.generation.is_some_and(|kept| kept.is_placed)
    }
}

/// The consuming end, owned by one counter.
pub trait Deliveries: Send + 'static {
    /// Waits for deliveries and returns all that are there, at most a bounded number; `None` once
    /// nothing comes any more: every appending end of a log in this process is gone, or the
    /// consuming end of another was told to stop. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the log can't go on without an operator. Nothing unacknowledged is lost.
    fn next(&mut self) -> impl Future<Output = Result<Option<Delivery>, DeliveryError>> + Send;

    /// How long what was returned may wait for its acknowledgement, so that several deliveries
    /// share a commit; zero where an append waits for it.
    fn patience(&self) -> Duration;

    /// Acknowledges the delivery with the tag `up_to` and all that [`next`](Self::next) returned
    /// before it, none that it returned after it.
    fn acknowledge(&mut self, up_to: DeliveryTag) -> impl Future<Output = ()> + Send;

    /// Says what of a batch, one that is not acknowledged yet, was new. Its append tells so, once
    /// it is acknowledged; where appends don't wait for that, nobody hears of it.
    fn tell(&mut self, _batch: BatchId, _new: NewItems) {}

    /// Says that there is no room, `why`, to keep what was returned up to `up_to` and is not
    /// acknowledged: none of it is committed. Where appends wait for that, they get
    /// [`AppendError::Full`]; those of barriers `Ok`, since nothing of a barrier is kept, and
    /// nothing that came before one waits any more. Returns true then: nothing of it comes again. A
    /// log whose deliveries are kept elsewhere gives back *all* that is not acknowledged, and has
    /// nothing more until [`resume`](Self::resume). Then everything comes again, in its order.
    fn refuse(&mut self, up_to: DeliveryTag, why: &str) -> bool;

    /// Says that there is room again.
    fn resume(&mut self) {}

    /// Gives up consuming for good: what is not acknowledged goes back to where it came from, and
    /// [`next`](Self::next) has nothing more. Acknowledgements given before are still carried out.
    /// For a log whose deliveries are kept elsewhere, once it [failed](DeliveryError::Undecodable).
    fn leave(&mut self) {}
}

/// Bytes that a batch of these items takes at most, encoded.
#[must_use]
pub fn batch_bytes(tenants: &[TenantItems]) -> usize {
    wire::OVERHEAD_BYTES + tenants.iter().map(encoded_bytes).sum::<usize>()
}

/// Bytes that a tenant's items take at most in an encoded batch: what limits on batches count.
#[must_use]
pub fn encoded_bytes(items: &TenantItems) -> usize {
    wire::tenant_bytes(items)
}
