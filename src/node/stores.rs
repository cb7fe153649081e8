//! Opens a node's store and runs its counter.
//!
//! Invariant: the end of a counter is always reported, whatever caused it.

use std::path::Path;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::NodeError;
use crate::config::StoreConfig;
use crate::counter::{CounterError, CounterTask, host};
use crate::log::Deliveries;
use crate::store::data_dir::{Belonging, DataDir, Identity, ReadOnlyDir};
use crate::store::disk::{DiskOptions, DiskReader, DiskStore, MEMORY_BYTES_MAX_DEFAULT};
use crate::store::verify::{Report, recount};
use crate::store::{Store, StoreError, StoreReader, StoreShape};
use crate::supervisor::{Ended, Supervisor, Task};

/// A running counter.
pub(super) struct RunningCounter {
    task: JoinHandle<()>,
    result: oneshot::Receiver<Result<(), CounterError>>,
}

/// Starts a counter.
pub(super) fn run_counter<S: Store, D: Deliveries>(
    supervisor: &Supervisor,
    task: CounterTask<S, D>,
) -> RunningCounter {
    let (ended, result) = oneshot::channel();
    let task = supervisor.spawn(Task::Counter, async move {
        let outcome = host(task).await;
        let how = match &outcome {
            Ok(()) => Ended::GaveUp("its log ended".to_owned()),
            Err(error) => Ended::Failed(error.to_string()),
        };
        let _ = ended.send(outcome);
        how
    });
    RunningCounter { task, result }
}

impl RunningCounter {
    /// Waits until the counter ends. A panic leaves no result here; the supervisor reports it.
    pub(super) async fn end(self) -> Result<(), CounterError> {
        let _ = self.task.await;
        self.result.await.unwrap_or(Ok(()))
    }
}

/// State of an opened store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opened {
    /// Whether the store is complete.
    pub complete: bool,
    /// Whether the store has ever applied a batch.
    pub holds_position: bool,
}

/// Opens the store in the data directory; creates it if it is missing.
pub(super) fn open_store(
    config: &StoreConfig,
    belonging: &Belonging,
) -> Result<(DiskStore, Opened), NodeError> {
    let started = Instant::now();
    let dir = DataDir::open(&config.data_dir, belonging)?;
    let store = open_disk(dir, config.memory_bytes)?;
    let reader = store.reader();
    let opened = {
        let committed = reader.committed();
        let took_ms = started.elapsed().as_millis() as u64;
        tracing::info!(
            tenants = committed.tenants(),
            items = committed.items(),
            complete = committed.complete(),
            took_ms,
            "store opened"
        );
        Opened {
            complete: committed.complete(),
            holds_position: !committed.position().is_empty(),
        }
    };
    Ok((store, opened))
}

fn open_disk(dir: DataDir, memory_bytes_max: usize) -> Result<DiskStore, StoreError> {
    let shape = shape_of(dir.identity());
    DiskStore::open(dir, shape, options(memory_bytes_max))
}

fn shape_of(identity: &Identity) -> StoreShape {
    StoreShape {
        partitioning: identity.partitioning,
    }
}

fn options(memory_bytes_max: usize) -> DiskOptions {
    DiskOptions {
        memory_bytes_max,
        ..DiskOptions::default()
    }
}

/// Opens the existing store of counter `name`.
pub(super) fn open_existing(data_dir: &Path, name: &str) -> Result<DiskStore, NodeError> {
    let dir = DataDir::open_existing(data_dir)?;
    let owner = &dir.identity().counter;
    if owner != name {
        return Err(NodeError::Setting {
            key: "data-dir",
            detail: format!("{} belongs to counter {owner}", data_dir.display()),
        });
    }
    Ok(open_disk(dir, MEMORY_BYTES_MAX_DEFAULT)?)
}

/// Recounts every tenant in the data directory of a stopped service, or in a copy of it. It only
/// reads, so read permission is enough.
///
/// # Errors
/// The directory is not a Headcount data directory, is in use, or can't be read.
pub fn verify(data_dir: &Path) -> Result<Report, NodeError> {
    let dir = ReadOnlyDir::open(data_dir)?;
    let options = options(MEMORY_BYTES_MAX_DEFAULT);
    let reader = DiskReader::open(&dir, shape_of(dir.identity()), options)?;
    Ok(recount(&reader)?)
}
