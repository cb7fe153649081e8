//! Appends gathered posts to the log: builds a batch, splits it if necessary, and sends the result
//! to the waiting posts.
//!
//! Invariant: after a successful append, the next batch gets the next sequence; if the log rejected
//! the batch, the next one gets the same sequence. Once a part of a post may be counted, the post
//! is not reported as rejected.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use metrics::Histogram;

use super::batcher::{Durable, Load, LogEnded, NotAppended, Reached, Submission};
use super::parts::parts;
use super::shutdown::Shutdown;
use headcount_log::{AppendError, Log, batch_bytes};
use headcount_model::{Batch, BatchId, NewItems, Shares};
use headcount_runtime::clock::now_ms;
use headcount_telemetry as telemetry;

/// Appends one batch after the other to the log.
pub(super) struct Appender<L> {
    log: L,
    reached: Arc<Reached>,
    pub ending: Arc<Shutdown>,
    batch_items: Histogram,
    append_seconds: Histogram,
    /// Id of the next batch. If the log rejects a batch, the next one gets its id.
    next: BatchId,
    /// Maximum encoded size of a batch in bytes, as far as the log has reported a limit.
    pub bytes_max: usize,
}

impl<L: Log> Appender<L> {
    /// Creates an appender. `first` is the id of its first batch.
    pub(crate) fn new(
        log: L,
        first: BatchId,
        reached: Arc<Reached>,
        ending: Arc<Shutdown>,
    ) -> Self {
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

    /// Makes the contents of `posts` durable, sends each of them its result, and leaves `posts`
    /// empty.
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

    /// Makes a batch durable, in parts if the log does not accept it whole.
    async fn append_batch(&mut self, batch: Batch) -> Result<Option<NewItems>, NotAppended> {
        let batch = Arc::new(batch);
        // Loss acceptances and barriers have no items, so they cannot be split.
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

    /// Makes a batch durable part by part. The waiting posts get their result once all parts are
    /// durable.
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
                // A part of it is already counted, so it must not be reported as rejected.
                Err(AppendError::Full(_)) if has_begun => return Err(NotAppended::LogEnded),
                Err(error) => return Err(self.not_appended(error)),
            }
        }
        Ok(None)
    }

    /// Stores the size limit that the log reported.
    fn learn(&mut self, bytes_max: usize) -> Result<(), NotAppended> {
        if bytes_max >= self.bytes_max {
            let why = format!(
                "it accepts batches of {bytes_max} bytes but rejected one that is not larger"
            );
            return Err(self.not_appended(AppendError::Refused(why)));
        }
        tracing::warn!(
            bytes_max,
            "log limits the batch size; larger batches are split"
        );
        self.bytes_max = bytes_max;
        Ok(())
    }

    fn not_appended(&self, error: AppendError) -> NotAppended {
        match error {
            AppendError::Full(_) => NotAppended::Full,
            AppendError::TooLarge { bytes_max } => NotAppended::TooLarge { bytes_max },
            AppendError::Refused(_) | AppendError::OutcomeUnknown => {
                // A fatal error was already logged.
                if !self.ending.is_fatal() {
                    let sequence = self.next.sequence;
                    tracing::error!(%error, sequence, "append failed; the log ended");
                }
                self.ending.note_append_error(error);
                NotAppended::LogEnded
            }
        }
    }

    /// Appends one batch, which has the next id, to the log.
    async fn hand_over(&mut self, batch: Arc<Batch>) -> Result<Option<NewItems>, AppendError> {
        if self.ending.is_fatal() {
            return Err(AppendError::OutcomeUnknown);
        }
        let sequence = batch.id().sequence;
        // Stored before any counter can hold the batch: a counter that holds more got it from a
        // clone.
        self.reached.handed.store(sequence, Ordering::Release);
        self.batch_items.record(batch.item_count() as f64);
        let started = Instant::now();
        let told = self.log.append(batch).await.inspect_err(|error| {
            // No counter holds it or ever will: one that holds a batch of this id got it from a
            // clone.
            if matches!(error, AppendError::Full(_) | AppendError::TooLarge { .. }) {
                self.reached.handed.store(sequence - 1, Ordering::Release);
            }
        })?;
        self.append_seconds.record(started.elapsed());
        if self.ending.is_fatal() {
            // If there is a clone, counters may have applied its batch instead of this one.
            return Err(AppendError::OutcomeUnknown);
        }
        // Stored before any client gets its answer, so that a read that begins afterwards requires
        // this batch.
        self.reached.confirmed.store(sequence, Ordering::Release);
        self.next.sequence = sequence + 1;
        Ok(told)
    }

    /// Builds one batch from the contents of `posts`. If there are several posts and the log
    /// reports which items were new, also returns which items belong to which post.
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
