//! Group commit for one partition: while one batch is being made durable, the next gathers. Whoever
//! was just answered may be about to post again, and gets a turn to do so before the next batch
//! closes (docs/adr/0014-a-turn-before-a-batch.md).
//!
//! Invariant: one batch is in flight; sequences are 1, 2, 3… without gaps; a post's items are in
//! one batch, unless the log takes none so large: then they are in batches that follow one another,
//! and the post is answered once all are durable. A batch that the log does not keep never was, and
//! its sequence is the next one's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::admission::Ticket;
use super::appender::Appender;
use super::ending::Ending;
use headcount_log::{Log, batch_bytes, encoded_bytes};
use headcount_model::{Acceptance, BatchId, Epoch, Partition, Sequence, TenantItems};
use headcount_runtime::supervisor::{Ended, Supervisor, Task};

/// Posts of a batch after which the next one waits a turn. A post that comes alone is waited for by
/// nobody else.
const TOGETHER_POSTS_MIN: usize = 2;

/// What a submission is of.
pub(super) enum Load {
    /// A post's part for one partition.
    Items(Vec<TenantItems>),
    /// An operator's signature, which has a batch of its own.
    Acceptance(Acceptance),
}

pub(super) struct Submission {
    pub load: Load,
    /// Released once the batch is durable.
    pub ticket: Option<Arc<Ticket>>,
    pub done: oneshot::Sender<Result<Durable, NotAppended>>,
}

/// What a submission's batch has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Durable {
    pub sequence: Sequence,
    /// How many of the submission's items were new, where the log tells.
    pub new: Option<u64>,
}

/// Where posts are handed to one partition's batcher; cheap to clone.
#[derive(Clone)]
pub(super) struct Batcher {
    submissions: mpsc::Sender<Submission>,
    reached: Arc<Reached>,
}

/// How far a batcher has come.
#[derive(Default)]
pub(super) struct Reached {
    /// The last sequence that the log was given.
    pub handed: AtomicU64,
    /// The last sequence that is durable.
    pub confirmed: AtomicU64,
}

/// The log ended: whether what was handed over becomes durable is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogEnded;

/// Why what was handed over is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotAppended {
    /// There is no room for it: nothing of it is there, nor ever will be.
    Full,
    /// The log takes no batch so large, and this one has no parts: nothing of it is there, nor ever
    /// will be.
    TooLarge { bytes_max: usize },
    /// The log ended: whether it becomes durable is unknown.
    LogEnded,
}

impl NotAppended {
    /// For the metric of refused posts.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Full => "disk_full",
            Self::TooLarge { .. } => "too_large",
            Self::LogEnded => "log_ended",
        }
    }
}

/// What a batcher needs to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatcherOptions {
    pub partition: Partition,
    pub epoch: Epoch,
    /// Encoded bytes after which a batch takes no further post.
    pub batch_bytes_max: usize,
    /// Posts that may wait to be gathered; admission keeps them fewer.
    pub waiting_posts_max: usize,
}

impl Batcher {
    /// Starts a batcher over `log`. It ends when every handle is dropped and the last batch is
    /// confirmed, when the log ends, or when the coordinator must not go on.
    pub(crate) fn start(
        log: impl Log,
        options: BatcherOptions,
        ending: Arc<Ending>,
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

    /// Hands items over and waits until their batch is durable.
    pub(crate) async fn submit(
        &self,
        items: Vec<TenantItems>,
        ticket: Option<Arc<Ticket>>,
    ) -> Result<Durable, NotAppended> {
        self.hand_over(Load::Items(items), ticket).await
    }

    /// Hands an operator's signature over and waits until its batch is durable; returns its
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

    /// Posts that wait to be gathered.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.submissions.max_capacity() - self.submissions.capacity()
    }

    /// The sequence of the last durable batch; 0 before the first.
    pub(crate) fn confirmed(&self) -> Sequence {
        self.reached.confirmed.load(Ordering::Acquire)
    }

    /// The sequence of the last batch that the log was given; 0 before the first.
    pub(crate) fn handed(&self) -> Sequence {
        self.reached.handed.load(Ordering::Acquire)
    }
}

/// The decision alone: which waiting posts share the next batch.
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

    /// Whether `load` goes into this batch. The first always does: a post is not split here.
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
                // Its client gave up before any of it was sent: nothing is owed.
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
