//! `headcount load`: the items of files, posted until all of them are durable.
//!
//! Invariant: it ends with success only if every item was acknowledged. Whatever it says or however
//! it ends, running it again is safe.

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

/// Batches read ahead of those being posted.
const READ_AHEAD: usize = 4;

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
    /// Whether to go on without items that are refused.
    pub skip_invalid: bool,
    /// Whether to print JSON.
    pub json: bool,
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
    #[error("{file}, lines {first_line} to {last_line}: {error}{faults}")]
    Batch {
        /// The file.
        file: String,
        /// The line of the first item that was refused, from 1.
        first_line: u64,
        /// The line of the last one.
        last_line: u64,
        /// What the coordinator said.
        error: ClientError,
        /// The faults by line.
        faults: String,
    },
    /// Everything was read, and all but some items were loaded, each of which was told.
    #[error("{0} items were refused")]
    Skipped(u64),
}

/// Loads files; prints progress on a terminal, and a summary at the end.
///
/// # Errors
/// When not every item was acknowledged; load the same again once the cause is gone.
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
        // The reader may wait for input that never comes; it ends with the process.
        Err(error) => Err(error),
        Ok(()) => match reading.await {
            Ok(read) => read.map_err(LoadError::from),
            Err(_) => Err(LoadError::Thread(std::io::Error::other("it ended early"))),
        },
    };
    let outcome = match poster.tally.refused.load(Ordering::Relaxed) {
        0 => outcome,
        refused => outcome.and(Err(LoadError::Skipped(refused))),
    };
    poster.progress.finish_and_clear();
    let summary = Summary::new(&poster, &read_so_far, started.elapsed(), &outcome);
    // What is loaded is loaded, whoever reads the summary.
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

/// Reads the files on a thread of their own, which, unlike the runtime's, the process's end does
/// not wait for.
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
            // Once the load has failed, nobody asks.
            let _ = ended.send(read_files(&files, &cutting, &read_so_far, &sender));
        })
        .map_err(LoadError::Thread)?;
    Ok((receiver, reading))
}

type Batches = mpsc::Receiver<SourceBatch>;
type Reading = oneshot::Receiver<Result<(), SourceError>>;

/// What came of a load.
#[derive(Serialize)]
struct Summary {
    /// Whether every item of the files is durable.
    loaded: bool,
    /// Whether all of the files was read and posted.
    #[serde(skip)]
    to_the_end: bool,
    /// Lines read, with headers and blank ones.
    lines: u64,
    /// Items acknowledged.
    items: u64,
    /// Items refused, each of which was told.
    refused: u64,
    /// Lines of CSV with spaces around a field, which were left out.
    trimmed: u64,
    /// Requests sent again.
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
            text.push_str(&format!("{} items were refused\n", grouped(self.refused)));
        }
        if self.trimmed > 0 {
            text.push_str(&format!(
                "Spaces around fields were left out on {} lines of CSV\n",
                grouped(self.trimmed)
            ));
        }
        text
    }

    fn json(&self) -> String {
        // Numbers and a truth value can always be written.
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
