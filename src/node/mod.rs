//! The composition root: puts a node's parts together, runs them, and takes them down in order.
//!
//! Invariant: only this folder names concrete stores and logs.

mod broker_watch;
mod cluster;
mod coordinator;
mod counter;
mod desk;
mod operator;
mod serve;
mod stores;
mod system;

pub use coordinator::coordinator;
pub use counter::counter;
pub use operator::{remake_queue, remove_counter, skip_poison};
pub use serve::serve;
pub use stores::verify;

use std::path::PathBuf;
use std::time::Duration;

use futures_util::FutureExt;
use metrics_exporter_prometheus::BuildError;
use thiserror::Error;
use tokio::sync::oneshot;

use self::system::Endpoints;
use crate::client::ClientError;
use crate::coordinator::{Fatal, ReadError};
use crate::counter::CounterError;
use crate::http;
use crate::log::amqp::OperatorError;
use crate::socket::SocketPlace;
use crate::store::StoreError;
pub use crate::store::data_dir::LOCAL_COUNTER;
use crate::supervisor::{Supervisor, UnaskedEnd};

/// How long the last batches and the store's last flush may take once all requests are answered.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

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
    #[error("can't listen on {place}: {source}")]
    Listen {
        /// Where.
        place: SocketPlace,
        /// The system's word.
        source: std::io::Error,
    },
    /// The coordinator's start read failed.
    #[error("the first read failed: {0}")]
    Start(#[from] ReadError),
    /// The coordinator must not go on. A restart begins anew.
    #[error(transparent)]
    Coordinator(#[from] Fatal),
    /// Another node can't go together with this one, which started later.
    #[error("{0}")]
    Stranger(String),
    /// A task ended that nobody had asked to end. A restart recovers.
    #[error(transparent)]
    Unasked(#[from] UnaskedEnd),
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
    /// A setting is not what it should be.
    #[error("{key}: {detail}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// Other nodes can't be asked.
    #[error("the client of other nodes could not be set up: {0}")]
    Client(#[from] ClientError),
    /// An operator's command did not succeed.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The store was not closed in time. Nothing acknowledged is lost: opening it recovers, as
    /// after a crash.
    #[error("the store was not closed in time; the next start recovers")]
    CloseTimedOut,
}

/// What a started node tells.
#[derive(Debug)]
pub enum Listening {
    /// The whole service.
    Serve {
        /// Where it listens.
        place: SocketPlace,
        /// Where its data is.
        data_dir: PathBuf,
    },
    /// A coordinator.
    Coordinator {
        /// Where it listens.
        place: SocketPlace,
    },
    /// A counter.
    Counter {
        /// Its name.
        name: String,
        /// Where it listens.
        place: SocketPlace,
        /// Where its data is.
        data_dir: PathBuf,
    },
}

/// An error if a task has ended that nobody had asked to: a node without it must not look as if all
/// had gone well.
fn check_tasks(supervisor: &Supervisor) -> Result<(), NodeError> {
    match supervisor.unasked() {
        Some(end) => Err(end.into()),
        None => Ok(()),
    }
}

/// Waits until told to stop by `stop`, says so to whoever looks, and works on for `delay`: whoever
/// sends requests here hears of it late.
async fn told_to_stop(
    stop: impl Future<Output = &'static str>,
    supervisor: &Supervisor,
    delay: Duration,
) {
    let signal = stop.await;
    supervisor.leave();
    tracing::info!(signal, delay_ms = delay.as_millis() as u64, "stopping");
    tokio::time::sleep(delay).await;
}

/// Serves until told to stop, and says whom that cut off. Probes are answered until the last
/// request is.
async fn run_server(endpoints: Endpoints, routes: http::Routes, stopped: impl Future<Output = ()>) {
    let (answered, all_answered) = oneshot::channel::<()>();
    let probes = async {
        if let Some(endpoint) = endpoints.probes {
            let stop = all_answered.map(drop);
            http::serve(endpoint, routes.clone(), stop).await;
        }
    };
    let all = async {
        let cut = http::serve(endpoints.all, routes.clone(), stopped).await;
        drop(answered);
        cut
    };
    let (cut, ()) = tokio::join!(all, probes);
    if cut > 0 {
        tracing::warn!(
            connections = cut,
            "connections were cut after the time to drain; what they posted last may count or not"
        );
    }
}
