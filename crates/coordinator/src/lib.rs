//! The coordinator: admits items, groups them into batches, appends the batches to the log, and
//! answers reads.
//!
//! Invariant: an item is acknowledged only after the append of its batch returned `Ok`. If the
//! outcome is unknown, the error says so, and the client can safely retry.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests start what they test")
)]

mod admission;
mod appender;
mod barriers;
mod batcher;
mod fanout;
mod hedging;
mod losses;
mod members;
mod merge;
mod meters;
mod neighbours;
mod parts;
mod reads;
mod repair;
mod replicas;
mod session;
mod shutdown;
mod split;

#[cfg(test)]
mod tests;

pub use admission::{Admission, AdmissionLimits, LogState, Refusal};
use losses::Planned;
pub use losses::{Aftermath, Incomplete, Loss, LossPlan, NotLost, StillIncomplete};
pub use members::{CounterView, ReportedState};
pub use neighbours::{Neighbour, NeighbourRole, SILENCE_MAX};
pub use reads::{Consistency, Read, ReadError, ReadOptions};
pub use repair::{AcceptLossError, MaintainOptions};
pub use replicas::Replicas;
pub use shutdown::Fatal;

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
use self::hedging::Nearest;
use self::members::Members;
use self::meters::Meters;
use self::neighbours::Neighbours;
use self::session::Session;
use self::shutdown::Shutdown;
use self::split::split;
use headcount_log::Log;
use headcount_model::{
    BarrierEpochs, BatchId, Epoch, Partition, Partitioning, TenantItems, Token, TokenEntries,
    item_count,
};
use headcount_runtime::supervisor::{Supervisor, UnaskedEnd};
use headcount_telemetry as telemetry;

/// Limits of a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoordinatorOptions {
    /// Encoded size of a batch, in bytes. A batch takes no further post that would exceed it.
    pub batch_bytes_max: usize,
    /// Limits on admitted posts that are not durable yet.
    pub admission: AdmissionLimits,
    /// Timeout for a post to become durable, in total; at most
    /// [`ACCEPT_TIMEOUT_MAX`](Self::ACCEPT_TIMEOUT_MAX).
    pub accept_timeout: Duration,
    /// Maximum number of concurrent strong reads. Each one waits for a barrier and requests whole
    /// positions.
    pub strong_reads_max: usize,
}

impl CoordinatorOptions {
    /// Maximum of `accept_timeout`. A coordinator that was silent may acknowledge a post late, and
    /// that post must not have been accepted as lost in the meantime. A loss acceptance presumes a
    /// coordinator gone after [`SILENCE_MAX`] of silence, which is twice this time.
    pub const ACCEPT_TIMEOUT_MAX: Duration = Duration::from_secs(SILENCE_MAX.as_secs() / 2);
}

/// Barriers that may wait in addition to those of strong reads: for the startup read, maintenance
/// and loss plans.
const OTHER_BARRIERS_MAX: usize = 16;

/// Why a post is not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AcceptError {
    /// Rejected: the limit of waiting posts is reached.
    #[error("too many posts are waiting to become durable")]
    Overloaded,
    /// Rejected: the process is shutting down.
    #[error("this node is shutting down")]
    Closed,
    /// Rejected: the log accepts no appends at the moment.
    #[error("the broker accepts no messages: it is short of memory or disk")]
    LogBlocked,
    /// Rejected: the named counter is too far behind.
    #[error("the counter {0} is too far behind")]
    CountersLag(String),
    /// Rejected: the disk is full.
    #[error("the disk is full")]
    DiskFull,
    /// Rejected: its batch exceeds the size limit of the log, given in bytes.
    #[error("the broker accepts messages of at most {0} bytes")]
    TooLarge(usize),
    /// Unknown outcome: it did not become durable in time, but still may.
    #[error("the items did not become durable in time")]
    TimedOut,
    /// Unknown outcome: the log ended during the append.
    #[error("the log ended before it confirmed the items")]
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

/// The answer to an acknowledged post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// What a read must cover to include the items of this post.
    pub token: Token,
    /// The number of its items that were counted for the first time, if the log reports it. If
    /// several concurrent posts contain the same new item, only one of them counts it.
    pub new: Option<u64>,
}

/// Handle of a coordinator; cheap to clone. Its batchers end when the last handle is dropped.
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
    /// Whether the log reports which items were new.
    tells_new: bool,
    /// Barriers have epochs of their own. Positions do not record barriers, so in the epoch of the
    /// batches their sequences would look like holes.
    barriers: Vec<Barriers>,
    members: Members,
    neighbours: Mutex<Neighbours>,
    nearest: Nearest,
    session: Session,
    strong_reads: Semaphore,
    /// The last loss plan.
    planned: Mutex<Planned>,
    ending: Arc<Shutdown>,
    supervisor: Supervisor,
    meters: Meters,
}

impl Coordinator {
    /// Creates a coordinator for a new incarnation over a log. Its batches use `epoch`; each
    /// barrier uses one of `barrier_epochs`. Majorities are taken over the counters in `named` and
    /// those [added later](Self::set_member). Reads are not exact until [`start`](Self::start)
    /// succeeds. Must be called on a Tokio runtime; `supervisor` watches the batchers.
    pub fn new(
        epoch: Epoch,
        barrier_epochs: BarrierEpochs,
        partitioning: Partitioning,
        log: &impl Log,
        named: Vec<String>,
        options: CoordinatorOptions,
        supervisor: &Supervisor,
    ) -> Self {
        let ending = Arc::new(Shutdown::new());
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

    /// The startup read: determines everything that was acknowledged before this incarnation, so
    /// that exact reads include it. Its success also proves that the log and a majority of the
    /// counters work.
    ///
    /// # Errors
    /// If they do not answer within `timeout`. The caller may retry.
    pub async fn start(&self, timeout: Duration) -> Result<(), ReadError> {
        let everything = self
            .everything_acknowledged(Instant::now() + timeout)
            .await?;
        self.inner.session.set_floor(everything);
        Ok(())
    }

    /// Whether the startup read has succeeded.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.inner.session.floor().is_some()
    }

    /// Whether posts are admitted.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.inner.gate.is_open() && !self.inner.ending.is_fatal()
    }

    /// Whether shutdown of this process was requested. Posts are admitted until
    /// [`close`](Self::close).
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.inner.supervisor.is_leaving()
    }

    /// The unexpected end of a task of this process, if there was one. The process then shuts down.
    #[must_use]
    pub fn unasked_end(&self) -> Option<UnaskedEnd> {
        self.inner.supervisor.unasked()
    }

    /// Sets the state of the log. Posts are rejected while the log is blocked or a counter is too
    /// far behind.
    pub fn set_log_state(&self, state: LogState) {
        self.inner.gate.set_log_state(state);
    }

    /// The state of the log.
    #[must_use]
    pub fn log_state(&self) -> LogState {
        self.inner.gate.log_state()
    }

    /// Resolves with the reason once this coordinator must stop; the process must then exit. From
    /// then on the coordinator acknowledges nothing.
    pub async fn fatal(&self) -> Fatal {
        self.inner.ending.fatal().await
    }

    /// Stops admission; admitted posts continue. Also ends the background tasks.
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

    /// Sets the gauges of waiting posts.
    pub fn report(&self) {
        self.inner.gate.report();
    }

    /// Makes items durable; from then on each of them is counted, once. Returns `Ok` only if all of
    /// them are durable.
    ///
    /// # Errors
    /// [`AcceptError`] distinguishes a rejection, after which none of the items is counted, from an
    /// unknown outcome.
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
        // Pinned here because moving the future into the timeout would copy it twice.
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

    /// Submits items to the batchers of their partitions and waits until all are durable. Returns
    /// how many were new, if that is known for all of them.
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

    /// Appends a barrier to every partition and returns their batch ids.
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
