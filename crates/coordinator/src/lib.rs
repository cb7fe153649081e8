//! The coordinator: admits items, groups them into batches, appends those to the log, answers
//! reads.
//!
//! Invariant: an item is acknowledged only after the append of its batch returned `Ok`. Where that
//! is not known, the client hears so, and posting again is safe.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests start what they test")
)]

mod admission;
mod appender;
mod ask;
mod barriers;
mod batcher;
mod ending;
mod losses;
mod members;
mod merge;
mod meters;
mod nearest;
mod neighbours;
mod parts;
mod reads;
mod repair;
mod replicas;
mod session;

#[cfg(test)]
mod tests;

pub use admission::{Admission, AdmissionLimits, LogState, Refusal};
pub use ending::Fatal;
use losses::Planned;
pub use losses::{Aftermath, Incomplete, Loss, LossPlan, NotLost, StillIncomplete};
pub use members::{CounterView, Hearsay};
pub use neighbours::{Neighbour, NeighbourRole, SILENCE_MAX};
pub use reads::{Consistency, Read, ReadError, ReadOptions};
pub use repair::{AcceptLossError, TendOptions};
pub use replicas::Replicas;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::admission::{Gate, Ticket, waiting_bytes};
use self::barriers::Barriers;
use self::batcher::{Batcher, BatcherOptions, Durable, LogEnded, NotAppended};
use self::ending::Ending;
use self::members::Members;
use self::meters::Meters;
use self::nearest::Nearest;
use self::neighbours::Neighbours;
use self::session::Session;
use headcount_log::Log;
use headcount_model::{
    BarrierEpochs, BatchId, Epoch, Partition, Partitioning, TenantItems, Token, TokenEntries,
    item_count,
};
use headcount_runtime::supervisor::{Supervisor, UnaskedEnd};
use headcount_telemetry as telemetry;

/// A coordinator's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoordinatorOptions {
    /// Encoded bytes after which a batch takes no further post.
    pub batch_bytes_max: usize,
    /// What may be admitted and not yet durable.
    pub admission: AdmissionLimits,
    /// How long a post may wait to become durable, in all; at most
    /// [`ACCEPT_TIMEOUT_MAX`](Self::ACCEPT_TIMEOUT_MAX).
    pub accept_timeout: Duration,
    /// Strong reads at once; each has a barrier and asks for whole positions.
    pub strong_reads_max: usize,
}

impl CoordinatorOptions {
    /// The longest that a post may wait to become durable. What a coordinator that fell silent
    /// acknowledges late must not be what was signed as lost in its absence: a signature takes it
    /// for gone after twice as long.
    pub const ACCEPT_TIMEOUT_MAX: Duration = Duration::from_secs(SILENCE_MAX.as_secs() / 2);
}

/// Barriers that may wait beside those of strong reads: of the start read, of tending, of a plan.
const OTHER_BARRIERS_MAX: usize = 16;

/// Why a post is not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AcceptError {
    /// Rejected: as many posts wait as may.
    #[error("too many posts are waiting to become durable")]
    Overloaded,
    /// Rejected: the process is going down.
    #[error("this node is going down")]
    Closed,
    /// Rejected: the log takes nothing now.
    #[error("the broker takes nothing now: it is short of memory or disk")]
    LogBlocked,
    /// Rejected: the named counter is too far behind.
    #[error("the counter {0} is too far behind")]
    CountersLag(String),
    /// Rejected: there is no room on the disk.
    #[error("there is no room on the disk")]
    DiskFull,
    /// Rejected: it makes a batch that the log does not take, which takes so many bytes.
    #[error("the broker takes messages of at most {0} bytes")]
    TooLarge(usize),
    /// Unknown: it did not become durable in time, but still may.
    #[error("the items did not become durable in time")]
    TimedOut,
    /// Unknown: the log ended under it.
    #[error("the log ended before it said whether the items are durable")]
    LogEnded,
}

impl From<NotAppended> for AcceptError {
    fn from(why: NotAppended) -> Self {
        match why {
            NotAppended::Full => Self::DiskFull,
            NotAppended::TooLarge { bytes_max } => Self::TooLarge(bytes_max),
            NotAppended::LogEnded => Self::LogEnded,
        }
    }
}

/// What an acknowledged post is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// What a read must cover to include its items.
    pub token: Token,
    /// How many of its items were counted for the first time, where the log tells that: an item
    /// that several posts bring at once is told to one of them.
    pub new: Option<u64>,
}

/// The handle of a coordinator; cheap to clone. Its batchers end when the last handle is dropped.
#[derive(Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
}

struct Inner {
    epoch: Epoch,
    partitioning: Partitioning,
    options: CoordinatorOptions,
    gate: Gate,
    batchers: Vec<Batcher>,
    /// Whether the log tells which items were new.
    tells_new: bool,
    /// Barriers have epochs of their own: they are in no position, so they would look like holes.
    barriers: Vec<Barriers>,
    members: Members,
    neighbours: Mutex<Neighbours>,
    nearest: Nearest,
    session: Session,
    strong_reads: Semaphore,
    /// What was last found to be lost.
    planned: Mutex<Planned>,
    ending: Arc<Ending>,
    supervisor: Supervisor,
    meters: Meters,
}

impl Coordinator {
    /// A coordinator of a new life over a log: its items go under `epoch`, each of its barriers
    /// under one of `barrier_epochs`. A majority is one of the counters in `named` and of those
    /// that [are seen](Self::set_member). Reads are not exact until [`start`](Self::start). Must be
    /// called on a Tokio runtime, where `supervisor` watches over the batchers.
    pub fn new(
        epoch: Epoch,
        barrier_epochs: BarrierEpochs,
        partitioning: Partitioning,
        log: &impl Log,
        named: Vec<String>,
        options: CoordinatorOptions,
        supervisor: &Supervisor,
    ) -> Self {
        let ending = Arc::new(Ending::new());
        let batcher = |partition| {
            let options = BatcherOptions {
                partition,
                epoch,
                batch_bytes_max: options.batch_bytes_max,
                waiting_posts_max: options.admission.waiting_posts_max,
            };
            Batcher::start(log.clone(), options, Arc::clone(&ending), supervisor)
        };
        let barriers_max = options.strong_reads_max.saturating_add(OTHER_BARRIERS_MAX);
        let barriers = |partition| {
            let (epochs, ending) = (barrier_epochs.clone(), Arc::clone(&ending));
            Barriers::start(
                log.clone(),
                partition,
                epochs,
                barriers_max,
                ending,
                supervisor,
            )
        };
        Self {
            inner: Arc::new(Inner {
                epoch,
                partitioning,
                options,
                gate: Gate::new(options.admission),
                tells_new: log.tells_new(),
                batchers: partitioning.all().map(batcher).collect(),
                barriers: partitioning.all().map(barriers).collect(),
                members: Members::new(named),
                neighbours: Mutex::default(),
                nearest: Nearest::default(),
                session: Session::new(epoch),
                strong_reads: Semaphore::new(options.strong_reads_max.min(Semaphore::MAX_PERMITS)),
                planned: Mutex::default(),
                ending,
                supervisor: supervisor.clone(),
                meters: Meters::new(),
            }),
        }
    }

    /// The start read: learns everything that was acknowledged before this life, so that exact
    /// reads include it. It also proves that the log and a majority of the counters work.
    ///
    /// # Errors
    /// When they did not answer within `timeout`; it may be tried again.
    pub async fn start(&self, timeout: Duration) -> Result<(), ReadError> {
        let everything = self
            .everything_acknowledged(Instant::now() + timeout)
            .await?;
        self.inner.session.set_floor(everything);
        Ok(())
    }

    /// Whether the start read has succeeded.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.inner.session.floor().is_some()
    }

    /// Whether posts are admitted.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.inner.gate.is_open() && !self.inner.ending.is_fatal()
    }

    /// Whether this process was told to stop. Posts are admitted until it closes.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.inner.supervisor.is_leaving()
    }

    /// The end of a task of this process that nobody asked for, if there was one: the process goes
    /// down.
    #[must_use]
    pub fn unasked_end(&self) -> Option<UnaskedEnd> {
        self.inner.supervisor.unasked()
    }

    /// Takes note of how the log is: while it is blocked, or a counter is too far behind, posts are
    /// refused.
    pub fn set_log_state(&self, state: LogState) {
        self.inner.gate.set_log_state(state);
    }

    /// How the log is.
    #[must_use]
    pub fn log_state(&self) -> LogState {
        self.inner.gate.log_state()
    }

    /// Resolves, with the reason, once this coordinator must not go on: the process has to end.
    /// From then on it acknowledges nothing.
    pub async fn fatal(&self) -> Fatal {
        self.inner.ending.fatal().await
    }

    /// Admits no post from now on; what was admitted goes on. Ends the tasks beside posts and
    /// reads.
    pub fn close(&self) {
        self.inner.gate.close();
        self.inner.ending.close();
    }

    fn check_not_fatal(&self) -> Result<(), AcceptError> {
        match self.inner.ending.is_fatal() {
            true => Err(AcceptError::Closed),
            false => Ok(()),
        }
    }

    fn check_open(&self) -> Result<(), AcceptError> {
        self.check_not_fatal()?;
        self.inner.gate.check_open().map_err(refused)
    }

    /// Sets the gauges of what waits.
    pub fn report(&self) {
        self.inner.gate.report();
    }

    /// Makes items durable; they count from then on, each once. All of them or, in doubt, an error.
    ///
    /// # Errors
    /// [`AcceptError`] tells a rejection, after which nothing counts, from an unknown outcome.
    pub async fn accept(&self, items: Vec<TenantItems>) -> Result<Receipt, AcceptError> {
        let epoch = self.inner.epoch;
        if items.is_empty() {
            return Ok(Receipt {
                token: Token {
                    epoch,
                    sequences: TokenEntries::new(),
                },
                new: self.inner.tells_new.then_some(0),
            });
        }
        self.check_not_fatal()?;
        let count = item_count(&items);
        let bytes = items.iter().map(waiting_bytes).sum();
        let ticket = self.inner.gate.admit(bytes).map_err(refused)?;
        // Pinned here: to move it into the timeout would copy it, twice.
        let submitted = pin!(self.submit(items, Arc::new(ticket)));
        let limit = self.inner.options.accept_timeout;
        let (sequences, new) = match tokio::time::timeout(limit, submitted).await {
            Ok(Ok(durable)) => durable,
            Ok(Err(why)) => return Err(not_accepted(why.reason(), why.into())),
            Err(_) => return Err(not_accepted("timed_out", AcceptError::TimedOut)),
        };
        self.inner.meters.accepted.increment(count as u64);
        let token = Token { epoch, sequences };
        Ok(Receipt { token, new })
    }

    /// Hands items to the batchers of their partitions and waits until all are durable; tells how
    /// many were new, if that is known of all.
    async fn submit(
        &self,
        items: Vec<TenantItems>,
        ticket: Arc<Ticket>,
    ) -> Result<(TokenEntries, Option<u64>), NotAppended> {
        let submit = async |partition: Partition, items, ticket| {
            let batcher = &self.inner.batchers[usize::from(partition.0)];
            let Durable { sequence, new } = batcher.submit(items, Some(ticket)).await?;
            Ok(((partition, sequence), new))
        };
        if let Some(only) = self.inner.partitioning.only() {
            let (entry, new) = submit(only, items, ticket).await?;
            return Ok(([entry].into(), new));
        }
        let parts = split(self.inner.partitioning, items).into_iter();
        let submitted =
            parts.map(|(partition, items)| submit(partition, items, Arc::clone(&ticket)));
        let submitted = futures_util::future::try_join_all(submitted).await?;
        let new = submitted.iter().map(|(_, new)| *new).sum();
        let entries = submitted.into_iter().map(|(entry, _)| entry);
        Ok((entries.collect(), new))
    }

    /// Appends a barrier to every partition; returns their names.
    async fn append_barriers(&self) -> Result<Vec<BatchId>, LogEnded> {
        let appended = self.inner.barriers.iter().map(Barriers::append);
        futures_util::future::try_join_all(appended).await
    }
}

fn refused(refusal: Refusal) -> AcceptError {
    let (reason, error) = match refusal {
        Refusal::Full => ("overloaded", AcceptError::Overloaded),
        Refusal::Closed => ("closed", AcceptError::Closed),
        Refusal::LogBlocked => ("log_blocked", AcceptError::LogBlocked),
        Refusal::CountersLag(name) => ("counters_lag", AcceptError::CountersLag(name)),
    };
    not_accepted(reason, error)
}

fn not_accepted(reason: &'static str, error: AcceptError) -> AcceptError {
    metrics::counter!(telemetry::POSTS_REFUSED, "reason" => reason).increment(1);
    error
}

/// Splits items by the partitions that their hashes belong to.
fn split(
    partitioning: Partitioning,
    items: Vec<TenantItems>,
) -> Vec<(Partition, Vec<TenantItems>)> {
    let mut parts: Vec<(Partition, Vec<TenantItems>)> = partitioning
        .all()
        .map(|partition| (partition, Vec::new()))
        .collect();
    for group in items {
        for hash in group.hashes {
            let (_, part) = &mut parts[usize::from(partitioning.of(&hash).0)];
            match part.last_mut() {
                Some(last) if last.tenant == group.tenant => last.hashes.push(hash),
                _ => part.push(TenantItems {
                    tenant: group.tenant.clone(),
                    hashes: [hash].into(),
                }),
            }
        }
    }
    parts.retain(|(_, part)| !part.is_empty());
    parts
}
