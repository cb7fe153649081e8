//! `headcount serve`: the whole service in one process.
//!
//! Invariant: shutdown follows the flow of the data: stop accepting connections, answer the
//! requests in flight, admit no more posts, end the log, close the store.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::skeleton::Skeleton;
use super::stores::{open_store, run_counter};
use super::system::{barrier_epochs, new_epoch, new_life};
use super::{CLOSE_TIMEOUT, LOCAL_COUNTER, Listening, NodeError, check_tasks};
use crate::clock::now_ms;
use crate::config::{ServeConfig, StoreConfig};
use crate::coordinator::Coordinator;
use crate::counter::CounterTask;
use crate::http::{self, App};
use crate::model::Partitioning;
use crate::store::Store;
use crate::store::data_dir::Belonging;
use crate::store::disk::DiskStore;

/// Timeout of the startup read.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the whole service in this process until it receives a signal to stop.
///
/// # Errors
/// The service can't start, or stopped because of a failure.
pub async fn serve(
    config: ServeConfig,
    listening: impl FnOnce(Listening),
) -> Result<(), NodeError> {
    let Skeleton {
        supervisor,
        metrics,
        place,
        server,
    } = Skeleton::open(&config.common).await?;
    let store = open_complete(&config.store)?;
    let (log, deliveries) = crate::log::local();
    let (task, counter) = CounterTask::new(LOCAL_COUNTER.into(), new_life()?, store, deliveries);
    let running = run_counter(&supervisor, task);
    let started = Instant::now();
    let coordinator = Coordinator::new(
        new_epoch()?,
        barrier_epochs()?,
        Partitioning::SINGLE,
        &log,
        vec![LOCAL_COUNTER.into()],
        config.coordinator,
        &supervisor,
    );
    drop(log);
    coordinator.set_member(LOCAL_COUNTER, Arc::new(counter), true);
    tokio::select! {
        biased;
        // Checked first, because it carries the cause; the read would only report that it got no
        // answer.
        end = supervisor.ended() => return Err(end.into()),
        started = coordinator.start(START_TIMEOUT) => started?,
    }
    let took_ms = started.elapsed().as_millis() as u64;
    tracing::info!(took_ms, "coordinator started");

    let app = App::new(coordinator.clone(), config.http, metrics);
    tracing::info!(address = %place, data_dir = %config.store.data_dir.display(), "service ready");
    listening(Listening::Serve {
        place,
        data_dir: config.store.data_dir,
    });
    let fatal = coordinator.fatal().map(NodeError::from);
    let failure = server
        .run(http::routes(app), fatal, || coordinator.close())
        .await;
    // Request bodies in flight have been received.
    coordinator.close();
    drop(coordinator);
    // The log ends after the last batch, and the counter after the log.
    tokio::time::timeout(CLOSE_TIMEOUT, running.end())
        .await
        .map_err(|_| NodeError::CloseTimedOut)??;
    check_tasks(&supervisor)?;
    tracing::info!("shutdown complete");
    failure.map_or(Ok(()), Err)
}

/// Opens the store. A new store is complete: it has every batch from the start.
fn open_complete(config: &StoreConfig) -> Result<DiskStore, NodeError> {
    let belonging = Belonging {
        cluster: None,
        counter: LOCAL_COUNTER.into(),
        adopt: false,
        partitioning: Partitioning::SINGLE,
        now_ms: now_ms(),
    };
    let (mut store, opened) = open_store(config, &belonging)?;
    if !opened.holds_position && !opened.complete {
        // Skipped if it is already recorded: on a full disk, a start could not commit it.
        store.set_complete(true);
        store.commit()?;
    } else if !opened.complete {
        tracing::warn!("store may be incomplete; counts will not be exact");
    }
    Ok(store)
}
