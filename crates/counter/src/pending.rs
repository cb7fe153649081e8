//! What a counter has applied and not yet committed.
//!
//! Invariant: it is committed and acknowledged as a whole, or not at all.

use tokio::time::Instant;

use headcount_log::DeliveryTag;
use headcount_model::{BatchId, KeptGeneration};

/// Items after which a commit is due however patient the log is.
const COMMIT_ITEMS_MAX: usize = 1 << 16;

/// What waits for a commit.
pub(super) struct Pending {
    /// When the commit is due at the latest.
    pub due: Instant,
    /// The last delivery that the commit will hold.
    pub up_to: DeliveryTag,
    pub items: usize,
    /// How often the log said that batches may have been lost.
    pub losses: u64,
    /// What it said last.
    pub doubt: Option<String>,
    pub barriers: Vec<BatchId>,
    /// When the youngest batch was sealed.
    pub accepted_at_ms: Option<u64>,
    /// Items that are new, and those that were counted before.
    pub counted: u64,
    pub duplicates: u64,
    pub redeliveries: u64,
    pub forks: u64,
    /// What the store is to remember with it.
    pub generation: Option<KeptGeneration>,
    /// Whether any query may be covered by the commit: a loss is accepted, which may be of any
    /// batches, or the log said something of the store.
    pub concerns_all: bool,
}

impl Pending {
    /// Nothing yet, to be committed at `due`.
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
