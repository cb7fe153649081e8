//! Headcount's path from HTTP to the counter over the in-memory store. The difference to `headcount
//! serve` is the cost of the disk.
//!
//! Invariant: everything except the store is assembled as in `headcount serve`, with its default
//! settings.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use headcount::config::{self, Role};
use headcount::coordinator::Coordinator;
use headcount::counter::CounterTask;
use headcount::http::{self, App};
use headcount::model::{BarrierEpochs, Entropy, Epoch, Partitioning};
use headcount::store::data_dir::LOCAL_COUNTER;
use headcount::store::memory::MemoryStore;
use headcount::store::{Store, StoreShape};
use headcount::supervisor::Supervisor;
use headcount::telemetry;

use crate::ceiling::{listen_on, told_to_stop};
use crate::error::BenchError;

/// Timeout of the startup read.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves until it receives a signal to stop.
pub async fn serve(listen: SocketAddr) -> Result<(), BenchError> {
    let start = |why: &dyn std::fmt::Display| BenchError::Start(why.to_string());
    let matches = clap::Command::new("serve")
        .args(config::args(Role::Serve))
        .get_matches_from(["serve"]);
    let config = config::serve_config(&matches, None).map_err(|why| start(&why))?;
    let metrics = telemetry::start_metrics().map_err(|why| start(&why))?;
    let listener = listen_on(listen).await?;
    let mut store = MemoryStore::new(StoreShape {
        partitioning: Partitioning::SINGLE,
    });
    store.set_complete(true);
    store.commit()?;
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let (log, deliveries) = headcount::log::local();
    let (task, counter) = CounterTask::new(LOCAL_COUNTER.into(), 1, store, deliveries);
    tokio::spawn(headcount::counter::host(task));
    let coordinator = Coordinator::new(
        Epoch(now.as_nanos()),
        BarrierEpochs::new(Epoch(now.as_nanos() + 1), Entropy::default),
        Partitioning::SINGLE,
        &log,
        vec![LOCAL_COUNTER.into()],
        config.coordinator,
        &Supervisor::default(),
    );
    coordinator.set_member(LOCAL_COUNTER, Arc::new(counter), true);
    drop(log);
    coordinator
        .start(START_TIMEOUT)
        .await
        .map_err(|why| start(&why))?;
    let app = App::new(
        coordinator.clone(),
        config.http,
        Box::new(move || metrics.render()),
    );
    let stopped = async {
        told_to_stop().await;
        coordinator.close();
    };
    let endpoint = http::Endpoint::new(listener, config.common.server);
    http::serve(endpoint, http::routes(app), stopped).await;
    Ok(())
}
