//! What a batcher has gathered, on its way to the log: sealed, appended, in parts where it must be,
//! and told to whoever waits.
//!
//! Invariant: an append that returned is followed by the next sequence, and one that the log did
//! not keep by the same again. Nobody is told that nothing of a post counts once a part of it may.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use metrics::Histogram;

use super::batcher::{Durable, Load, LogEnded, NotAppended, Reached, Submission};
use super::ending::Ending;
use super::parts::parts;
use headcount_log::{AppendError, Log, batch_bytes};
use headcount_model::{Batch, BatchId, NewItems, Shares};
use headcount_runtime::clock::now_ms;
use headcount_telemetry as telemetry;

/// What takes one batch after the other to the log.
pub(super) struct Appender<L> {
    log: L,
    reached: Arc<Reached>,
    pub ending: Arc<Ending>,
    batch_items: Histogram,
    append_seconds: Histogram,
    /// What the next batch is named. A batch that the log does not keep leaves its name to the
    /// next.
    next: BatchId,
    /// The most encoded bytes of a batch that the log takes, as far as it has said so.
    pub bytes_max: usize,
}

impl<L: Log> Appender<L> {
    /// Begins with the batch that is named `first`.
    pub(crate) fn new(log: L, first: BatchId, reached: Arc<Reached>, ending: Arc<Ending>) -> Self {
        Self {
            log,
            reached,
            ending,
            batch_items: metrics::histogram!(telemetry::BATCH_ITEMS),
            append_seconds: metrics::histogram!(telemetry::APPEND_SECONDS),
            next: first,
            bytes_max: usize::MAX,
        }
    }

    /// Makes what `posts` hold durable and tells whoever waits; none is left.
    pub(crate) async fn append(&mut self, posts: &mut Vec<Submission>) -> Result<(), LogEnded> {
        let (batch, shares) = self.sealed(posts);
        let appended = self.append_batch(batch).await;
        let told = match appended {
            Ok(told) => told,
            Err(not_appended) => {
                for post in posts.drain(..) {
                    let _ = post.done.send(Err(not_appended));
                }
                return match not_appended {
                    NotAppended::LogEnded => Err(LogEnded),
                    NotAppended::Full | NotAppended::TooLarge { .. } => Ok(()),
                };
            }
        };
        let new = told.as_ref().map(|told| told.count);
        let of_posts = told.zip(shares);
        let mut of_posts = of_posts
            .map(|(told, shares)| shares.of_posts(&told.marks))
            .unwrap_or_default()
            .into_iter();
        let sequence = self.next.sequence - 1;
        for post in posts.drain(..) {
            drop(post.ticket);
            let durable = Durable {
                sequence,
                new: of_posts.next().or(new),
            };
            let _ = post.done.send(Ok(durable));
        }
        Ok(())
    }

    /// Makes a batch durable, in parts if the log takes it in none other.
    async fn append_batch(&mut self, batch: Batch) -> Result<Option<NewItems>, NotAppended> {
        let batch = Arc::new(batch);
        // A signature and a barrier have no items, and so no parts.
        let has_parts = !batch.tenants().is_empty();
        if !has_parts || batch_bytes(batch.tenants()) <= self.bytes_max {
            match self.hand_over(Arc::clone(&batch)).await {
                Err(AppendError::TooLarge { bytes_max }) if !has_parts => {
                    self.bytes_max = self.bytes_max.min(bytes_max);
                    return Err(NotAppended::TooLarge { bytes_max });
                }
                Err(AppendError::TooLarge { bytes_max }) => self.learn(bytes_max)?,
                appended => return appended.map_err(|error| self.not_appended(error)),
            }
        }
        self.append_parts(&batch).await
    }

    /// Makes a batch durable part after part. Whoever waits is told once all are.
    async fn append_parts(&mut self, whole: &Batch) -> Result<Option<NewItems>, NotAppended> {
        let mut waiting = VecDeque::from(parts(whole.tenants(), self.bytes_max));
        let mut has_begun = false;
        while let Some(part) = waiting.pop_front() {
            let batch = Arc::new(Batch::new(self.next, whole.accepted_at_ms(), part));
            match self.hand_over(Arc::clone(&batch)).await {
                Ok(_) => has_begun = true,
                Err(AppendError::TooLarge { bytes_max }) => {
                    self.learn(bytes_max)?;
                    for part in parts(batch.tenants(), self.bytes_max).into_iter().rev() {
                        waiting.push_front(part);
                    }
                }
                // A part of it counts already: nobody may be told that nothing does.
                Err(AppendError::Full(_)) if has_begun => return Err(NotAppended::LogEnded),
                Err(error) => return Err(self.not_appended(error)),
            }
        }
        Ok(None)
    }

    /// Takes in what the log says that it takes.
    fn learn(&mut self, bytes_max: usize) -> Result<(), NotAppended> {
        if bytes_max >= self.bytes_max {
            let why = format!(
                "it takes batches of {bytes_max} bytes, and did not take one that has no more"
            );
            return Err(self.not_appended(AppendError::Refused(why)));
        }
        tracing::warn!(
            bytes_max,
            "the log takes no larger batches; what has more goes in parts"
        );
        self.bytes_max = bytes_max;
        Ok(())
    }

    fn not_appended(&self, error: AppendError) -> NotAppended {
        match error {
            AppendError::Full(_) => NotAppended::Full,
            AppendError::TooLarge { bytes_max } => NotAppended::TooLarge { bytes_max },
            AppendError::Refused(_) | AppendError::OutcomeUnknown => {
                // Of what must not go on, everybody knows already.
                if !self.ending.is_fatal() {
                    tracing::error!(%error, sequence = self.next.sequence, "the log ended");
                }
                self.ending.note_append_error(error);
                NotAppended::LogEnded
            }
        }
    }

    /// Hands one batch, which has the next name, to the log.
    async fn hand_over(&mut self, batch: Arc<Batch>) -> Result<Option<NewItems>, AppendError> {
        if self.ending.is_fatal() {
            return Err(AppendError::OutcomeUnknown);
        }
        let sequence = batch.id().sequence;
        // Before anyone can have it, so that a counter that holds more was given it by another.
        self.reached.handed.store(sequence, Ordering::Release);
        self.batch_items.record(batch.item_count() as f64);
        let started = Instant::now();
        let told = self.log.append(batch).await.inspect_err(|error| {
            // Nobody has it, nor will have: who holds one of that name was given it by another.
            if matches!(error, AppendError::Full(_) | AppendError::TooLarge { .. }) {
                self.reached.handed.store(sequence - 1, Ordering::Release);
            }
        })?;
        self.append_seconds.record(started.elapsed());
        if self.ending.is_fatal() {
            // With a clone about, counters may have taken another's batch for this one.
            return Err(AppendError::OutcomeUnknown);
        }
        // Before any client hears of it, so that a read that begins afterwards asks for it.
        self.reached.confirmed.store(sequence, Ordering::Release);
        self.next.sequence = sequence + 1;
        Ok(told)
    }

    /// One batch of what `posts` hold, and, if somebody is to tell them what was new, whose its
    /// items are.
    fn sealed(&self, posts: &mut [Submission]) -> (Batch, Option<Shares>) {
        let id = self.next;
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
#[path = "appender_tests.rs"]
mod tests;
