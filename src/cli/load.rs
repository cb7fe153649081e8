//! `headcount load`: posts the items of files until all of them are durable.
//!
//! Invariant: it succeeds only if every item was acknowledged. Whatever the outcome, it is safe to
//! run again.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::batch::SourceBatch;
use super::poster::{Poster, Posting};
use super::print::{grouped, print};
use super::source::{Cutting, ReadSoFar, SourceError, read_files, total_bytes};
use crate::client::{ClientError, PublicClient};

/// Maximum number of batches read ahead of those in flight.
const READ_AHEAD: usize = 4;

/// What to load and how.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// URL of the coordinator.
    pub url: String,
    /// The files; `-` is standard input.
    pub files: Vec<String>,
    /// `ndjson` or `csv`; if not given, the file's name decides.
    pub format: Option<String>,
    /// Items per request.
    pub batch_items: usize,
    /// Maximum number of requests in flight.
    pub connections: usize,
    /// How long to retry a batch, in seconds.
    pub retry_for_s: u64,
    /// Whether to continue without rejected items.
    pub skip_invalid: bool,
    /// Whether to print JSON.
    pub json: bool,
}

/// The reason why not every item was loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A file can't be read. The items before the fault are loaded.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The thread that reads the files could not be started, or panicked.
    #[error("the thread that reads the files failed: {0}")]
    Thread(std::io::Error),
    /// The coordinator can't be used.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A batch was rejected; other batches may be loaded.
    #[error("{file}, lines {first_line} to {last_line}: {error}{faults}")]
    Batch {
        /// The file.
        file: String,
        /// Line of the first rejected item, from 1.
        first_line: u64,
        /// Line of the last one.
        last_line: u64,
        /// The error from the coordinator.
        error: ClientError,
        /// The faults by line.
        faults: String,
    },
    /// All files were read, and all items were loaded except the rejected ones, which were
    /// reported.
    #[error("{0} items were rejected")]
    Skipped(u64),
}

/// Loads files. Prints progress on a terminal, and a summary at the end.
///
/// # Errors
/// Not every item was acknowledged. Load the same files again once the cause is fixed.
pub async fn load(options: &LoadOptions) -> Result<(), LoadError> {
    let client = PublicClient::new(&options.url)?;
    let posting = Posting {
        retry_for: Duration::from_secs(options.retry_for_s),
        skip_invalid: options.skip_invalid,
        json: options.json,
    };
    let read_so_far = Arc::new(ReadSoFar::default());
    let (receiver, reading) = start_reading(options, &read_so_far)?;
    let poster = Poster::new(client, posting, progress_bar(&options.files));
    let started = Instant::now();
    let posted = post_all(&poster, receiver, options.connections).await;
    let outcome = match posted {
        // The reader may block on input that never arrives; it ends with the process.
        Err(error) => Err(error),
        Ok(()) => match reading.await {
            Ok(read) => read.map_err(LoadError::from),
            Err(_) => Err(LoadError::Thread(std::io::Error::other(
                "it ended unexpectedly",
            ))),
        },
    };
    let outcome = match poster.tally.refused.load(Ordering::Relaxed) {
        0 => outcome,
        refused => outcome.and(Err(LoadError::Skipped(refused))),
    };
    poster.progress.finish_and_clear();
    let summary = Summary::new(&poster, &read_so_far, started.elapsed(), &outcome);
    // The items are loaded even if the summary can't be written.
    let _ = print(&match options.json {
        true => summary.json(),
        false => summary.text(),
    });
    outcome
}

async fn post_all(poster: &Poster, receiver: Batches, connections: usize) -> Result<(), LoadError> {
    let batches = stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|batch| (batch, receiver))
    });
    let posted = batches
        .map(|batch| poster.post(batch))
        .buffer_unordered(connections);
    let mut posted = std::pin::pin!(posted);
    while let Some(outcome) = posted.next().await {
        outcome?;
    }
    Ok(())
}

/// Reads the files on a separate thread. Unlike a thread of the runtime, it does not delay the end
/// of the process.
fn start_reading(
    options: &LoadOptions,
    read_so_far: &Arc<ReadSoFar>,
) -> Result<(Batches, Reading), LoadError> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let (ended, reading) = oneshot::channel();
    let cutting = Cutting {
        batch_items: options.batch_items,
        format: options.format.clone(),
    };
    let (files, read_so_far) = (options.files.clone(), Arc::clone(read_so_far));
    std::thread::Builder::new()
        .name("reader".to_owned())
        .spawn(move || {
            // Fails if the load has failed already.
            let _ = ended.send(read_files(&files, &cutting, &read_so_far, &sender));
        })
        .map_err(LoadError::Thread)?;
    Ok((receiver, reading))
}

type Batches = mpsc::Receiver<SourceBatch>;
type Reading = oneshot::Receiver<Result<(), SourceError>>;

/// Result of a load.
#[derive(Serialize)]
struct Summary {
    /// Whether every item of the files is durable.
    loaded: bool,
    /// Whether all files were read and posted completely.
    #[serde(skip)]
    to_the_end: bool,
    /// Lines read, including headers and blank lines.
    lines: u64,
    /// Items acknowledged.
    items: u64,
    /// Items rejected, each of which was reported.
    refused: u64,
    /// CSV records from which spaces around a field were removed.
    trimmed: u64,
    /// Retried requests.
    retries: u64,
    seconds: f64,
}

impl Summary {
    fn new(
        poster: &Poster,
        read_so_far: &ReadSoFar,
        elapsed: Duration,
        outcome: &Result<(), LoadError>,
    ) -> Self {
        Self {
            loaded: outcome.is_ok(),
            to_the_end: matches!(outcome, Ok(()) | Err(LoadError::Skipped(_))),
            lines: read_so_far.lines.load(Ordering::Relaxed),
            items: poster.tally.accepted.load(Ordering::Relaxed),
            refused: poster.tally.refused.load(Ordering::Relaxed),
            trimmed: read_so_far.trimmed.load(Ordering::Relaxed),
            retries: poster.tally.retries.load(Ordering::Relaxed),
            seconds: (elapsed.as_secs_f64() * 1e3).round() / 1e3,
        }
    }

    fn text(&self) -> String {
        let rate = self.items as f64 / self.seconds.max(0.001);
        let mut text = format!(
            "{} {} items in {:.1} s ({} items/s) from {} lines read, {} retries\n",
            if self.to_the_end {
                "Loaded"
            } else {
                "Stopped after"
            },
            grouped(self.items),
            self.seconds,
            grouped(rate as u64),
            grouped(self.lines),
            grouped(self.retries),
        );
        if self.refused > 0 {
            text.push_str(&format!("{} items were rejected\n", grouped(self.refused)));
        }
        if self.trimmed > 0 {
            text.push_str(&format!(
                "Spaces around fields were removed on {} lines of CSV\n",
                grouped(self.trimmed)
            ));
        }
        text
    }

    fn json(&self) -> String {
        // Serializing numbers and booleans can't fail.
        serde_json::to_string(self).map_or_else(|_| String::new(), |text| text + "\n")
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
