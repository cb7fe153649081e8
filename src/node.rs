//! The composition root: puts a node's parts together, runs them, and takes them down in order.
//!
//! Invariant: only this file names concrete stores and logs. Going down goes the way of the data: stop
//! admitting, answer what is in flight, end the log, close the store.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::BuildError;
use rustix::process::{Resource, getrlimit, setrlimit};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::clock::now_ms;
use crate::config::ServeConfig;
use crate::coordinator::{Coordinator, ReadError};
use crate::counter::{CounterError, CounterTask, LocalCounter, Queries};
use crate::http::{self, App, ServerLimits};
use crate::log::{Deliveries, LocalLog};
use crate::model::{Epoch, Partitioning};
pub use crate::store::data_dir::LOCAL_COUNTER;
use crate::store::data_dir::{Belonging, DataDir};
use crate::store::disk::{DiskOptions, DiskStore, MEMORY_BYTES_MAX_DEFAULT};
use crate::store::verify::{Report, recount};
use crate::store::{Store, StoreError, StoreReader, StoreShape};
use crate::telemetry;

/// How long the start read may take.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the last batches and the store's last flush may take once all requests are answered.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Files kept for the store: its runs (64 at most, and those being merged), journal, manifest and the like.
const FILES_RESERVED: usize = 160;

/// How often metrics that gather are tidied.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Why a node ended, or did not start.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The store could not be opened, or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The counter failed. Nothing was acknowledged since; a restart recovers.
    #[error("the counter failed: {0}")]
    Counter(#[from] CounterError),
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's word.
        source: std::io::Error,
    },
    /// The coordinator's start read failed.
    #[error("the first read failed: {0}")]
    Start(#[from] ReadError),
    /// Metrics could not be set up.
    #[error("metrics could not be set up: {0}")]
    Metrics(#[from] BuildError),
    /// The system refused something that every node needs.
    #[error("{what}: {detail}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// The system's word.
        detail: String,
    },
    /// The store was not closed in time. Nothing acknowledged is lost: opening it recovers, as after a crash.
    #[error("the store was not closed in time; the next start recovers")]
    CloseTimedOut,
}

/// What a started node tells.
#[derive(Debug)]
pub struct Listening {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its data is.
    pub data_dir: PathBuf,
}

/// Runs everything in this process, until it is told to stop.
///
/// # Errors
/// When it can't start, or had to stop by itself.
pub async fn serve(
    config: ServeConfig,
    listening: impl FnOnce(Listening),
) -> Result<(), NodeError> {
    // Asked for first, so that being told to stop while starting is not missed.
    let stop = stop_signal()?;
    let metrics = telemetry::start_metrics()?;
    let server = limit_connections(config.server)?;
    // Before the folder is touched: a second start by mistake leaves nothing behind.
    let (listener, address) = listen(config.listen).await?;
    let store = open_store(&config)?;
    let (log, deliveries) = crate::log::local();
    let (counter, mut failed) = start_counter(store, deliveries)?;
    let coordinator = start_coordinator(&config, log, counter).await?;

    let upkeep = metrics.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(METRICS_UPKEEP);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    let app = App::new(
        coordinator.clone(),
        config.http,
        Box::new(move || {
            telemetry::report_process();
            metrics.render()
        }),
    );
    tracing::info!(%address, data_dir = %config.data_dir.display(), "ready");
    listening(Listening {
        address,
        data_dir: config.data_dir,
    });

    let mut outcome = None;
    let stopped = async {
        tokio::select! {
            name = stop => tracing::info!(signal = name, "stopping"),
            ended = &mut failed => outcome = Some(ended),
        }
        coordinator.close();
    };
    let cut = http::serve(listener, http::router(app), server, stopped).await;
    if cut > 0 {
        tracing::warn!(
            connections = cut,
            "connections were cut after the time to drain; what they posted last may count or not"
        );
    }
    drop(coordinator);
    let ended = match outcome {
        Some(ended) => ended,
        // The log ends once the last batch is through, and with it the counter.
        None => tokio::time::timeout(CLOSE_TIMEOUT, failed)
            .await
            .map_err(|_| NodeError::CloseTimedOut)?,
    };
    ended.unwrap_or_else(|_| Err(CounterError::Thread("it panicked".into())))?;
    tracing::info!("stopped");
    Ok(())
}

/// Lets the process have as many files as the system allows it, and no more connections than leave enough of
/// them to the store: without a file, the store could not go on.
fn limit_connections(limits: ServerLimits) -> Result<ServerLimits, NodeError> {
    let mut files = getrlimit(Resource::Nofile);
    if files.current != files.maximum {
        files.current = files.maximum;
        // Refused, the old limit stays, and is what is read below.
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
            "fewer connections than set: too few open files"
        );
    }
    Ok(ServerLimits {
        connections_max,
        ..limits
    })
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), NodeError> {
    let fault = |source| NodeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(fault)?;
    let address = listener.local_addr().map_err(fault)?;
    Ok((listener, address))
}

/// Resolves when a counter has ended, however it did.
type CounterEnd = oneshot::Receiver<Result<(), CounterError>>;

/// Starts a counter on a thread of its own.
fn start_counter<S: Store>(
    store: S,
    deliveries: impl Deliveries,
) -> Result<(LocalCounter<S::Reader>, CounterEnd), NodeError> {
    let (task, handle) = CounterTask::new(LOCAL_COUNTER.into(), 1, store, deliveries);
    let (ended, failed) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("counter".into())
        .spawn(move || {
            let result = runtime.block_on(task.run());
            if let Err(error) = &result {
                tracing::error!(%error, "the counter failed; the process stops and a restart recovers");
            }
            let _ = ended.send(result);
        })
        .map_err(|error| system("the counter's thread", &error))?;
    Ok((handle, failed))
}

async fn start_coordinator<R: StoreReader>(
    config: &ServeConfig,
    log: LocalLog,
    counter: LocalCounter<R>,
) -> Result<Coordinator, NodeError> {
    let members: Vec<Arc<dyn Queries>> = vec![Arc::new(counter)];
    let epoch = new_epoch()?;
    let started = Instant::now();
    let partitioning = Partitioning::SINGLE;
    let coordinator = Coordinator::new(
        epoch,
        new_epoch()?,
        partitioning,
        &log,
        members,
        config.coordinator,
    );
    coordinator.start(START_TIMEOUT).await?;
    let took_ms = started.elapsed().as_millis() as u64;
    tracing::info!(%epoch, took_ms, "the coordinator started");
    Ok(coordinator)
}

fn new_epoch() -> Result<Epoch, NodeError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| NodeError::System {
        what: "random bytes",
        detail: error.to_string(),
    })?;
    Ok(Epoch(u128::from_le_bytes(bytes)))
}

/// Resolves with the signal's name once the process is told to stop. A second signal ends it at once.
fn stop_signal() -> Result<impl Future<Output = &'static str>, NodeError> {
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| system("the signal SIGTERM", &error))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|error| system("the signal SIGINT", &error))?;
    let (told, stop) = oneshot::channel();
    tokio::spawn(async move {
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
    });
    Ok(async move { stop.await.unwrap_or("the runtime's end") })
}

fn system(what: &'static str, error: &std::io::Error) -> NodeError {
    NodeError::System {
        what,
        detail: error.to_string(),
    }
}

/// Opens the folder's store, or makes one. A new one is complete: it has everything from the beginning.
fn open_store(config: &ServeConfig) -> Result<DiskStore, NodeError> {
    let started = Instant::now();
    let belonging = Belonging {
        cluster: None,
        counter: LOCAL_COUNTER.into(),
        adopt: false,
        partitioning: Partitioning::SINGLE,
        now_ms: now_ms(),
    };
    let dir = DataDir::open(&config.data_dir, &belonging)?;
    let mut store = open_disk(dir, config.memory_bytes)?;
    let reader = store.reader();
    let (tenants, items, complete, is_new) = {
        let cut = reader.cut();
        (
            cut.tenants(),
            cut.items(),
            cut.complete(),
            cut.position().is_empty(),
        )
    };
    if is_new {
        store.set_complete(true);
        store.commit()?;
    } else if !complete {
        tracing::warn!("the store is not sure to have everything: no count will be exact");
    }
    let took_ms = started.elapsed().as_millis() as u64;
    tracing::info!(tenants, items, took_ms, "the store is open");
    Ok(store)
}

fn open_disk(dir: DataDir, memory_bytes_max: usize) -> Result<DiskStore, StoreError> {
    let shape = StoreShape {
        partitioning: dir.identity().partitioning,
    };
    let options = DiskOptions {
        memory_bytes_max,
        ..DiskOptions::default()
    };
    DiskStore::open(dir, shape, options)
}

/// Recounts every tenant of a stopped service's folder.
///
/// # Errors
/// When the folder is none of ours, is in use, or can't be read.
pub fn verify(data_dir: &Path) -> Result<Report, NodeError> {
    let store = open_disk(DataDir::open_existing(data_dir)?, MEMORY_BYTES_MAX_DEFAULT)?;
    Ok(recount(&store.reader())?)
}
