//! Posts batches until each item is durable or rejected.
//!
//! Invariant: an item that is counted as accepted was acknowledged, and each rejected item is
//! reported with its line.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use parking_lot::Mutex;
use serde::Serialize;

use super::batch::SourceBatch;
use super::load::LoadError;
use super::print::{grouped, print_error, print_json_error};
use super::step::{BACKOFF_MIN, Faults, Step, TOO_LARGE, indexes, longer, step, wait};
use crate::client::{ClientError, PublicClient};

/// Minimum interval between messages about retries when no progress bar shows them.
const NOTICE_EVERY: Duration = Duration::from_secs(10);

/// How batches are posted.
pub(super) struct Posting {
    /// How long to retry a batch.
    pub retry_for: Duration,
    /// Whether rejected items are skipped.
    pub skip_invalid: bool,
    /// Whether messages are JSON.
    pub json: bool,
}

/// Totals of all batches so far.
#[derive(Default)]
pub(super) struct Tally {
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    pub retries: AtomicU64,
}

/// Posts several batches concurrently.
pub(super) struct Poster {
    pub client: PublicClient,
    pub posting: Posting,
    pub progress: ProgressBar,
    pub tally: Tally,
    /// Maximum number of items per request, according to the responses so far.
    fitting: AtomicUsize,
    noticed_at: Mutex<Option<Instant>>,
}

/// A rejected item, as reported in JSON.
#[derive(Serialize)]
struct RefusedItem<'a> {
    file: &'a str,
    line: u64,
    detail: &'a str,
}

impl Poster {
    pub(super) fn new(client: PublicClient, posting: Posting, progress: ProgressBar) -> Self {
        Self {
            client,
            posting,
            progress,
            tally: Tally::default(),
            fitting: AtomicUsize::new(usize::MAX),
            noticed_at: Mutex::default(),
        }
    }

    /// Posts a batch, in parts if necessary.
    pub(super) async fn post(&self, batch: SourceBatch) -> Result<(), LoadError> {
        // The remaining parts; the next one is last.
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            if part.lines.len() > self.fitting.load(Ordering::Relaxed) {
                let (first, second) = part.halves();
                parts.extend([second, first]);
                continue;
            }
            if part.lines.is_empty() {
                self.progress.inc(part.source_bytes);
                continue;
            }
            match self.settle(&part).await? {
                Settled::Done => self.progress.inc(part.source_bytes),
                Settled::Halve => {
                    let (first, second) = part.halves();
                    parts.extend([second, first]);
                }
                Settled::Leave(faults) => {
                    self.note_refused(&part, &faults);
                    parts.push(part.without(&indexes(&faults)));
                }
            }
        }
        Ok(())
    }

    /// Posts a part until its outcome is known or the time for retries is over.
    async fn settle(&self, part: &SourceBatch) -> Result<Settled, LoadError> {
        let (started, items) = (Instant::now(), part.lines.len());
        let mut backoff = BACKOFF_MIN;
        loop {
            let skip_invalid = self.posting.skip_invalid;
            let posted = self.client.post_ndjson(part.body.clone(), skip_invalid);
            let posted = posted.await;
            if let Err(ClientError::Refused {
                status: TOO_LARGE, ..
            }) = &posted
            {
                // So that further batches of this size are not sent only to be rejected.
                self.fitting
                    .fetch_min((items / 2).max(1), Ordering::Relaxed);
            }
            let error = match step(posted, items, skip_invalid) {
                Step::Done { accepted, refused } => {
                    self.note_refused(part, &refused);
                    let before = self.tally.accepted.fetch_add(accepted, Ordering::Relaxed);
                    let text = format!("{} items", grouped(before + accepted));
                    self.progress.set_message(text);
                    return Ok(Settled::Done);
                }
                Step::Halve => return Ok(Settled::Halve),
                Step::Leave(faults) => return Ok(Settled::Leave(faults)),
                Step::Again(error) => error,
                Step::Refuse(error) => return Err(refused(part, error)),
            };
            let left = self.posting.retry_for.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(refused(part, error));
            }
            self.tally.retries.fetch_add(1, Ordering::Relaxed);
            self.notice(&error);
            let asked = match error {
                ClientError::Unavailable { retry_after, .. } => retry_after,
                _ => None,
            };
            tokio::time::sleep(wait(backoff, asked, spread(), left)).await;
            backoff = longer(backoff);
        }
    }

    /// Reports each rejected item with its line.
    fn note_refused(&self, part: &SourceBatch, faults: &Faults) {
        let refused = indexes(faults).len() as u64;
        self.tally.refused.fetch_add(refused, Ordering::Relaxed);
        for (index, detail) in faults {
            let (file, line, detail) = (&*part.file, part.lines[*index], without_index(detail));
            self.progress.suspend(|| match self.posting.json {
                true => print_json_error(&RefusedItem { file, line, detail }),
                false => print_error(&format!("{file}, line {line}: {detail}")),
            });
        }
    }

    /// Reports a retry: on the progress bar, or in an occasional line if the bar is hidden.
    fn notice(&self, error: &ClientError) {
        let text = format!("retrying: {error}");
        if !self.progress.is_hidden() {
            self.progress.set_message(text);
            return;
        }
        let mut noticed_at = self.noticed_at.lock();
        if noticed_at.is_none_or(|at| at.elapsed() >= NOTICE_EVERY) {
            *noticed_at = Some(Instant::now());
            match self.posting.json {
                true => print_json_error(&serde_json::json!({"trying_again": error.to_string()})),
                false => print_error(&text),
            }
        }
    }
}

/// Outcome of a part.
enum Settled {
    Done,
    Halve,
    Leave(Faults),
}

/// A random factor between 0.5 and 1.5, so that many clients do not retry at the same time.
fn spread() -> f64 {
    let mut byte = [0_u8];
    // If random bytes are unavailable, the factor is 0.5.
    let _ = getrandom::fill(&mut byte);
    0.5 + f64::from(byte[0]) / 256.0
}

fn refused(part: &SourceBatch, mut error: ClientError) -> LoadError {
    let mut faults = String::new();
    if let ClientError::Refused {
        detail,
        faults: named,
        ..
    } = &mut error
    {
        *detail = without_index(detail).to_owned();
        for (index, detail) in named {
            if let Some(line) = part.lines.get(*index) {
                faults.push_str(&format!("\n  line {line}: {}", without_index(detail)));
            }
        }
    }
    LoadError::Batch {
        file: part.file.to_string(),
        first_line: part.lines.first().copied().unwrap_or_default(),
        last_line: part.lines.last().copied().unwrap_or_default(),
        error,
        faults,
    }
}

/// A detail without the index of the line in the request, which would be confused with the line in
/// the file.
fn without_index(detail: &str) -> &str {
    let rest = detail
        .strip_prefix("line index ")
        .and_then(|rest| rest.split_once(": "));
    match rest {
        Some((index, rest)) if index.bytes().all(|byte| byte.is_ascii_digit()) => rest,
        _ => detail,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn waits_spread() {
        let waits: HashSet<u64> = (0..64).map(|_| (spread() * 1e6) as u64).collect();
        assert!(waits.len() > 8);
        assert!(waits.iter().all(|wait| (500_000..1_500_000).contains(wait)));
    }
}
