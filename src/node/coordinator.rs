//! `headcount coordinator`: the HTTP face of a cluster.
//!
//! Invariant: nothing of it is on disk: whatever it acknowledged is in the broker, and a start read
//! finds it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use super::broker_watch::BrokerWatch;
use super::cluster::{Remotes, amqp_options, cluster_secret, follow, meet_strangers, own_url};
use super::desk::Desk;
use super::system::{
    barrier_epochs, new_epoch, new_life, open_endpoints, start_metrics, stop_signal,
};
use super::{Listening, NodeError, check_tasks, told_to_stop};
use crate::clock::now_ms;
use crate::config::CoordinatorConfig;
use crate::coordinator::{Coordinator, LogState, Neighbour, NeighbourRole, TendOptions};
use crate::counter::Queries;
use crate::http::{self, App};
use crate::log::amqp::{
    AmqpLog, AmqpOptions, AmqpRole, Announcement, LogStatus, Presence, Role, Sighting,
};
use crate::model::{CounterName, Epoch, Partitioning};
use crate::supervisor::{Ended, Supervisor, Task};

/// How long one start read may take, and the pause before the next.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const START_PAUSE: Duration = Duration::from_millis(500);

/// Runs a coordinator until it is told to stop.
///
/// # Errors
/// When it can't start, or had to stop by itself.
pub async fn coordinator(
    config: CoordinatorConfig,
    listening: impl FnOnce(Listening),
) -> Result<(), NodeError> {
    let supervisor = Supervisor::default();
    let stop = stop_signal(&supervisor)?;
    let metrics = start_metrics(&supervisor)?;
    let (amqp, watch) = broker_of(&config, &supervisor)?;
    let secret = cluster_secret(&config.cluster)?;
    let refusals = amqp.refusals.clone();
    let endpoints = open_endpoints(&config.common).await?;
    let place = endpoints.place.clone();
    let life = new_life()?;
    let named: Vec<String> = config.counters.iter().map(CounterName::to_string).collect();
    let remotes = Arc::new(Remotes::new(secret.clone(), &supervisor)?);
    let epoch = new_epoch()?;
    let own = announcement(&config, life, epoch, own_url(&config.cluster, &place));
    let log_status = Arc::new(OnceLock::<watch::Receiver<LogStatus>>::new());
    let announce = {
        let (own, status) = (own.clone(), Arc::clone(&log_status));
        Arc::new(move || Announcement {
            reaches: Some(status.get().map(reaches).unwrap_or_default()),
            ..own.clone()
        })
    };
    let presence = Presence::start(amqp.clone(), own.name.clone(), announce);
    let node = own.name.clone();
    let strangers = meet_strangers(&supervisor, presence.everybody(), node, own);
    let role = AmqpRole::Coordinator {
        counters: config.counters.clone(),
        nodes: presence.nodes(),
    };
    let log = AmqpLog::start(amqp, role);
    // Nothing is published before it is set.
    let _ = log_status.set(log.status());
    let coordinator = Coordinator::new(
        epoch,
        barrier_epochs()?,
        Partitioning::SINGLE,
        &log,
        named,
        config.coordinator,
        &supervisor,
    );
    follow_counters(
        &supervisor,
        &presence,
        &remotes,
        &coordinator,
        &config.counters,
    );
    let follow_log = follow_log(log.status(), coordinator.clone(), config.queue_messages_max);
    supervisor.spawn(Task::LogState, follow_log);
    run_beside(&supervisor, &coordinator, watch);

    let app = App::new(coordinator.clone(), config.http, metrics)
        .with_refusal(move || refusals.any())
        .with_loss_desk(Arc::new(Desk::new(coordinator.clone())), secret);
    tracing::info!(address = %place, %epoch, "ready");
    listening(Listening::Coordinator { place });
    let mut fatal: Option<NodeError> = None;
    let stopped = async {
        tokio::select! {
            () = told_to_stop(stop, &supervisor, config.common.shutdown_delay) => {}
            _ = supervisor.ended() => coordinator.close(),
            reason = coordinator.fatal() => fatal = Some(reason.into()),
            Ok(why) = strangers => fatal = Some(NodeError::Stranger(why)),
        }
        if fatal.is_some() {
            coordinator.close();
        }
        supervisor.going_down();
    };
    super::run_server(endpoints, http::routes(app), stopped).await;
    // Uploads that were under way have been taken.
    coordinator.close();
    check_tasks(&supervisor)?;
    tracing::info!("stopped");
    fatal.map_or(Ok(()), Err)
}

/// What a coordinator says of itself all its life.
fn announcement(config: &CoordinatorConfig, life: u64, epoch: Epoch, url: String) -> Announcement {
    Announcement {
        version: env!("CARGO_PKG_VERSION").into(),
        role: Role::Coordinator,
        name: format!("coordinator-{life:016x}"),
        cluster: config.cluster.cluster_id.clone(),
        started_at_ms: now_ms(),
        life,
        url,
        named: config.counters.iter().map(CounterName::to_string).collect(),
        wire_version: crate::log::wire::VERSION_READ_MAX,
        epoch: Some(epoch),
        ..Announcement::default()
    }
}

/// The broker's options of the settings, and what watches where its queues are kept, if anything
/// does.
fn broker_of(
    config: &CoordinatorConfig,
    supervisor: &Supervisor,
) -> Result<(AmqpOptions, Option<BrokerWatch>), NodeError> {
    let amqp = AmqpOptions {
        witnesses: config.counters.clone(),
        ..amqp_options(&config.cluster, supervisor)?
    };
    let watch = BrokerWatch::prepare(&config.management_urls, &amqp)?;
    Ok((amqp, watch))
}

/// The counters to whose queues everything goes.
fn reaches(status: &watch::Receiver<LogStatus>) -> Vec<String> {
    let status = status.borrow();
    status.reached.iter().map(CounterName::to_string).collect()
}

/// Makes the coordinator's counters those that presence shows.
fn follow_counters(
    supervisor: &Supervisor,
    presence: &Presence,
    remotes: &Arc<Remotes>,
    coordinator: &Coordinator,
    counters: &[CounterName],
) {
    let (remotes, coordinator) = (Arc::clone(remotes), coordinator.clone());
    let configured: Vec<String> = counters.iter().map(CounterName::to_string).collect();
    follow(supervisor, presence.nodes(), move |nodes| {
        coordinator.note_neighbours(nodes.values().filter_map(neighbour).collect());
        for sighting in nodes.values() {
            let node = &sighting.announcement;
            if node.role == Role::Counter {
                coordinator.note_hearsay(&node.name, |heard| {
                    heard.seen_at = Some(sighting.seen_at);
                    heard.url = Some(node.url.clone());
                });
            }
        }
        let changes = remotes.update(nodes);
        for (name, remote) in changes.added {
            let is_configured = configured.contains(&name);
            tracing::info!(counter = name, "a counter is there");
            coordinator.set_member(&name, remote as Arc<dyn Queries>, is_configured);
        }
        for name in changes.removed {
            if !configured.contains(&name) {
                tracing::warn!(counter = name, "a counter has been silent for long");
                coordinator.remove_member(&name);
            }
        }
    });
}

/// What a node does with batches, as it says.
fn neighbour(sighting: &Sighting) -> Option<Neighbour> {
    let node = &sighting.announcement;
    let role = match node.role {
        Role::Coordinator => NeighbourRole::Appends(node.epoch),
        Role::Counter => NeighbourRole::Reads(node.wire_version),
        Role::Other => return None,
    };
    Some(Neighbour {
        name: node.name.clone(),
        release: node.version.clone(),
        url: node.url.clone(),
        heard_at: sighting.seen_at,
        role,
        named: node.named.clone(),
        reaches: node.reaches.clone(),
    })
}

/// Tells the coordinator how the log is, whenever that changes.
async fn follow_log(
    mut status: watch::Receiver<LogStatus>,
    coordinator: Coordinator,
    queue_messages_max: u64,
) -> Ended {
    loop {
        let state = {
            let status = status.borrow_and_update();
            for (name, messages) in &status.depths {
                coordinator.note_hearsay(name.as_str(), |heard| {
                    heard.queue_messages = Some(*messages);
                });
            }
            log_state(&status, queue_messages_max)
        };
        if state != coordinator.log_state() {
            tracing::info!(
                connected = state.connected,
                writable = state.writable,
                lagging = state.lagging,
                "the broker"
            );
            coordinator.set_log_state(state);
        }
        if status.changed().await.is_err() {
            return Ended::Done;
        }
    }
}

fn log_state(status: &LogStatus, queue_messages_max: u64) -> LogState {
    let longest = status.depths.iter().max_by_key(|(_, messages)| *messages);
    LogState {
        connected: status.connected,
        writable: !status.blocked,
        lagging: longest
            .filter(|(_, messages)| *messages > queue_messages_max)
            .map(|(name, _)| name.to_string()),
    }
}

/// Runs what goes on beside posts and reads; it ends with the coordinator.
fn run_beside(supervisor: &Supervisor, coordinator: &Coordinator, watch: Option<BrokerWatch>) {
    if let Some(watch) = watch {
        supervisor.spawn(Task::BrokerWatch, watch.run(coordinator.clone()));
    }
    let starting = coordinator.clone();
    supervisor.spawn(Task::StartRead, async move {
        starting.run_start(START_TIMEOUT, START_PAUSE).await;
        Ended::Done
    });
    let tending = coordinator.clone();
    supervisor.spawn(Task::Tending, async move {
        tending.tend(TendOptions::default()).await;
        Ended::Done
    });
}
