//! `headcount coordinator`: the HTTP front end of a cluster.
//!
//! Invariant: a coordinator stores nothing on disk. Every acknowledged batch is in the broker, and
//! the startup read finds it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::broker_watch::BrokerWatch;
use super::cluster::{Remotes, amqp_options, cluster_secret, follow, meet_strangers, own_url};
use super::desk::Desk;
use super::skeleton::Skeleton;
use super::system::{barrier_epochs, new_epoch, new_life};
use super::{Listening, NodeError, check_tasks};
use crate::clock::now_ms;
use crate::config::CoordinatorConfig;
use crate::coordinator::{Coordinator, LogState, MaintainOptions, Neighbour, NeighbourRole};
use crate::counter::Queries;
use crate::http::{self, App};
use crate::log::amqp::{
    AmqpLog, AmqpOptions, AmqpRole, Announcement, LogStatus, Presence, Role, Sighting,
};
use crate::model::{CounterName, Epoch, Partitioning};
use crate::supervisor::{Ended, Supervisor, Task};

/// Timeout of one startup read, and the delay before the next one.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const START_PAUSE: Duration = Duration::from_millis(500);

/// Runs a coordinator until it receives a signal to stop.
///
/// # Errors
/// The coordinator can't start, or stopped because of a failure.
pub async fn coordinator(
    config: CoordinatorConfig,
    listening: impl FnOnce(Listening),
) -> Result<(), NodeError> {
    let Skeleton {
        supervisor,
        metrics,
        place,
        server,
    } = Skeleton::open(&config.common).await?;
    let (amqp, watch) = broker_of(&config, &supervisor)?;
    let secret = cluster_secret(&config.cluster)?;
    let refusals = amqp.refusals.clone();
    let life = new_life()?;
    let named: Vec<String> = config.counters.iter().map(CounterName::to_string).collect();
    let remotes = Arc::new(Remotes::new(secret.clone(), &supervisor)?);
    let epoch = new_epoch()?;
    let own = announcement(&config, life, epoch, own_url(&config.cluster, &place));
    let (presence, log, strangers) = join(&supervisor, amqp, own, &config.counters);
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
    tracing::info!(address = %place, %epoch, "coordinator ready");
    listening(Listening::Coordinator { place });
    let failed = async {
        tokio::select! {
            reason = coordinator.fatal() => reason.into(),
            Ok(why) = strangers => NodeError::Stranger(why),
        }
    };
    let failure = server
        .run(http::routes(app), failed, || coordinator.close())
        .await;
    // Request bodies in flight have been received.
    coordinator.close();
    check_tasks(&supervisor)?;
    tracing::info!("shutdown complete");
    failure.map_or(Ok(()), Err)
}

/// Starts the log, and the announcements of this node as `own`. The announcements include the
/// queues that the log reaches. The receiver resolves if a discovered node can't run together with
/// this one.
fn join(
    supervisor: &Supervisor,
    amqp: AmqpOptions,
    own: Announcement,
    counters: &[CounterName],
) -> (Presence, AmqpLog, oneshot::Receiver<String>) {
    let log_status = Arc::new(OnceLock::<watch::Receiver<LogStatus>>::new());
    let announce = {
        let (own, status) = (own.clone(), Arc::clone(&log_status));
        Arc::new(move || Announcement {
            reaches: Some(status.get().map(reaches).unwrap_or_default()),
            ..own.clone()
        })
    };
    let node = own.name.clone();
    let presence = Presence::start(amqp.clone(), node.clone(), announce);
    let strangers = meet_strangers(supervisor, presence.everybody(), node, own);
    let role = AmqpRole::Coordinator {
        counters: counters.to_vec(),
        nodes: presence.nodes(),
    };
    let log = AmqpLog::start(amqp, role);
    // Set before the first message is published.
    let _ = log_status.set(log.status());
    (presence, log, strangers)
}

/// The constant fields of a coordinator's announcement.
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

/// The broker options in the settings, and the polling of the management API, if it is enabled.
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

/// The counters with queues that receive every batch.
fn reaches(status: &watch::Receiver<LogStatus>) -> Vec<String> {
    let status = status.borrow();
    status.reached.iter().map(CounterName::to_string).collect()
}

/// Keeps the coordinator's members equal to the discovered counters.
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
                coordinator.note_reported_state(&node.name, |heard| {
                    heard.seen_at = Some(sighting.seen_at);
                    heard.url = Some(node.url.clone());
                });
            }
        }
        let changes = remotes.update(nodes);
        for (name, remote) in changes.added {
            let is_configured = configured.contains(&name);
            tracing::info!(counter = name, "discovered counter");
            coordinator.set_member(&name, remote as Arc<dyn Queries>, is_configured);
        }
        for name in changes.removed {
            if !configured.contains(&name) {
                tracing::warn!(
                    counter = name,
                    "counter has sent no announcement for a long time; removing it"
                );
                coordinator.remove_member(&name);
            }
        }
    });
}

/// How a node uses batches, according to its announcement.
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

/// Passes each change of the log's state to the coordinator.
async fn follow_log(
    mut status: watch::Receiver<LogStatus>,
    coordinator: Coordinator,
    queue_messages_max: u64,
) -> Ended {
    loop {
        let state = {
            let status = status.borrow_and_update();
            for (name, messages) in &status.depths {
                coordinator.note_reported_state(name.as_str(), |heard| {
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
                "broker state changed"
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

/// Starts the background tasks of the coordinator. They end with it.
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
        tending.maintain(MaintainOptions::default()).await;
        Ended::Done
    });
}
