//! The composition root: assembles the parts of a node, runs them, and shuts them down in order.
//!
//! Invariant: only this module names concrete stores and logs.

mod broker_watch;
mod cluster;
mod coordinator;
mod counter;
mod desk;
mod operator;
mod serve;
mod skeleton;
mod stores;
mod system;

pub use coordinator::coordinator;
pub use counter::counter;
pub use operator::{remake_queue, remove_counter, skip_poison};
pub use serve::serve;
pub use stores::verify;

use std::path::PathBuf;
use std::time::Duration;

use metrics_exporter_prometheus::BuildError;
use thiserror::Error;

use crate::client::ClientError;
use crate::coordinator::{Fatal, ReadError};
use crate::counter::CounterError;
use crate::log::amqp::OperatorError;
use crate::socket::SocketPlace;
use crate::store::StoreError;
pub use crate::store::data_dir::LOCAL_COUNTER;
use crate::supervisor::{Supervisor, UnaskedEnd};

/// Timeout for the last batches and the store's last flush after all requests are answered.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// The reason why a node stopped or did not start.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The store could not be opened, or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The counter failed. It has acknowledged nothing since; a restart recovers.
    #[error("the counter failed: {0}")]
    Counter(#[from] CounterError),
    /// The node can't listen on the address.
    #[error("can't listen on {place}: {source}")]
    Listen {
        /// The address.
        place: SocketPlace,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The coordinator's startup read failed.
    #[error("the startup read failed: {0}")]
    Start(#[from] ReadError),
    /// The coordinator must stop. A restart begins a new epoch.
    #[error(transparent)]
    Coordinator(#[from] Fatal),
    /// Another node is incompatible with this one, which started later.
    #[error("{0}")]
    Stranger(String),
    /// A task ended unexpectedly. A restart recovers.
    #[error(transparent)]
    Unasked(#[from] UnaskedEnd),
    /// Metrics could not be set up.
    #[error("metrics could not be set up: {0}")]
    Metrics(#[from] BuildError),
    /// The operating system refused something that every node needs.
    #[error("{what}: {detail}")]
    System {
        /// The refused resource.
        what: &'static str,
        /// The error of the operating system.
        detail: String,
    },
    /// A setting is invalid.
    #[error("{key}: {detail}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// The client for requests to other nodes could not be set up.
    #[error("the client for other nodes could not be set up: {0}")]
    Client(#[from] ClientError),
    /// An operator command failed.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The store was not closed in time. Nothing acknowledged is lost: opening the store recovers
    /// as after a crash.
    #[error("the store was not closed in time; the next start recovers")]
    CloseTimedOut,
}

/// What a node reports once it listens.
#[derive(Debug)]
pub enum Listening {
    /// The whole service.
    Serve {
        /// Its listen address.
        place: SocketPlace,
        /// Its data directory.
        data_dir: PathBuf,
    },
    /// A coordinator.
    Coordinator {
        /// Its listen address.
        place: SocketPlace,
    },
    /// A counter.
    Counter {
        /// Its name.
        name: String,
        /// Its listen address.
        place: SocketPlace,
        /// Its data directory.
        data_dir: PathBuf,
    },
}

/// Returns an error if a task ended unexpectedly: the node must not report success then.
fn check_tasks(supervisor: &Supervisor) -> Result<(), NodeError> {
    match supervisor.unasked() {
        Some(end) => Err(end.into()),
        None => Ok(()),
    }
}
