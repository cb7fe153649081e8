//! The program: reads the command line, starts logging, runs what was asked for.
//!
//! Invariant: it ends with 0 only if everything asked for was done; an error is one line on standard error.

use std::fmt::Display;
use std::net::SocketAddr;
use std::process::ExitCode;

use headcount::cli::{self, Invocation};
use headcount::config::{CoordinatorConfig, CounterConfig, ServeConfig};
use headcount::node::{self, Listening};
use headcount::telemetry;

/// The status of a command line or setting that can't be used.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let invocation = match cli::parse() {
        Ok(invocation) => invocation,
        Err(error) => return failed(error, EXIT_USAGE),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(error, 1),
    };
    match invocation {
        Invocation::Serve(config) => done(runtime.block_on(serve(*config))),
        Invocation::Coordinator(config) => done(runtime.block_on(coordinator(*config))),
        Invocation::Counter(config) => done(runtime.block_on(counter(*config))),
        Invocation::RemoveCounter { broker, name, yes } => {
            operated(runtime.block_on(cli::remove_counter(&broker, &name, yes)))
        }
        Invocation::AcceptLoss(options) => operated(runtime.block_on(cli::accept_loss(&options))),
        Invocation::SkipPoison {
            broker,
            name,
            data_dir,
            yes,
        } => operated(runtime.block_on(cli::skip_poison(&broker, &name, &data_dir, yes))),
        Invocation::RemakeQueue {
            broker,
            classic_queues,
            name,
            force,
            yes,
        } => operated(runtime.block_on(cli::remake_queue(
            &broker,
            classic_queues,
            &name,
            force,
            yes,
        ))),
        Invocation::Count { url, request, json } => {
            asked(runtime.block_on(cli::count(&url, &request, json)), json)
        }
        Invocation::Health { url, ready, json } => {
            asked(runtime.block_on(cli::health(&url, ready, json)), json)
        }
        Invocation::Load(options) => {
            let loaded = runtime.block_on(cli::load(&options));
            asked(loaded.map(|()| true), options.json)
        }
        Invocation::Bench(options) => {
            let measured = runtime.block_on(cli::bench(&options));
            asked(measured.map(|()| true), options.json)
        }
        Invocation::Verify { data_dir } => match node::verify(&data_dir) {
            Ok(report) if cli::print_report(&report) => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => failed(error, 1),
        },
    }
}

async fn serve(mut config: ServeConfig) -> Result<(), node::NodeError> {
    telemetry::start_logs(
        std::mem::take(&mut config.common.log),
        config.common.log_format,
    );
    node::serve(config, greet).await
}

async fn coordinator(mut config: CoordinatorConfig) -> Result<(), node::NodeError> {
    telemetry::start_logs(
        std::mem::take(&mut config.common.log),
        config.common.log_format,
    );
    node::coordinator(config, greet).await
}

async fn counter(mut config: CounterConfig) -> Result<(), node::NodeError> {
    telemetry::start_logs(
        std::mem::take(&mut config.common.log),
        config.common.log_format,
    );
    node::counter(config, greet).await
}

fn greet(node: Listening) {
    let version = env!("CARGO_PKG_VERSION");
    let curls = |address: SocketAddr| {
        let url = format!("http://{address}");
        format!(
            "Try:\n\n  \
             curl -X POST {url}/items -H 'Content-Type: application/json' -d '{{\"id\":\"5\",\"tenant\":\"asd\"}}'\n  \
             curl {url}/items/asd/count\n\nAPI: {url}/docs\n"
        )
    };
    let greeting = match node {
        Listening::Serve { address, data_dir } => format!(
            "Headcount {version} is listening on http://{address} (data in {}). {}",
            data_dir.display(),
            curls(address)
        ),
        Listening::Coordinator { address } => format!(
            "Headcount {version}, a coordinator, is listening on http://{address} . {}",
            curls(address)
        ),
        Listening::Counter {
            name,
            address,
            data_dir,
        } => format!(
            "Headcount {version}, counter {name}, is listening on http://{address} (data in {}).\n",
            data_dir.display()
        ),
    };
    // Who does not read the greeting is served all the same.
    let _ = cli::print(&greeting);
}

/// An operator's command: false is that it was not confirmed, or that there was nothing to do.
fn operated(result: Result<bool, impl Display>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(error, 1),
    }
}

/// A client's command: false is that its result could not be written.
fn asked(result: Result<bool, impl Display>, json: bool) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if json => {
            cli::print_error_as_json(&error.to_string());
            ExitCode::FAILURE
        }
        Err(error) => failed(error, 1),
    }
}

fn done(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(error, 1),
    }
}

fn failed(error: impl Display, status: u8) -> ExitCode {
    cli::print_error(&error.to_string());
    ExitCode::from(status)
}
