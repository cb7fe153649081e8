//! What every node needs from the operating system: files, an address, signals, random numbers,
//! metrics.
//!
//! Invariant: a node that lacks a resource fails before it touches any data.

use std::convert::Infallible;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::NodeError;
use crate::clock::now_ns;
use crate::config::CommonConfig;
use crate::http::{Endpoint, PROBE_CONNECTIONS, ServerLimits};
use crate::model::{BarrierEpochs, Entropy, Epoch};
use crate::socket::{Listener, SocketPlace};
use crate::supervisor::{Supervisor, Task};
use crate::telemetry;

/// Open files reserved for the store and for probes. The store needs files for its runs (at most
/// 64, plus ingested runs and those being compacted), the journal, the manifest and others. Probes
/// need their connections, those of their own endpoint, and its listener.
const FILES_RESERVED: usize = 160 + 2 * PROBE_CONNECTIONS;

/// Interval of metrics maintenance, which drains the collected histogram samples.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Installs the metrics and returns a function that renders them.
pub(super) fn start_metrics(
    supervisor: &Supervisor,
) -> Result<Box<dyn Fn() -> String + Send + Sync>, NodeError> {
    let metrics: PrometheusHandle = telemetry::start_metrics()?;
    let upkeep = metrics.clone();
    supervisor.spawn(Task::MetricsUpkeep, keep_up(upkeep));
    Ok(Box::new(move || {
        telemetry::report_process();
        metrics.render()
    }))
}

async fn keep_up(metrics: PrometheusHandle) -> Infallible {
    let mut ticks = tokio::time::interval(METRICS_UPKEEP);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

/// Raises the limit on open files to the maximum that the system allows, and limits connections so
/// that enough files remain for the store: without a free file, the store could not continue.
fn limit_connections(limits: ServerLimits) -> Result<ServerLimits, NodeError> {
    let mut files = getrlimit(Resource::Nofile);
    if files.current != files.maximum {
        files.current = files.maximum;
        // If this fails, the old limit stays and is read below.
        let _ = setrlimit(Resource::Nofile, files);
    }
    let files_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let files_max = usize::try_from(files_max).unwrap_or(usize::MAX);
    let connections_max = limits
        .connections_max
        .min(files_max.saturating_sub(FILES_RESERVED));
    if connections_max == 0 {
        return Err(NodeError::System {
            what: "open files",
            detail: format!("the limit is {files_max}; set ulimit -n above {FILES_RESERVED}"),
        });
    }
    if connections_max < limits.connections_max {
        tracing::warn!(
            connections_max,
            files_max,
            "connections-max reduced: limit on open files is too low"
        );
    }
    Ok(ServerLimits {
        connections_max,
        ..limits
    })
}

/// The endpoints of a node.
pub(super) struct Endpoints {
    /// Address of the main endpoint.
    pub place: SocketPlace,
    pub all: Endpoint,
    /// Endpoint for probes only.
    pub probes: Option<Endpoint>,
}

/// Opens the endpoints that the settings name, before anything else is touched.
pub(super) async fn open_endpoints(config: &CommonConfig) -> Result<Endpoints, NodeError> {
    let limits = limit_connections(config.server)?;
    let open = async |place: &SocketPlace, only_probes| {
        let (listener, place) = listen(place).await?;
        let endpoint = Endpoint {
            listener,
            access: config.access.clone(),
            limits,
            only_probes,
        };
        Ok::<_, NodeError>((endpoint, place))
    };
    let (all, place) = open(&config.listen, false).await?;
    let probes = match &config.probe_listen {
        Some(place) => Some(open(place, true).await?.0),
        None => None,
    };
    Ok(Endpoints { place, all, probes })
}

async fn listen(place: &SocketPlace) -> Result<(Listener, SocketPlace), NodeError> {
    let fault = |source| NodeError::Listen {
        place: place.clone(),
        source,
    };
    let listener = Listener::bind(place).await.map_err(fault)?;
    let place = listener.place().map_err(fault)?;
    Ok((listener, place))
}

pub(super) fn new_epoch() -> Result<Epoch, NodeError> {
    Ok(Epoch(u128::from_le_bytes(random()?)))
}

/// The epochs of a new incarnation's barriers.
pub(super) fn barrier_epochs() -> Result<BarrierEpochs, NodeError> {
    let entropy = || Entropy {
        // If random bytes are unavailable, the clock alone distinguishes barriers.
        random: random().unwrap_or_default(),
        now_ns: now_ns(),
    };
    Ok(BarrierEpochs::new(new_epoch()?, entropy))
}

/// A random number for a node's new incarnation.
pub(super) fn new_life() -> Result<u64, NodeError> {
    Ok(u64::from_le_bytes(random()?))
}

fn random<const N: usize>() -> Result<[u8; N], NodeError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| NodeError::System {
        what: "random bytes",
        detail: error.to_string(),
    })?;
    Ok(bytes)
}

/// Resolves with the signal's name when the process receives a signal to stop. A second signal ends
/// the process immediately.
pub(super) fn stop_signal(
    supervisor: &Supervisor,
) -> Result<impl Future<Output = &'static str> + use<>, NodeError> {
    let terminate =
        signal(SignalKind::terminate()).map_err(|error| system("the signal SIGTERM", &error))?;
    let interrupt =
        signal(SignalKind::interrupt()).map_err(|error| system("the signal SIGINT", &error))?;
    let (told, stop) = oneshot::channel();
    supervisor.spawn(Task::Signals, hear_signals(terminate, interrupt, told));
    Ok(async move {
        match stop.await {
            Ok(name) => name,
            // The signal task has ended, which ends the process on its own.
            Err(_) => std::future::pending().await,
        }
    })
}

async fn hear_signals(
    mut terminate: Signal,
    mut interrupt: Signal,
    told: oneshot::Sender<&'static str>,
) -> Infallible {
    let mut told = Some(told);
    loop {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        match told.take() {
            Some(told) => {
                let _ = told.send(name);
            }
            None => std::process::exit(130),
        }
    }
}

pub(super) fn system(what: &'static str, error: &std::io::Error) -> NodeError {
    NodeError::System {
        what,
        detail: error.to_string(),
    }
}
