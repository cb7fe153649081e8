//! The contenders that Headcount is measured against: its own engine alone, other stores, no-op
//! servers.
//!
//! Invariant: every command starts with empty data, checks the counts, and prints one JSON object.

#![allow(
    clippy::disallowed_methods,
    reason = "a measurement waits for all that it starts"
)]

mod ceiling;
mod engine;
mod error;
mod machine;
mod memory;
mod peers;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::BenchError;

/// The contenders of `cargo xtask bench`, one measurement at a time.
#[derive(Debug, Parser)]
#[command(name = "headcount-bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Drive a store directly: batches of items, each committed durably
    Engine(engine::Options),
    /// Measure the time to open a directory that `engine` left
    Open(engine::OpenOptions),
    /// Serve a no-op with Headcount's routes, or Headcount over an in-memory store, until stopped
    Ceiling(ceiling::Options),
    /// Run a private Redis and count in it
    Redis(peers::redis::Options),
    /// Run a private PostgreSQL and count in it
    Postgres(peers::postgres::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Engine(options) => engine::run(&options),
        Command::Open(options) => engine::open(&options),
        Command::Ceiling(options) => ceiling::run(options),
        Command::Redis(options) => peers::redis::run(&options),
        Command::Postgres(options) => peers::postgres::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headcount-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints one measurement.
fn print(value: &serde_json::Value) -> Result<(), BenchError> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")
        .and_then(|()| out.flush())
        .map_err(|source| BenchError::io("print the result", source))
}
