//! Deliveries that a counter has applied but not committed.
//!
//! Invariant: they are committed and acknowledged as a whole, or not at all.

use tokio::time::Instant;

use headcount_log::DeliveryTag;
use headcount_model::{BatchId, KeptGeneration};

/// Number of items that makes a commit due, regardless of the delay that the log allows.
const COMMIT_ITEMS_MAX: usize = 1 << 16;

/// Deliveries that wait for a commit.
pub(super) struct Pending {
    /// Deadline of the commit.
    pub due: Instant,
    /// The last delivery that the commit holds.
    pub up_to: DeliveryTag,
    pub items: usize,
    /// How often the log reported a possible loss.
    pub losses: u64,
    /// Why batches may have been lost, as the log last reported.
    pub doubt: Option<String>,
    pub barriers: Vec<BatchId>,
    /// When the newest batch was sealed.
    pub accepted_at_ms: Option<u64>,
    /// Items counted for the first time.
    pub counted: u64,
    /// Items that had been counted before.
    pub duplicates: u64,
    pub redeliveries: u64,
    pub forks: u64,
    /// The generation to record in the store with the commit.
    pub generation: Option<KeptGeneration>,
    /// Whether the commit may cover any query: it accepts a loss, which may concern any batch, or
    /// contains an event of the log about the store.
    pub concerns_all: bool,
}

impl Pending {
    /// Nothing yet; the commit is due at `due`.
    pub(crate) fn new(due: Instant) -> Self {
        Self {
            due,
            up_to: DeliveryTag::default(),
            items: 0,
            losses: 0,
            doubt: None,
            barriers: Vec::new(),
            accepted_at_ms: None,
            counted: 0,
            duplicates: 0,
            redeliveries: 0,
            forks: 0,
            generation: None,
            concerns_all: false,
        }
    }

    /// Whether the commit is due now.
    pub(crate) fn is_due(&self) -> bool {
        !self.barriers.is_empty()
            || self.concerns_all
            || self.items >= COMMIT_ITEMS_MAX
            || self.due <= Instant::now()
    }
}
