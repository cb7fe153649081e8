//! The command line: its commands and arguments, and the commands that are clients of a running
//! service.
//!
//! Invariant: results go to standard output, everything else to standard error; an error is one
//! line.

#![expect(
    clippy::disallowed_methods,
    reason = "a command waits for all tasks that it starts"
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
    self, BrokerConfig, ConfigError, CoordinatorConfig, CounterConfig, NamedFile, Role, ServeConfig,
};
use crate::model::CounterName;

/// What to accept as lost, and at which coordinator.
#[derive(Debug)]
pub struct AcceptLossOptions {
    /// The coordinator.
    pub url: String,
    /// File with the secret that nodes share.
    pub cluster_secret_file: Option<NamedFile>,
    /// Epoch of one range, in hexadecimal.
    pub epoch: Option<String>,
    /// First and last sequence of the range.
    pub range: Option<String>,
    /// Whether to skip the confirmation.
    pub yes: bool,
}

/// A parsed command line.
pub enum Invocation {
    /// Run the whole service in one process.
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
        /// Whether to skip the confirmation.
        yes: bool,
    },
    /// Accept losses.
    AcceptLoss(AcceptLossOptions),
    /// Remove a batch that can't be decoded from a counter's queue.
    SkipPoison {
        /// The broker.
        broker: BrokerConfig,
        /// The counter.
        name: CounterName,
        /// The counter's data directory.
        data_dir: PathBuf,
        /// Whether to skip the confirmation.
        yes: bool,
    },
    /// Delete a counter's queue and declare it again.
    RemakeQueue {
        /// The broker.
        broker: BrokerConfig,
        /// Whether queues are classic instead of quorum queues.
        classic_queues: bool,
        /// The counter.
        name: CounterName,
        /// Whether to do it even if nothing is wrong with the queue.
        force: bool,
        /// Whether to skip the confirmation.
        yes: bool,
    },
    /// Print counts.
    Count {
        /// The coordinator.
        url: String,
        /// Tenants and options of the read.
        request: CountsRequest,
        /// Whether to print JSON.
        json: bool,
    },
    /// Check the health of a node.
    Health {
        /// The node.
        url: String,
        /// Whether to check readiness instead of liveness.
        ready: bool,
        /// Whether to print JSON.
        json: bool,
    },
    /// Post the items of files.
    Load(LoadOptions),
    /// Generate load on a coordinator and measure it.
    Bench(BenchOptions),
    /// Recount the items of a store.
    Verify {
        /// Its data directory.
        data_dir: PathBuf,
    },
}

/// The reason why the command line is rejected.
#[derive(Debug, Error)]
pub enum UsageError {
    /// The arguments are invalid; the first line of clap's message.
    #[error("{0}")]
    Arguments(String),
    /// A setting is invalid.
    #[error(transparent)]
    Setting(#[from] ConfigError),
}

/// Parses the command line. `--help` and `--version` end the process here. So do invalid arguments
/// if errors are printed as text, with colours and suggestions.
///
/// # Errors
/// Invalid arguments if errors are not printed as text, and invalid settings.
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
        Some(("serve", matches)) => node(Role::Serve, matches),
        Some(("coordinator", matches)) => node(Role::Coordinator, matches),
        Some(("counter", matches)) => node(Role::Counter, matches),
        Some((command, matches)) => repair(command, matches),
        None => node(Role::Serve, matches),
    }
}

/// The commands that repair a cluster.
fn repair(command: &str, matches: &ArgMatches) -> Result<Invocation, ConfigError> {
    match command {
        "remove-counter" => Ok(Invocation::RemoveCounter {
            broker: config::broker(matches)?,
            name: config::counter_name(matches)?,
            yes: matches.get_flag("yes"),
        }),
        "accept-loss" => Ok(Invocation::AcceptLoss(AcceptLossOptions {
            url: text(matches, "url"),
            cluster_secret_file: config::secret_file(matches)?,
            epoch: matches.get_one("epoch").cloned(),
            range: matches.get_one("range").cloned(),
            yes: matches.get_flag("yes"),
        })),
        "remake-queue" => Ok(Invocation::RemakeQueue {
            broker: config::broker(matches)?,
            classic_queues: config::classic_queues(matches)?,
            name: config::counter_name(matches)?,
            force: matches.get_flag("force"),
            yes: matches.get_flag("yes"),
        }),
        "skip-poison" => Ok(Invocation::SkipPoison {
            broker: config::broker(matches)?,
            name: config::counter_name(matches)?,
            data_dir: config::data_dir(matches)?,
            yes: matches.get_flag("yes"),
        }),
        // clap accepts no other command.
        _ => node(Role::Serve, matches),
    }
}

fn node(role: Role, matches: &ArgMatches) -> Result<Invocation, ConfigError> {
    let file = file(matches);
    Ok(match role {
        Role::Serve => Invocation::Serve(Box::new(config::serve_config(matches, file)?)),
        Role::Coordinator => {
            Invocation::Coordinator(Box::new(config::coordinator_config(matches, file)?))
        }
        Role::Counter => Invocation::Counter(Box::new(config::counter_config(matches, file)?)),
    })
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
