//! The stage that tests the running server against its own `OpenAPI` description.
//!
//! Invariant: the same code gets the same requests: `schemathesis.toml` fixes the seed and stores
//! nothing.

use std::fs;
use std::time::Duration;

use crate::process;
use crate::server::Server;
use crate::stages::{self, Options};
use crate::tools::Tool;

/// Number of requests for each operation in each phase.
const EXAMPLES_MAX: u32 = 50;

/// The value with `--long`.
const LONG_EXAMPLES_MAX: u32 = 1000;

/// Timeout of one request in seconds.
const REQUEST_S_MAX: u32 = 10;

/// Timeout of the run.
const RUN_LIMIT: Duration = Duration::from_secs(8 * 60);

/// The value with `--long`.
const LONG_RUN_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

/// Builds the server, runs all phases and checks against it, and stops it.
///
/// # Errors
/// A check fails, the run exceeds its timeout, or the server doesn't start or end properly.
pub fn run(options: &Options) -> Result<(), String> {
    stages::cargo(options, "build --locked --bin headcount")?;
    let scratch = options.workspace.scratch("schemathesis");
    fs::create_dir_all(&scratch)
        .map_err(|why| format!("can't make {}: {why}", scratch.display()))?;
    let server = Server::start(&options.workspace.binary("headcount"), &scratch)?;
    let (examples_max, limit) = if options.long {
        (LONG_EXAMPLES_MAX, LONG_RUN_LIMIT)
    } else {
        (EXAMPLES_MAX, RUN_LIMIT)
    };
    let mut schemathesis = options.tools.command(Tool::Schemathesis);
    schemathesis
        .arg("--config-file")
        .arg(options.workspace.root().join("schemathesis.toml"))
        .args(["run", "--no-color", "--checks=all"])
        .arg(format!("--max-examples={examples_max}"))
        .arg(format!("--request-timeout={REQUEST_S_MAX}"))
        .arg(format!("{}/openapi.json", server.url()))
        .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
        .env("PYTHONPATH", options.workspace.root().join("xtask"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // It writes its caches to the current directory.
        .current_dir(&scratch);
    process::run(&mut schemathesis, limit)
        .map_err(|why| server.failure(&format!("failed its checks: {why}")))?;
    server.stop()
}
