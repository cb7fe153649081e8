//! The program: parses the command line, starts logging and runs the command.
//!
//! Invariant: the exit status is 0 only if the command did everything that it was asked to do; an
//! error is one line on standard error, in JSON if the log is in JSON.

use std::fmt::Display;
use std::io::IsTerminal;
use std::process::ExitCode;

use headcount::cli::{self, Invocation, Told};
use headcount::config::{CommonConfig, CoordinatorConfig, CounterConfig, ServeConfig};
use headcount::node::{self, Listening};
use headcount::socket::SocketPlace;
use headcount::telemetry::{self, LogLine};

/// Exit status for an invalid command line or setting.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let told = Told::here();
    let invocation = match cli::parse(told) {
        Ok(invocation) => invocation,
        Err(error) => return failed(error, told, EXIT_USAGE),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(error, told, 1),
    };
    match invocation {
        Invocation::Serve(config) => done(runtime.block_on(serve(*config)), told),
        Invocation::Coordinator(config) => done(runtime.block_on(coordinator(*config)), told),
        Invocation::Counter(config) => done(runtime.block_on(counter(*config)), told),
        Invocation::RemoveCounter { broker, name, yes } => {
            let removed = runtime.block_on(cli::remove_counter(&broker, &name, yes));
            asked(removed, told)
        }
        Invocation::AcceptLoss(options) => {
            asked(runtime.block_on(cli::accept_loss(&options)), told)
        }
        Invocation::SkipPoison {
            broker,
            name,
            data_dir,
            yes,
        } => {
            let skipped = runtime.block_on(cli::skip_poison(&broker, &name, &data_dir, yes));
            asked(skipped, told)
        }
        Invocation::RemakeQueue {
            broker,
            classic_queues,
            name,
            force,
            yes,
        } => {
            let remade = cli::remake_queue(&broker, classic_queues, &name, force, yes);
            asked(runtime.block_on(remade), told)
        }
        Invocation::Count { url, request, json } => {
            asked(runtime.block_on(cli::count(&url, &request, json)), told)
        }
        Invocation::Health { url, ready, json } => {
            asked(runtime.block_on(cli::health(&url, ready, json)), told)
        }
        Invocation::Load(options) => done(runtime.block_on(cli::load(&options)), told),
        Invocation::Bench(options) => done(runtime.block_on(cli::bench(&options)), told),
        Invocation::Verify { data_dir } => match node::verify(&data_dir) {
            Ok(report) if cli::print_report(&report) => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => failed(error, told, 1),
        },
    }
}

async fn serve(mut config: ServeConfig) -> Result<(), node::NodeError> {
    let greet = start_logs(&mut config.common);
    node::serve(config, greet).await
}

async fn coordinator(mut config: CoordinatorConfig) -> Result<(), node::NodeError> {
    let greet = start_logs(&mut config.common);
    node::coordinator(config, greet).await
}

async fn counter(mut config: CounterConfig) -> Result<(), node::NodeError> {
    let greet = start_logs(&mut config.common);
    node::counter(config, greet).await
}

/// Starts the log. Returns a function that prints the greeting in the same format.
fn start_logs(common: &mut CommonConfig) -> impl FnOnce(Listening) + use<> {
    let format = common.log_format;
    telemetry::start_logs(std::mem::take(&mut common.log), format);
    move |node| greet(&node, format.is_json(std::io::stdout().is_terminal()))
}

fn greet(node: &Listening, json: bool) {
    let version = env!("CARGO_PKG_VERSION");
    let (role, place, data_dir) = match node {
        Listening::Serve { place, data_dir } => (String::new(), place, Some(data_dir)),
        Listening::Coordinator { place } => (", a coordinator,".to_owned(), place, None),
        Listening::Counter {
            name,
            place,
            data_dir,
        } => (format!(", counter {name},"), place, Some(data_dir)),
    };
    let url = place.url();
    let data_dir = data_dir.map(|folder| folder.display().to_string());
    let data = match &data_dir {
        Some(folder) => format!("(data in {folder})."),
        None => ".".to_owned(),
    };
    let greeting = format!("Headcount {version}{role} is listening on {url} {data}");
    let greeting = match (json, node) {
        (true, _) => {
            let mut line = LogLine::info(&greeting).with("url", url);
            if let Some(folder) = data_dir {
                line = line.with("data_dir", folder);
            }
            line.to_string()
        }
        (false, Listening::Counter { .. }) => greeting,
        (false, _) => {
            let (curl, base) = match place {
                SocketPlace::Tcp(_) => ("curl".to_owned(), url),
                SocketPlace::Unix(path) => {
                    let curl = format!("curl --unix-socket '{}'", path.display());
                    (curl, "http://localhost".to_owned())
                }
            };
            format!(
                "{greeting} Try:\n\n  \
                 {curl} -X POST {base}/items -H 'Content-Type: application/json' -d \
                 '{{\"id\":\"5\",\"tenant\":\"asd\"}}'\n  \
                 {curl} {base}/items/asd/count\n\nAPI: {base}/docs"
            )
        }
    };
    // The node serves even if the greeting can't be written.
    let _ = cli::print(&format!("{greeting}\n"));
}

/// Exit status of a command. `false` means that the operator did not confirm, that there was
/// nothing to do, or that the result could not be written.
fn asked(result: Result<bool, impl Display>, told: Told) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(error, told, 1),
    }
}

fn done(result: Result<(), impl Display>, told: Told) -> ExitCode {
    asked(result.map(|()| true), told)
}

fn failed(error: impl Display, told: Told, status: u8) -> ExitCode {
    told.error(&error.to_string());
    ExitCode::from(status)
}
