//! The command line: what it offers, and the commands that are clients of a running service.
//!
//! Invariant: results go to standard output, everything else to standard error; an error is one
//! line.

#![expect(
    clippy::disallowed_methods,
    reason = "a command waits for all that it starts"
)]

mod batch;
mod bench;
mod client_args;
mod command;
mod confirm;
mod count;
mod csv;
mod health;
mod load;
mod operator;
mod poster;
mod print;
mod source;
mod step;
mod told;
mod verify;

pub use bench::{BenchOptions, Work, bench};
pub use confirm::confirm;
pub use count::count;
pub use health::health;
pub use load::{LoadOptions, load};
pub use operator::{OperatorError, accept_loss, remake_queue, remove_counter, skip_poison};
pub use print::print;
pub use told::Told;
pub use verify::print_report;

use std::path::{Path, PathBuf};

use clap::ArgMatches;
use thiserror::Error;

use crate::client::CountsRequest;
use crate::config::{
    self, BrokerConfig, ConfigError, CoordinatorConfig, CounterConfig, NamedFile, ServeConfig,
};
use crate::model::CounterName;

/// What to accept as lost, and where to say so.
#[derive(Debug)]
pub struct AcceptLossOptions {
    /// The coordinator.
    pub url: String,
    /// The file with the nodes' secret.
    pub cluster_secret_file: Option<NamedFile>,
    /// The epoch of one range, in hex.
    pub epoch: Option<String>,
    /// Its first and last sequence.
    pub range: Option<String>,
    /// Whether not to ask.
    pub yes: bool,
}

/// What the command line asks for.
pub enum Invocation {
    /// Run the service.
    Serve(Box<ServeConfig>),
    /// Run a coordinator of a cluster.
    Coordinator(Box<CoordinatorConfig>),
    /// Run a counter of a cluster.
    Counter(Box<CounterConfig>),
    /// Delete a counter's queue.
    RemoveCounter {
        /// The broker.
        broker: BrokerConfig,
        /// The counter.
        name: CounterName,
        /// Whether not to ask.
        yes: bool,
    },
    /// Accept a loss.
    AcceptLoss(AcceptLossOptions),
    /// Skip a batch that can't be read.
    SkipPoison {
        /// The broker.
        broker: BrokerConfig,
        /// The counter.
        name: CounterName,
        /// The counter's folder.
        data_dir: PathBuf,
        /// Whether not to ask.
        yes: bool,
    },
    /// Make a counter's queue again.
    RemakeQueue {
        /// The broker.
        broker: BrokerConfig,
        /// Whether queues are classic ones.
        classic_queues: bool,
        /// The counter.
        name: CounterName,
        /// Whether to do it although nothing is wrong.
        force: bool,
        /// Whether not to ask.
        yes: bool,
    },
    /// Ask for counts.
    Count {
        /// The coordinator.
        url: String,
        /// What to ask.
        request: CountsRequest,
        /// Whether to print JSON.
        json: bool,
    },
    /// Ask a node how it is.
    Health {
        /// The node.
        url: String,
        /// Whether it must be able to do its work, or only live.
        ready: bool,
        /// Whether to print JSON.
        json: bool,
    },
    /// Post the items of files.
    Load(LoadOptions),
    /// Put a coordinator under load and measure it.
    Bench(BenchOptions),
    /// Recount a store.
    Verify {
        /// Its folder.
        data_dir: PathBuf,
    },
}

/// Why the command line can't be used.
#[derive(Debug, Error)]
pub enum UsageError {
    /// It is not one of this program; the first line of what is wrong.
    #[error("{0}")]
    Arguments(String),
    /// A setting is not allowed.
    #[error(transparent)]
    Setting(#[from] ConfigError),
}

/// Reads the command line. Help and version end the process here, and so does misuse that is told
/// as text: with colours, and what would be right.
///
/// # Errors
/// Misuse that is told otherwise, and a setting that is not allowed.
pub fn parse(told: Told) -> Result<Invocation, UsageError> {
    let matches = match command::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) if told == Told::Text || !error.use_stderr() => error.exit(),
        Err(error) => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            let first = first.trim_start_matches("error: ");
            return Err(UsageError::Arguments(first.to_owned()));
        }
    };
    Ok(invocation(&matches)?)
}

fn invocation(matches: &ArgMatches) -> Result<Invocation, ConfigError> {
    match matches.subcommand() {
        Some(("count", matches)) => Ok(Invocation::Count {
            url: text(matches, "url"),
            request: CountsRequest {
                tenants: texts(matches, "tenant"),
                consistency: matches.get_one("consistency").cloned(),
                after: matches.get_one("after").cloned(),
            },
            json: matches.get_flag("json"),
        }),
        Some(("health", matches)) => Ok(Invocation::Health {
            url: text(matches, "url"),
            ready: matches.get_flag("ready"),
            json: matches.get_flag("json"),
        }),
        Some(("load", matches)) => Ok(Invocation::Load(LoadOptions {
            url: text(matches, "url"),
            files: texts(matches, "file"),
            format: matches.get_one::<String>("format").cloned(),
            batch_items: number(matches, "batch-items"),
            connections: number(matches, "connections"),
            retry_for_s: number(matches, "retry-for-s") as u64,
            skip_invalid: matches.get_flag("skip-invalid"),
            json: matches.get_flag("json"),
        })),
        Some(("bench", matches)) => Ok(Invocation::Bench(bench::options(matches))),
        Some(("verify", matches)) => Ok(Invocation::Verify {
            data_dir: text(matches, "data-dir").into(),
        }),
        Some(("coordinator", matches)) => {
            let config = config::coordinator_config(matches, file(matches))?;
            Ok(Invocation::Coordinator(Box::new(config)))
        }
        Some(("counter", matches)) => {
            let config = config::counter_config(matches, file(matches))?;
            Ok(Invocation::Counter(Box::new(config)))
        }
        Some(("remove-counter", matches)) => Ok(Invocation::RemoveCounter {
            broker: config::broker(matches)?,
            name: config::counter_name(matches)?,
            yes: matches.get_flag("yes"),
        }),
        Some(("accept-loss", matches)) => Ok(Invocation::AcceptLoss(AcceptLossOptions {
            url: text(matches, "url"),
            cluster_secret_file: config::secret_file(matches)?,
            epoch: matches.get_one("epoch").cloned(),
            range: matches.get_one("range").cloned(),
            yes: matches.get_flag("yes"),
        })),
        Some(("remake-queue", matches)) => Ok(Invocation::RemakeQueue {
            broker: config::broker(matches)?,
            classic_queues: config::classic_queues(matches)?,
            name: config::counter_name(matches)?,
            force: matches.get_flag("force"),
            yes: matches.get_flag("yes"),
        }),
        Some(("skip-poison", matches)) => Ok(Invocation::SkipPoison {
            broker: config::broker(matches)?,
            name: config::counter_name(matches)?,
            data_dir: config::data_dir(matches)?,
            yes: matches.get_flag("yes"),
        }),
        Some(("serve", matches)) => serve(matches),
        _ => serve(matches),
    }
}

fn serve(matches: &ArgMatches) -> Result<Invocation, ConfigError> {
    let config = config::serve_config(matches, file(matches))?;
    Ok(Invocation::Serve(Box::new(config)))
}

fn file(matches: &ArgMatches) -> Option<&Path> {
    matches.get_one::<PathBuf>("config").map(PathBuf::as_path)
}

fn text(matches: &ArgMatches, name: &str) -> String {
    matches.get_one::<String>(name).cloned().unwrap_or_default()
}

fn texts(matches: &ArgMatches, name: &str) -> Vec<String> {
    matches
        .get_many(name)
        .unwrap_or_default()
        .cloned()
        .collect()
}

fn number(matches: &ArgMatches, name: &str) -> usize {
    matches
        .get_one::<u64>(name)
        .map_or(0, |&number| number as usize)
}
