//! What nodes ask each other: the contract of queries, what they say to each other over HTTP
//! ([`messages`]), and a counter that is asked so ([`remote`]).
//!
//! Invariant: an answer's numbers and what it says it covers come from the same commit.
//!
//! [`Queries`] is what coordinators need from a counter, wherever it runs. Its contract: a query
//! waits until the counter is complete and covers the requirement in every partition that it holds,
//! at most `wait`; it then answers with what it has and says per partition whether that covers the
//! requirement. A query that demands barriers waits for those, and for nothing else. One that need
//! not wait is answered however many wait; one that would have to, when as many do as may, is
//! refused as [`QueryError::Busy`]. A query whose future is dropped waits no longer.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests start what they test")
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

/// What an answer must cover, and how long the counter may wait for it.
#[derive(Debug, Clone, Default)]
pub struct Demand {
    /// What the answer must cover.
    pub requirement: Requirement,
    /// Barriers that must have come through the counter's own queue in its present life, at least
    /// these or later ones of their epochs. One that came by snapshot, or before a restart, proves
    /// nothing about the queue.
    pub barriers: Vec<BatchId>,
    /// How long to wait until it does.
    pub wait: Duration,
    /// Whether the answer names all that it covers, or only the epochs that changed in the
    /// counter's life.
    pub whole_position: bool,
}

/// How far an answer goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cover {
    /// The counter's present life: random, new at every start. What a counter held in an earlier
    /// life it may have lost since.
    pub life: u64,
    /// Whether every barrier that was demanded has come through the counter's own queue in this
    /// life.
    pub barriers: bool,
    /// The partitions that the counter holds, ascending, each with whether the answer is complete
    /// there and covers what was demanded.
    pub partitions: Vec<(Partition, bool)>,
    /// What the answer covers, as far as the demand asked.
    pub covered: Requirement,
    /// What names the loss after which the counter is not complete; `None` for one that is, or
    /// whose release doesn't say.
    pub loss: Option<LossId>,
}

impl Cover {
    /// Whether the answer covers what was demanded, in every partition that the counter holds.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.barriers && self.partitions.iter().all(|&(_, covers)| covers)
    }
}

/// The answer to a query for counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// How far the answer goes.
    pub cover: Cover,
    /// For each tenant asked for, in that order, its counts in [`Cover::partitions`].
    pub counts: Vec<Vec<u64>>,
}

/// The answer to a query for one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// How far the answer goes.
    pub cover: Cover,
    /// Whether the item is counted.
    pub counted: bool,
}

/// Which tenants to list.
#[derive(Debug, Clone)]
pub struct ListQuery {
    /// Only tenants whose names start so.
    pub prefix: String,
    /// Only tenants after this name.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// A page of tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// How far the answer goes.
    pub cover: Cover,
    /// Tenants in ascending order of their bytes, each with its counts in [`Cover::partitions`].
    pub tenants: Vec<(TenantName, Vec<u64>)>,
    /// Whether there are more after these.
    pub more: bool,
}

/// What a counter says of itself.
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
    /// The epochs in its position, over all partitions.
    pub epochs: u64,
    /// The epoch that it applied last with its greatest sequence, if it applied any in this life.
    pub last_applied: Option<(String, u64)>,
    /// Ranges of sequences known to be missing.
    pub holes: u64,
    /// How old the last applied batch was when it was applied, in milliseconds.
    pub lag_ms: u64,
    /// Batches that came a second time, in this life.
    pub redeliveries: u64,
    /// Snapshots united with the store, in this life.
    pub snapshots: u64,
    /// Batches of a sequence that had come before with other content, in this life.
    pub forks: u64,
    /// Bytes of its files.
    pub disk_bytes: u64,
    /// Bytes of memory that grow with what it holds.
    pub memory_bytes: u64,
    /// Sorted runs in its store.
    pub runs: u64,
    /// Why it may not have everything, as its log told it in this life; none once it is complete.
    pub doubt: Option<String>,
    /// Why it takes nothing from its queue, in this life or as long as its disk is full, and what
    /// its operator does about that; it goes on answering.
    pub problem: Option<String>,
}

/// Why a counter gives no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueryError {
    /// It does not cover what is asked for, and as many queries wait for that as may.
    #[error("too many queries wait for the counter")]
    Busy,
    /// It does not run, or can't be reached.
    #[error("the counter can't be reached: {0}")]
    Unreachable(String),
    /// Its store can't be read.
    #[error("the counter's store can't be read: {0}")]
    Store(String),
}

/// A snapshot's bytes as they are sent, in frames of bounded size.
pub type SnapshotStream = BoxStream<'static, Result<Bytes, QueryError>>;

/// What a counter that catches up asks of another, beside its queries.
pub trait Peer: Queries {
    /// The counter's last commit with all its keys, while it goes on.
    fn snapshot(&self) -> BoxFuture<'_, Result<SnapshotStream, QueryError>>;
}

/// What a coordinator asks of a counter. The contract is the module's.
pub trait Queries: Send + Sync + 'static {
    /// The counter's name.
    fn name(&self) -> &str;

    /// Counts of several tenants, of one commit.
    fn counts(
        &self,
        tenants: Arc<[TenantName]>,
        demand: Demand,
    ) -> BoxFuture<'_, Result<Counts, QueryError>>;

    /// Whether an item is counted.
    fn contains(
        &self,
        tenant: TenantName,
        hash: ItemHash,
        demand: Demand,
    ) -> BoxFuture<'_, Result<Membership, QueryError>>;

    /// A page of tenants, of one commit.
    fn list(
        &self,
        query: Arc<ListQuery>,
        demand: Demand,
    ) -> BoxFuture<'_, Result<Listing, QueryError>>;

    /// What the counter says of itself, at once.
    fn status(&self) -> BoxFuture<'_, Result<Status, QueryError>>;
}
