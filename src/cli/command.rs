//! The declarations of all commands and their arguments.
//!
//! Invariant: every command says what it does and what it needs; an operator's command says what it
//! risks.

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
  curl -X POST http://localhost:3000/items -H 'Content-Type: application/json' -d '{\"id\":\"5\",\"tenant\":\"asd\"}'
  curl http://localhost:3000/items/asd/count

Load a file, and ask again:
  headcount load items.ndjson
  headcount count asd";

const SERVE_ABOUT: &str = "\
Runs the whole service in this process: it listens for items, counts them and keeps them on disk.

Each setting is a flag, an environment variable or a key of the settings file (with _ for -), in that order.
The service stops on SIGTERM or Ctrl-C, once what it is doing is answered.";

const COORDINATOR_ABOUT: &str = "\
Runs a coordinator: it takes items over HTTP, puts them into RabbitMQ for every counter, and answers reads by
asking the counters. Several may run at once.

It declares the queues of the counters named by --counters, so that an item posted before any counter has ever
started is kept for all of them.";

const COUNTER_ABOUT: &str = "\
Runs a counter: it takes batches from its queue in RabbitMQ, counts each item once, keeps that on disk, and
answers coordinators and other counters. Its name and its data folder belong together.";

const REMOVE_ABOUT: &str = "\
Removes a counter that will not come back: deletes its queue, which would grow for ever. What is in the queue is
in the other counters' queues too.

The name is spent: a successor needs another one. It is refused while a running node names the counter, so first
start the coordinators without it.";

const ACCEPT_ABOUT: &str = "\
Accepts that something is lost for good, so that counts can be exact again without it.

Without EPOCH and FROM-TO it asks the coordinator what is missing: batches that no counter has, and counters
that are not complete while no complete one is left. Everything listed is then taken as lost: the counters go on
with what they hold. Bring back every counter and disk that may still come back before you do this.

Each counter is accepted with the loss that it had when it was listed: one that is restarted or loses again before it
hears of this is not complete by it, and is named at the end. An epoch's last batch is not lost while its coordinator
has been heard in the last 60 seconds; accept it at that coordinator, or stop that one and wait as long.";

const POISON_ABOUT: &str = "\
Takes a batch that this release can't read from the head of a stopped counter's queue. A counter that meets
one takes nothing more, answers with what it has, and says so in /counters and /readyz. Stop it, run this, and
start it again.

First try a release that can read it: then nothing is lost. Skipping makes the counter not complete: it must
catch up from a complete counter that has the batch. If no counter could read it, its items are lost.";

const REMAKE_ABOUT: &str = "\
Makes the queue of a counter again that is beyond repair: a quorum queue most of whose members are lost with their
disks takes and gives nothing, for ever. First start every node of RabbitMQ whose disk is not lost: then the queue may work
again, and nothing is lost.

The queue is deleted with all that is in it. The counter is told, is not complete until it has caught up from a complete
counter, and may run meanwhile. What was in this queue alone is lost, and no count is exact until it is accepted.

It is refused while the queue can be consumed.";

const LOAD_ABOUT: &str = "\
Posts the items of files to a coordinator, in batches, and tries again what did not get through.

NDJSON has an item a line: {\"id\":\"5\",\"tenant\":\"asd\"}. CSV has a header that names the columns id and
tenant; other columns are ignored. Loading the same file again is safe: no item counts twice.

CSV is read strictly, by RFC 4180: a quote that is never closed, or text behind a closing one, ends the load with the
line. Spaces around fields and column names are left out, unless they stand between quotes; the summary says on how many
lines.

What gets no answer, or 5xx, 429 or 408, is posted again, after the wait that the answer asks for. What is too large (413)
or too slow (408) is posted in halves. A redirect is not followed. The exit status is 0 only if each item was acknowledged.";

/// The whole command line.
pub(super) fn command() -> Command {
    without_empty_variables(all_commands())
}

fn all_commands() -> Command {
    let bare = Command::new("headcount")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .long_about(format!(
            "{ABOUT}\n\nWithout a command it serves, like `headcount serve`."
        ))
        .after_help(EXAMPLES)
        .args_conflicts_with_subcommands(true);
    // Without a command the settings of `serve` work too, but would bury the commands in the help.
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
                .about("Run the HTTP face of a cluster around RabbitMQ")
                .long_about(COORDINATOR_ABOUT),
            Role::Coordinator,
            false,
        ))
        .subcommand(node_args(
            Command::new("counter")
                .about("Run one counter of a cluster around RabbitMQ")
                .long_about(COUNTER_ABOUT),
            Role::Counter,
            false,
        ))
        .subcommand(
            Command::new("count")
                .about("Print the counts of tenants")
                .arg(url_arg())
                .arg(json_arg("Print one JSON object, as the API answers"))
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
        .subcommand(bench::command())
        .subcommand(remove_counter_command())
        .subcommand(accept_loss_command())
        .subcommand(skip_poison_command())
        .subcommand(remake_queue_command())
        .subcommand(
            Command::new("verify")
                .about("Recount every tenant from the stored items and compare (server stopped)")
                .arg(
                    Arg::new("data-dir")
                        .long("data-dir")
                        .env("HEADCOUNT_DATA_DIR")
                        .value_name("FOLDER")
                        .default_value("./headcount-data")
                        .help(
                            "The folder of the stopped service, or a copy of it; it is only read",
                        ),
                ),
        )
}

fn health_command() -> Command {
    Command::new("health")
        .about("Ask a node whether it lives; fails when it doesn't")
        .arg(url_arg().help("The coordinator or counter to ask"))
        .arg(json_arg("Print a JSON object"))
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
        .arg(
            Arg::new("skip-invalid")
                .long("skip-invalid")
                .action(ArgAction::SetTrue)
                .help("Go on without the items that are refused; each is named, and the exit status is 1"),
        )
        .arg(json_arg(
            "Print the summary as a JSON object, and what happens on the way as one a line",
        ))
}

fn node_args(command: Command, role: Role, hide: bool) -> Command {
    let config = Arg::new("config")
        .long("config")
        .env("HEADCOUNT_CONFIG")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("A TOML file with settings")
        .hide(hide);
    config::args(role).fold(command.arg(config), |command, arg| {
        command.arg(arg.hide(hide))
    })
}

/// The same command, to which an empty environment variable is an absent one.
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

/// Those settings of counters that name the broker.
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
                .help("The counter"),
        )
        .args(broker_args())
        .arg(yes_arg())
}

fn accept_loss_command() -> Command {
    let secret = config::args(Role::Counter).filter(|arg| arg.get_id() == "cluster-secret-file");
    Command::new("accept-loss")
        .about("Accept that batches, or all complete counters, are lost for good")
        .long_about(ACCEPT_ABOUT)
        .arg(url_arg())
        .args(secret)
        .arg(
            Arg::new("epoch")
                .value_name("EPOCH")
                .requires("range")
                .help("The epoch of a range that nobody has, as the logs name it"),
        )
        .arg(
            Arg::new("range")
                .value_name("FROM-TO")
                .help("The first and the last sequence that are lost"),
        )
        .arg(yes_arg())
}

fn skip_poison_command() -> Command {
    let of_counter = |arg: &Arg| matches!(arg.get_id().as_str(), "name" | "data-dir");
    Command::new("skip-poison")
        .about("Take a batch that can't be read from a stopped counter's queue")
        .long_about(POISON_ABOUT)
        .args(config::args(Role::Counter).filter(of_counter))
        .args(broker_args())
        .arg(yes_arg())
}

fn remake_queue_command() -> Command {
    let of_counter = |arg: &Arg| matches!(arg.get_id().as_str(), "name" | "queue-type");
    Command::new("remake-queue")
        .about("Make the queue of a counter again that is beyond repair")
        .long_about(REMAKE_ABOUT)
        .args(config::args(Role::Counter).filter(of_counter))
        .args(broker_args())
        .arg(
            Arg::new("force")
                .long("force")
                .action(ArgAction::SetTrue)
                .help("Do it although nothing is wrong with the queue; what is in it is lost to the counter"),
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
