//! `headcount bench`: generates load on a running coordinator, measures it and checks the counts.
//!
//! The pure parts are the requests (`plan`, `draw`), their due times (`schedule`), the parsing of
//! responses (`response`), the results (`tally`) and the report (`report`). Around them, `engine`
//! starts threads, `worker` drives a connection, and `wire` sends and receives its bytes; `check`
//! reads the counts afterwards.
//!
//! Invariant: it succeeds only if everything was measured and, unless the check is off, the count
//! of every tenant agrees with the ids that were acknowledged or are in doubt.

mod args;
mod check;
mod draw;
mod engine;
mod plan;
mod report;
mod response;
mod schedule;
mod tally;
mod target;
mod wire;
mod worker;

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

/// Number of random bytes in the name of a run.
const RUN_BYTES: usize = 5;

/// What load to generate, and how.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// URL of the coordinator.
    pub url: String,
    /// Kind of the requests.
    pub work: Work,
    /// Number of connections, each with one request in flight.
    pub connections: u32,
    /// Number of sender threads.
    pub threads: u32,
    /// Items per request.
    pub items_per_request: u64,
    /// Number of tenants.
    pub tenants: u32,
    /// Zipf exponent of the tenants.
    pub zipf: f64,
    /// Fraction of items that repeat an id.
    pub duplicates: f64,
    /// Requests per second; a closed loop if not given.
    pub rate: Option<f64>,
    /// Duration of the measurement in seconds, unless `requests` is given.
    pub duration_s: f64,
    /// Number of requests to measure.
    pub requests: Option<u64>,
    /// Duration of the warm-up in seconds.
    pub warmup_s: f64,
    /// Prefix of tenant names; random if not given.
    pub prefix: Option<String>,
    /// Consistency level of reads.
    pub consistency: Option<String>,
    /// Timeout of a request in milliseconds.
    pub timeout_ms: u64,
    /// Seed of the random tenants and duplicates.
    pub seed: u64,
    /// Whether to check the counts afterwards.
    pub check: bool,
    /// Whether to wait afterwards until the counters have committed everything.
    pub settle: bool,
    /// Whether to print JSON.
    pub json: bool,
}

/// The reason why a run failed.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The URL is not supported.
    #[error(
        "{0:?} is not a URL that bench can send to, such as http://127.0.0.1:3000, or unix:/path \
            of a socket"
    )]
    Url(String),
    /// An option that does not apply to this kind of request.
    #[error("--consistency applies only to --work counts")]
    Consistency,
    /// The coordinator does not answer, or not in time.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// A response that neither succeeds nor asks for a retry.
    #[error("request rejected with {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The detail in the response.
        detail: String,
    },
    /// The operating system refused to start a thread or to return random bytes.
    #[error("could not run the load: {0}")]
    Thread(String),
    /// Latencies can't be recorded.
    #[error("could not record latencies: {0}")]
    Latencies(String),
    /// The request for the counts failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The coordinator does not report exact counts.
    #[error("the counts are not exact after {0} s, so they can't be checked")]
    NeverExact(u64),
    /// A counter has not caught up.
    #[error("counter {counter} has not committed everything after {waited_s} s")]
    NotSettled {
        /// The counter.
        counter: String,
        /// How long the command waited, in seconds.
        waited_s: u64,
    },
    /// The check failed.
    #[error("the counts of {wrong} of {tenants} tenants are wrong: {example}")]
    Wrong {
        /// Number of tenants with an impossible count.
        wrong: u64,
        /// Number of tenants.
        tenants: u64,
        /// Description of one of these counts.
        example: String,
    },
    /// The result could not be written.
    #[error("could not write the result")]
    Unwritten,
}

/// Generates load on a coordinator and prints the results.
///
/// # Errors
/// Nothing could be measured, or the counts are wrong.
pub async fn bench(options: &BenchOptions) -> Result<(), BenchError> {
    if options.consistency.is_some() && options.work == Work::Items {
        return Err(BenchError::Consistency);
    }
    let target = Target::parse(&options.url)?;
    let client = PublicClient::past_proxies(&options.url)?;
    let run_name = run_name()?;
    let prefix = options.prefix.as_deref().unwrap_or(&run_name);
    let checks = options.check && options.work == Work::Items;
    // Tenants with a random prefix do not exist yet, so their counts are 0.
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

/// A random name for this run.
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
