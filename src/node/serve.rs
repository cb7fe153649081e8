//! `headcount serve`: everything in one process.
//!
//! Invariant: going down goes the way of the data: take no more connections, answer what is in
//! flight, admit nothing more, end the log, close the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::stores::{open_store, run_counter};
use super::system::{
    barrier_epochs, new_epoch, new_life, open_endpoints, start_metrics, stop_signal,
};
use super::{CLOSE_TIMEOUT, LOCAL_COUNTER, Listening, NodeError, check_tasks, told_to_stop};
use crate::clock::now_ms;
use crate::config::ServeConfig;
use crate::coordinator::Coordinator;
use crate::counter::CounterTask;
use crate::http::{self, App};
use crate::model::Partitioning;
use crate::store::Store;
use crate::store::data_dir::Belonging;
use crate::supervisor::Supervisor;

/// How long the start read may take.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs everything in this process, until it is told to stop.
///
/// # Errors
/// When it can't start, or had to stop by itself.
pub async fn serve(
    config: ServeConfig,
    listening: impl FnOnce(Listening),
) -> Result<(), NodeError> {
    // Asked for first, so that being told to stop while starting is not missed.
    let supervisor = Supervisor::default();
    let stop = stop_signal(&supervisor)?;
    let metrics = start_metrics(&supervisor)?;
    // Before the folder is touched: a second start by mistake leaves nothing behind.
    let endpoints = open_endpoints(&config.common).await?;
    let place = endpoints.place.clone();
    let belonging = Belonging {
        cluster: None,
        counter: LOCAL_COUNTER.into(),
        adopt: false,
        partitioning: Partitioning::SINGLE,
        now_ms: now_ms(),
    };
    let (mut store, opened) = open_store(&config.store, &belonging)?;
    if !opened.holds_position && !opened.complete {
        // A new store has everything from the beginning. One that knows it starts on a full disk,
        // too.
        store.set_complete(true);
        store.commit()?;
    } else if !opened.complete {
        tracing::warn!("the store is not sure to have everything: no count will be exact");
    }
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
        // With its cause, where the read would only say that it had no answer.
        end = supervisor.ended() => return Err(end.into()),
        started = coordinator.start(START_TIMEOUT) => started?,
    }
    let took_ms = started.elapsed().as_millis() as u64;
    tracing::info!(took_ms, "the coordinator started");

    let app = App::new(coordinator.clone(), config.http, metrics);
    tracing::info!(address = %place, data_dir = %config.store.data_dir.display(), "ready");
    listening(Listening::Serve {
        place,
        data_dir: config.store.data_dir,
    });
    let mut fatal = None;
    let stopped = async {
        tokio::select! {
            () = told_to_stop(stop, &supervisor, config.common.shutdown_delay) => {}
            _ = supervisor.ended() => coordinator.close(),
            reason = coordinator.fatal() => fatal = Some(reason),
        }
        supervisor.going_down();
    };
    super::run_server(endpoints, http::routes(app), stopped).await;
    // Uploads that were under way have been taken.
    coordinator.close();
    drop(coordinator);
    // The log ends once the last batch is through, and with it the counter.
    tokio::time::timeout(CLOSE_TIMEOUT, running.end())
        .await
        .map_err(|_| NodeError::CloseTimedOut)??;
    check_tasks(&supervisor)?;
    tracing::info!("stopped");
    fatal.map_or(Ok(()), |reason| Err(reason.into()))
}
