//! The project's chores: `cargo xtask test` runs every check that a change must pass.
//!
//! Invariant: exits with zero only when every stage that was asked for ran and passed.

mod fuzz;
mod process;
mod report;
mod schemathesis;
mod server;
mod stages;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};

use report::Report;
use stages::{Options, Stage};
use tools::Toolbox;
use workspace::Workspace;

fn main() -> ExitCode {
    let matches = cli().get_matches();
    let outcome = match matches.subcommand() {
        Some(("test", args)) => test(args),
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
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    let test = Command::new("test")
        .about("Run every check, cheapest first; stop at the first that fails")
        .arg(flag(
            "install",
            "Install the tools that are missing (also when CI is set)",
        ))
        .arg(flag(
            "long",
            "Long versions of the tests (HEADCOUNT_TEST_LONG=1)",
        ))
        .arg(stages("only", "Run these stages alone"))
        .arg(stages("skip", "Leave these stages out"));
    Command::new("xtask")
        .bin_name("cargo xtask")
        .about("The project's chores")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(test)
}

fn test(args: &ArgMatches) -> Result<(), String> {
    let named = |name: &str| -> Vec<String> {
        args.get_many::<String>(name)
            .map(|names| names.cloned().collect())
            .unwrap_or_default()
    };
    let stages = stages::choose(&named("only"), &named("skip"));
    if stages.is_empty() {
        return Err("no stage is left to run".to_owned());
    }
    let workspace = Workspace::find()?;
    let install = args.get_flag("install") || process::in_ci();
    let mut report = Report::new();
    let options = Options {
        tools: report.time("tools", || Toolbox::prepare(&workspace, &stages, install))?,
        workspace,
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
