//! What nodes say to each other over HTTP: the internal API, version 1.
//!
//! Invariant: whatever decodes is valid, and any bytes either decode or are refused; nothing
//! panics.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /internal/v1/counts` | [`CountsGroup`] | [`CountsAnswers`] |
//! | `POST /internal/v1/contains` | [`ContainsQuery`] | [`Membership`](super::Membership) |
//! | `POST /internal/v1/list` | [`ListingQuery`] | [`Listing`](super::Listing) |
//! | `GET /internal/v1/status` | | [`Status`](super::Status) |
//! | `GET /internal/v1/snapshot` | | the bytes of a snapshot (`headcount-counter`) |
//! | `GET /internal/v1/loss` (a coordinator) | | [`LossPlan`] |
//! | `POST /internal/v1/loss` (a coordinator) | [`LossRequest`] | [`LossReceipt`] |
//!
//! Bodies are JSON. Epochs are 32 hex digits, item hashes 24, ids of losses 16; a set of sequences
//! is its prefix and the ranges beyond it; fields that a release does not know are ignored. A
//! request may name the counter that it is meant for in the header [`COUNTER_HEADER`]; another one
//! refuses it.

mod answers;
mod loss;
mod requests;
#[cfg(test)]
mod tests;
mod wire;

pub use answers::CountsAnswers;
pub use loss::{IncompleteCounter, Loss, LossPlan, LossReceipt, LossRequest, NotLost};
pub use requests::{ContainsQuery, CountsGroup, CountsQuery, ListingQuery};

use std::time::Duration;

use thiserror::Error;

/// Where counts are asked for.
pub const COUNTS_PATH: &str = "/internal/v1/counts";
/// Where one item is asked for.
pub const CONTAINS_PATH: &str = "/internal/v1/contains";
/// Where tenants are listed.
pub const LIST_PATH: &str = "/internal/v1/list";
/// Where a counter's status is.
pub const STATUS_PATH: &str = "/internal/v1/status";
/// Where a counter's snapshot is.
pub const SNAPSHOT_PATH: &str = "/internal/v1/snapshot";
/// Where operators accept losses.
pub const LOSS_PATH: &str = "/internal/v1/loss";

/// The `type` of the problem with which a counter says that as many queries wait for it as may.
pub const BUSY_PROBLEM: &str = "urn:headcount:problem:overloaded";

/// The header that names the counter which a request is meant for: an address may have passed to
/// another one, and two answers of one counter must not look like a majority.
pub const COUNTER_HEADER: &str = "headcount-counter";

/// The `type` of the problem with which a counter says that its store can't be read.
pub const STORE_PROBLEM: &str = "urn:headcount:problem:store-unreadable";

/// The most queries in one request for counts.
pub const GROUP_QUERIES_MAX: usize = 256;

/// The most tenants in one request for counts, unless one query alone names more.
pub const GROUP_TENANTS_MAX: usize = 2_000;

/// The most epochs that the queries of one request for counts require together, or its answers
/// cover together, unless one alone has more: what is sent once is kept by each.
pub const GROUP_EPOCHS_MAX: usize = 65_536;

/// The longest that a counter lets one request wait; a demand for more is answered then.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// A body of the internal API.
pub trait Message: Sized {
    /// Its JSON.
    fn encode(&self) -> Vec<u8>;

    /// Reads what [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// When the bytes are anything else.
    fn decode(bytes: &[u8]) -> Result<Self, ExchangeError>;
}

/// Why bytes are no message.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// Not the JSON of this message.
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
    /// JSON that contradicts itself, or asks for more than one request may.
    #[error("{0}")]
    Invalid(&'static str),
}
