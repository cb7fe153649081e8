//! The declarations of all commands and their arguments.
//!
//! Invariant: the help of every command says what it does and what it needs; the help of an
//! operator command also says what it risks.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command, value_parser};

use super::bench;
use super::client_args::{json_arg, number_arg, url_arg};
use crate::config::{self, Role};

const ABOUT: &str =
    "Counts items per tenant, each item once, and never loses or doubles one, whatever crashes.";

const EXAMPLES: &str = "\
Start the service, alone on this machine:
  headcount serve

Count an item, and ask for the count:
  curl -X POST http://localhost:3000/items -H 'Content-Type: application/json' \
-d '{\"id\":\"5\",\"tenant\":\"asd\"}'
  curl http://localhost:3000/items/asd/count

Load a file, and ask again:
  headcount load items.ndjson
  headcount count asd";

// Each paragraph is one line, which clap wraps to the width of the terminal.

const SERVE_ABOUT: &str = "\
Runs the whole service in one process: accepts items, counts them and stores them on disk.

Each setting is a flag, an environment variable or a key of the settings file (with _ for -), in \
this order of precedence. On SIGTERM or Ctrl-C the service answers the requests in flight and \
stops.";

const COORDINATOR_ABOUT: &str = "\
Runs a coordinator: accepts items over HTTP, publishes them to RabbitMQ for every counter, and \
answers reads by querying the counters. Several coordinators may run at the same time.

A coordinator declares the queues of the counters named by --counters, so that items posted before \
the first start of a counter are kept for it.";

const COUNTER_ABOUT: &str = "\
Runs a counter: consumes batches from its queue in RabbitMQ, counts each item once, stores the \
result on disk, and answers coordinators and other counters. Its name and its data directory \
belong together.";

const REMOVE_ABOUT: &str = "\
Removes a counter that will not come back: deletes its queue, which would otherwise grow without \
limit. Every batch in that queue is also in the queues of the other counters.

The name can't be used again: a successor needs a new name. The command is refused while a running \
node names the counter, so restart the coordinators without it first.";

const ACCEPT_ABOUT: &str = "\
Accepts the loss of batches or of counters' history, so that counts can be exact again without them.

Without EPOCH and FROM-TO the command asks the coordinator what is missing: batches that no \
counter holds, and counters that are not complete while no complete counter is left. Everything \
listed is then treated as lost, and the counters continue with what they hold. First bring back \
every counter and disk that can still come back.

Each counter is accepted with the loss that it had when it was listed. A counter that restarts or \
loses data again before the acceptance reaches it does not become complete; the command names it \
at the end. The last batch of an epoch does not count as lost while its coordinator was heard in \
the last 60 seconds: accept it at that coordinator, or stop that coordinator and wait 60 seconds.";

const POISON_ABOUT: &str = "\
Removes a batch that this release can't decode from the head of a stopped counter's queue. A \
counter that meets such a batch stops consuming, keeps answering from what it holds, and reports \
it in /counters and /readyz. Stop the counter, run this command, then start the counter.

First try a release that can decode the batch: then nothing is lost. A skipped batch makes the \
counter not complete: it must catch up from a complete counter that has the batch. If no counter \
could decode it, its items are lost.";

const REMAKE_ABOUT: &str = "\
Declares again the queue of a counter that is beyond repair. A quorum queue that lost the disks of \
most of its members neither accepts nor delivers messages. First start every RabbitMQ node whose \
disk is not lost: then the queue may recover, and nothing is lost.

The queue is deleted with everything in it. The counter may run meanwhile; it is not complete \
until it has caught up from a complete counter. Items that were in this queue only are lost, and \
no count is exact until the loss is accepted.

The command is refused while the queue can be consumed.";

const LOAD_ABOUT: &str = "\
Posts the items of files to a coordinator in batches, and retries what fails.

NDJSON has one item per line: {\"id\":\"5\",\"tenant\":\"asd\"}. CSV has a header that names the \
columns id and tenant; other columns are ignored. Loading the same file again is safe: no item \
counts twice.

CSV is parsed strictly (RFC 4180): an unclosed quote or text after a closing quote ends the load \
and names the line. Spaces around unquoted fields and column names are trimmed; the summary says \
on how many lines.

Requests without an answer and those answered with 5xx, 429 or 408 are retried, after the delay \
that the answer asks for. Batches that are too large (413) or too slow (408) are halved. Redirects \
are not followed. The exit status is 0 only if every item was acknowledged.";

/// The whole command line.
pub(super) fn command() -> Command {
    without_empty_variables(all_commands())
}

fn all_commands() -> Command {
    let bare = Command::new("headcount")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .long_about(format!(
            "{ABOUT}\n\nWithout a command it runs `headcount serve`."
        ))
        .after_help(EXAMPLES)
        .args_conflicts_with_subcommands(true);
    // Without a command, the settings of `serve` are accepted too. They are hidden because they
    // would bury the commands in the help.
    node_args(bare, Role::Serve, true)
        .subcommand(node_args(
            Command::new("serve")
                .about("Run the whole service in this process")
                .long_about(SERVE_ABOUT),
            Role::Serve,
            false,
        ))
        .subcommand(node_args(
            Command::new("coordinator")
                .about("Run a coordinator of a cluster: HTTP API, publishing to RabbitMQ")
                .long_about(COORDINATOR_ABOUT),
            Role::Coordinator,
            false,
        ))
        .subcommand(node_args(
            Command::new("counter")
                .about("Run a counter of a cluster: consumes from RabbitMQ, stores counts")
                .long_about(COUNTER_ABOUT),
            Role::Counter,
            false,
        ))
        .subcommand(count_command())
        .subcommand(health_command())
        .subcommand(load_command())
        .subcommand(bench::command())
        .subcommand(remove_counter_command())
        .subcommand(accept_loss_command())
        .subcommand(skip_poison_command())
        .subcommand(remake_queue_command())
        .subcommand(verify_command())
}

fn count_command() -> Command {
    Command::new("count")
        .about("Print the counts of tenants")
        .arg(url_arg())
        .arg(json_arg("Print one JSON object, as the API returns it"))
        .arg(
            Arg::new("tenant")
                .value_name("TENANT")
                .required(true)
                .action(ArgAction::Append)
                .help("Tenant whose count to print"),
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
                .help("Token of a post that the counts must include"),
        )
}

fn verify_command() -> Command {
    Command::new("verify")
        .about("Recount every tenant from the stored items and compare (service stopped)")
        .arg(
            Arg::new("data-dir")
                .long("data-dir")
                .env("HEADCOUNT_DATA_DIR")
                .value_name("DIRECTORY")
                .default_value("./headcount-data")
                .help("Data directory of the stopped service, or a copy of it; it is only read"),
        )
}

fn health_command() -> Command {
    Command::new("health")
        .about("Check that a node is alive; fails if it is not")
        .arg(url_arg().help("URL of the coordinator or counter"))
        .arg(json_arg("Print a JSON object"))
        .arg(
            Arg::new("ready")
                .long("ready")
                .action(ArgAction::SetTrue)
                .help("Check readiness instead of liveness"),
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
                .help("NDJSON or CSV file; - is standard input"),
        )
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(["ndjson", "csv"])
                .help("Format of the files [default: csv for names that end in .csv, else ndjson]"),
        )
        .arg(number_arg(
            "batch-items",
            "N",
            "10000",
            1,
            100_000,
            "Items per request",
        ))
        .arg(number_arg(
            "connections",
            "N",
            "4",
            1,
            256,
            "Maximum number of requests in flight",
        ))
        .arg(number_arg(
            "retry-for-s",
            "SECONDS",
            "300",
            0,
            86_400,
            "How long to retry a batch before giving up",
        ))
        .arg(
            Arg::new("skip-invalid")
                .long("skip-invalid")
                .action(ArgAction::SetTrue)
                .help(
                    "Continue without rejected items; each is reported, and the exit status is 1",
                ),
        )
        .arg(json_arg(
            "Print the summary as a JSON object, and each event before it as one per line",
        ))
}

fn node_args(command: Command, role: Role, hide: bool) -> Command {
    let config = Arg::new("config")
        .long("config")
        .env("HEADCOUNT_CONFIG")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("TOML file with settings")
        .hide(hide);
    config::args(role).fold(command.arg(config), |command, arg| {
        command.arg(arg.hide(hide))
    })
}

/// Treats empty environment variables as unset.
fn without_empty_variables(command: Command) -> Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| match arg.get_env().is_some_and(is_empty) {
            true => arg.env(None::<&str>),
            false => arg,
        })
        .mut_subcommands(without_empty_variables)
}

fn yes_arg() -> Arg {
    Arg::new("yes")
        .long("yes")
        .action(ArgAction::SetTrue)
        .help("Do not ask for confirmation")
}

/// The counter settings that concern the broker.
fn broker_args() -> impl Iterator<Item = Arg> {
    config::args(Role::Counter).filter(|arg| {
        let id = arg.get_id().as_str();
        id.starts_with("amqp-") || id == "prefix"
    })
}

fn remove_counter_command() -> Command {
    Command::new("remove-counter")
        .about("Delete the queue of a counter that will not come back")
        .long_about(REMOVE_ABOUT)
        .arg(
            Arg::new("name")
                .value_name("NAME")
                .required(true)
                .help("Name of the counter"),
        )
        .args(broker_args())
        .arg(yes_arg())
}

fn accept_loss_command() -> Command {
    let secret = config::args(Role::Counter).filter(|arg| arg.get_id() == "cluster-secret-file");
    Command::new("accept-loss")
        .about("Accept that batches, or the history of counters, are permanently lost")
        .long_about(ACCEPT_ABOUT)
        .arg(url_arg())
        .args(secret)
        .arg(
            Arg::new("epoch")
                .value_name("EPOCH")
                .requires("range")
                .help("Epoch of a range that no counter has, as logged"),
        )
        .arg(
            Arg::new("range")
                .value_name("FROM-TO")
                .help("First and last lost sequence"),
        )
        .arg(yes_arg())
}

fn skip_poison_command() -> Command {
    let of_counter = |arg: &Arg| matches!(arg.get_id().as_str(), "name" | "data-dir");
    Command::new("skip-poison")
        .about("Remove a batch that can't be decoded from a stopped counter's queue")
        .long_about(POISON_ABOUT)
        .args(config::args(Role::Counter).filter(of_counter))
        .args(broker_args())
        .arg(yes_arg())
}

fn remake_queue_command() -> Command {
    let of_counter = |arg: &Arg| matches!(arg.get_id().as_str(), "name" | "queue-type");
    Command::new("remake-queue")
        .about("Delete and declare again a counter's queue that is beyond repair")
        .long_about(REMAKE_ABOUT)
        .args(config::args(Role::Counter).filter(of_counter))
        .args(broker_args())
        .arg(
            Arg::new("force")
                .long("force")
                .action(ArgAction::SetTrue)
                .help("Do it even if the queue works; its messages are deleted"),
        )
        .arg(yes_arg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }
}
