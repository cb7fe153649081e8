//! Group commit for one partition: while one batch is made durable, the next one gathers. Clients
//! that were just answered are often about to post again, so the batcher yields once before it
//! closes the next batch (docs/adr/0014-a-turn-before-a-batch.md).
//!
//! Invariant: one batch is in flight. Sequences are 1, 2, 3… without gaps. The items of a post are
//! in one batch, unless the log does not accept a batch that large: then they are in consecutive
//! batches, and the post is answered once all of them are durable. If the log rejects a batch, no
//! counter receives it, and the next batch gets its sequence.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::admission::Ticket;
use super::appender::Appender;
use super::shutdown::Shutdown;
use headcount_log::{Log, batch_bytes, encoded_bytes};
use headcount_model::{Acceptance, BatchId, Epoch, Partition, Sequence, TenantItems};
use headcount_runtime::supervisor::{Ended, Supervisor, Task};

/// After a batch of at least this many posts, the batcher yields once before it closes the next
/// one. A batch of one post does not yield: there are no other clients to wait for.
const TOGETHER_POSTS_MIN: usize = 2;

/// Content of a submission.
pub(super) enum Load {
    /// The items of a post for one partition.
    Items(Vec<TenantItems>),
    /// An operator's loss acceptance, which is appended as a batch of its own.
    Acceptance(Acceptance),
}

pub(super) struct Submission {
    pub load: Load,
    /// Released once the batch is durable.
    pub ticket: Option<Arc<Ticket>>,
    pub done: oneshot::Sender<Result<Durable, NotAppended>>,
}

/// Result of a durable submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Durable {
    pub sequence: Sequence,
    /// The number of items in the submission that were new, if the log reports it.
    pub new: Option<u64>,
}

/// Handle of the batcher of one partition; cheap to clone.
#[derive(Clone)]
pub(super) struct Batcher {
    submissions: mpsc::Sender<Submission>,
    reached: Arc<Reached>,
}

/// Progress of a batcher.
#[derive(Default)]
pub(super) struct Reached {
    /// The last sequence submitted to the log.
    pub handed: AtomicU64,
    /// The last durable sequence.
    pub confirmed: AtomicU64,
}

/// The log ended: it is unknown whether the submission becomes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogEnded;

/// Why a submission is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotAppended {
    /// The disk is full: nothing of it was kept or ever will be.
    Full,
    /// The log does not accept a batch this large, and this one cannot be split: nothing of it was
    /// kept or ever will be.
    TooLarge { bytes_max: usize },
    /// The log ended: it is unknown whether it becomes durable.
    LogEnded,
}

impl NotAppended {
    /// The label for the metric of rejected posts.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Full => "disk_full",
            Self::TooLarge { .. } => "too_large",
            Self::LogEnded => "log_ended",
        }
    }
}

/// Settings of a batcher.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatcherOptions {
    pub partition: Partition,
    pub epoch: Epoch,
    /// Encoded size of a batch, in bytes. A batch takes no further post that would exceed it.
    pub batch_bytes_max: usize,
    /// Maximum number of posts that wait to be gathered. Admission allows no more.
    pub waiting_posts_max: usize,
}

impl Batcher {
    /// Starts a batcher over `log`. It ends when every handle is dropped and the last batch is
    /// confirmed, when the log ends, or when the coordinator must stop.
    pub(crate) fn start(
        log: impl Log,
        options: BatcherOptions,
        ending: Arc<Shutdown>,
        supervisor: &Supervisor,
    ) -> Self {
        let (submissions, receiver) = mpsc::channel(options.waiting_posts_max.max(1));
        let reached = Arc::<Reached>::default();
        let first = BatchId {
            partition: options.partition,
            epoch: options.epoch,
            sequence: 1,
        };
        let appender = Appender::new(log, first, Arc::clone(&reached), ending);
        supervisor.spawn(Task::Batcher, run(appender, options, receiver));
        Self {
            submissions,
            reached,
        }
    }

    /// Submits items and waits until their batch is durable.
    pub(crate) async fn submit(
        &self,
        items: Vec<TenantItems>,
        ticket: Option<Arc<Ticket>>,
    ) -> Result<Durable, NotAppended> {
        self.hand_over(Load::Items(items), ticket).await
    }

    /// Submits an operator's loss acceptance, waits until its batch is durable, and returns its
    /// sequence.
    pub(crate) async fn accept(&self, acceptance: Acceptance) -> Result<Sequence, NotAppended> {
        let load = Load::Acceptance(acceptance);
        Ok(self.hand_over(load, None).await?.sequence)
    }

    async fn hand_over(
        &self,
        load: Load,
        ticket: Option<Arc<Ticket>>,
    ) -> Result<Durable, NotAppended> {
        let (done, durable) = oneshot::channel();
        let submission = Submission { load, ticket, done };
        self.submissions
            .send(submission)
            .await
            .map_err(|_| NotAppended::LogEnded)?;
        durable.await.unwrap_or(Err(NotAppended::LogEnded))
    }

    /// The number of posts that wait to be gathered.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.submissions.max_capacity() - self.submissions.capacity()
    }

    /// The sequence of the last durable batch; 0 before the first.
    pub(crate) fn confirmed(&self) -> Sequence {
        self.reached.confirmed.load(Ordering::Acquire)
    }

    /// The sequence of the last batch submitted to the log; 0 before the first.
    pub(crate) fn handed(&self) -> Sequence {
        self.reached.handed.load(Ordering::Acquire)
    }
}

/// The pure decision: which waiting posts share the next batch.
struct Gathering {
    bytes_max: usize,
    bytes: usize,
    posts: usize,
    closed: bool,
}

impl Gathering {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            posts: 0,
            closed: false,
        }
    }

    /// Whether `load` joins this batch. The first one always does, because posts are not split
    /// here.
    fn take(&mut self, load: &Load) -> bool {
        let (bytes, alone) = match load {
            Load::Items(items) => (items.iter().map(encoded_bytes).sum(), false),
            Load::Acceptance(_) => (0, true),
        };
        let room = !self.closed && !alone && self.bytes.saturating_add(bytes) <= self.bytes_max;
        let fits = self.posts == 0 || room;
        if fits {
            self.bytes += bytes;
            self.posts += 1;
            self.closed = alone;
        }
        fits
    }
}

async fn run(
    mut appender: Appender<impl Log>,
    options: BatcherOptions,
    mut receiver: mpsc::Receiver<Submission>,
) -> Ended {
    let mut carried = None;
    let mut posts = Vec::new();
    loop {
        let first = match carried.take() {
            Some(first) => Some(first),
            None => receiver.recv().await,
        };
        let Some(first) = first else {
            return Ended::Done;
        };
        let bytes_max = appender.bytes_max.saturating_sub(batch_bytes(&[]));
        let mut gathering = Gathering::new(bytes_max.min(options.batch_bytes_max));
        let mut next = Some(first);
        while let Some(submission) = next {
            if submission.done.is_closed() {
                // Its client gave up before any of it was appended, so it is dropped.
            } else if gathering.take(&submission.load) {
                posts.push(submission);
            } else {
                carried = Some(submission);
                break;
            }
            next = receiver.try_recv().ok();
        }
        if posts.is_empty() {
            continue;
        }
        let together = posts.len() >= TOGETHER_POSTS_MIN;
        if let Err(LogEnded) = appender.append(&mut posts).await {
            return appender.ending.without_log();
        }
        if together {
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
#[path = "batcher_tests.rs"]
pub(super) mod tests;
