//! Messages between nodes over HTTP: the internal API, version 1.
//!
//! Invariant: every decoded message is valid. Any bytes are either decoded or rejected; nothing
//! panics.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /internal/v1/counts` | [`CountsGroup`] | [`CountsAnswers`] |
//! | `POST /internal/v1/contains` | [`ContainsQuery`] | [`Contains`](super::Contains) |
//! | `POST /internal/v1/list` | [`ListingQuery`] | [`Listing`](super::Listing) |
//! | `GET /internal/v1/status` | | [`Status`](super::Status) |
//! | `GET /internal/v1/snapshot` | | the bytes of a snapshot (`headcount-counter`) |
//! | `GET /internal/v1/loss` (a coordinator) | | [`LossPlan`] |
//! | `POST /internal/v1/loss` (a coordinator) | [`LossRequest`] | [`LossReceipt`] |
//!
//! Bodies are JSON. Epochs are 32 hex digits, item hashes 24, loss IDs 16. A set of sequences is
//! its prefix and the ranges beyond it. Fields that a release does not know are ignored. A request
//! may name the counter that it is meant for in the header [`COUNTER_HEADER`]; any other counter
//! rejects it.

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

/// The path of queries for counts.
pub const COUNTS_PATH: &str = "/internal/v1/counts";
/// The path of queries for one item.
pub const CONTAINS_PATH: &str = "/internal/v1/contains";
/// The path of queries for a list of tenants.
pub const LIST_PATH: &str = "/internal/v1/list";
/// The path of a counter's status.
pub const STATUS_PATH: &str = "/internal/v1/status";
/// The path of a counter's snapshot.
pub const SNAPSHOT_PATH: &str = "/internal/v1/snapshot";
/// The path where operators accept losses.
pub const LOSS_PATH: &str = "/internal/v1/loss";

/// The `type` of the problem by which a counter reports that the limit of waiting queries is
/// reached.
pub const BUSY_PROBLEM: &str = "urn:headcount:problem:overloaded";

/// The header that names the counter that a request is meant for. An address may have passed to
/// another counter, and two answers of one counter must not look like a majority.
pub const COUNTER_HEADER: &str = "headcount-counter";

/// The `type` of the problem by which a counter reports that its store can't be read.
pub const STORE_PROBLEM: &str = "urn:headcount:problem:store-unreadable";

/// Maximum queries in one request for counts.
pub const GROUP_QUERIES_MAX: usize = 256;

/// Maximum tenants in one request for counts, unless a single query names more.
pub const GROUP_TENANTS_MAX: usize = 2_000;

/// Maximum epochs that the queries of one request for counts require together, or its answers cover
/// together, unless a single one has more. What is sent once is stored by each query.
pub const GROUP_EPOCHS_MAX: usize = 65_536;

/// Maximum time that a counter lets one request wait. A request that demands more is answered then.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// A body of the internal API.
pub trait Message: Sized {
    /// Encodes the message as JSON.
    fn encode(&self) -> Vec<u8>;

    /// Decodes what [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// If the bytes are anything else.
    fn decode(bytes: &[u8]) -> Result<Self, ExchangeError>;
}

/// Why bytes can't be decoded as a message.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// The bytes are not the JSON of this message.
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
    /// The JSON contradicts itself, or requests more than one request may.
    #[error("{0}")]
    Invalid(&'static str),
}
