//! The command line: what it offers, and the commands that are clients of a running service.
//!
//! Invariant: results go to standard output, everything else to standard error; an error is one line.

mod count;
mod health;
mod load;
mod print;
mod source;
mod verify;

pub use count::count;
pub use health::health;
pub use load::{LoadOptions, load};
pub use print::{print, print_error};
pub use verify::print_report;

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::client::CountsRequest;
use crate::config::{self, ConfigError, ServeConfig};

const ABOUT: &str =
    "Counts items per tenant, each item once, and never loses or doubles one, whatever crashes.";

const EXAMPLES: &str = "\
Start the service, alone on this machine:
  headcount serve

Count an item, and ask for the count:
  curl -X POST http://localhost:3000/items -H 'Content-Type: application/json' -d '{\"id\":\"5\",\"tenant\":\"asd\"}'
  curl http://localhost:3000/items/asd/count

Load a file, and ask again:
  headcount load items.ndjson
  headcount count asd";

const SERVE_ABOUT: &str = "\
Runs the whole service in this process: it listens for items, counts them and keeps them on disk.

Each setting is a flag, an environment variable or a key of the settings file (with _ for -), in that order.
The service stops on SIGTERM or Ctrl-C, once what it is doing is answered.";

const LOAD_ABOUT: &str = "\
Posts the items of files to a coordinator, in batches, and tries again what did not get through.

NDJSON has an item a line: {\"id\":\"5\",\"tenant\":\"asd\"}. CSV has a header that names the columns id and
tenant; other columns are ignored. Loading the same file again is safe: no item counts twice.";

/// What the command line asks for.
pub enum Invocation {
    /// Run the service.
    Serve(Box<ServeConfig>),
    /// Ask for counts.
    Count {
        /// The coordinator.
        url: String,
        /// What to ask.
        request: CountsRequest,
    },
    /// Ask a node how it is.
    Health {
        /// The node.
        url: String,
        /// Whether it must be able to do its work, or only live.
        ready: bool,
    },
    /// Post the items of files.
    Load(LoadOptions),
    /// Recount a store.
    Verify {
        /// Its folder.
        data_dir: PathBuf,
    },
}

/// Reads the command line; help, version and misuse end the process here.
///
/// # Errors
/// A setting that is not allowed.
pub fn parse() -> Result<Invocation, ConfigError> {
    let matches = command().get_matches();
    match matches.subcommand() {
        Some(("count", matches)) => Ok(Invocation::Count {
            url: text(matches, "url"),
            request: CountsRequest {
                tenants: texts(matches, "tenant"),
                consistency: matches.get_one("consistency").cloned(),
                after: matches.get_one("after").cloned(),
            },
        }),
        Some(("health", matches)) => Ok(Invocation::Health {
            url: text(matches, "url"),
            ready: matches.get_flag("ready"),
        }),
        Some(("load", matches)) => Ok(Invocation::Load(LoadOptions {
            url: text(matches, "url"),
            files: texts(matches, "file"),
            format: matches.get_one::<String>("format").cloned(),
            batch_items: number(matches, "batch-items"),
            connections: number(matches, "connections"),
            retry_for_s: number(matches, "retry-for-s") as u64,
        })),
        Some(("verify", matches)) => Ok(Invocation::Verify {
            data_dir: text(matches, "data-dir").into(),
        }),
        Some(("serve", matches)) => serve(matches),
        _ => serve(&matches),
    }
}

fn serve(matches: &ArgMatches) -> Result<Invocation, ConfigError> {
    let file = matches.get_one::<PathBuf>("config");
    let config = config::serve_config(matches, file.map(PathBuf::as_path))?;
    Ok(Invocation::Serve(Box::new(config)))
}

/// The whole command line.
fn command() -> Command {
    let bare = Command::new("headcount")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .long_about(format!(
            "{ABOUT}\n\nWithout a command it serves, like `headcount serve`."
        ))
        .after_help(EXAMPLES)
        .args_conflicts_with_subcommands(true);
    // Without a command the settings of `serve` work too, but would bury the commands in the help.
    serve_args(bare, true)
        .subcommand(serve_args(
            Command::new("serve")
                .about("Run the whole service in this process")
                .long_about(SERVE_ABOUT),
            false,
        ))
        .subcommand(
            Command::new("count")
                .about("Print the counts of tenants")
                .arg(url_arg())
                .arg(
                    Arg::new("tenant")
                        .value_name("TENANT")
                        .required(true)
                        .action(ArgAction::Append)
                        .help("Whose items to count"),
                )
                .arg(
                    Arg::new("consistency")
                        .long("consistency")
                        .value_name("LEVEL")
                        .value_parser(["session", "strong", "eventual"])
                        .help("What the counts must include"),
                )
                .arg(
                    Arg::new("after")
                        .long("after")
                        .value_name("TOKEN")
                        .help("A token of a post that the counts must include"),
                ),
        )
        .subcommand(health_command())
        .subcommand(load_command())
        .subcommand(
            Command::new("verify")
                .about("Recount every tenant from the stored items and compare (server stopped)")
                .arg(
                    Arg::new("data-dir")
                        .long("data-dir")
                        .env("HEADCOUNT_DATA_DIR")
                        .value_name("FOLDER")
                        .default_value("./headcount-data")
                        .help("The folder of the stopped service"),
                ),
        )
}

fn health_command() -> Command {
    Command::new("health")
        .about("Ask a node whether it lives; fails when it doesn't")
        .arg(url_arg().help("The coordinator or counter to ask"))
        .arg(
            Arg::new("ready")
                .long("ready")
                .action(ArgAction::SetTrue)
                .help("Ask whether it can do its work, not only whether it lives"),
        )
}

fn load_command() -> Command {
    Command::new("load")
        .about("Post the items of files, in batches; safe to run again")
        .long_about(LOAD_ABOUT)
        .arg(url_arg())
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .action(ArgAction::Append)
                .help("NDJSON or CSV; - is standard input"),
        )
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(["ndjson", "csv"])
                .help("The files' format [default: csv for names that end in .csv, else ndjson]"),
        )
        .arg(number_arg(
            "batch-items",
            "N",
            "10000",
            1,
            100_000,
            "Items in one request",
        ))
        .arg(number_arg(
            "connections",
            "N",
            "4",
            1,
            256,
            "Requests under way at once",
        ))
        .arg(number_arg(
            "retry-for-s",
            "SECONDS",
            "300",
            0,
            86_400,
            "How long to try again while nothing gets through",
        ))
}

fn serve_args(command: Command, hide: bool) -> Command {
    let config = Arg::new("config")
        .long("config")
        .env("HEADCOUNT_CONFIG")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("A TOML file with settings")
        .hide(hide);
    config::args(config::Role::Serve).fold(command.arg(config), |command, arg| {
        command.arg(arg.hide(hide))
    })
}

fn url_arg() -> Arg {
    Arg::new("url")
        .long("url")
        .env("HEADCOUNT_URL")
        .value_name("URL")
        .default_value("http://localhost:3000")
        .help("The coordinator to ask")
}

fn number_arg(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    min: u64,
    max: u64,
    help: &'static str,
) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(value)
        .default_value(default)
        .value_parser(value_parser!(u64).range(min..=max))
        .help(help)
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

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_well_formed() {
        super::command().debug_assert();
    }
}
