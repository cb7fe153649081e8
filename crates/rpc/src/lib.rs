//! RPC between nodes: the contract of queries, their messages over HTTP ([`messages`]), and clients
//! of remote nodes ([`remote`]).
//!
//! Invariant: the counts and the coverage of an answer come from the same commit.
//!
//! [`Queries`] is what coordinators require of a counter, local or remote. Its contract: a query
//! waits, at most `wait`, until the counter is complete and covers the requirement in every
//! partition that it holds; it then answers with what it has, and states for each partition whether
//! that covers the requirement. A query that demands barriers waits for those, and for nothing
//! else. A query that does not have to wait is answered however many others wait. A query that
//! would have to wait while the limit of waiting queries is reached is rejected as
//! [`QueryError::Busy`]. Dropping the future of a query ends its wait.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests spawn tasks directly")
)]

pub mod messages;
pub mod remote;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use thiserror::Error;

use headcount_model::{BatchId, ItemHash, LossId, Partition, Requirement, TenantName};

/// What an answer must cover, and how long the counter may wait until it does.
#[derive(Debug, Clone, Default)]
pub struct ReadRequirement {
    /// What the answer must cover.
    pub requirement: Requirement,
    /// Barriers that must have passed through the counter's own queue in its current incarnation; a
    /// later barrier of the same epoch also counts. A barrier that came with a snapshot, or before
    /// a restart, proves nothing about the queue.
    pub barriers: Vec<BatchId>,
    /// How long the counter may wait until the answer covers that.
    pub wait: Duration,
    /// Whether the answer reports all that it covers, or only the epochs that changed in the
    /// counter's incarnation.
    pub whole_position: bool,
}

/// The coverage of an answer: what it includes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// The counter's current incarnation: random, new at every start. The counter may have lost
    /// since what it held in an earlier incarnation.
    pub life: u64,
    /// Whether every demanded barrier has passed through the counter's own queue in this
    /// incarnation.
    pub barriers: bool,
    /// The partitions that the counter holds, ascending, each with whether the counter is complete
    /// there and the answer covers the requirement.
    pub partitions: Vec<(Partition, bool)>,
    /// What the answer covers, as far as the demand requests it.
    pub covered: Requirement,
    /// The ID of the loss after which the counter is not complete; `None` if it is complete, or if
    /// its release does not report the ID.
    pub loss: Option<LossId>,
}

impl Coverage {
    /// Whether the answer covers the demand, in every partition that the counter holds.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.barriers && self.partitions.iter().all(|&(_, covers)| covers)
    }
}

/// The answer to a query for counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// The coverage of the answer.
    pub cover: Coverage,
    /// For each requested tenant, in order, its counts in the order of [`Coverage::partitions`].
    pub counts: Vec<Vec<u64>>,
}

/// The answer to a query for one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contains {
    /// The coverage of the answer.
    pub cover: Coverage,
    /// Whether the item is counted.
    pub counted: bool,
}

/// Which tenants to list.
#[derive(Debug, Clone)]
pub struct ListQuery {
    /// Only tenants with this prefix in their names.
    pub prefix: String,
    /// Only tenants after this name.
    pub after: Option<String>,
    /// Maximum number of tenants.
    pub limit: usize,
}

/// A page of tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The coverage of the answer.
    pub cover: Coverage,
    /// Tenants in ascending order of the bytes of their names, each with its counts in the order of
    /// [`Coverage::partitions`].
    pub tenants: Vec<(TenantName, Vec<u64>)>,
    /// Whether more tenants follow.
    pub more: bool,
}

/// The status that a counter reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Whether it has everything that it should have.
    pub complete: bool,
    /// Tenants with items.
    pub tenants: u64,
    /// Items counted, over all tenants.
    pub items: u64,
    /// Epochs in its position, over all partitions.
    pub epochs: u64,
    /// The epoch that it applied last, with its greatest sequence; `None` if it has applied none in
    /// this incarnation.
    pub last_applied: Option<(String, u64)>,
    /// Ranges of sequences known to be missing.
    pub holes: u64,
    /// Age of the last applied batch when it was applied, in milliseconds.
    pub lag_ms: u64,
    /// Batches that were redelivered, in this incarnation.
    pub redeliveries: u64,
    /// Snapshots ingested, in this incarnation.
    pub snapshots: u64,
    /// Batches with a sequence that was applied before with other content, in this incarnation.
    pub forks: u64,
    /// Bytes of the store's files.
    pub disk_bytes: u64,
    /// Bytes of memory that grow with the stored data.
    pub memory_bytes: u64,
    /// Sorted runs in its store.
    pub runs: u64,
    /// Why the counter may not have everything, as its log reported in this incarnation; `None`
    /// once it is complete.
    pub doubt: Option<String>,
    /// Why the counter takes nothing from its queue, for the rest of this incarnation or while its
    /// disk is full, and what the operator can do. The counter still answers queries.
    pub problem: Option<String>,
}

/// Why a query failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueryError {
    /// The counter does not cover the demand, and the limit of waiting queries is reached.
    #[error("too many queries are waiting for the counter")]
    Busy,
    /// The counter is not running, or can't be reached.
    #[error("the counter is unreachable: {0}")]
    Unreachable(String),
    /// The counter's store can't be read.
    #[error("the counter's store can't be read: {0}")]
    Store(String),
}

/// The bytes of a snapshot, in frames of bounded size.
pub type SnapshotStream = BoxStream<'static, Result<Bytes, QueryError>>;

/// A counter from which others can catch up.
pub trait Peer: Queries {
    /// Returns the state of the counter's last commit with all its keys. The counter keeps running.
    fn snapshot(&self) -> BoxFuture<'_, Result<SnapshotStream, QueryError>>;
}

/// A counter that coordinators can query. The module documents the contract.
pub trait Queries: Send + Sync + 'static {
    /// The counter's name.
    fn name(&self) -> &str;

    /// Returns the counts of several tenants, from one commit.
    fn counts(
        &self,
        tenants: Arc<[TenantName]>,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Counts, QueryError>>;

    /// Returns whether an item is counted.
    fn contains(
        &self,
        tenant: TenantName,
        hash: ItemHash,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Contains, QueryError>>;

    /// Returns a page of tenants, from one commit.
    fn list(
        &self,
        query: Arc<ListQuery>,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Listing, QueryError>>;

    /// Returns the counter's status, without waiting.
    fn status(&self) -> BoxFuture<'_, Result<Status, QueryError>>;
}
