//! `headcount bench`: load for a running coordinator, measured and checked.
//!
//! Pure are what the requests are (`plan`, `draw`), when they are due (`schedule`), what answers
//! say (`response`), what came of them (`tally`) and how it is told (`report`). Around that,
//! `engine` starts threads, `lane` drives a connection, `wire` moves its bytes; `check` asks for
//! the counts afterwards.
//!
//! Invariant: it ends with success only if everything was measured and, unless the check is off, no
//! tenant has a count other than what was acknowledged and is in doubt allows.

mod args;
mod check;
mod draw;
mod engine;
mod lane;
mod plan;
mod report;
mod response;
mod schedule;
mod tally;
mod target;
mod wire;

pub(super) use args::{command, options};
pub use plan::Work;

use std::time::Duration;

use data_encoding::HEXLOWER;
use thiserror::Error;

use self::check::Checked;
use self::draw::Tenants;
use self::engine::{Effort, Run};
use self::plan::Recipe;
use self::report::{CheckedReport, Latency, Report, per_second, seconds};
use self::schedule::{Length, Window};
use self::target::Target;
use super::print;
use crate::client::{ClientError, CounterItems, PublicClient};

/// Random bytes in the name of a run.
const RUN_BYTES: usize = 5;

/// What load, and how.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// The coordinator.
    pub url: String,
    /// What is asked.
    pub work: Work,
    /// Connections, each with one request under way.
    pub connections: u32,
    /// Threads that send.
    pub threads: u32,
    /// Items in one request.
    pub items_per_request: u64,
    /// Tenants that the items are spread over.
    pub tenants: u32,
    /// How uneven they are.
    pub zipf: f64,
    /// Of all items, the fraction that repeats an id.
    pub duplicates: f64,
    /// Requests a second; a closed loop if not given.
    pub rate: Option<f64>,
    /// How long to measure, in seconds, unless `requests` says how much.
    pub duration_s: f64,
    /// How many requests to measure.
    pub requests: Option<u64>,
    /// How long to send before that, in seconds.
    pub warmup_s: f64,
    /// How tenants' names begin; random if not given.
    pub prefix: Option<String>,
    /// What reads must include.
    pub consistency: Option<String>,
    /// How long to wait for an answer, in milliseconds.
    pub timeout_ms: u64,
    /// Of the draws.
    pub seed: u64,
    /// Whether to compare the counts afterwards.
    pub check: bool,
    /// Whether to wait for the counters afterwards.
    pub settle: bool,
    /// Whether to print JSON.
    pub json: bool,
}

/// Why a run failed.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The URL can't be used.
    #[error(
        "{0:?} is not a URL that bench can send to, such as http://127.0.0.1:3000, or unix:/path of a socket"
    )]
    Url(String),
    /// An option that means nothing here.
    #[error("--consistency is for --work counts")]
    Consistency,
    /// Nothing answers, or not in time.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// An answer that is neither success nor a request to try again.
    #[error("refused with {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the answer said.
        detail: String,
    },
    /// The system gives no thread, or no randomness.
    #[error("the system can't run it: {0}")]
    Thread(String),
    /// Latencies can't be noted.
    #[error("latencies: {0}")]
    Latencies(String),
    /// The counts can't be asked for.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The coordinator does not vouch for its counts.
    #[error("the counts are not exact after {0} s, so they can't be checked")]
    NeverExact(u64),
    /// A counter does not catch up.
    #[error("counter {counter} has not committed everything after {waited_s} s")]
    NotSettled {
        /// The counter.
        counter: String,
        /// How long it was waited for, in seconds.
        waited_s: u64,
    },
    /// The check failed.
    #[error("the counts of {wrong} of {tenants} tenants are wrong: {example}")]
    Wrong {
        /// Tenants with a count that can't be.
        wrong: u64,
        /// Tenants in all.
        tenants: u64,
        /// One of those counts.
        example: String,
    },
    /// The result could not be written.
    #[error("the result was not written")]
    Unwritten,
}

/// Puts a coordinator under load and prints what came of it.
///
/// # Errors
/// When nothing could be measured, or the counts are wrong.
pub async fn bench(options: &BenchOptions) -> Result<(), BenchError> {
    if options.consistency.is_some() && options.work == Work::Items {
        return Err(BenchError::Consistency);
    }
    let target = Target::parse(&options.url)?;
    let client = PublicClient::past_proxies(&options.url)?;
    let run_name = run_name()?;
    let prefix = options.prefix.as_deref().unwrap_or(&run_name);
    let checks = options.check && options.work == Work::Items;
    // Nobody has the tenants of a random prefix yet.
    let counts_before = match checks && options.prefix.is_some() {
        true => check::counts(&client, prefix, options.tenants).await?,
        false => Vec::new(),
    };
    let counters_before = match options.settle {
        true => client.counters().await?,
        false => Vec::new(),
    };
    let recipe = recipe(options, &target, prefix, &run_name);
    let run = engine::run(&target, recipe, effort(options)).await?;
    let settled = settled(options, &client, &counters_before, &run).await?;
    let checked = match checks {
        true => {
            let counts = check::counts(&client, prefix, options.tenants).await?;
            Some(check::compare(prefix, &counts_before, &counts, &run.tally))
        }
        false => None,
    };
    let report = report(options, prefix, &run, settled, checked.as_ref());
    let text = if options.json {
        report.json()
    } else {
        report.text()
    };
    if !print(&text) {
        return Err(BenchError::Unwritten);
    }
    verdict(checked)
}

async fn settled(
    options: &BenchOptions,
    client: &PublicClient,
    before: &[CounterItems],
    run: &Run,
) -> Result<Option<Duration>, BenchError> {
    if !options.settle {
        return Ok(None);
    }
    let at = check::settle(client, before, run.tally.acked_in_all()).await?;
    Ok(Some(at.saturating_duration_since(run.origin)))
}

fn verdict(checked: Option<Checked>) -> Result<(), BenchError> {
    match checked {
        Some(Checked {
            tenants,
            wrong,
            example: Some(example),
            ..
        }) => Err(BenchError::Wrong {
            wrong,
            tenants,
            example,
        }),
        _ => Ok(()),
    }
}

/// A name that no other run has.
fn run_name() -> Result<String, BenchError> {
    let mut bytes = [0_u8; RUN_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| BenchError::Thread(error.to_string()))?;
    Ok(format!("b{}", HEXLOWER.encode(&bytes)))
}

fn recipe(options: &BenchOptions, target: &Target, prefix: &str, run: &str) -> Recipe {
    Recipe {
        work: options.work,
        authority: target.authority.clone(),
        base: target.base.clone(),
        prefix: prefix.to_owned(),
        run: run.to_owned(),
        tenants: Tenants::new(options.tenants, options.zipf),
        seed: options.seed,
        items_per_request: options.items_per_request,
        duplicates: options.duplicates,
        consistency: options.consistency.clone(),
    }
}

fn effort(options: &BenchOptions) -> Effort {
    let length = match options.requests {
        Some(requests) => Length::Requests(requests),
        None => Length::Time(Duration::from_secs_f64(options.duration_s)),
    };
    Effort {
        connections: options.connections,
        threads: options.threads,
        rate: options.rate,
        timeout: Duration::from_millis(options.timeout_ms),
        window: Window {
            warmup: Duration::from_secs_f64(options.warmup_s),
            length,
        },
    }
}

fn report(
    options: &BenchOptions,
    prefix: &str,
    run: &Run,
    settled: Option<Duration>,
    checked: Option<&Checked>,
) -> Report {
    let tally = &run.tally;
    let measured = run.measured.as_secs_f64();
    Report {
        version: report::VERSION,
        work: match options.work {
            Work::Items => "items",
            Work::Counts => "counts",
        },
        url: options.url.clone(),
        prefix: prefix.to_owned(),
        connections: options.connections,
        threads: options.threads,
        items_per_request: options.items_per_request,
        tenants: options.tenants,
        zipf: options.zipf,
        duplicates: options.duplicates,
        rate: options.rate,
        seconds: seconds(run.measured),
        requests: tally.requests,
        items: tally.items,
        distinct: tally.distinct,
        requests_per_s: per_second(tally.requests, measured),
        items_per_s: per_second(tally.items, measured),
        not_exact: tally.not_exact,
        refused: tally.refused,
        in_doubt: tally.in_doubt,
        unsent: run.unsent,
        reconnects: tally.reconnects,
        latency_us: Latency::from(&tally.latency),
        checked: checked.map(|checked| CheckedReport {
            tenants: checked.tenants,
            exact: checked.exact,
            wrong: checked.wrong,
        }),
        settled_seconds: settled.map(seconds),
        settled_items_per_s: settled
            .map(|time| per_second(tally.acked_in_all(), time.as_secs_f64())),
    }
}
