//! The stages of `cargo xtask test`: their order, the tools that each needs, and the commands that
//! each runs.
//!
//! Invariant: the cheapest stages run first, and every stage uses the committed lock files.

use std::process::Command;
use std::time::Duration;

use crate::rabbitmq::RabbitMq;
use crate::tools::{Tool, Toolbox};
use crate::workspace::Workspace;
use crate::{deploy, fuzz, instructions, process, schemathesis};

/// Timeout of one command of a stage. The slowest is a cold build on two busy cores.
const COMMAND_LIMIT: Duration = Duration::from_secs(15 * 60);

/// The timeout with `--long`.
const LONG_COMMAND_LIMIT: Duration = Duration::from_secs(4 * 60 * 60);

/// Options shared by all stages.
#[derive(Debug)]
pub struct Options {
    /// The directories of the checkout.
    pub workspace: Workspace,
    /// The installed tools.
    pub tools: Toolbox,
    /// The broker for tests that need one.
    pub rabbitmq: RabbitMq,
    /// Whether missing tools may be installed.
    pub install: bool,
    /// Whether tests run in their long versions.
    pub long: bool,
}

/// A check that a change must pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// rustfmt.
    Fmt,
    /// The Dockerfile and the compose file.
    Deploy,
    /// Lints, without warnings.
    Clippy,
    /// The house rules of `tests/tidy.rs`.
    Tidy,
    /// Tests beside the code.
    Unit,
    /// One suite for every implementation of a contract.
    Contract,
    /// Real processes.
    Integration,
    /// Real processes around a real RabbitMQ.
    Cluster,
    /// Examples in the docs.
    DocTests,
    /// The docs themselves, without warnings.
    Doc,
    /// The API against its own description.
    Schemathesis,
    /// The hot paths' instructions against their baseline.
    Instructions,
    /// A short run of every fuzz target.
    Fuzz,
    /// Licences and sources of the dependencies.
    Deny,
}

impl Stage {
    /// All stages, in the order in which they run.
    pub const ALL: [Self; 14] = [
        Self::Fmt,
        Self::Deploy,
        Self::Clippy,
        Self::Tidy,
        Self::Unit,
        Self::Contract,
        Self::Integration,
        Self::Cluster,
        Self::DocTests,
        Self::Doc,
        Self::Schemathesis,
        Self::Instructions,
        Self::Fuzz,
        Self::Deny,
    ];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Deploy => "deploy",
            Self::Clippy => "clippy",
            Self::Tidy => "tidy",
            Self::Unit => "unit",
            Self::Contract => "contract",
            Self::Integration => "integration",
            Self::Cluster => "cluster",
            Self::DocTests => "doc-tests",
            Self::Doc => "doc",
            Self::Schemathesis => "schemathesis",
            Self::Instructions => "instructions",
            Self::Fuzz => "fuzz",
            Self::Deny => "deny",
        }
    }

    /// The tools that must be installed before it runs.
    pub fn needs(self) -> &'static [Tool] {
        match self {
            Self::Fmt => &[],
            Self::Deploy => &[Tool::Hadolint],
            Self::Deny => &[Tool::CargoDeny],
            Self::Contract | Self::Cluster => &[Tool::Cc, Tool::RabbitMq],
            Self::Integration => &[Tool::Cc, Tool::HttpClients],
            Self::Schemathesis => &[Tool::Cc, Tool::Schemathesis],
            Self::Instructions => &[Tool::Cc, Tool::Valgrind],
            Self::Fuzz => &[Tool::Cc, Tool::Cxx, Tool::CargoFuzz],
            _ => &[Tool::Cc],
        }
    }

    /// Runs the stage.
    ///
    /// # Errors
    /// The cause in one line; the details are in the output above it.
    pub fn run(self, options: &Options) -> Result<(), String> {
        match self {
            Self::Fmt => {
                cargo(options, "fmt --all --check")?;
                cargo(options, "fmt --manifest-path fuzz/Cargo.toml --check")?;
                cargo(options, "fmt --manifest-path bench/Cargo.toml --check")
            }
            Self::Deploy => deploy::run(options),
            Self::Clippy => {
                let args = "clippy --workspace --all-targets --locked -- -D warnings";
                cargo(options, args)?;
                let target = options.workspace.bench_target();
                let args = "clippy --manifest-path bench/Cargo.toml --all-targets --locked";
                let mut bench = cargo_command(options, args);
                bench.arg("--target-dir").arg(target);
                run(options, bench.args(["--", "-D", "warnings"]))
            }
            Self::Tidy => cargo(options, "test --locked --test tidy"),
            Self::Unit => {
                cargo(options, "test --locked --workspace --lib --bins")?;
                cargo(
                    options,
                    "test --locked --package headcount-rpc --test remote",
                )
            }
            Self::Contract => cargo(options, "test --locked --test contract --test store"),
            Self::Integration => cargo(options, "test --locked --test it"),
            Self::Cluster => cargo(options, "test --locked --test cluster"),
            Self::DocTests => cargo(options, "test --locked --doc"),
            Self::Doc => {
                let args = "doc --locked --no-deps --workspace --document-private-items";
                run(
                    options,
                    cargo_command(options, args).env("RUSTDOCFLAGS", "-D warnings"),
                )
            }
            Self::Schemathesis => schemathesis::run(options),
            Self::Instructions => instructions::compare(&options.workspace),
            Self::Fuzz => fuzz::run(options),
            Self::Deny => {
                let mut deny = options.tools.command(Tool::CargoDeny);
                deny.args(["--workspace", "check", "bans", "licenses", "sources"])
                    .current_dir(options.workspace.root());
                run(options, &mut deny)
            }
        }
    }
}

/// The stages selected by `--only` and `--skip`, in their own order. An empty `only` selects all.
pub fn choose(only: &[String], skip: &[String]) -> Vec<Stage> {
    let named = |names: &[String], stage: Stage| names.iter().any(|name| name == stage.name());
    Stage::ALL
        .into_iter()
        .filter(|&stage| only.is_empty() || named(only, stage))
        .filter(|&stage| !named(skip, stage))
        .collect()
}

/// Runs cargo with `args`, separated by spaces.
///
/// # Errors
/// It fails or exceeds the timeout.
pub fn cargo(options: &Options, args: &str) -> Result<(), String> {
    run(options, &mut cargo_command(options, args))
}

/// Runs `command` with the timeout of a stage.
///
/// # Errors
/// It fails or exceeds the timeout.
pub fn run(options: &Options, command: &mut Command) -> Result<(), String> {
    let limit = if options.long {
        LONG_COMMAND_LIMIT
    } else {
        COMMAND_LIMIT
    };
    process::run(command, limit)
}

fn cargo_command(options: &Options, args: &str) -> Command {
    let mut command = Command::new("cargo");
    command
        .args(args.split(' '))
        .current_dir(options.workspace.root());
    command.env_remove("HEADCOUNT_TEST_BROKER");
    options.rabbitmq.tell(&mut command);
    if options.long {
        command.env("HEADCOUNT_TEST_LONG", "1");
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(only: &[&str], skip: &[&str]) -> Vec<&'static str> {
        let owned = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        choose(&owned(only), &owned(skip))
            .into_iter()
            .map(Stage::name)
            .collect()
    }

    #[test]
    fn all_run_unless_some_are_named() {
        assert_eq!(names(&[], &[]).len(), Stage::ALL.len());
        assert_eq!(names(&["deny", "fmt"], &[]), ["fmt", "deny"]);
        assert_eq!(names(&["deny", "fmt"], &["fmt"]), ["deny"]);
        assert!(!names(&[], &["fuzz"]).contains(&"fuzz"));
    }
}
