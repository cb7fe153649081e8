//! Group commit for one partition: while one batch is being made durable, the next gathers.
//!
//! Invariant: one batch is in flight; sequences are 1, 2, 3… without gaps; a post's items are in one batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::admission::Ticket;
use crate::clock::now_ms;
use crate::log::{Log, encoded_bytes};
use crate::model::{Batch, BatchId, Epoch, Partition, Sequence, TenantItems};
use crate::telemetry;

/// A post's part for one partition; no items make it a barrier.
struct Submission {
    items: Vec<TenantItems>,
    /// Released once the batch is durable.
    ticket: Option<Arc<Ticket>>,
    done: oneshot::Sender<Sequence>,
}

/// Where posts are handed to one partition's batcher; cheap to clone.
#[derive(Clone)]
pub(super) struct Batcher {
    submissions: mpsc::Sender<Submission>,
    confirmed: Arc<AtomicU64>,
}

/// The log ended: whether what was handed over becomes durable is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogEnded;

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
    /// Starts a batcher over `log`. It ends when every handle is dropped and the last batch is confirmed, or
    /// when the log ends.
    pub fn start(log: impl Log, options: BatcherOptions) -> Self {
        let (submissions, receiver) = mpsc::channel(options.waiting_posts_max.max(1));
        let confirmed = Arc::new(AtomicU64::new(0));
        tokio::spawn(run(log, options, receiver, Arc::clone(&confirmed)));
        Self {
            submissions,
            confirmed,
        }
    }

    /// Hands items over and waits until their batch is durable; returns its sequence.
    pub async fn submit(
        &self,
        items: Vec<TenantItems>,
        ticket: Option<Arc<Ticket>>,
    ) -> Result<Sequence, LogEnded> {
        let (done, durable) = oneshot::channel();
        let submission = Submission {
            items,
            ticket,
            done,
        };
        self.submissions
            .send(submission)
            .await
            .map_err(|_| LogEnded)?;
        durable.await.map_err(|_| LogEnded)
    }

    /// The sequence of the last durable batch; 0 before the first.
    pub fn confirmed(&self) -> Sequence {
        self.confirmed.load(Ordering::Acquire)
    }
}

/// The decision alone: which waiting posts share the next batch.
struct Gathering {
    bytes_max: usize,
    bytes: usize,
    posts: usize,
}

impl Gathering {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            posts: 0,
        }
    }

    /// Whether a post of `bytes` goes into this batch. The first always does: a post is never split.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.posts == 0 || self.bytes.saturating_add(bytes) <= self.bytes_max;
        if fits {
            self.bytes += bytes;
            self.posts += 1;
        }
        fits
    }
}

async fn run(
    log: impl Log,
    options: BatcherOptions,
    mut receiver: mpsc::Receiver<Submission>,
    confirmed: Arc<AtomicU64>,
) {
    let mut carried = None;
    let mut sequence = 0;
    loop {
        let first = match carried.take() {
            Some(first) => Some(first),
            None => receiver.recv().await,
        };
        let Some(first) = first else { return };
        let mut gathering = Gathering::new(options.batch_bytes_max);
        let mut posts = Vec::new();
        let mut next = Some(first);
        while let Some(submission) = next {
            if submission.done.is_closed() {
                // Its client gave up before any of it was sent: nothing is owed.
            } else if gathering.take(submission.items.iter().map(encoded_bytes).sum()) {
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
        sequence += 1;
        let id = BatchId {
            partition: options.partition,
            epoch: options.epoch,
            sequence,
        };
        if append(&log, id, posts, &confirmed).await.is_err() {
            return;
        }
    }
}

async fn append(
    log: &impl Log,
    id: BatchId,
    posts: Vec<Submission>,
    confirmed: &AtomicU64,
) -> Result<(), LogEnded> {
    let mut items = Vec::new();
    let mut waiting = Vec::with_capacity(posts.len());
    for post in posts {
        items.extend(post.items);
        waiting.push((post.done, post.ticket));
    }
    let batch = Arc::new(Batch::new(id, now_ms(), items));
    metrics::histogram!(telemetry::BATCH_ITEMS).record(batch.item_count() as f64);
    let started = Instant::now();
    if let Err(error) = log.append(batch).await {
        tracing::error!(%error, sequence = id.sequence, "the log ended");
        return Err(LogEnded);
    }
    metrics::histogram!(telemetry::APPEND_SECONDS).record(started.elapsed());
    // Before any client hears of it, so that a read that begins afterwards asks for it.
    confirmed.store(id.sequence, Ordering::Release);
    for (done, ticket) in waiting {
        drop(ticket);
        let _ = done.send(id.sequence);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::log::AppendError;
    use crate::model::{ItemHash, TenantName};

    /// A log that notes what it is given and confirms one append for each permit.
    #[derive(Clone)]
    struct Scripted {
        appended: Arc<Mutex<Vec<Arc<Batch>>>>,
        confirms: Arc<Semaphore>,
    }

    impl Log for Scripted {
        async fn append(&self, batch: Arc<Batch>) -> Result<(), AppendError> {
            self.appended.lock().expect("not poisoned").push(batch);
            let permit = self.confirms.acquire().await;
            permit.map_err(|_| AppendError::OutcomeUnknown)?.forget();
            Ok(())
        }
    }

    fn scripted() -> Scripted {
        Scripted {
            appended: Arc::default(),
            confirms: Arc::new(Semaphore::new(0)),
        }
    }

    fn start(log: &Scripted, batch_bytes_max: usize) -> Batcher {
        let options = BatcherOptions {
            partition: Partition(0),
            epoch: Epoch(1),
            batch_bytes_max,
            waiting_posts_max: 100,
        };
        Batcher::start(log.clone(), options)
    }

    fn items(id: u32) -> Vec<TenantItems> {
        vec![TenantItems {
            tenant: TenantName::new("t").expect("valid"),
            hashes: vec![ItemHash::of_id(&id.to_string())],
        }]
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn posts_gather_while_one_batch_is_in_flight() {
        let log = scripted();
        let batcher = start(&log, usize::MAX);
        let submit = |id| {
            let batcher = batcher.clone();
            tokio::spawn(async move { batcher.submit(items(id), None).await })
        };
        let first = submit(0);
        let appended = || log.appended.lock().expect("not poisoned").len();
        until(|| appended() == 1).await;
        let rest: Vec<_> = (1..20).map(submit).collect();
        until(|| batcher.submissions.capacity() == 100 - 19).await;
        assert_eq!(appended(), 1, "the second batch waits for the first");
        assert_eq!(batcher.confirmed(), 0);
        log.confirms.add_permits(1);
        assert_eq!(first.await.expect("joins"), Ok(1));
        assert_eq!(batcher.confirmed(), 1);
        log.confirms.add_permits(1);
        for post in rest {
            assert_eq!(
                post.await.expect("joins"),
                Ok(2),
                "all that waited share one batch"
            );
        }
        assert_eq!(
            log.appended.lock().expect("not poisoned")[1].item_count(),
            19
        );
    }

    #[tokio::test]
    async fn a_batch_is_capped_but_a_post_is_never_split() {
        let log = scripted();
        let batcher = start(&log, 1);
        log.confirms.add_permits(100);
        let (one, two) = tokio::join!(
            batcher.submit([items(1), items(2)].concat(), None),
            batcher.submit(items(3), None),
        );
        assert_eq!((one, two), (Ok(1), Ok(2)));
        let appended = log.appended.lock().expect("not poisoned");
        assert_eq!(appended[0].item_count(), 2);
        assert_eq!(appended[1].item_count(), 1);
    }

    #[tokio::test]
    async fn barriers_count_in_sequences_of_their_own_epoch() {
        let log = scripted();
        let batcher = start(&log, usize::MAX);
        log.confirms.add_permits(100);
        assert_eq!(batcher.submit(Vec::new(), None).await, Ok(1));
        assert_eq!(batcher.submit(Vec::new(), None).await, Ok(2));
        assert_eq!(batcher.confirmed(), 2);
        assert!(log.appended.lock().expect("not poisoned")[1].is_barrier());
    }

    #[tokio::test]
    async fn when_the_log_ends_nothing_is_acknowledged_any_more() {
        let log = scripted();
        let batcher = start(&log, usize::MAX);
        log.confirms.close();
        assert_eq!(batcher.submit(items(1), None).await, Err(LogEnded));
        assert_eq!(batcher.submit(items(2), None).await, Err(LogEnded));
        assert_eq!(batcher.confirmed(), 0);
    }
}
