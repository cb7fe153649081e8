//! Group commit for one partition: while one batch is being made durable, the next gathers. Whoever was just answered may
//! be about to post again, and gets a turn to do so before the next batch closes (docs/adr/0014-a-turn-before-a-batch.md).
//!
//! Invariant: one batch is in flight; sequences are 1, 2, 3… without gaps; a post's items are in one batch. A batch that there is
//! no room for never was, and its sequence is the next one's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use metrics::Histogram;
use tokio::sync::{mpsc, oneshot};

use super::admission::Ticket;
use super::ending::Ending;
use crate::clock::now_ms;
use crate::log::{AppendError, Log, encoded_bytes};
use crate::model::{Acceptance, Batch, BatchId, Epoch, Partition, Sequence, Shares, TenantItems};
use crate::supervisor::{Ended, Supervisor, Task};
use crate::telemetry;

/// Posts of a batch after which the next one waits a turn. A post that comes alone is waited for by nobody else.
const TOGETHER_POSTS_MIN: usize = 2;

/// What a submission is of.
enum Load {
    /// A post's part for one partition.
    Items(Vec<TenantItems>),
    /// An operator's signature, which has a batch of its own.
    Acceptance(Acceptance),
}

struct Submission {
    load: Load,
    /// Released once the batch is durable.
    ticket: Option<Arc<Ticket>>,
    done: oneshot::Sender<Result<Durable, NotAppended>>,
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
struct Reached {
    /// The last sequence that the log was given.
    handed: AtomicU64,
    /// The last sequence that is durable.
    confirmed: AtomicU64,
}

/// The log ended: whether what was handed over becomes durable is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogEnded;

/// Why what was handed over is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotAppended {
    /// There is no room for it: nothing of it is there, nor ever will be.
    Full,
    /// The log ended: whether it becomes durable is unknown.
    LogEnded,
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
    /// Starts a batcher over `log`. It ends when every handle is dropped and the last batch is confirmed, when
    /// the log ends, or when the coordinator must not go on.
    pub fn start(
        log: impl Log,
        options: BatcherOptions,
        ending: Arc<Ending>,
        supervisor: &Supervisor,
    ) -> Self {
        let (submissions, receiver) = mpsc::channel(options.waiting_posts_max.max(1));
        let reached = Arc::<Reached>::default();
        let appender = Appender {
            log,
            reached: Arc::clone(&reached),
            ending,
            batch_items: metrics::histogram!(telemetry::BATCH_ITEMS),
            append_seconds: metrics::histogram!(telemetry::APPEND_SECONDS),
        };
        supervisor.spawn(Task::Batcher, run(appender, options, receiver));
        Self {
            submissions,
            reached,
        }
    }

    /// Hands items over and waits until their batch is durable.
    pub async fn submit(
        &self,
        items: Vec<TenantItems>,
        ticket: Option<Arc<Ticket>>,
    ) -> Result<Durable, NotAppended> {
        self.hand_over(Load::Items(items), ticket).await
    }

    /// Hands an operator's signature over and waits until its batch is durable; returns its sequence.
    pub async fn accept(&self, acceptance: Acceptance) -> Result<Sequence, NotAppended> {
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

    /// The sequence of the last durable batch; 0 before the first.
    pub fn confirmed(&self) -> Sequence {
        self.reached.confirmed.load(Ordering::Acquire)
    }

    /// The sequence of the last batch that the log was given; 0 before the first.
    pub fn handed(&self) -> Sequence {
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

    /// Whether `load` goes into this batch. The first always does: a post is never split.
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
    appender: Appender<impl Log>,
    options: BatcherOptions,
    mut receiver: mpsc::Receiver<Submission>,
) -> Ended {
    let mut carried = None;
    let mut sequence = 0;
    let mut posts = Vec::new();
    loop {
        let first = match carried.take() {
            Some(first) => Some(first),
            None => receiver.recv().await,
        };
        let Some(first) = first else {
            return Ended::Done;
        };
        let mut gathering = Gathering::new(options.batch_bytes_max);
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
        sequence += 1;
        let id = BatchId {
            partition: options.partition,
            epoch: options.epoch,
            sequence,
        };
        match appender.append(id, &mut posts).await {
            Ok(()) => {}
            Err(NotAppended::LogEnded) => return appender.ending.without_log(),
            // The next batch takes the number, so that there is no gap.
            Err(NotAppended::Full) => sequence -= 1,
        }
        if together {
            tokio::task::yield_now().await;
        }
    }
}

/// What takes one batch after the other to the log.
struct Appender<L> {
    log: L,
    reached: Arc<Reached>,
    ending: Arc<Ending>,
    batch_items: Histogram,
    append_seconds: Histogram,
}

impl<L: Log> Appender<L> {
    /// Makes one batch of `posts` durable and tells whoever waits for them; none is left.
    async fn append(&self, id: BatchId, posts: &mut Vec<Submission>) -> Result<(), NotAppended> {
        let (batch, shares) = self.sealed(id, posts);
        if self.ending.is_fatal() {
            return Err(NotAppended::LogEnded);
        }
        // Before anyone can have it, so that a counter that holds more was given it by another.
        self.reached.handed.store(id.sequence, Ordering::Release);
        self.batch_items.record(batch.item_count() as f64);
        let started = Instant::now();
        let told = match self.log.append(Arc::new(batch)).await {
            Ok(told) => told,
            Err(AppendError::Full(_)) => {
                for post in posts.drain(..) {
                    let _ = post.done.send(Err(NotAppended::Full));
                }
                return Err(NotAppended::Full);
            }
            Err(error) => {
                tracing::error!(%error, sequence = id.sequence, "the log ended");
                self.ending.note_append_error(error);
                return Err(NotAppended::LogEnded);
            }
        };
        self.append_seconds.record(started.elapsed());
        if self.ending.is_fatal() {
            // With a clone about, counters may have taken another's batch for this one.
            return Err(NotAppended::LogEnded);
        }
        // Before any client hears of it, so that a read that begins afterwards asks for it.
        self.reached.confirmed.store(id.sequence, Ordering::Release);
        let new = told.as_ref().map(|told| told.count);
        let of_posts = told.zip(shares);
        let mut of_posts = of_posts
            .map(|(told, shares)| shares.of_posts(&told.marks))
            .unwrap_or_default()
            .into_iter();
        for post in posts.drain(..) {
            drop(post.ticket);
            let durable = Durable {
                sequence: id.sequence,
                new: of_posts.next().or(new),
            };
            let _ = post.done.send(Ok(durable));
        }
        Ok(())
    }

    /// One batch of what `posts` hold, and, if somebody is to tell them what was new, whose its items are.
    fn sealed(&self, id: BatchId, posts: &mut [Submission]) -> (Batch, Option<Shares>) {
        let mut acceptance = None;
        let mut items_of = |post: &mut Submission| match &mut post.load {
            Load::Items(of_post) => std::mem::take(of_post),
            Load::Acceptance(signed) => {
                acceptance = Some(std::mem::take(signed));
                Vec::new()
            }
        };
        let now_ms = now_ms();
        if posts.len() > 1 && self.log.tells_new() {
            let posts = posts.iter_mut().map(items_of);
            let (batch, shares) = Batch::of_posts(id, now_ms, posts);
            return (batch, Some(shares));
        }
        let mut items = Vec::with_capacity(posts.len());
        for post in posts {
            items.append(&mut items_of(post));
        }
        let batch = match acceptance {
            Some(acceptance) => Batch::accepting(id, now_ms, acceptance),
            None => Batch::new(id, now_ms, items),
        };
        (batch, None)
    }
}

#[cfg(test)]
#[path = "batcher_tests.rs"]
mod tests;
