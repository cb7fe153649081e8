//! `headcount load`: the items of files, posted until all of them are durable.
//!
//! Invariant: it ends with success only if every item was acknowledged. Whatever it says or however it ends,
//! running it again is safe.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use indicatif::{ProgressBar, ProgressStyle};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::print;
use super::print::grouped;
use super::source::{Cutting, SourceBatch, SourceError, read_files, total_bytes};
use crate::client::{ClientError, PublicClient};

/// Batches read ahead of those being posted.
const READ_AHEAD: usize = 4;
/// The first wait before a batch is posted again; it doubles each time.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait before a batch is posted again.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What to load, and how.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The coordinator.
    pub url: String,
    /// The files; `-` is standard input.
    pub files: Vec<String>,
    /// `ndjson` or `csv`; by the files' names if not given.
    pub format: Option<String>,
    /// Items in one request.
    pub batch_items: usize,
    /// Requests under way at once.
    pub connections: usize,
    /// How long to try a batch again, in seconds.
    pub retry_for_s: u64,
}

/// Why not everything was loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A file can't be read. What was read before is loaded.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The system gives no thread to read in.
    #[error("no thread to read the files: {0}")]
    Thread(std::io::Error),
    /// The coordinator can't be used.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A batch was refused; other batches may be loaded.
    #[error("{file}, from line {first_line}: {error}{faults}")]
    Batch {
        /// The file.
        file: String,
        /// The first line of the batch that was refused, from 1.
        first_line: u64,
        /// What the coordinator said.
        error: ClientError,
        /// The faults by line.
        faults: String,
    },
}

/// Loads files; prints progress on a terminal, and a summary at the end.
///
/// # Errors
/// When not every item was acknowledged; load the same again once the cause is gone.
pub async fn load(options: &LoadOptions) -> Result<(), LoadError> {
    let client = PublicClient::new(&options.url)?;
    let (receiver, reading) = start_reading(options)?;
    let loader = Loader {
        client,
        retry_for: Duration::from_secs(options.retry_for_s),
        progress: progress_bar(&options.files),
        accepted: AtomicU64::new(0),
        retries: AtomicU64::new(0),
    };
    let started = Instant::now();
    let batches = stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|batch| (batch, receiver))
    });
    let posted = batches
        .map(|batch| loader.post(batch))
        .buffer_unordered(options.connections);
    let mut posted = std::pin::pin!(posted);
    let mut failed = None;
    while let Some(outcome) = posted.next().await {
        if let Err(error) = outcome {
            failed = Some(error);
            break;
        }
    }
    let outcome = match failed {
        // The reader may wait for input that never comes; it ends with the process.
        Some(error) => Err(error),
        None => match reading.await {
            Ok(read) => read.map_err(LoadError::from),
            Err(_) => Err(LoadError::Thread(std::io::Error::other("it ended early"))),
        },
    };
    loader.progress.finish_and_clear();
    loader.print_summary(started.elapsed(), outcome.is_ok());
    outcome
}

/// Reads the files on a thread of their own, which, unlike the runtime's, the process's end does not wait for.
fn start_reading(options: &LoadOptions) -> Result<(Batches, Reading), LoadError> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let (ended, reading) = oneshot::channel();
    let cutting = Cutting {
        batch_items: options.batch_items,
        format: options.format.clone(),
    };
    let files = options.files.clone();
    std::thread::Builder::new()
        .name("reader".to_owned())
        .spawn(move || {
            // Once the load has failed, nobody asks.
            let _ = ended.send(read_files(&files, &cutting, &sender));
        })
        .map_err(LoadError::Thread)?;
    Ok((receiver, reading))
}

type Batches = mpsc::Receiver<SourceBatch>;
type Reading = oneshot::Receiver<Result<(), SourceError>>;

struct Loader {
    client: PublicClient,
    retry_for: Duration,
    progress: ProgressBar,
    accepted: AtomicU64,
    retries: AtomicU64,
}

impl Loader {
    /// Posts a batch until it is acknowledged or refused, or the time to try again is up.
    async fn post(&self, batch: SourceBatch) -> Result<(), LoadError> {
        let started = Instant::now();
        let mut backoff = BACKOFF_MIN;
        loop {
            let error = match self.client.post_ndjson(batch.body.clone()).await {
                Ok(accepted) => {
                    let total = self.accepted.fetch_add(accepted, Ordering::Relaxed) + accepted;
                    self.progress
                        .set_message(format!("{} items", grouped(total)));
                    self.progress.inc(batch.source_bytes);
                    return Ok(());
                }
                Err(error) => error,
            };
            if !error.is_retryable() || started.elapsed() >= self.retry_for {
                return Err(refused(&batch, error));
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
            self.progress.set_message(format!("trying again: {error}"));
            tokio::time::sleep(backoff.mul_f64(jitter())).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn print_summary(&self, elapsed: Duration, whole: bool) {
        let accepted = self.accepted.load(Ordering::Relaxed);
        let rate = accepted as f64 / elapsed.as_secs_f64().max(0.001);
        let summary = format!(
            "{} {} items in {:.1} s ({} items/s), {} retries\n",
            if whole { "Loaded" } else { "Stopped after" },
            grouped(accepted),
            elapsed.as_secs_f64(),
            grouped(rate as u64),
            self.retries.load(Ordering::Relaxed),
        );
        // What is loaded is loaded, whoever reads the summary.
        let _ = print(&summary);
    }
}

/// Between a half and one and a half, so that many clients don't come back together.
fn jitter() -> f64 {
    let mut byte = [0_u8];
    // Without randomness the wait is simply the shortest.
    let _ = getrandom::fill(&mut byte);
    0.5 + f64::from(byte[0]) / 256.0
}

fn refused(batch: &SourceBatch, mut error: ClientError) -> LoadError {
    let mut faults = String::new();
    if let ClientError::Refused {
        detail,
        faults: named,
        ..
    } = &mut error
    {
        *detail = without_index(detail).to_owned();
        for (index, detail) in named {
            let detail = without_index(detail);
            faults.push_str(&format!(
                "\n  line {}: {detail}",
                batch.first_line + *index as u64
            ));
        }
    }
    LoadError::Batch {
        file: batch.file.clone(),
        first_line: batch.first_line,
        error,
        faults,
    }
}

/// A detail without the index of its line in the request, which would mislead beside the line in the file.
fn without_index(detail: &str) -> &str {
    let rest = detail
        .strip_prefix("line index ")
        .and_then(|rest| rest.split_once(": "));
    match rest {
        Some((index, rest)) if index.bytes().all(|byte| byte.is_ascii_digit()) => rest,
        _ => detail,
    }
}

fn progress_bar(files: &[String]) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total_bytes(files) {
        Some(total) => (
            ProgressBar::new(total),
            "{bar:40} {percent}% {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left, {msg}",
        ),
        None => (
            ProgressBar::no_length(),
            "{spinner} {bytes}, {bytes_per_sec}, {msg}",
        ),
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn waits_spread() {
        let waits: HashSet<u64> = (0..64).map(|_| (jitter() * 1e6) as u64).collect();
        assert!(waits.len() > 8);
        assert!(waits.iter().all(|wait| (500_000..1_500_000).contains(wait)));
    }
}
