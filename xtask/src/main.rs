//! Development tasks: `cargo xtask test` runs every check that a change must pass.
//!
//! Invariant: the exit status is 0 only if every requested stage ran and passed.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    unreachable_pub,
    reason = "it prints to its caller, and waits for all processes that it starts"
)]

mod bench;
mod broker;
mod cluster;
mod deploy;
mod folders;
mod fuzz;
mod instructions;
mod members;
mod process;
mod rabbitmq;
mod report;
mod schemathesis;
mod server;
mod stages;
mod tools;
mod workspace;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use rabbitmq::RabbitMq;
use report::Report;
use stages::{Options, Stage};
use tools::Toolbox;
use workspace::Workspace;

fn main() -> ExitCode {
    let matches = cli().get_matches();
    let outcome = match matches.subcommand() {
        Some(("test", args)) => test(args),
        Some(("cluster", args)) => cluster(args),
        Some(("instructions", args)) => count_instructions(args),
        Some(("bench", args)) => bench(args),
        _ => Err("no such task".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn cli() -> Command {
    let stages = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("STAGE,…")
            .value_delimiter(',')
            .action(ArgAction::Append)
            .value_parser(PossibleValuesParser::new(Stage::ALL.map(Stage::name)))
            .help(help)
    };
    let test = Command::new("test")
        .about("Run every check, cheapest first; stop at the first failure")
        .arg(flag(
            "install",
            "Install the tools that are missing (also when CI is set)",
        ))
        .arg(flag(
            "long",
            "Long versions of the tests (HEADCOUNT_TEST_LONG=1)",
        ))
        .arg(
            Arg::new("broker")
                .long("broker")
                .value_name("VERSION")
                .default_value("system")
                .value_parser(PossibleValuesParser::new(RabbitMq::VERSIONS))
                .help("Test against the system's RabbitMQ, or against version 4 (needs root)"),
        )
        .arg(stages("only", "Run only these stages"))
        .arg(stages("skip", "Skip these stages"));
    Command::new("xtask")
        .bin_name("cargo xtask")
        .about("Development tasks")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(test)
        .subcommand(cluster_command())
        .subcommand(instructions_command())
        .subcommand(bench_command())
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

fn instructions_command() -> Command {
    Command::new("instructions")
        .about("Count the hot paths' instructions and compare them with benches/instructions.toml")
        .arg(flag(
            "install",
            "Install valgrind if it is missing (also when CI is set)",
        ))
        .arg(flag("renew", "Write the counts as the new baseline"))
}

fn count_instructions(args: &ArgMatches) -> Result<(), String> {
    let workspace = Workspace::find()?;
    let install = args.get_flag("install") || process::in_ci();
    Toolbox::prepare(&workspace, Stage::Instructions.needs(), install)?;
    if args.get_flag("renew") {
        instructions::renew(&workspace)
    } else {
        instructions::compare(&workspace)
    }
}

fn cluster_command() -> Command {
    Command::new("cluster")
        .about("Run RabbitMQ, a coordinator and three counters as plain processes, until Ctrl-C")
        .arg(
            Arg::new("listen")
                .long("listen")
                .value_name("ADDRESS")
                .default_value("127.0.0.1:3000")
                .value_parser(value_parser!(SocketAddr))
                .help("Listen address of the coordinator"),
        )
        .arg(
            Arg::new("ephemeral")
                .long("ephemeral")
                .action(ArgAction::SetTrue)
                .help(
                    "Start with empty data and keep only logs, instead of reusing target/cluster",
                ),
        )
        .arg(
            Arg::new("program")
                .long("program")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Run this headcount instead of building one"),
        )
}

fn cluster(args: &ArgMatches) -> Result<(), String> {
    let options = cluster::Options {
        listen: *args
            .get_one("listen")
            .ok_or("the coordinator needs an address")?,
        ephemeral: args.get_flag("ephemeral"),
        program: args.get_one::<PathBuf>("program").cloned(),
    };
    cluster::run(&Workspace::find()?, &options)
}

fn bench_command() -> Command {
    let option =
        |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    Command::new("bench")
        .about("Measure everything side by side and write docs/performance/RESULTS.md")
        .arg(flag("full").help("Also the runs of 100 M items"))
        .arg(
            option("rows", "ROW,…")
                .value_delimiter(',')
                .action(ArgAction::Append)
                .value_parser(value_parser!(u8).range(1..=10))
                .help("Measure only these rows of the table"),
        )
        .arg(
            option("rounds", "N")
                .default_value("3")
                .value_parser(value_parser!(u32).range(1..=100))
                .help("Number of rounds"),
        )
        .arg(
            option("seconds", "S")
                .default_value("5")
                .value_parser(value_parser!(f64))
                .help("Duration of each measurement of a rate"),
        )
        .arg(
            option("output", "FOLDER")
                .value_parser(value_parser!(PathBuf))
                .help("Directory of the report, instead of docs/performance"),
        )
        .arg(
            flag("no-install").help(
                "Fail if RabbitMQ, Redis or PostgreSQL are missing, instead of installing them",
            ),
        )
        .arg(flag("no-build").help("Measure the last build"))
        .arg(flag("render").help("Only write the report again from its results.json"))
}

fn bench(args: &ArgMatches) -> Result<(), String> {
    let workspace = Workspace::find()?;
    let output = args.get_one::<PathBuf>("output").cloned();
    let seconds = args.get_one("seconds").copied().unwrap_or(0.0);
    if !(seconds > 0.0 && seconds <= 600.0) {
        return Err("--seconds is more than 0 and at most 600".to_owned());
    }
    let options = bench::Options {
        full: args.get_flag("full"),
        rows: args
            .get_many("rows")
            .map(|rows| rows.copied().collect())
            .unwrap_or_default(),
        rounds: args.get_one("rounds").copied().unwrap_or(1),
        seconds,
        output: output.unwrap_or_else(|| workspace.root().join("docs/performance")),
        install: !args.get_flag("no-install"),
        build: !args.get_flag("no-build"),
        render: args.get_flag("render"),
    };
    bench::run(&workspace, &options)
}

fn test(args: &ArgMatches) -> Result<(), String> {
    let named = |name: &str| -> Vec<String> {
        args.get_many::<String>(name)
            .map(|names| names.cloned().collect())
            .unwrap_or_default()
    };
    let stages = stages::choose(&named("only"), &named("skip"));
    if stages.is_empty() {
        return Err("no stage is selected".to_owned());
    }
    let workspace = Workspace::find()?;
    let install = args.get_flag("install") || process::in_ci();
    let broker = args.get_one::<String>("broker").map_or("", String::as_str);
    let mut report = Report::new();
    let needed: Vec<_> = stages
        .iter()
        .flat_map(|stage| stage.needs())
        .copied()
        .collect();
    let options = Options {
        tools: report.time("tools", || Toolbox::prepare(&workspace, &needed, install))?,
        rabbitmq: RabbitMq::prepare(broker, &workspace, install)?,
        workspace,
        install,
        long: args.get_flag("long"),
    };
    let outcome = stages.iter().try_for_each(|stage| {
        report
            .time(stage.name(), || stage.run(&options))
            .map_err(|why| format!("stage {} failed: {why}", stage.name()))
    });
    println!("{report}");
    outcome
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::cli().debug_assert();
    }

    #[test]
    fn an_unknown_stage_is_refused() {
        let parsed = super::cli().try_get_matches_from(["xtask", "test", "--only", "fmt,nonesuch"]);
        assert!(parsed.is_err());
    }
}
